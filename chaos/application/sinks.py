"""The sinks that a program can log through, each behind the same few calls."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from loguru import Logger


class Sink(Protocol):
    """A sink, as the program sees it."""

    def add_to(self, logger: Logger) -> None:
        """Let Loguru log into it, with all that its users are advised to say."""
        ...

    def stats(self) -> dict[str, Any]:
        """What it says of itself; empty where it says nothing."""
        ...


class DurableSink:
    """Ours, as the README has it; settings come from the environment.

    `catch=False` lets the program see what a call raises: nothing may be raised.
    """

    def __init__(self) -> None:
        from plumelog_loguru import DurableRedisSink

        self.sink = DurableRedisSink()

    def add_to(self, logger: Logger) -> None:
        """Add it."""
        logger.add(self.sink, format="{message}", diagnose=False, backtrace=False, catch=False)

    def stats(self) -> dict[str, Any]:
        """Its statistics, in whole."""
        stats = self.sink.stats()
        facts = {fact.name: getattr(stats, fact.name) for fact in fields(stats)}
        return {**facts, "dropped": dict(stats.dropped)}


class EarlierSink:
    """The library's earlier release, set up as its own README says."""

    def __init__(self) -> None:
        from plumelog_loguru import create_redis_sink

        self.sink: Any = create_redis_sink()

    def add_to(self, logger: Logger) -> None:
        """Add it."""
        logger.add(self.sink, format="{message}", catch=False)

    def stats(self) -> dict[str, Any]:
        """It says nothing of itself."""
        return {}


class LogstashAsyncSink:
    """python-logstash-async with its spool on disk, and a transport that pushes into the same Redis list.

    Its own transports speak to Logstash; what is compared is the spool and the worker behind them, which are
    meant for any transport. Its intervals are shortened as ours are.
    """

    def __init__(self) -> None:
        # By name: they are there in the environment of this sink alone.
        constants = import_module("logstash_async.constants").constants
        handler_class = import_module("logstash_async.handler").AsynchronousLogstashHandler
        constants.QUEUE_CHECK_INTERVAL = 0.05
        constants.QUEUED_EVENTS_FLUSH_INTERVAL = 0.1
        self._handler: logging.Handler = handler_class(
            "", 0, database_path=os.environ["PLUMELOG_SPOOL_DIR"] + ".db", transport=_RedisTransport()
        )
        self._handler.setFormatter(_AsJson())

    def add_to(self, logger: Logger) -> None:
        """Add it; Loguru wraps handlers of the standard library."""
        logger.add(self._handler, format="{message}", catch=False)

    def stats(self) -> dict[str, Any]:
        """It says nothing of itself."""
        return {}


class _RedisTransport:
    """What python-logstash-async asks of a transport: it raises what went wrong, and retries nothing."""

    def __init__(self) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        setting = os.environ.__getitem__
        self._client = redis.Redis(
            setting("PLUMELOG_REDIS_HOST"),
            int(setting("PLUMELOG_REDIS_PORT")),
            password=setting("PLUMELOG_REDIS_PASSWORD"),
            socket_timeout=float(setting("PLUMELOG_SOCKET_TIMEOUT_SECONDS")),
            socket_connect_timeout=float(setting("PLUMELOG_CONNECT_TIMEOUT_SECONDS")),
            retry=Retry(NoBackoff(), 0),
        )

    def send(self, events: list[bytes], use_logging: bool = False) -> None:
        """Push a batch."""
        self._client.lpush(os.environ["PLUMELOG_REDIS_KEY"], *(event.rstrip(b"\n") for event in events))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class _AsJson(logging.Formatter):
    """As much of a record as the oracle reads."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"content": record.getMessage(), "threadName": record.threadName})


SINKS: dict[str, Callable[[], Sink]] = {
    "plumelog-loguru": DurableSink,
    "plumelog-loguru 0.2.3": EarlierSink,
    "python-logstash-async 4.1.0": LogstashAsyncSink,
}
