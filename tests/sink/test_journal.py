"""The journal in the sink: what it promises beyond the queue, and what the sink does without one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from lab.oracle import read_list
from lab.proxy import FaultProxy
from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink, _diagnostics
from plumelog_loguru._journal import Journal, JournalError, _file, _journal
from plumelog_loguru._spool import SpoolError
from plumelog_loguru._spool._keeper import KeeperState
from plumelog_loguru._spool._store import Store
from tests.sink.conftest import MakeSink, verdict, wait_until

NOWHERE = "redis://127.0.0.1:1"
KEEPER = "plumelog_loguru._spool._keeper"


@pytest.fixture(autouse=True)
def fresh_diagnostics() -> None:
    """What an earlier test was told is told again."""
    _diagnostics.reset_for_tests()


@pytest.fixture
def broken_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A disk on which no row can be written, but the journal is there."""

    def put(store: Store, *arguments: object) -> None:
        raise SpoolError("no space left")

    with monkeypatch.context() as context:
        context.setattr(Store, "put", put)
        yield context


def journals(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "spool").glob("part-*/journal-*"))


def keeper_state(sink: DurableRedisSink) -> KeeperState:
    keeper = sink._pipeline._keeper
    assert keeper is not None
    return keeper.state


def test_a_record_is_in_the_journal_when_its_call_returns(tmp_path: Path, make_sink: MakeSink) -> None:
    """The very first record, too."""
    sink = make_sink(NOWHERE)
    logger.add(sink)
    logger.info("the first")
    (journal,) = journals(tmp_path)
    assert b'"the first"' in journal.read_bytes()
    assert sink.stats().durability == "journal"


def test_a_journal_that_is_done_with_is_removed(
    redis_server: RedisServer, tmp_path: Path, make_sink: MakeSink
) -> None:
    """A sink that could deliver everything leaves nothing behind."""
    sink = make_sink(redis_server.url)
    logger.add(sink)
    logger.info("delivered")
    assert sink.close().delivered == 1
    assert list((tmp_path / "spool").iterdir()) == []


def test_without_a_journal_if_asked(tmp_path: Path, make_sink: MakeSink) -> None:
    """`durability="memory"` makes no file for it, and says so."""
    sink = make_sink(NOWHERE, durability="memory")
    logger.add(sink)
    logger.info("in memory")
    assert journals(tmp_path) == []
    assert sink.stats().durability == "memory"


def test_what_finds_no_place_at_the_end_stays_in_the_journal(
    own_server: RedisServer, make_sink: MakeSink, broken_disk: pytest.MonkeyPatch
) -> None:
    """Redis is away and the disk takes no rows: the next sink delivers what the journal holds."""
    own_server.stop()
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    expected = [str(n) for n in range(500)]
    for message in expected:
        logger.info(message)
    report = sink.close(1.0)
    assert (report.spooled, report.dropped, report.in_memory) == (500, 0, 0)
    broken_disk.undo()
    own_server.start()
    again = make_sink(own_server.url)
    wait_until(lambda: again.stats().delivered == 500)
    assert again.stats().adopted == 500
    assert verdict(own_server, expected).exactly_once


def test_a_sink_that_is_added_again_takes_up_its_own_journal(
    own_server: RedisServer, make_sink: MakeSink, broken_disk: pytest.MonkeyPatch
) -> None:
    """Between its stop and its next start the records are on disk, and counted once."""
    own_server.stop()
    sink = make_sink(own_server.url, close_timeout_seconds=0.5)
    handler = logger.add(sink, format="{message}")
    for n in range(100):
        logger.info(str(n))
    logger.remove(handler)
    assert (sink.stats().spooled, sink.stats().in_memory) == (100, 0)
    broken_disk.undo()
    own_server.start()
    logger.add(sink, format="{message}")
    logger.info("100")
    wait_until(lambda: sink.stats().delivered == 101)
    assert verdict(own_server, [str(n) for n in range(101)]).exactly_once


