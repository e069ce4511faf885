"""What the spool thread does for records that Redis refuses: it leaves rows for later, and writes letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plumelog_loguru._batch import BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part, RowKey, SpoolError, _reader
from plumelog_loguru._spool._row import Row

from .rig import Rig

Start = Callable[..., Rig]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, "_LEFT_SECONDS", 0.0)


def test_a_row_that_is_left_comes_again_after_the_others(start: Start) -> None:
    """It is not acknowledged, not lost, and in nobody's way; its order among the left is kept."""
    rig = start()
    for value in (b"1", b"2", b"3"):
        rig.store(value)
    first, second = rig.next_row(), rig.next_row()
    assert first is not None and second is not None
    rig.keeper.leave(first)
    rig.keeper.leave(second)
    third = rig.next_row()
    assert third is not None and third.row.batch.values == (b"3",)
    rig.keeper.acknowledge(third)
    assert [row.key for row in rig.rows()] == [first.key, second.key]
    rig.settle()
    assert rig.keeper._holder.own is not None and rig.keeper._holder.own.empty


def test_a_row_that_is_left_is_not_asked_for_all_the_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rests a while, and also then new rows go first."""
    rig = start()
    rig.store(b"1")
    row = rig.next_row()
    assert row is not None
    monkeypatch.setattr(_reader, "_LEFT_SECONDS", 3600.0)
    rig.keeper.leave(row)
    assert rig.next_row() is None
    rig.store(b"2")
    fresh = rig.next_row()
    assert fresh is not None and fresh.row.batch.values == (b"2",)


def test_a_row_that_is_left_and_cannot_be_read_is_not_forgotten(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that fails is tried again, for this row as for any."""
    rig = start()
    rig.store(b"1")
    row = rig.next_row()
    assert row is not None
    rig.keeper.leave(row)

    def fail(part: Part, key: RowKey) -> Row:
        raise SpoolError("the disk cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(Part, "read", fail)
        assert rig.next_row() is None
    again = rig.next_row()
    assert again is not None and again.key == row.key


def test_a_row_that_is_left_is_dropped_by_no_policy(start: Start) -> None:
    """Part of it may be in Redis: like a row in flight it stays, whatever the quota says."""
    rig = start(max_bytes=1 << 20)
    rig.store(b"1" * 300_000)
    row = rig.next_row()
    assert row is not None
    rig.keeper.leave(row)
    for n in range(8):
        rig.store(b"%d" % n * 300_000)
    kept = rig.rows()
    assert row.key in [one.key for one in kept]
    assert rig.listener.losses


def test_letters_are_written_in_the_spool_thread(
    start: Start, spool_dir: Path, destination: Destination
) -> None:
    """What is asked of them is answered in the loop thread; what fails is told, and answered with None."""
    rig = start()
    letter = DeadLetter(BatchId("a" * 32, 1), b"{}", destination, "too large", 1)

    def write(letters: DeadLetters) -> bool:
        letters.write(letter)
        return True

    given: list[bool | None] = []
    rig.keeper.ask_letters(write, given.append)
    rig.listener.wait_for(lambda: given == [True])
    letters = DeadLetters(spool_dir)
    assert [letters.read(name) for name in letters.names()] == [letter]
    letters.remove(letters.names()[0])
    letters.path.rmdir()
    letters.path.write_text("in the way")
    rig.keeper.ask_letters(write, given.append)
    rig.listener.wait_for(lambda: given == [True, None])
    assert [kind for kind, _ in rig.reports] == ["dead-letters-failing"]


def test_where_there_is_no_spool_there_are_no_letters(start: Start, spool_dir: Path) -> None:
    """The answer is that it failed, and it comes."""
    spool_dir.parent.mkdir(exist_ok=True)
    spool_dir.write_text("in the way")
    rig = start()
    given: list[bool | None] = []
    rig.keeper.ask_letters(lambda letters: letters.has(BatchId("a" * 32, 1)), given.append)
    rig.listener.wait_for(lambda: given)
    assert given == [None]
