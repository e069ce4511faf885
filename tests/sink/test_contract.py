"""What users rely on by name: calls, reports, statistics, hooks, and what never happens."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import threading
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

import plumelog_loguru
from lab.oracle import read_list
from lab.proxy import FaultProxy
from lab.servers import RedisServer
from plumelog_loguru import (
    DrainReport,
    DurableRedisSink,
    PlumelogSettings,
    RedisSink,
    SettingsError,
    SinkEvent,
    SinkStats,
    WrongThreadError,
    create_redis_sink,
)
from plumelog_loguru._diagnostics import reset_for_tests
from tests.scale import scaled
from tests.sink.conftest import MakeSink, verdict, wait_until


def test_names() -> None:
    """Every public name is there, and the old ones mean the new ones."""
    assert RedisSink is DurableRedisSink
    assert sorted(plumelog_loguru.__all__) == plumelog_loguru.__all__
    for name in plumelog_loguru.__all__:
        assert getattr(plumelog_loguru, name)


def test_the_sink_has_no_flush() -> None:
    """Loguru would call it after every record."""
    assert not hasattr(DurableRedisSink, "flush")
    assert inspect.iscoroutinefunction(DurableRedisSink.complete)
    assert list(inspect.signature(DurableRedisSink.write).parameters) == ["self", "message"]


def test_settings_come_from_an_object_or_keywords(make_sink: MakeSink, tmp_path: Path) -> None:
    """Keywords override single settings of the object that is handed in."""
    settings = PlumelogSettings(app_name="shop", spool_dir=tmp_path, redis_port=1)
    with DurableRedisSink(settings) as sink:
        assert sink.settings.app_name == "shop"
    with DurableRedisSink(settings, app_name="till") as sink:
        assert (sink.settings.app_name, sink.settings.redis_port) == ("till", 1)
    with create_redis_sink(settings) as sink:
        assert isinstance(sink, RedisSink)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"redis_url": "http://localhost"}, "redis_url"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "many"}, "batch_size"),
        ({"redis_port": 70000}, "redis_port"),
        ({"spool_full_policy": "panic"}, "spool_full_policy"),
        ({"batchsize": 1}, "batch_size"),
    ],
)
def test_settings_that_can_never_work_are_refused_at_once(settings: dict[str, object], names: str) -> None:
    """One sentence that names the setting, the value and the cure."""
    with pytest.raises(SettingsError, match=names):
        DurableRedisSink(**settings)  # type: ignore[arg-type]


def test_stats_are_frozen_and_complete(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """A snapshot does not change; its fields are those of the contract."""
    sink = make_sink(redis_server.url)
    stats = sink.stats()
    assert isinstance(stats, SinkStats)
    with pytest.raises(FrozenInstanceError):
        stats.accepted = 1  # type: ignore[misc]
    assert {field.name for field in fields(SinkStats)} == {
        "accepted",
        "adopted",
        "delivered",
        "already_applied",
        "in_memory",
        "spooled",
        "dead_lettered",
        "dropped",
        "possibly_doubled",
        "server_lost",
        "retries",
        "queue_depth",
        "spool_bytes",
        "oldest_spooled_seconds",
        "redis_state",
        "delivery",
        "durability",
        "last_error",
    }


def test_until_first_contact_redis_is_down(proxy: FaultProxy, make_sink: MakeSink) -> None:
    """Nothing is claimed about a server that has not answered yet."""
    proxy.black_hole()
    sink = make_sink(f"redis://127.0.0.1:{proxy.port}")
    assert sink.stats().redis_state == "down"
    proxy.heal()


def test_a_report_can_be_awaited(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """The earlier `await sink.close()` still works."""
    sink = make_sink(redis_server.url)
    logger.add(sink)
    logger.info("x")

    async def earlier() -> DrainReport:
        return await sink.close()

    report = asyncio.run(earlier())
    assert (report.delivered, report.complete) == (1, True)


def test_complete_settles_what_was_logged(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """After `await logger.complete()` the records are in Redis."""
    sink = make_sink(redis_server.url, batch_interval_seconds=30)
    logger.add(sink)

    async def main() -> None:
        for n in range(10):
            logger.info(str(n))
        await logger.complete()
        assert verdict(redis_server, [str(n) for n in range(10)]).exactly_once

    asyncio.run(main())


def test_complete_waits_no_longer_than_the_limit(own_server: RedisServer, make_sink: MakeSink) -> None:
    """A frozen server does not hold an application's coroutine for ever."""
    sink = make_sink(own_server.url, close_timeout_seconds=0.3)
    logger.add(sink)
    logger.info("x")
    assert sink.drain(10).complete
    own_server.freeze()
    logger.info("y")

    async def main() -> float:
        began = time.monotonic()
        await logger.complete()
        return time.monotonic() - began

    assert asyncio.run(main()) < 2
    own_server.thaw()


