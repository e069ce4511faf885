"""The road with a healthy server: every record once, in order, accounted for at every moment."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from loguru import logger

from lab.servers import RedisServer
from tests.scale import scaled
from tests.sink.conftest import MakeSink, balance, verdict, wait_until


def _log_from_threads(threads: int, each: int) -> list[str]:
    def log(thread: int) -> None:
        for n in range(each):
            logger.info(f"{thread}-{n}")

    workers = [
        threading.Thread(target=log, args=(thread,), name=f"logs-{thread}") for thread in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [f"{thread}-{n}" for thread in range(threads) for n in range(each)]


def test_one_record_arrives(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """What is logged is in the list after a drain, and the report says so."""
    sink = make_sink(redis_server.url)
    logger.add(sink)
    logger.info("hello")
    report = sink.drain(10)
    assert verdict(redis_server, ["hello"]).exactly_once
    assert (report.delivered, report.spooled, report.dropped, report.in_memory) == (1, 0, 0, 0)
    assert report.complete
    assert sink.stats().redis_state == "up"


@pytest.mark.parametrize("roomy", [True, False], ids=["all in the queue", "default queue"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_many_threads_lose_and_double_nothing(
    redis_server: RedisServer, make_sink: MakeSink, side: str, roomy: bool
) -> None:
    """20 threads at full speed: every record once; in order per thread where the queue held them all."""
    room = (
        {"queue_max_size": 250_000, "queue_max_bytes": 256 << 20, "journal_max_bytes": 512 << 20}
        if roomy
        else {}
    )
    sink = make_sink(redis_server.url, redis_push_side=side, **room)
    logger.add(sink, format="{message}")
    stop, unbalanced = threading.Event(), []

    def watch() -> None:
        while not stop.wait(0.002):
            stats = sink.stats()
            if balance(stats) or stats.in_memory < 0 or stats.spooled < 0:
                unbalanced.append(stats)

    watcher = threading.Thread(target=watch)
    watcher.start()
    expected = _log_from_threads(20, scaled(1_500, 10_000))
    assert sink.drain(60).complete
    wait_until(lambda: not sink.stats().spooled, 60)
    stop.set()
    watcher.join()
    assert not unbalanced
    from lab.oracle import check, read_list

    found = check(expected, read_list(redis_server), push_side="left" if side == "left" else "right")
    assert found.exactly_once, found
    assert found.in_order or not roomy, found


def test_batch_size_is_a_trigger_and_the_interval_a_limit(
    redis_server: RedisServer, make_sink: MakeSink
) -> None:
    """A full batch goes at once, one that is not full goes when it is old enough."""
    sink = make_sink(redis_server.url, batch_size=5, batch_interval_seconds=30)
    logger.add(sink)
    wait_until(lambda: sink.stats().redis_state == "up")
    for n in range(4):
        logger.info(str(n))
    assert redis_server.values("plume_log_list") == []
    logger.info("4")
    wait_until(lambda: len(redis_server.values("plume_log_list")) == 5)
    sink.reconfigure(batch_interval_seconds=0.05)
    logger.info("alone")
    wait_until(lambda: len(redis_server.values("plume_log_list")) == 6)


def test_records_logged_before_the_loop_runs_are_kept(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """The very first records, logged while the threads still start, arrive in order."""
    sink = make_sink(redis_server.url)
    logger.add(sink)
    expected = [str(n) for n in range(50)]
    for message in expected:
        logger.info(message)
    sink.drain(10)
    found = verdict(redis_server, expected)
    assert found.exactly_once and found.in_order, found


def test_a_record_that_fills_the_queue_alone_arrives(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """The bounds hold, and a record as large as they allow passes."""
    sink = make_sink(
        redis_server.url,
        queue_max_size=1,
        queue_max_bytes=1 << 20,
        max_content_chars=1 << 20,
        record_max_bytes=1 << 20,
    )
    logger.add(sink, format="{message}")
    for letter in "abc":
        logger.info(letter * (1 << 20))
    assert sink.drain(20).complete
    wait_until(lambda: not sink.stats().spooled)
    values = redis_server.values("plume_log_list")
    assert len(values) == 3
    assert all(len(value) <= 1 << 20 for value in values)


def test_two_sinks_share_a_directory(redis_server: RedisServer, make_sink: MakeSink, tmp_path: Path) -> None:
    """Each has its part, and both deliver."""
    first, second = make_sink(redis_server.url), make_sink(redis_server.url)
    logger.add(first)
    logger.add(second)
    logger.info("twice")
    assert first.drain(10).complete and second.drain(10).complete
    assert len(redis_server.values("plume_log_list")) == 2
    wait_until(lambda: len(list((tmp_path / "spool").glob("part-*"))) == 2)
