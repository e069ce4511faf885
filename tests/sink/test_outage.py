"""Outages, lost replies and late requests: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from lab.proxy import FaultProxy, HeldRequests
from lab.servers import RedisServer
from plumelog_loguru import DrainReport, DurableRedisSink
from plumelog_loguru._batch import Batch
from plumelog_loguru._spool import Part, RowKey, SpoolDirectory, SpoolError
from plumelog_loguru._spool._row import Row
from tests.scale import scaled
from tests.sink.conftest import MakeSink, balance, verdict, wait_until

_QUESTION = b"\r\nGET\r\n"  # what Redis knows of a lane


def _url(proxy: FaultProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}"


def test_a_killed_server_loses_and_doubles_nothing(own_server: RedisServer, make_sink: MakeSink) -> None:
    """The server is killed under load and comes back with its data: every record once, no caller waits."""
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    outage_seconds = scaled(2, 15)
    expected: list[str] = []
    costs: dict[str, list[int]] = {"before": [], "during": [], "after": []}
    unbalanced = []

    def load(phase: str, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for _ in range(20):  # 2,000 records a second, as many services have it: in small bursts
                message = str(len(expected))
                began = time.perf_counter_ns()
                logger.info(message)
                costs[phase].append(time.perf_counter_ns() - began)
                expected.append(message)
            stats = sink.stats()
            if balance(stats):
                unbalanced.append(stats)
            time.sleep(0.01)

    load("before", 1)
    own_server.kill()
    load("during", outage_seconds)
    assert sink.stats().redis_state == "down"
    assert sink.stats().spooled
    own_server.start()
    load("after", 1)
    wait_until(lambda: sink.stats().redis_state == "up" and not sink.stats().spooled)
    assert sink.drain(10).complete
    found = verdict(own_server, expected)
    assert found.exactly_once, found
    assert not unbalanced
    print({phase: f"{statistics.median(values) / 1000:.1f} us" for phase, values in costs.items()})


def test_what_the_server_lost_in_an_outage_is_reported(own_server: RedisServer, make_sink: MakeSink) -> None:
    """A server that comes back empty from an outage, in which records were spooled: all that is gone is told.

    So is what came from the spool, when the server forgets again; and nothing is told twice.
    """
    sink = make_sink(own_server.url, retry_count=1)
    logger.add(sink, format="{message}")
    lost: list[int] = []
    sink.add_hook(lambda event: lost.append(event.records) if event.kind == "server_lost_data" else None)
    expected: list[str] = []

    def log(records: int) -> None:
        messages = [str(len(expected) + number) for number in range(records)]
        expected.extend(messages)
        for message in messages:
            logger.info(message)
        assert sink.drain(10).complete

    def is_exact() -> bool:
        return sink.stats().server_lost == len(verdict(own_server, expected).lost)

    for _ in range(3):
        log(30)
        own_server.kill()
        log(20)
        assert sink.stats().spooled == 20
        shutil.rmtree(own_server.directory / "appendonlydir")
        own_server.start()
        wait_until(lambda: not sink.stats().spooled)
        wait_until(is_exact)
    log(5)
    own_server.cli("FLUSHALL")
    log(5)
    wait_until(lambda: sink.stats().server_lost == len(expected) - 5)
    assert is_exact()
    wait_until(lambda: sum(lost) == len(expected) - 5)


def test_who_answers_no_question_is_not_asked_all_the_time(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """Where pushes work, and the question what Redis still has does not, it is asked now and then."""
    sink = make_sink(_url(proxy), health_check_interval_seconds=60, retry_count=1000)
    logger.add(sink, format="{message}")
    logger.info("before")
    assert sink.drain(10).complete
    proxy.refuse()
    proxy.reset_connections()
    logger.info("0")
    wait_until(lambda: sink.stats().last_error)
    asked = proxy.reset_requests(after=_QUESTION)
    for number in range(1, 10):
        logger.info(str(number))
        assert sink.drain(10).complete
    assert asked.count == 2
    found = verdict(redis_server, ["before", *map(str, range(10))])
    assert found.exactly_once, found


@pytest.fixture
def asking(
    own_server: RedisServer, make_sink: MakeSink
) -> Iterator[tuple[DurableRedisSink, int, HeldRequests]]:
    """A sink, in loguru as this number, that asks what an empty server still has; the question is held up."""
    with FaultProxy(own_server.port) as proxy:
        sink = make_sink(_url(proxy), retry_count=0, socket_timeout_seconds=60)
        handler = logger.add(sink, format="{message}")

        def log(message: str) -> None:
            logger.info(message)
            assert sink.drain(10).complete

        log("forgotten")
        own_server.kill()
        log("forgotten, too")  # the last of its lane
        own_server.start()
        wait_until(lambda: not sink.stats().spooled)
        own_server.kill()
        log("in the next lane")
        shutil.rmtree(own_server.directory / "appendonlydir")
        held = proxy.hold_requests(after=_QUESTION)
        own_server.start()
        assert held.wait(20)
        yield sink, handler, held


def test_what_the_server_lost_is_told_before_the_end(
    asking: tuple[DurableRedisSink, int, HeldRequests],
) -> None:
    """A sink that is closed while it asks waits for the answer."""
    sink, _, held = asking
    closing = threading.Thread(target=sink.close)
    closing.start()
    closing.join(0.5)
    assert closing.is_alive()
    held.release()
    closing.join()
    assert sink.stats().server_lost == 2


def test_what_the_server_lost_is_asked_for_by_the_next_start(
    asking: tuple[DurableRedisSink, int, HeldRequests],
) -> None:
    """A sink that is stopped while it asks, and gets no answer, asks again when it is started."""
    sink, handler, _ = asking
    logger.remove(handler)
    assert sink.stats().server_lost == 0
    logger.add(sink, format="{message}")
    logger.info("next")
    wait_until(lambda: sink.stats().server_lost == 2)


def test_a_lost_reply_doubles_nothing(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """Redis did the push and its answer never came: the retry finds that out."""
    sink = make_sink(_url(proxy))
    logger.add(sink)
    logger.info("before")
    assert sink.drain(10).complete
    fault = proxy.drop_replies(times=2, after=b'"in doubt"')
    logger.info("in doubt")
    assert fault.wait(10)
    assert sink.drain(20).complete
    wait_until(lambda: not sink.stats().spooled)
    found = verdict(redis_server, ["before", "in doubt"])
    assert found.exactly_once, found
    assert sink.stats().already_applied == 1


def test_a_reply_cut_in_half_doubles_nothing(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """Half an answer is no answer, and no harm."""
    sink = make_sink(_url(proxy))
    logger.add(sink)
    fault = proxy.cut_reply_after(3, times=1, after=b'"in doubt"')
    logger.info("in doubt")
    assert fault.wait(10)
    assert sink.drain(20).complete
    wait_until(lambda: not sink.stats().spooled)
    found = verdict(redis_server, ["in doubt"])
    assert found.exactly_once, found


def test_a_request_that_arrives_after_its_retry_doubles_nothing(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """A proxy holds the first request back until the retry has succeeded: the late one does nothing."""
    sink = make_sink(_url(proxy), socket_timeout_seconds=0.2)
    logger.add(sink)
    held = proxy.hold_requests(times=1, after=b'"late"')
    logger.info("late")
    assert held.held.wait(10)
    assert sink.drain(20).complete
    wait_until(lambda: not sink.stats().spooled)
    logger.info("next")  # the lane, or the lane after it, has moved on
    assert sink.drain(10).complete
    assert verdict(redis_server, ["late", "next"]).exactly_once
    assert held.release() > 0
    found = verdict(redis_server, ["late", "next"])
    assert found.exactly_once, found


def test_every_reply_lost_for_a_while(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """All retries meet lost replies: the batch is spooled under its identity, and not doubled from there."""
    sink = make_sink(_url(proxy), socket_timeout_seconds=0.2)
    logger.add(sink)
    logger.info("before")
    assert sink.drain(10).complete
    proxy.drop_replies()
    expected = ["before"]
    for n in range(300):
        logger.info(str(n))
        expected.append(str(n))
    wait_until(lambda: sink.stats().spooled == 300)
    proxy.heal()
    wait_until(lambda: not sink.stats().spooled)
    assert sink.drain(10).complete
    found = verdict(redis_server, expected)
    assert found.exactly_once, found
    assert sink.stats().already_applied >= 1


def test_no_server_at_all(make_sink: MakeSink, own_server: RedisServer, tmp_path: Path) -> None:
    """Redis never answers: memory stays bounded, all is in the spool, and the next process delivers it."""
    own_server.stop()
    total, threads = scaled(60_000, 1_000_000), 4
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("warm")
    sink.drain(10)
    base, peak, stop = _memory_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, _memory_bytes())

    def log(thread: int) -> None:
        for n in range(total // threads):
            logger.info(f"{thread}-{n}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    workers = [threading.Thread(target=log, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sink.drain(60).complete
    stop.set()
    watcher.join()
    stats = sink.stats()
    assert stats.spooled == total + 1, stats
    assert not stats.dropped
    assert peak - base < 64 << 20
    sink.close()
    own_server.start()
    successor = make_sink(own_server.url)
    wait_until(lambda: successor.stats().delivered == total + 1, 60)
    assert successor.stats().adopted == total + 1
    expected = ["warm", *(f"{thread}-{n}" for thread in range(threads) for n in range(total // threads))]
    found = verdict(own_server, expected)
    assert found.exactly_once, found


def _memory_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4096


def test_live_traffic_and_replay_share_the_way(own_server: RedisServer, make_sink: MakeSink) -> None:
    """`replay_rate` bounds the replay; fresh records pass it."""
    sink = make_sink(own_server.url, batch_interval_seconds=0.02)
    logger.add(sink, format="{message}")
    own_server.kill()
    old = [f"old-{n}" for n in range(2_000)]
    for n, message in enumerate(old):
        logger.info(message)
        if n % 100 == 99:
            sink.drain(10)  # a row for every hundred
    wait_until(lambda: sink.stats().spooled == 2_000)
    sink.reconfigure(replay_rate=1_000)
    own_server.start()
    wait_until(lambda: sink.stats().redis_state == "up")
    logger.info("fresh")
    assert sink.drain(10).complete
    assert sink.stats().spooled > 0, "the fresh record came through before the replay was done"
    wait_until(lambda: not sink.stats().spooled)
    found = verdict(own_server, [*old, "fresh"])
    assert found.exactly_once, found


def test_without_a_place_for_a_spool_records_wait_in_memory(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path
) -> None:
    """A spool directory that cannot be made is said once; records wait in memory, and nothing is lost."""
    (tmp_path / "file").write_text("in the way")
    sink = make_sink(own_server.url, spool_dir=tmp_path / "file" / "spool")
    logger.add(sink)
    own_server.kill()
    expected = [str(n) for n in range(500)]
    for message in expected:
        logger.info(message)
    wait_until(lambda: sink.stats().durability == "degraded")
    assert sink.stats().in_memory == 500
    report = sink.drain(None)
    assert not report.complete and report.in_memory == 500
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 500)
    assert verdict(own_server, expected).exactly_once


def test_a_disk_that_hangs_does_not_keep_live_records_from_redis(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is back, and reading a spooled row does not return: what is logged is delivered all the same."""
    works, read = threading.Event(), Part.read
    works.set()

    def hanging(part: Part, key: RowKey) -> Row:
        works.wait()
        return read(part, key)

    monkeypatch.setattr(Part, "read", hanging)
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    own_server.stop()
    old = [f"old-{n}" for n in range(200)]
    for n, message in enumerate(old):
        logger.info(message)
        if n % 50 == 49:
            assert sink.drain(10).complete
    works.clear()
    own_server.start()
    wait_until(lambda: sink.stats().redis_state == "up")  # before that, what is logged is for the disk
    logger.info("live")
    wait_until(lambda: b'"live"' in b"".join(own_server.values("plume_log_list")))
    works.set()
    wait_until(lambda: sink.stats().delivered == 201)
    assert verdict(own_server, [*old, "live"]).exactly_once