def test_a_head_that_waits_is_spooled_before_it_fills_the_journal(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """A batch in flight keeps the ring from freeing room: at half of it, it goes to the disk at once."""
    sink = make_sink(f"redis://127.0.0.1:{proxy.port}", journal_max_bytes=1 << 20, socket_timeout_seconds=20)
    logger.add(sink, format="{message}")
    logger.info("before")
    assert sink.drain(10).complete
    held = proxy.hold_requests(times=1, after=b'"n 0"')
    logger.info("n 0")
    assert held.held.wait(10)
    expected = ["before", "n 0"]
    journal = sink._pipeline._journals.current
    assert journal is not None
    for n in range(1, 10_000):  # several times what the ring holds
        logger.info(f"n {n}")
        expected.append(f"n {n}")
        if n % 500 == 0:
            wait_until(lambda: journal.used_bytes < journal.capacity * 3 // 4)
    assert held.held.is_set() and sink.stats().delivered == 1
    assert sink.stats().dropped == {}
    held.release()
    wait_until(lambda: not (sink.stats().spooled or sink.stats().in_memory))
    found = check_contents(redis_server, expected)
    assert found == (0, 0)


def check_contents(server: RedisServer, expected: list[str]) -> tuple[int, int]:
    """How many are lost, and how many doubled."""
    contents = [record["content"] for record in read_list(server)]
    return len(set(expected) - set(contents)), len(contents) - len(set(contents))


def test_a_full_journal_is_a_full_queue(make_sink: MakeSink, broken_disk: pytest.MonkeyPatch) -> None:
    """With nowhere else to go, what the ring has no room for is refused, and counted."""
    sink = make_sink(NOWHERE, journal_max_bytes=1 << 16)
    logger.add(sink, format="{message}")
    for n in range(1000):
        logger.info(f"{n} {'x' * 200}")
    stats = sink.stats()
    assert 0 < stats.dropped["queue_full"] < 1000
    assert stats.accepted == 1000
    assert stats.in_memory * 400 < 1 << 16


def test_an_interrupt_behind_the_journal_loses_nothing_and_pins_nothing(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that is in the journal and never came to the queue is fetched from there, once."""
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}", catch=False)
    append, interrupts = Journal.append, [1]

    def interrupted(journal: Journal, value: bytes) -> bytes | None:
        frame = append(journal, value)
        if b'"interrupted"' in value and interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        return frame

    monkeypatch.setattr(Journal, "append", interrupted)
    logger.info("before")
    with pytest.raises(KeyboardInterrupt):
        logger.info("interrupted")
    logger.info("after")

    def nothing_is_left() -> bool:
        # Only a later record shows that the interrupted one will not come by itself.
        logger.info("later")
        return len({r["content"] for r in read_list(own_server)}) == 4

    wait_until(nothing_is_left)
    assert sink.drain(10).complete
    contents = [record["content"] for record in read_list(own_server)]
    assert contents.count("interrupted") == 1
    assert sink.stats().in_memory == 0


def test_a_directory_that_takes_no_journal(
    own_server: RedisServer,
    make_sink: MakeSink,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Said once, shown in the statistics, and records flow."""

    def create(*arguments: object, **named: object) -> Journal:
        raise JournalError("the journal cannot be made (No space left on device)")

    monkeypatch.setattr(Journal, "create", create)
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("1")
    assert sink.drain(10).complete
    assert sink.stats().durability == "degraded"
    assert verdict(own_server, ["1"]).exactly_once
    assert capfd.readouterr().err.count("no journal") == 1


def test_where_blocks_are_not_written_in_place(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The journal is written without a mapping, and does the same."""
    monkeypatch.setattr(_file, "_IN_PLACE", frozenset())
    own_server.stop()
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("1")
    (journal,) = journals(tmp_path)
    assert b'"1"' in journal.read_bytes()
    assert str(journal) not in Path("/proc/self/maps").read_text()
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 1)


def test_a_journal_that_cannot_be_written_any_more(
    own_server: RedisServer,
    make_sink: MakeSink,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where a plain write fails, the record is kept in memory, and the statistics say so until it works."""
    monkeypatch.setattr(_file, "_IN_PLACE", frozenset())
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    with monkeypatch.context() as full:

        def write(*arguments: object) -> None:
            raise JournalError("no room")

        full.setattr(_file.PlainFile, "write", write)
        logger.info("1")
        assert sink.stats().durability == "degraded"
        wait_until(lambda: "does not survive" in capfd.readouterr().err)
    logger.info("2")
    assert sink.stats().durability == "journal"
    assert sink.drain(10).complete
    assert verdict(own_server, ["1", "2"]).exactly_once


def test_a_record_is_cut_where_it_would_fill_the_journal(
    own_server: RedisServer, make_sink: MakeSink
) -> None:
    """A ring must hold several of the largest records."""
    sink = make_sink(own_server.url, journal_max_bytes=1 << 16, max_content_chars=1 << 20)
    logger.add(sink, format="{message}")
    logger.info("x" * 100_000)
    assert sink.drain(10).complete
    (record,) = read_list(own_server)
    assert 10_000 < len(record["content"]) < 1 << 14
    assert sink.stats().dropped == {}


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_part_that_disappears_under_a_healthy_sink(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """Nobody writes to the spool while Redis is well; that its directory is gone is noticed all the same."""
    monkeypatch.setattr(KEEPER + "._CHECK_EVERY_SECONDS", 0.05)
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("1")
    (old,) = journals(tmp_path)
    os.rename(tmp_path / "spool", tmp_path / "elsewhere")
    if how == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
    wait_until(lambda: journals(tmp_path) and journals(tmp_path) != [old])
    logger.info("2")
    assert sink.drain(10).complete
    assert verdict(own_server, ["1", "2"]).exactly_once
    assert sink.stats().durability == "journal"


def test_a_healthy_service_touches_a_few_pages_only(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring that was emptied begins anew, so that the disk has little to write back."""
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    for n in range(40):
        for _ in range(100):
            logger.info(f"{n} {'x' * 500}")
        assert sink.drain(10).complete
    current = sink._pipeline._journals.current
    assert current is not None
    assert current.head % current.capacity < 8 * _journal._REWIND_BYTES


def test_only_the_journal_is_deleted(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Something that cleans up takes the large file: another is begun, and has what comes next."""
    monkeypatch.setattr(KEEPER + "._CHECK_EVERY_SECONDS", 0.05)
    own_server.stop()
    sink = make_sink(own_server.url, batch_interval_seconds=60)
    logger.add(sink, format="{message}")
    logger.info("1")
    (old,) = journals(tmp_path)
    old.unlink()
    in_use = sink._pipeline._journals
    wait_until(lambda: in_use.current is not None and in_use.current.is_there())
    logger.info("2")
    assert b'"2"' in journals(tmp_path)[0].read_bytes()
    own_server.start()
    assert sink.drain(10).complete
    wait_until(lambda: sink.stats().delivered == 2)
    assert verdict(own_server, ["1", "2"]).exactly_once


def test_a_directory_that_is_gone_and_cannot_be_made_again(
    make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is nowhere on disk is not said to be in a journal."""
    monkeypatch.setattr(KEEPER + "._CHECK_EVERY_SECONDS", 0.5)
    sink = make_sink(NOWHERE, batch_interval_seconds=60, close_timeout_seconds=2)
    logger.add(sink, format="{message}")
    logger.info("1")
    wait_until(lambda: keeper_state(sink) is KeeperState.READY)
    os.rename(tmp_path / "spool", tmp_path / "elsewhere")
    (tmp_path / "spool").write_text("in the way")
    wait_until(lambda: sink.stats().durability == "degraded")
    logger.info("2")
    assert sink.stats().in_memory == 2
    (tmp_path / "spool").unlink()


@pytest.mark.parametrize("how", ["moved back", "replaced by a copy"])
def test_a_directory_that_comes_back(
    own_server: RedisServer,
    make_sink: MakeSink,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: str,
) -> None:
    """What its journal holds is in memory still: nobody takes it for a dead process's, and doubles it."""
    monkeypatch.setattr(KEEPER + "._CHECK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(KEEPER + "._ADOPT_EVERY_SECONDS", 0.1)
    own_server.stop()
    sink = make_sink(own_server.url, batch_interval_seconds=60)
    logger.add(sink, format="{message}")
    expected = [str(n) for n in range(50)]
    for message in expected:
        logger.info(message)
    (old,) = journals(tmp_path)
    # Else SQLite, which makes missing directories, may be about to open its files.
    wait_until(lambda: keeper_state(sink) is KeeperState.READY)
    if how == "moved back":
        os.rename(tmp_path / "spool", tmp_path / "elsewhere")
    else:
        shutil.copytree(tmp_path / "spool", tmp_path / "elsewhere")
        shutil.rmtree(tmp_path / "spool")
    wait_until(lambda: journals(tmp_path) and journals(tmp_path) != [old])
    for entry in (tmp_path / "elsewhere").iterdir():
        os.rename(entry, tmp_path / "spool" / entry.name)
    other = make_sink(own_server.url)  # looks for what the dead left
    own_server.start()
    logger.info("50")
    assert sink.drain(10).complete
    wait_until(lambda: sink.stats().delivered >= 51 and not sink.stats().spooled)
    sink.close()
    wait_until(lambda: not other.stats().spooled)
    other.close()
    make_sink(own_server.url).drain(10)  # and once more, when nobody holds it
    found = verdict(own_server, [*expected, "50"])
    assert not found.lost
    # Another process cannot know a copy for one. It may come second to a lane, and never to a record.
    assert found.exactly_once or how == "replaced by a copy", found


def test_a_planted_journal_number_hides_no_journal(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path, run_script: Callable[..., object]
) -> None:
    """Whatever numbers stand in a part, the journal that is made has one that is found again."""
    script = """
        import os, signal
        from loguru import logger
        from plumelog_loguru import DurableRedisSink
        logger.remove()
        logger.add(DurableRedisSink(batch_interval_seconds=60))
        logger.info("{}")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    own_server.stop()
    run_script(script.format("1"), own_server)
    (part,) = (tmp_path / "spool").glob("part-*")
    (part / "journal-999999999").touch()
    run_script(script.format("2"), own_server)
    own_server.start()
    sink = make_sink(own_server.url)
    wait_until(lambda: sink.stats().delivered == 2)
    assert verdict(own_server, ["1", "2"]).exactly_once


def test_a_part_that_cannot_be_opened_is_no_reason_to_have_no_spool(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows go to another part, and the one with the strange file in it is named."""
    own_server.stop()
    first = make_sink(own_server.url)
    logger.add(first, format="{message}")
    logger.info("1")
    logger.remove()
    assert first.close().spooled == 1
    (part,) = (tmp_path / "spool").glob("part-*")
    (part / "spool-new").mkdir()
    (part / "spool-new" / "strange").touch()
    sink = make_sink(own_server.url)
    logger.add(sink, format="{message}")
    logger.info("2")
    report = sink.drain(10)
    assert (report.complete, report.spooled) == (True, 1)
    assert part.name in capfd.readouterr().err
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 1)


@pytest.mark.parametrize(("waiting", "journal_bytes"), [(7, 16 << 20), (8, 1 << 20), (64, 0)])
def test_journals_that_nobody_recovers_do_not_fill_the_disk(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path, waiting: int, journal_bytes: int
) -> None:
    """Processes that live for a moment leave one each: from some number on small ones, and then none."""
    own_server.stop()
    first = make_sink(own_server.url)
    logger.add(first, format="{message}")
    logger.info("1")
    logger.remove()
    assert first.close().spooled == 1
    (part,) = (tmp_path / "spool").glob("part-*")
    for number in range(1, waiting + 1):
        (part / f"journal-{number}").touch()
    sink = make_sink(own_server.url)
    made = part / f"journal-{waiting + 1}"
    assert abs((made.stat().st_size if made.exists() else 0) - journal_bytes) <= 4096
    assert sink.stats().durability == ("journal" if journal_bytes else "degraded")
    logger.add(sink, format="{message}")
    logger.info("x" * 60_000)
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 2)


def test_a_record_too_large_for_a_small_journal_is_kept_in_memory(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is delivered like any other, and the statistics say that it was not safe."""
    monkeypatch.setattr("plumelog_loguru._spool._holder._MANY_JOURNALS", 0)
    monkeypatch.setattr("plumelog_loguru._spool._holder._SMALL_BYTES", 1 << 16)
    own_server.stop()
    sink = make_sink(own_server.url, max_content_chars=200_000)
    logger.add(sink, format="{message}")
    logger.info("x" * 100_000)
    assert sink.stats().durability == "degraded"
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 1)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "drop_lowest_level", "block"])
def test_an_end_beside_a_full_spool_drops_nothing(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path, policy: str
) -> None:
    """What the journal has stays there when the spool is full, as after a kill; the next sink delivers it."""
    own_server.stop()
    full = {"spool_min_free_bytes": 1 << 60, "spool_full_policy": policy, "spool_dir": tmp_path / "full"}
    sink = make_sink(own_server.url, batch_size=1000, batch_interval_seconds=60, **full)
    handler = logger.add(sink, format="{message}")
    expected = [str(n) for n in range(200)]
    for message in expected:
        logger.info(message)
    began = time.monotonic()
    logger.remove(handler)
    stats = sink.stats()
    assert (stats.spooled, stats.in_memory, dict(stats.dropped)) == (200, 0, {}), stats
    sink.close()
    assert time.monotonic() - began < 4  # no deadline was waited for
    own_server.start()
    again = make_sink(own_server.url, spool_dir=tmp_path / "full")
    logger.add(again, format="{message}")
    wait_until(lambda: again.stats().delivered >= 200)
    assert verdict(own_server, expected).exactly_once


@pytest.mark.parametrize("durability", ["journal", "memory"])
def test_what_the_disk_does_not_take_goes_to_redis(
    own_server: RedisServer, make_sink: MakeSink, broken_disk: pytest.MonkeyPatch, durability: str
) -> None:
    """Records that went to the spool in an outage, and cannot be written, are delivered when it is over."""
    own_server.stop()
    sink = make_sink(own_server.url, durability=durability)
    logger.add(sink, format="{message}")
    for n in range(500):
        logger.info(str(n))
    keeper = sink._pipeline._keeper
    assert keeper is not None
    wait_until(lambda: keeper.stuck and not sink.stats().queue_depth)
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 500)
    assert verdict(own_server, [str(n) for n in range(500)]).exactly_once
    assert (sink.stats().in_memory, sink.stats().spooled) == (0, 0)


def test_a_spool_that_waits_for_room_does_not_hold_up_what_redis_would_take(
    own_server: RedisServer, make_sink: MakeSink
) -> None:
    """Under `block` a spool without any room at all gives back what it was offered, once Redis is there."""
    own_server.stop()
    sink = make_sink(
        own_server.url, spool_full_policy="block", spool_min_free_bytes=1 << 60, block_timeout_seconds=0.1
    )
    logger.add(sink, format="{message}")
    for n in range(50):
        logger.info(str(n))
    keeper = sink._pipeline._keeper
    assert keeper is not None
    wait_until(lambda: keeper.stuck)
    own_server.start()
    wait_until(lambda: sink.stats().delivered == 50)
    assert verdict(own_server, [str(n) for n in range(50)]).exactly_once
