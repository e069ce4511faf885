"""What is wrong in a journal is found wherever it is, and nothing is found where nothing is wrong."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from plumelog_loguru._journal import DeadJournal, Journal, JournalDamaged, JournalError, examine
from plumelog_loguru._journal._format import HEADER_BYTES, HEADER_COPIES, VALUE_OFFSET
from tests.scale import scaled

from .test_journal_damage import Left, leave_one, value


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return leave_one(tmp_path / "journal-1")


def test_nothing_is_wrong_in_what_an_owner_left(left: Left) -> None:
    """Nor does looking change a byte."""
    before = left.path.read_bytes(), left.path.stat().st_mtime_ns
    found = examine(left.path)
    assert (found.records, found.flaws) == (len(left.due), ())
    assert (left.path.read_bytes(), left.path.stat().st_mtime_ns) == before


def test_nothing_is_wrong_in_a_journal_that_was_never_begun(tmp_path: Path) -> None:
    """Whatever of it its maker came to write."""
    whole = Journal.create(tmp_path / "journal-1", 1 << 12, mapped=False)
    whole.close()
    assert examine(whole.path).flaws == ()
    data = bytearray(whole.path.read_bytes())
    data[HEADER_COPIES[1] : HEADER_BYTES] = bytes(HEADER_BYTES - HEADER_COPIES[1])
    whole.path.write_bytes(data)
    assert examine(whole.path).flaws == ()
    for size in (0, 100, HEADER_BYTES, HEADER_BYTES + 4095):
        whole.path.write_bytes(bytes(size))
        assert examine(whole.path).flaws == ()


@pytest.mark.timeout(600)
def test_each_flipped_bit_that_matters_is_found(left: Left) -> None:
    """In the header's copies, and in all of each frame; records that are lost are counted."""
    intact = left.path.read_bytes()
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    spans = [(at, at + 84) for at in HEADER_COPIES]
    for frame in left.frames:
        at = intact.index(frame[VALUE_OFFSET:], HEADER_BYTES) - VALUE_OFFSET
        spans.append((at, at + len(frame)))
    bits = [8 * byte + bit for start, end in spans for byte in range(start, end) for bit in range(8)]
    newest = left.frames[-1][VALUE_OFFSET:]
    for bit in random.Random(seed).sample(bits, scaled(1000, len(bits))):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        left.path.write_bytes(flipped)
        where = f"bit {bit % 8} of byte {bit // 8}"
        found = examine(left.path)
        assert found.flaws, where
        dead = DeadJournal.open(left.path)
        values = {one for each in dead.batches() for one in each.batch.values}
        dead.close()
        lost = left.due - values - {newest}
        assert sum(flaw.records for flaw in found.flaws) >= len(lost), where


def test_a_journal_that_was_cut_off_is_found(left: Left) -> None:
    """At whatever byte; but for the first, which is a zero, as in one that was never begun."""
    intact = left.path.read_bytes()
    for size in (*range(2, HEADER_BYTES, 511), *range(HEADER_BYTES, len(intact), 61), len(intact) - 1):
        left.path.write_bytes(intact[:size])
        try:
            assert examine(left.path).flaws, size
        except JournalDamaged:
            continue


@pytest.mark.parametrize("data", [b"garbage", os.urandom(3 * HEADER_BYTES)])
def test_garbage_is_damage(tmp_path: Path, data: bytes) -> None:
    """The whole file is refused, and stays as it is."""
    path = tmp_path / "journal-1"
    path.write_bytes(data)
    with pytest.raises(JournalDamaged, match="journal-1"):
        examine(path)
    assert path.read_bytes() == data


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path, left: Left) -> None:
    """A link, a pipe, a directory; nothing waits on it."""
    (tmp_path / "link").symlink_to(left.path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("link", "pipe", "directory", "nothing"):
        with pytest.raises(JournalError, match=name):
            examine(tmp_path / name)


def test_a_torn_newest_frame_is_told_and_counts_no_record(left: Left) -> None:
    """Nobody is owed a record whose call never returned; whether it was that or damage, nobody can tell."""
    data = bytearray(left.path.read_bytes())
    newest = left.frames[-1]
    at = data.index(newest[VALUE_OFFSET:], HEADER_BYTES)
    data[at + len(value(0)) // 2 : at + len(newest) - VALUE_OFFSET] = bytes(
        len(newest) - VALUE_OFFSET - len(value(0)) // 2
    )
    left.path.write_bytes(data)
    (flaw,) = examine(left.path).flaws
    assert flaw.records == 0 and "newest record" in flaw.what
