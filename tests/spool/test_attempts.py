"""What a dead owner may have delivered is in doubt, though it died before it could note that on the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool._part import Part, PartOptions
from plumelog_loguru._spool._part_directory import ATTEMPTS

MakeBatch = Callable[..., Batch]


class At:
    """A clock that stands still."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def monotonic(self) -> float:
        return self.ms / 1000

    def epoch_ms(self) -> int:
        return self.ms


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


def taken(path: Path, destination: Destination, at_ms: int) -> Part:
    part = Part.try_take(path, destination, options=PartOptions(clock=At(at_ms)))
    assert part is not None
    return part


def doubts(part: Part) -> list[tuple[str, int]]:
    """Of all rows: how they may have been delivered, and when."""
    found = []
    key = part.peek()
    while key is not None:
        batch = part.read(key).batch
        found.append((batch.attempted_by.value, batch.last_attempt_ms))
        key = part.peek(key)
    return found


@pytest.mark.parametrize("attempted_by", [AttemptedBy.SCRIPT, AttemptedBy.PLAIN])
def test_a_row_that_was_handed_out_is_in_doubt_for_the_next_owner(
    spool_dir: Path, destination: Destination, make_batch: MakeBatch, attempted_by: AttemptedBy
) -> None:
    """The next owner takes what was handed out for attempted; what comes behind was not, and cannot be."""
    part = Part.create(spool_dir, destination, options=PartOptions(clock=At(1000)))
    for seq in (1, 2, 3):
        part.append(make_batch(seq))
    first = part.peek()
    assert first is not None
    second = part.peek(first)
    assert second is not None
    assert part.hand_out(first, attempted_by).batch.attempted_by is AttemptedBy.NOBODY
    part.hand_out(second, attempted_by)
    assert doubts(part) == [("nobody", 0)] * 3  # to its owner, who knows better
    part.close()
    part = taken(part.path, destination, 2000)
    assert doubts(part) == [(attempted_by.value, 1000), (attempted_by.value, 1000), ("nobody", 0)]
    part.append(make_batch(4))
    assert doubts(part)[2:] == [("nobody", 0)] * 2
    part.close()


def test_the_doubt_of_one_owner_outlives_the_next(
    spool_dir: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """An owner that is killed in turn leaves the older doubt as it is: how, and since when."""
    part = Part.create(spool_dir, destination, options=PartOptions(clock=At(1000)))
    part.append(make_batch(1))
    part.append(make_batch(2))
    key = part.peek()
    assert key is not None
    part.hand_out(key, AttemptedBy.PLAIN)
    part.close()
    part = taken(part.path, destination, 2000)
    for _ in range(2):
        assert part.hand_out(key, AttemptedBy.SCRIPT).batch.attempted_by is AttemptedBy.PLAIN
    part.close()
    part = taken(part.path, destination, 3000)
    assert doubts(part) == [("plain", 1000), ("nobody", 0)]
    part.close()


def test_what_was_noted_on_a_row_is_better_known(
    spool_dir: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """A row that says itself how it was attempted keeps that."""
    part = Part.create(spool_dir, destination, options=PartOptions(clock=At(1000)))
    part.append(make_batch(1, attempted_by=AttemptedBy.PLAIN))
    key = part.peek()
    assert key is not None
    part.hand_out(key, AttemptedBy.SCRIPT)
    part.close()
    part = taken(part.path, destination, 2000)
    assert doubts(part) == [("plain", 0)]
    part.close()


def test_rows_of_a_part_that_was_empty_are_in_no_doubt(
    spool_dir: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """Rows get their numbers anew where none is left; an old mark does not mean them."""
    part = Part.create(spool_dir, destination)
    for seq in range(1, 6):
        part.append(make_batch(seq))
    while (key := part.peek()) is not None:
        part.hand_out(key, AttemptedBy.PLAIN)
        part.ack(key)
    part.close()
    for seq in (6, 7):
        part = taken(part.path, destination, 2000)
        part.append(make_batch(seq))
        part.close()
    part = taken(part.path, destination, 3000)
    assert doubts(part) == [("nobody", 0)] * 2
    part.close()


@pytest.mark.parametrize("damage", [b"", b"\0" * 256, b"00000000 {}", b'"'], ids=repr)
def test_a_damaged_mark_is_none(
    spool_dir: Path, destination: Destination, make_batch: MakeBatch, damage: bytes
) -> None:
    """It is a matter of counting: what cannot be read is nothing to fail for."""
    part = Part.create(spool_dir, destination)
    part.append(make_batch(1))
    key = part.peek()
    assert key is not None
    part.hand_out(key, AttemptedBy.PLAIN)
    part.close()
    (part.path / ATTEMPTS).write_bytes(damage)
    part = taken(part.path, destination, 2000)
    assert doubts(part) == [("nobody", 0)]
    assert part.hand_out(key, AttemptedBy.PLAIN).batch == make_batch(1)
    part.close()


def test_a_planted_link_is_not_written_through(
    spool_dir: Path, destination: Destination, make_batch: MakeBatch, tmp_path: Path
) -> None:
    """A mark that is a link harms nobody else's file."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    part = Part.create(spool_dir, destination)
    part.append(make_batch(1))
    key = part.peek()
    assert key is not None
    for name in (ATTEMPTS, "age"):
        (part.path / name).unlink(missing_ok=True)
        (part.path / name).symlink_to(victim)
    part.hand_out(key, AttemptedBy.PLAIN)
    part.keep_time(at_once=True)
    part.close()
    assert victim.read_text() == "mine"
