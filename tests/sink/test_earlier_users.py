"""The examples of the earlier library's README, unchanged but for the server's address in the environment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from lab.oracle import read_list
from lab.servers import RedisServer


@pytest.fixture(autouse=True)
def _environment(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLUMELOG_REDIS_PORT", str(redis_server.port))
    monkeypatch.setenv("PLUMELOG_SPOOL_DIR", str(tmp_path / "spool"))
    logger.remove()
    yield
    logger.remove()


def test_default_sink(redis_server: RedisServer) -> None:
    """Basic use."""
    from plumelog_loguru import create_redis_sink

    logger.add(create_redis_sink())
    logger.info("Hello, Plumelog!")
    logger.error("这是一个错误日志，包含堆栈信息。")
    logger.remove()
    assert [record["content"] for record in read_list(redis_server)][::-1] == [
        "Hello, Plumelog!",
        "这是一个错误日志，包含堆栈信息。",
    ]


def test_custom_settings(redis_server: RedisServer) -> None:
    """A settings object, with a plain text for the password."""
    from plumelog_loguru import PlumelogSettings, create_redis_sink

    config = PlumelogSettings(
        app_name="my_awesome_app",
        env="production",
        redis_host="127.0.0.1",
        redis_port=redis_server.port,
        batch_size=200,
        batch_interval_seconds=1.0,
    )
    redis_sink = create_redis_sink(config)
    logger.add(redis_sink)
    logger.info("日志已配置为生产环境。")
    logger.remove()
    (record,) = read_list(redis_server)
    assert (record["appName"], record["env"], record["content"]) == (
        "my_awesome_app",
        "production",
        "日志已配置为生产环境。",
    )


def test_old_names_of_settings(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`retry_delay`, `socket_connect_timeout` and `socket_timeout` are taken as keywords and variables."""
    from plumelog_loguru import PlumelogSettings

    monkeypatch.setenv("PLUMELOG_SOCKET_TIMEOUT", "3")
    settings = PlumelogSettings(retry_delay=2.0, socket_connect_timeout=4.0, temp_buffer_max_size=500)
    assert settings.retry_backoff_base_seconds == 2.0
    assert settings.connect_timeout_seconds == 4.0
    assert settings.socket_timeout_seconds == 3.0


def test_async_context(redis_server: RedisServer) -> None:
    """`async with RedisSink(config) as sink` delivers everything before it leaves."""
    from plumelog_loguru import PlumelogSettings, RedisSink

    async def main() -> None:
        config = PlumelogSettings(app_name="async_app")
        async with RedisSink(config) as sink:
            logger.add(sink)
            logger.info("这是一条在异步环境中记录的日志。")
            await asyncio.sleep(0.05)
            logger.warning("应用即将退出。")

    asyncio.run(main())
    assert [record["logLevel"] for record in read_list(redis_server)][::-1] == ["INFO", "WARN"]