def test_alog_returns_when_the_record_is_settled(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """A record without Loguru: its caller, level and extras are right, and its batch is cut at once."""
    sink = make_sink(redis_server.url, batch_interval_seconds=30)

    async def main() -> None:
        await sink.alog("paid", "ERROR", orderId=42)

    asyncio.run(main())
    (record,) = read_list(redis_server)
    assert record["content"] == "paid"
    assert record["logLevel"] == "ERROR"
    assert record["orderId"] == "42"
    assert str(record["method"]).startswith("main(test_contract.py:")
    assert record["className"] == __name__


def test_drain_with_a_time_limit_says_what_is_left(own_server: RedisServer, make_sink: MakeSink) -> None:
    """A drain that runs out of time reports what is in memory, and the records still arrive."""
    sink = make_sink(own_server.url)
    logger.add(sink)
    logger.info("0")
    assert sink.drain(10).complete
    own_server.freeze()
    logger.info("1")
    report = sink.drain(0.2)
    assert (report.complete, report.in_memory) == (False, 1)
    own_server.thaw()
    wait_until(lambda: sink.stats().delivered == 2)


def test_calls_that_would_wait_for_themselves_raise(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """A hook that drains or closes is told at once, and not left to wait for ever."""
    sink = make_sink(redis_server.url)
    caught: list[BaseException] = []
    done = threading.Event()

    def hook(event: SinkEvent) -> None:
        for call in (sink.drain, sink.close):
            try:
                call()
            except WrongThreadError as error:
                caught.append(error)
        done.set()

    sink.add_hook(hook)
    logger.add(sink)
    logger.info("x")
    sink.drain(10)
    sink._pipeline._hooks.tell(SinkEvent("up", time.time()))
    assert done.wait(10)
    assert len(caught) == 2


def test_hooks_hear_of_an_outage(own_server: RedisServer, make_sink: MakeSink) -> None:
    """Down, spooling, up, replaying, drained: each once, in a thread that is not the application's."""
    events: list[SinkEvent] = []
    threads: set[str] = set()

    def hook(event: SinkEvent) -> None:
        events.append(event)
        threads.add(threading.current_thread().name)

    sink = make_sink(own_server.url)
    sink.add_hook(hook)
    logger.add(sink)
    logger.info("x")
    sink.drain(10)
    own_server.kill()
    for n in range(300):
        logger.info(str(n))
    wait_until(lambda: sink.stats().spooled == 300)
    own_server.start()
    wait_until(lambda: any(event.kind == "drained" for event in events))
    kinds = [event.kind for event in events if event.kind != "up" or event is not events[0]]
    assert kinds[:2] == ["down", "spooling"]
    assert [kind for kind in kinds[2:] if kind != "down"] == ["up", "replaying", "drained"] or set(kinds) == {
        "down",
        "spooling",
        "up",
        "replaying",
        "drained",
    }
    assert events[-1].records == 300
    assert threads == {"plumelog-hooks"}


def test_a_hook_that_raises_is_disabled(
    redis_server: RedisServer, make_sink: MakeSink, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported once, and the others go on."""
    reset_for_tests()
    heard: list[SinkEvent] = []
    sink = make_sink(redis_server.url)
    wait_until(lambda: sink.stats().redis_state == "up")

    def bad(event: SinkEvent) -> None:
        raise RuntimeError("no")

    sink.add_hook(bad)
    sink.add_hook(heard.append)
    for _ in range(3):
        sink._pipeline._hooks.tell(SinkEvent("up", time.time()))
    wait_until(lambda: len(heard) == 3)
    assert capsys.readouterr().err.count("is not called again") == 1


def test_reconfigure_takes_what_can_change(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """Anything else is a clear error, and nothing changes."""
    sink = make_sink(redis_server.url)
    sink.reconfigure(batch_size=7, queue_max_size=9, retry_count=0, replay_rate=5, batch_interval_seconds=0.5)
    assert (sink.settings.batch_size, sink.settings.queue_max_size) == (7, 9)
    with pytest.raises(SettingsError, match="redis_key cannot be changed at run time"):
        sink.reconfigure(redis_key="other")
    with pytest.raises(SettingsError, match="batch_size"):
        sink.reconfigure(batch_size=0)
    assert sink.settings.batch_size == 7


def test_a_sink_pickles_as_its_settings(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """A spawned process gets a sink of its own."""
    sink = make_sink(redis_server.url, app_name="shop")
    copy = pickle.loads(pickle.dumps(sink))
    assert copy.settings == sink.settings
    copy.close()


def test_write_takes_what_is_no_message(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """A plain text is a record; nothing that is handed in raises."""
    sink = make_sink(redis_server.url)
    sink.write("plain text")  # type: ignore[arg-type]
    sink("called")  # type: ignore[arg-type]
    assert sink.drain(10).complete
    assert verdict(redis_server, ["plain text", "called"]).exactly_once


def test_records_of_our_own_threads_do_not_feed_themselves(
    redis_server: RedisServer, make_sink: MakeSink
) -> None:
    """Everything goes to Loguru, asyncio's and redis's remarks too: they do not come back as records."""
    import logging

    class Intercept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            frame, depth = logging.currentframe(), 2
            while frame is not None and frame.f_code.co_filename == logging.__file__:
                frame, depth = frame.f_back, depth + 1  # type: ignore[assignment]
            logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())

    handler = Intercept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(0)
    try:
        sink = make_sink(redis_server.url)
        logger.add(sink, level=0)
        logging.getLogger("app").warning("mine")
        assert sink.drain(10).complete
        time.sleep(0.3)
        contents = [record["content"] for record in read_list(redis_server)]
        assert "mine" in contents
        assert len(contents) < 5, contents
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_a_del_that_logs_in_our_threads_is_heard(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """Garbage is collected anywhere: what a user's `__del__` logs is a record; nothing stops for good."""

    class Loud:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            logger.info("from del")

    sink = make_sink(redis_server.url, batch_interval_seconds=0.01)
    logger.add(sink, format="{message}")
    gc.freeze()  # all that the tests have imported need not be looked at each time
    for n in range(2000):
        Loud()
        logger.info(str(n))
        if n % 100 == 0:
            gc.collect()
    gc.collect()
    gc.unfreeze()
    assert sink.drain(20).complete


def test_enqueue_still_works(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """It is useless here, and harmless."""
    sink = make_sink(redis_server.url)
    logger.add(sink, enqueue=True)
    for n in range(20):
        logger.info(str(n))
    logger.remove()
    assert verdict(redis_server, [str(n) for n in range(20)]).exactly_once


def test_a_signal_handler_may_log(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """It interrupts a call of its own thread, and neither waits nor loses what the application logged."""
    import signal

    sink = make_sink(redis_server.url)
    logger.add(sink, format="{message}")
    heard = 0

    def on_alarm(number: int, frame: object) -> None:
        nonlocal heard
        heard += 1
        sink.write(f"signal-{heard}")  # type: ignore[arg-type]

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for n in range(5000):
            logger.info(str(n))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sink.drain(20).complete
    assert heard
    expected = [*(str(n) for n in range(5000)), *(f"signal-{n}" for n in range(1, heard + 1))]
    assert verdict(redis_server, expected).exactly_once


def test_full_queue_policies(make_sink: MakeSink, own_server: RedisServer, tmp_path: Path) -> None:
    """With neither Redis nor a spool, the policy decides what goes, and everything is counted."""
    own_server.stop()
    (tmp_path / "file").write_text("")
    no_spool: Callable[..., DurableRedisSink] = lambda **more: make_sink(  # noqa: E731
        own_server.url,
        spool_dir=tmp_path / "file" / "x",
        queue_max_size=10,
        batch_size=1000,
        batch_interval_seconds=30,
        close_timeout_seconds=0.3,
        **more,
    )
    for policy in ("drop_oldest", "drop_newest", "block"):
        sink = no_spool(spool_full_policy=policy, block_timeout_seconds=0.1)
        wait_until(lambda sink=sink: sink.stats().durability == "degraded" and sink.stats().last_error)  # type: ignore[misc]
        handler = logger.add(sink)
        began = time.monotonic()
        for n in range(15):
            logger.info(str(n))
        took = time.monotonic() - began
        stats = sink.stats()
        assert (stats.accepted, stats.in_memory, dict(stats.dropped)) == (15, 10, {"queue_full": 5}), policy
        assert (took >= 0.1) == (policy == "block")
        assert took < 1
        logger.remove(handler)


def test_a_loop_that_ends_by_an_exception_is_started_again(
    redis_server: RedisServer,
    make_sink: MakeSink,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What nobody foresaw ends a step, and not the delivery; it is said, and nothing is lost."""
    monkeypatch.setattr("plumelog_loguru._pipeline._RESTART_SECONDS", 0.05)
    reset_for_tests()
    sink = make_sink(redis_server.url)
    logger.add(sink)
    logger.info("before")
    assert sink.drain(10).complete
    real, broken = sink._pipeline._courier._live._attempt, threading.Event()

    async def breaks_once(head: Any) -> None:
        if not broken.is_set():
            broken.set()
            raise ZeroDivisionError("nobody foresaw this")
        await real(head)

    monkeypatch.setattr(sink._pipeline._courier._live, "_attempt", breaks_once)
    logger.info("during")
    assert broken.wait(10)
    logger.info("after")
    assert sink.drain(10).complete
    assert verdict(redis_server, ["before", "during", "after"]).exactly_once
    assert "nobody foresaw this" in capsys.readouterr().err


def test_interrupted_calls_leave_the_account_true(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """KeyboardInterrupt strikes inside calls: what returned is delivered once, the rest at most once."""
    import signal

    sink = make_sink(redis_server.url)

    def on_alarm(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    returned = []
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for n in range(scaled(3_000, 30_000)):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001)
                sink.write(str(n))  # type: ignore[arg-type]
                returned.append(str(n))
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                continue
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    sink.close()
    found = verdict(redis_server, returned)
    assert not found.lost and not found.doubled, found
    assert sink.stats().in_memory == 0


def test_a_drain_that_meets_a_stop_ends(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """Whoever drains while another thread stops the sink gets an answer, every time."""
    for _ in range(scaled(20, 300)):
        sink = make_sink(redis_server.url)
        sink.write("x")  # type: ignore[arg-type]
        stopper = threading.Thread(target=sink.stop)
        stopper.start()
        reports = [sink.drain() for _ in range(5)]
        stopper.join()
        assert reports[0].complete
        sink.close()


def test_records_for_another_list_are_left_alone_and_spoken_of(
    own_server: RedisServer, make_sink: MakeSink, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of the spool names its list; a sink with another one says so, and delivers nothing of it."""
    reset_for_tests()
    other = make_sink(own_server.url, redis_key="other_list")
    handler = logger.add(other)
    own_server.stop()
    logger.info("for the other list")
    logger.remove(handler)
    own_server.start()
    sink = make_sink(own_server.url)
    logger.add(sink)
    logger.info("mine")
    assert sink.drain(10).complete
    wait_until(lambda: "1 records in the spool wait for" in capsys.readouterr().err)
    assert own_server.values("other_list") == []
    assert verdict(own_server, ["mine"]).exactly_once


def test_no_secret_in_anything_we_write(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong password, outage, spool: the password stands in no file, message, repr or statistic."""
    reset_for_tests()
    secret = "s3cr3t-Pa55"
    own_server.cli("CONFIG", "SET", "requirepass", "another")
    told: list[object] = []
    for url, more in (
        (f"redis://user:{secret}@127.0.0.1:{own_server.port}", {}),
        (f"redis://127.0.0.1:{own_server.port}", {"redis_password": secret}),
    ):
        sink = make_sink(url, **more)
        sink.add_hook(told.append)
        handler = logger.add(sink)
        for n in range(300):
            logger.info(str(n))
        wait_until(lambda sink=sink: sink.stats().redis_state == "refusing")  # type: ignore[misc]
        wait_until(lambda sink=sink: sink.stats().spooled - sink.stats().adopted == 300)  # type: ignore[misc]
        told += [repr(sink), str(sink.settings), repr(logger), sink.stats(), sink.settings.model_dump_json()]
        logger.remove(handler)
        sink.close()
    captured = capsys.readouterr()
    told += [captured.out, captured.err]
    assert "somebody must act" in captured.err
    assert secret not in "".join(map(repr, told))
    files = [file for file in (tmp_path / "spool").rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if secret.encode() in file.read_bytes()]