def test_a_disk_that_takes_nothing_does_not_keep_redis_from_being_found_again(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More waits for the disk than it may fall behind, and the disk stays as it is: Redis is probed."""

    def refuse(part: Part, batch: Batch) -> None:
        raise SpoolError("the disk takes nothing")

    monkeypatch.setattr(Part, "append", refuse)
    sink = make_sink(own_server.url, journal_max_bytes=1 << 20, batch_interval_seconds=0.02)
    logger.add(sink, format="{message}")
    own_server.stop()
    expected = [f"{n} {'x' * 1000}" for n in range(200)]
    for message in expected:
        logger.info(message)
    keeper = sink._pipeline._keeper
    assert keeper is not None
    wait_until(keeper.pause_seconds)  # from now on what comes stays in the queue
    expected.append("last")
    logger.info("last")
    wait_until(lambda: sink.stats().queue_depth)
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 201)
    assert verdict(own_server, expected).exactly_once


def test_a_drain_waits_until_the_row_is_written(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that moves from the retries to the spool is in memory until it is on the disk."""
    works, append = threading.Event(), Part.append

    def slow(part: Part, batch: Batch) -> None:
        works.wait()
        append(part, batch)

    monkeypatch.setattr(Part, "append", slow)
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("0")
    assert sink.drain(10).complete
    own_server.stop()
    logger.info("1")
    report = sink.drain(1)
    assert (report.complete, report.in_memory) == (False, 1)
    works.set()
    report = sink.drain(10)
    assert (report.complete, report.in_memory, report.spooled) == (True, 0, 1)


def test_a_drain_without_a_limit_ends_at_a_full_spool_that_waits(
    own_server: RedisServer, make_sink: MakeSink
) -> None:
    """Redis is away and the spool is full under "block": neither takes records, and the drain says so."""
    sink = make_sink(
        own_server.url, spool_full_policy="block", spool_max_bytes=1 << 20, block_timeout_seconds=0.1
    )
    logger.add(sink, format="{message}")
    own_server.stop()
    for _ in range(30):
        logger.info("x" * 60_000)
    reports: list[DrainReport] = []
    drain = threading.Thread(target=lambda: reports.append(sink.drain(None)))
    drain.start()
    drain.join(10)
    assert reports and not reports[0].complete and reports[0].in_memory > 0
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 30)


