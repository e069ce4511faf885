"""What was lost is said in the stream, once there is room, and the accounts include what says it."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from lab.oracle import Record, read_list
from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink, SinkStats, _loss_marker
from plumelog_loguru._spool import CorruptRow, Part, RowKey

from .conftest import MakeSink, balance, wait_until

LARGE = "x" * 60_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bursts end sooner than in life."""
    monkeypatch.setattr(_loss_marker, "_QUIET_SECONDS", 0.2)


@contextmanager
def sampled(sink: DurableRedisSink) -> Iterator[list[SinkStats]]:
    """Hold the equation against the sink's accounts all the time, in a thread of its own."""
    wrong: list[SinkStats] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.is_set():
            stats = sink.stats()
            if balance(stats) != 0 or stats.in_memory < 0:
                wrong.append(stats)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield wrong
    finally:
        ended.set()
        thread.join()
    assert not wrong, wrong[0]


def markers_in(server: RedisServer) -> list[Record]:
    return [record for record in read_list(server) if "lostReason" in record]


def told(server: RedisServer) -> Mapping[str, int]:
    """What the markers in the list say, by reason."""
    sums: Counter[str] = Counter()
    for record in markers_in(server):
        sums[record["lostReason"]] += int(record["lostRecords"])
    return sums


def assert_no_gap(server: RedisServer, stats: SinkStats) -> None:
    """Each number that is missing in the list belongs to a lost record."""
    seqs = [record["seq"] for record in read_list(server)]
    assert len(set(seqs)) == len(seqs)
    assert stats.accepted - len(seqs) == sum(stats.dropped.values())
    assert max(seqs) <= stats.accepted


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_full_queue(policy: str, make_sink: MakeSink, own_server: RedisServer, tmp_path: Path) -> None:
    """With neither Redis nor a spool nothing can be said; with Redis comes one marker that says it all."""
    own_server.stop()
    (tmp_path / "file").write_text("")
    sink = make_sink(
        own_server.url, spool_dir=tmp_path / "file" / "x", queue_max_size=10, spool_full_policy=policy
    )
    wait_until(lambda: sink.stats().last_error)
    logger.add(sink, format="{message}")
    with sampled(sink):
        for n in range(25):
            logger.info(str(n))
        before = sink.stats()
        own_server.start()
        wait_until(lambda: told(own_server))
        sink.drain(10)
    stats = sink.stats()
    assert before.dropped == stats.dropped == told(own_server)
    assert len(markers_in(own_server)) == 1
    assert stats.accepted == 26
    assert_no_gap(own_server, stats)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_full_spool(policy: str, make_sink: MakeSink, own_server: RedisServer) -> None:
    """A spool that is full is told of when Redis is back, by as much as was dropped."""
    own_server.stop()
    sink = make_sink(own_server.url, spool_full_policy=policy, spool_max_bytes=1 << 20, batch_size=1)
    logger.add(sink, format="{message}")
    with sampled(sink):
        for _ in range(40):
            logger.info(LARGE)
        sink.drain(10)
        wait_until(lambda: sink.stats().dropped.get("spool_full"))
        own_server.start()
        wait_until(lambda: told(own_server) == sink.stats().dropped and not sink.stats().spooled)
    assert_no_gap(own_server, sink.stats())


def test_a_full_spool_of_small_rows_marks_nothing_for_ever(
    make_sink: MakeSink, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A marker in a full spool would push out a row, which would need a marker: there is none meanwhile."""
    monkeypatch.setattr(_loss_marker, "_QUIET_SECONDS", 0.0)
    own_server.stop()
    sink = make_sink(
        own_server.url,
        spool_max_bytes=4096,
        record_max_bytes=1024,
        batch_size=1,
        batch_interval_seconds=0.02,
        journal_max_bytes=1 << 16,
    )
    logger.add(sink, format="{message}")
    for _ in range(30):
        logger.info("y" * 100)
        sink.drain(10)
    before = sink.stats().dropped["spool_full"]
    threading.Event().wait(1.5)  # in which a chain of markers would go round many times
    assert sink.stats().dropped == {"spool_full": before}
    own_server.start()
    wait_until(lambda: told(own_server) == sink.stats().dropped)


def test_a_spool_that_was_deleted(make_sink: MakeSink, own_server: RedisServer, tmp_path: Path) -> None:
    """What vanished is told of in the new spool, and so also if the process ends before Redis is back."""
    own_server.stop()
    sink = make_sink(own_server.url, batch_size=1)
    handler = logger.add(sink, format="{message}")
    for n in range(4):
        logger.info(str(n))
    sink.drain(10)
    os.rename(tmp_path / "spool", tmp_path / "gone")  # at once: the sink may be making a file in it
    shutil.rmtree(tmp_path / "gone")
    logger.info("afterwards")
    sink.drain(10)
    logger.remove(handler)
    stats = sink.stats()
    assert stats.dropped == {"spool_lost": 4}
    own_server.start()
    heir = make_sink(own_server.url)
    wait_until(lambda: told(own_server) == {"spool_lost": 4})
    assert heir.stats().adopted >= 2


def test_what_expired(make_sink: MakeSink, own_server: RedisServer) -> None:
    """It was asked for, so it is a warning; and it waits for Redis, or it would expire in its turn."""
    own_server.stop()
    sink = make_sink(own_server.url, spool_max_age_seconds=0.5)
    logger.add(sink, format="{message}")
    for n in range(6):
        logger.info(str(n))
        sink.drain(10)
    wait_until(lambda: sink.stats().dropped.get("expired", 0) >= 3)  # not those that Redis may have
    own_server.start()
    wait_until(lambda: not sink.stats().spooled and told(own_server) == sink.stats().dropped)
    assert [record["logLevel"] for record in markers_in(own_server)] == ["WARN"]
    assert_no_gap(own_server, sink.stats())


def test_a_damaged_row(make_sink: MakeSink, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that goes into quarantine is told of."""
    read, damaged = Part.read, set[RowKey]()

    def rotten(part: Part, key: RowKey) -> Any:
        if key in damaged:
            raise CorruptRow("rotten")
        return read(part, key)

    monkeypatch.setattr(Part, "read", rotten)
    own_server.stop()
    sink = make_sink(own_server.url, batch_size=1)
    logger.add(sink, format="{message}")
    with sampled(sink):
        for n in range(6):
            logger.info(str(n))
            assert sink.drain(10).spooled == n + 1
        part = sink._pipeline._keeper._holder.own  # type: ignore[union-attr]
        assert part is not None
        damaged.update(key for key in list(part.identities)[-2:])  # not read ahead yet
        own_server.start()
        wait_until(lambda: told(own_server) == {"corrupt": 2} and not sink.stats().spooled)
    assert_no_gap(own_server, sink.stats())


def test_a_close_tells_of_the_last_losses(
    make_sink: MakeSink, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that closes does not wait for the end of a burst; what says it is delivered before it ends."""
    monkeypatch.setattr(_loss_marker, "_QUIET_SECONDS", 60.0)
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("0")
    assert sink.drain(10).complete
    loop = sink._pipeline._loop
    assert loop is not None
    lost = threading.Event()

    def lose() -> None:
        sink._pipeline._courier.markers.lost(3, "refused")
        lost.set()

    loop.post(lose)
    assert lost.wait(10)
    report = sink.close()
    assert (report.complete, report.in_memory, report.spooled) == (True, 0, 0)
    assert told(own_server) == {"refused": 3}
