"""How users write it, checked by mypy and pyright and never run: no line here may need an ignore."""

from __future__ import annotations

import asyncio

from loguru import logger

from plumelog_loguru import (
    DrainReport,
    DurableRedisSink,
    PlumelogSettings,
    RedisSink,
    SinkEvent,
    SinkStats,
    create_redis_sink,
)


def adding() -> None:
    logger.add(DurableRedisSink())
    logger.add(DurableRedisSink(PlumelogSettings(app_name="shop")))
    logger.add(DurableRedisSink(app_name="shop", redis_url="redis://localhost:6379/0"))
    logger.add(RedisSink(), format="{message}", level="INFO", diagnose=False, backtrace=False)
    logger.add(create_redis_sink(PlumelogSettings()))
    logger.add(create_redis_sink().write)
    logger.configure(handlers=[{"sink": DurableRedisSink(), "format": "{message}"}])


def setting() -> PlumelogSettings:
    return PlumelogSettings(
        app_name="shop",
        batch_size=500,
        batch_interval_seconds=0.5,
        redis_password="a plain text is taken too",
        retry_delay=1,
        extra_fields=["order"],
        level_map={0: "DEBUG", 20: "INFO"},
        spool_dir="/var/lib/shop/spool",
    )


def settling(sink: DurableRedisSink) -> tuple[DrainReport, int, SinkStats]:
    with sink as same:
        report: DrainReport = same.drain(timeout=1.5)
    sink.reconfigure(batch_size=10)
    return report, sink.close().delivered, sink.stats()


async def settling_in_a_loop(sink: DurableRedisSink) -> DrainReport:
    async with sink as same:
        await same.alog("paid", level="INFO", order=7)
        await same.complete()
        await sink.close()  # the earlier library's close was a coroutine
    return await sink.aclose(timeout=1)


def listening(sink: DurableRedisSink) -> None:
    def seen(event: SinkEvent) -> None:
        assert event.kind != "dropped", (event.at, event.records, event.reason, event.detail)

    sink.add_hook(seen)
    sink.add_hook(lambda event: event.records + 1)
    asyncio.run(settling_in_a_loop(sink))