def test_rows_in_hand_of_a_spool_that_was_deleted_are_counted(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are delivered from memory; where the sink ends before, they are lost and not still spooled."""
    reads, read = [], Part.read

    def noted(part: Part, key: RowKey) -> Row:
        row = read(part, key)
        reads.append(key)
        return row

    monkeypatch.setattr(Part, "read", noted)
    sink = make_sink(own_server.url)
    wait_until(lambda: sink.stats().redis_state == "up")  # before, no row is tried
    own_server.stop()
    handler = logger.add(sink, format="{message}")
    for n in range(4):
        logger.info(str(n))
        assert sink.drain(10).spooled == n + 1
    wait_until(lambda: len(reads) >= 2)  # one in hand, one ahead
    time.sleep(0.3)
    os.rename(tmp_path / "spool", tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    logger.info("afterwards")
    sink.drain(10)
    assert sink.stats().dropped["spool_lost"] < 4
    logger.remove(handler)
    stats = sink.stats()
    spooled = 1 + sink._pipeline._courier.markers.made  # what tells of the loss is spooled, too
    assert (stats.dropped, stats.spooled) == ({"spool_lost": 4}, spooled)
    left = SpoolDirectory(tmp_path / "spool", sink.settings.destination).survey()
    assert sum(part.records for part in left) == spooled
