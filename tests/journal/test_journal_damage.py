"""A journal that is not what was written: flipped bits, cut off, garbage, forged."""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import pytest

from plumelog_loguru._batch import AttemptedBy, BatchId
from plumelog_loguru._journal import (
    DeadJournal,
    Journal,
    JournalDamaged,
    JournalError,
    Journals,
    NewerJournal,
    look_at,
    runs_of,
    value_of,
)
from plumelog_loguru._journal._format import (
    HEADER_BYTES,
    HEADER_COPIES,
    MAGIC,
    NEW_FRAME,
    TAIL_OFFSET,
    VALUE_OFFSET,
    Cut,
    Header,
    encode_cut,
    encode_header,
    encode_tail,
)
from tests.scale import scaled

from .conftest import CAPACITY
from .failpoints import FailPoint

LANE = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2


def value(number: int, size: int = 40) -> bytes:
    return b'{"dtTime":%d,"pad":"%s"}' % (1_795_305_614_000 + number, b"x" * size)


@dataclass
class Left:
    """What an owner left: the batches that were cut, by identity, and the records that were not."""

    path: Path
    cut: dict[BatchId, list[bytes]]
    uncut: list[bytes]
    settled: set[bytes]
    frames: list[bytes]

    @property
    def due(self) -> set[bytes]:
        return {*self.uncut, *(one for values in self.cut.values() for one in values)}


def leave_one(path: Path) -> Left:
    """A journal in its second lap, with all that can be in one: runs, two lanes, settled, uncut."""
    journal = Journal.create(path, 1 << 12, mapped=False)
    numbers = iter(range(10_000))

    def put(count: int, size: int = 40) -> list[bytes]:
        frames = [journal.append(value(next(numbers), size + number)) for number in range(count)]
        assert None not in frames
        return [frame for frame in frames if frame is not None]

    gone = put(20, 60)
    journal.settle(runs_of(gone))
    journal.advance()
    frames = put(23)
    third, second, first, done = frames[0:4], [frames[4], frames[6], frames[7]], frames[8:11], frames[12:15]
    cut = {BatchId(LANE, 2): second, BatchId(OTHER, 1): third, BatchId(LANE, 1): first}
    for batch_id, of in cut.items():
        journal.cut(runs_of(of), batch_id, AttemptedBy.SCRIPT, 1_795_305_614_000)
    journal.settle(runs_of(done))
    uncut = [frame for frame in frames if not any(frame in some for some in (third, second, first, done))]
    journal.close()
    return Left(
        path,
        {batch_id: [value_of(one) for one in of] for batch_id, of in cut.items()},
        [value_of(one) for one in uncut],
        {value_of(one) for one in (*gone, *done)},
        frames,
    )


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return leave_one(tmp_path / "journal-1")


@pytest.mark.parametrize("again", [0, 1, 2])
def test_identities_order_and_attempts_come_back(left: Left, again: int) -> None:
    """Each lane by its numbers, lanes as they began, what nobody cut last; and the same at a second try."""
    for _ in range(again):
        dead = DeadJournal.open(left.path)
        list(dead.batches())
        dead.close()
    assert look_at(left.path).records == len(left.due)
    dead = DeadJournal.open(left.path)
    assert dead.records == len(left.due) and dead.corrupt == []
    *known, fresh = list(dead.batches())
    assert [(one.batch.id, list(one.batch.values)) for one in known] == [
        (batch_id, left.cut[batch_id]) for batch_id in (BatchId(OTHER, 1), BatchId(LANE, 1), BatchId(LANE, 2))
    ]
    assert all(one.batch.attempted_by is AttemptedBy.SCRIPT for one in known)
    assert all(one.batch.last_attempt_ms == 1_795_305_614_000 for one in known)
    assert list(fresh.batch.values) == left.uncut and fresh.batch.id.seq == 1
    assert fresh.batch.attempted_by is AttemptedBy.NOBODY
    assert not any(one.doubtful_records for one in (*known, fresh))
    known[0].settle()
    dead.close()
    assert look_at(left.path).records == len(left.due) - len(known[0].batch.values)


def test_what_a_journal_holds_is_seen_from_outside(left: Left) -> None:
    """Records, bytes, and the times of the oldest and the newest; the file is not touched."""
    before = left.path.read_bytes()
    facts = look_at(left.path)
    assert facts.bytes == sum(map(len, left.due))
    times = sorted(int(one[10:23]) for one in left.due)
    assert (facts.first_ms, facts.last_ms) == (times[0], times[-1])
    assert left.path.read_bytes() == before


@pytest.mark.timeout(600)
def test_a_flipped_bit_costs_the_record_it_is_in(left: Left) -> None:
    """Wherever it is: no exception, no wrong record, all others once, cut ones as they were or in doubt."""
    intact = left.path.read_bytes()
    header = [at + byte for at in HEADER_COPIES for byte in range(84)]
    everywhere = [8 * byte + bit for byte in (*header, *range(HEADER_BYTES, len(intact))) for bit in range(8)]
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    known = {one: batch_id for batch_id, values in left.cut.items() for one in values}
    newest = value_of(left.frames[-1])
    doubted = lost = 0
    for bit in random.Random(seed).sample(everywhere, scaled(1500, len(everywhere))):
        flipped = bytearray(intact)
        flipped[bit // 8] ^= 1 << bit % 8
        left.path.write_bytes(flipped)
        look_at(left.path)
        dead = DeadJournal.open(left.path)
        found = list(dead.batches())
        values = [one for each in found for one in each.batch.values]
        missing = left.due - set(values)
        where = f"bit {bit % 8} of byte {bit // 8}"
        assert len(set(values)) == len(values), where
        assert set(values) <= left.due | left.settled, where
        assert len(missing) <= 1, where
        counted = sum(stretch.records for stretch in dead.corrupt)
        assert counted == len(missing - {newest}), where
        for each in found:
            whole = left.cut.get(each.batch.id)
            for one in each.batch.values:
                if whole is None and one in known:
                    assert each.doubtful_records, where
            if whole is not None:
                assert [one for one in whole if one in each.batch.values] == list(each.batch.values), where
            doubted += bool(each.doubtful_records)
            each.settle()
        lost += len(missing)
        dead.close()
        assert look_at(left.path).records == 0, where
    assert doubted and lost


def test_damage_that_destroys_a_stretch_costs_what_is_in_it(left: Left) -> None:
    """Zeros or garbage in the midst: what lies behind comes, what they may have named is in doubt."""
    intact = left.path.read_bytes()
    for filling in (b"\0", b"\xff", b"PLJ\0"):
        start = HEADER_BYTES + runs_of([left.frames[5]])[0].start % (len(intact) - HEADER_BYTES)
        size = 3 * len(left.frames[5])
        left.path.write_bytes(intact[:start] + (filling * size)[:size] + intact[start + size :])
        dead = DeadJournal.open(left.path)
        found = list(dead.batches())
        values = {one for each in found for one in each.batch.values}
        assert {value_of(one) for one in left.frames[8:12]} <= values
        assert values <= left.due and 1 <= len(left.due - values) <= 5
        assert sum(stretch.records for stretch in dead.corrupt) >= 1
        assert b"".join(stretch.data for stretch in dead.corrupt).startswith((filling * size)[:size])
        dead.close()


@pytest.mark.timeout(300)
def test_a_file_that_was_cut_off_gives_what_is_left(left: Left) -> None:
    """At whatever byte it ends: the frames before that come, and nothing raises but a sentence."""
    intact = left.path.read_bytes()
    for size in (*range(0, HEADER_BYTES + 1, 512), *range(HEADER_BYTES, len(intact), 37)):
        left.path.write_bytes(intact[:size])
        try:
            dead = DeadJournal.open(left.path)
        except JournalDamaged:
            continue
        values = {one for each in dead.batches() for one in each.batch.values}
        dead.close()
        assert values <= left.due
        for frame in left.frames:
            at = HEADER_BYTES + runs_of([frame])[0].start % (len(intact) - HEADER_BYTES)
            if value_of(frame) in left.due and at + len(frame) <= size:
                assert value_of(frame) in values


@pytest.mark.parametrize("data", [b"garbage", os.urandom(3 * HEADER_BYTES), b"\0" * 100 + b"x"])
def test_garbage_is_damage(tmp_path: Path, data: bytes) -> None:
    """What was never a journal is refused with a sentence, for the caller to put aside whole."""
    path = tmp_path / "journal-1"
    path.write_bytes(data)
    for look in (DeadJournal.open, look_at):
        with pytest.raises(JournalDamaged, match="journal-1"):
            look(path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("size", [0, 100, HEADER_BYTES, HEADER_BYTES + CAPACITY])
def test_a_journal_that_was_never_begun_holds_nothing(tmp_path: Path, size: int) -> None:
    """Its maker died before the header was there: that is no damage."""
    path = tmp_path / "journal-1"
    path.write_bytes(bytes(size))
    dead = DeadJournal.open(path)
    assert (dead.records, dead.corrupt, list(dead.batches())) == (0, [], [])
    assert look_at(path).records == 0
    dead.remove()
    assert not path.exists()


def test_what_is_no_file_of_ours_is_not_opened(tmp_path: Path, left: Left) -> None:
    """A link, a pipe or a directory is refused, and nothing waits on it."""
    (tmp_path / "link").symlink_to(left.path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("link", "pipe", "directory", "nothing"):
        for look in (DeadJournal.open, look_at):
            with pytest.raises(JournalError, match=name):
                look(tmp_path / name)


def test_a_newer_format_is_refused_untouched(left: Left) -> None:
    """One sentence with both numbers, and not a byte is changed."""
    data = bytearray(left.path.read_bytes())
    for at in HEADER_COPIES:
        data[at + 8 : at + 12] = struct.pack("<I", 2)
        data[at + 60 : at + 64] = struct.pack("<I", crc32(data[at : at + 60]))
    left.path.write_bytes(data)
    for look in (DeadJournal.open, look_at):
        with pytest.raises(NewerJournal, match="format 2; this version reads 1"):
            look(left.path)
    assert left.path.read_bytes() == data


def test_a_forged_frame_in_a_record_is_part_of_the_record(
    make_journal: Callable[..., Journal],
) -> None:
    """A record that contains a whole frame, for the place at which it stands, is delivered as the one it is.

    And where the record around it is damaged, the forged one does not come out, for want of the key.
    """
    journal, inner = make_journal(), b"\n"
    while b"\n" in inner:  # which no record contains, and a journal's key may
        decoy = make_journal()
        decoy.append(b"x" * (10 - VALUE_OFFSET % 10))
        inner = decoy.append(value(666)) or b""
    assert inner
    outer = journal.append(b'{"text":"' + inner + b'"}')
    after = journal.append(value(2))
    assert outer is not None and after is not None
    journal.close()
    dead = DeadJournal.open(journal.path)
    (batch,) = dead.batches()
    assert batch.batch.values == (value_of(outer), value_of(after))
    dead.close()
    damaged = bytearray(journal.path.read_bytes())
    damaged[HEADER_BYTES + VALUE_OFFSET] ^= 1
    journal.path.write_bytes(damaged)
    dead = DeadJournal.open(journal.path)
    (batch,) = dead.batches()
    assert batch.batch.values == (value_of(after),) and [one.records for one in dead.corrupt] == [1]
    dead.close()


def forge(path: Path, tail: int, *, cut: int = 0) -> None:
    """An enemy's journal: all its checksums are right, one frame stands at the tail; cut: under this seq."""
    capacity = next(odd for odd in range(60_001, 70_001, 2) if tail % odd < odd - 1000)
    key, lane, data, frames = 7, "ab" * 16, value(666), bytearray(capacity)
    at, size = tail % capacity, len(data) + VALUE_OFFSET
    area = encode_cut(key, tail, Cut(BatchId(lane, cut), tail + size, 0)) if cut else b""
    frame = NEW_FRAME.pack(MAGIC, size, key, tail & (1 << 64) - 1, crc32(data, tail ^ key)) + data
    frames[at : at + size] = frame[:24] + area + frame[24 + len(area) :]
    header = bytearray(HEADER_BYTES)
    for copy in HEADER_COPIES:
        for offset, part in (
            (0, encode_header(Header(key, capacity, lane))),
            (TAIL_OFFSET, encode_tail(key, tail)),
        ):
            header[copy + offset : copy + offset + len(part)] = part
    path.write_bytes(header + frames)


@pytest.mark.parametrize("tail", [(1 << 64) - 10, (1 << 64) - (1 << 20), 1 << 63, 1 << 61])
def test_positions_that_no_journal_reaches_are_damage(tmp_path: Path, tail: int) -> None:
    """Behind them the numbers end: the file is refused before anything in it is cut."""
    path = tmp_path / "journal-1"
    forge(path, tail)
    before = path.read_bytes()
    for look in (DeadJournal.open, look_at):
        with pytest.raises(JournalDamaged, match="journal-1"):
            look(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("tail", [0, 1 << 40, (1 << 61) - 1])
def test_positions_below_are_recovered_again_and_again(tmp_path: Path, tail: int) -> None:
    """A forged journal is no worse than another: what it holds comes, under one identity."""
    path = tmp_path / "journal-1"
    forge(path, tail)
    for _ in range(2):
        dead = DeadJournal.open(path)
        (found,) = dead.batches()
        assert (found.batch.id, found.batch.values) == (BatchId("ab" * 16, 1), (value(666),))
        dead.close()


@pytest.mark.parametrize("seq", [(1 << 62) - 1, 1 << 53])
def test_numbers_that_no_lane_reaches_are_no_cut(tmp_path: Path, seq: int) -> None:
    """Redis tells numbers from one another up to 2**53: what came under greater ones would seem applied."""
    path = tmp_path / "journal-1"
    forge(path, 100, cut=seq)
    dead = DeadJournal.open(path)
    (found,) = dead.batches()
    assert found.batch.values == (value(666),) and found.batch.id.seq < 1 << 53
    assert found.doubtful_records == 1
    dead.close()


def test_a_torn_newest_frame_is_kept_aside_and_not_counted(make_journal: Callable[..., Journal]) -> None:
    """Of a call that never returned nothing is owed; where it can be told, its bytes are shown."""
    journal = make_journal()
    whole, torn = journal.append(value(1)), journal.append(value(2))
    assert whole is not None and torn is not None
    journal.close()
    intact = journal.path.read_bytes()
    for written in range(len(torn)):
        at = HEADER_BYTES + len(whole)
        data = intact[: at + written] + bytes(len(torn) - written) + intact[at + len(torn) :]
        journal.path.write_bytes(data)
        dead = DeadJournal.open(journal.path)
        assert [one.batch.values for one in dead.batches()] == [(value(1),)]
        assert sum(stretch.records for stretch in dead.corrupt) == 0
        if written > 24:
            assert [stretch.data for stretch in dead.corrupt] == [data[at : at + len(torn)]]
        dead.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("at_write", range(8))
def test_killed_between_two_writes_and_within_one(
    make_journal: Callable[..., Journal], at_write: int
) -> None:
    """A process killed at each write of a batch's life leaves each record to be repeated, or done."""
    for share in (0, 0.5):
        journal = make_journal()

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            FailPoint(at_write, share, die).watch(journal)  # type: ignore[arg-type]
            frames = [journal.append(value(number)) for number in range(3)]
            runs = runs_of([frame for frame in frames if frame is not None])
            journal.cut(runs, BatchId(LANE, 1), AttemptedBy.SCRIPT, 1)
            journal.settle(runs)
            journal.advance()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-signal.SIGKILL if at_write < 7 else 0)
        returned = min(at_write, 3)
        dead = DeadJournal.open(journal.path)
        values = [one for each in dead.batches() for one in each.batch.values]
        if at_write <= 4:
            assert values == [value(number) for number in range(returned)]
        else:
            assert values == []
        dead.close()


@pytest.mark.parametrize("settled", [0, 1])
def test_a_batch_comes_back_whole_or_not_at_all(journal: Journal, settled: int) -> None:
    """Where one of its runs was settled and the other not, both come: half a row would replace the whole."""
    frames = [frame for number in range(5) if (frame := journal.append(value(number))) is not None]
    batch = [frames[0], frames[1], frames[3]]
    runs = runs_of(batch)
    journal.cut(runs, BatchId(LANE, 1), AttemptedBy.SCRIPT, 1)
    journal.settle([runs[settled]])
    dead = DeadJournal.open(journal.path)
    first, _ = dead.batches()
    assert first.batch.values == tuple(map(value_of, batch))
    first.settle()
    dead.close()
    assert look_at(journal.path).records == 2


def test_a_ring_that_began_anew_is_recovered_before_its_tail_follows(
    make_journal: Callable[..., Journal],
) -> None:
    """Frames of the new lap stand more than a lap above the tail that the header still names."""
    journal = make_journal(1 << 18)
    gone = [frame for number in range(1000) if (frame := journal.append(value(number, 100))) is not None]
    journal.settle(runs_of(gone))
    journal.advance()
    kept: list[bytes] = []
    while (frame := journal.append(value(len(kept), 100))) is not None:
        kept.append(frame)
    assert runs_of(kept)[-1].upto > runs_of(gone)[-1].upto + journal.capacity
    dead = DeadJournal.open(journal.path)
    assert [one for each in dead.batches() for one in each.batch.values] == list(map(value_of, kept))
    dead.close()


def test_recovery_can_be_repeated_where_the_disk_refuses(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity that could not be written down is not given out; the same call works once the disk does."""
    dead = DeadJournal.open(left.path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", lambda descriptor, data, at: 0)
        with pytest.raises(JournalError, match="cannot be written"):
            dead.batches()
    found = list(dead.batches())
    assert sum(len(one.batch.values) for one in found) == len(left.due)
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", lambda descriptor, data, at: 0)
        with pytest.raises(JournalError):
            found[0].settle()
    found[0].settle()
    dead.close()


def test_room_for_a_journal_again_after_the_end(make_journal: Callable[..., Journal]) -> None:
    """At the end what is clear is removed, what is not stays for the next owner."""
    journals = Journals()
    clear, owing = make_journal(), make_journal()
    owing.append(value(1))
    for journal in (clear, owing):
        journals.use(journal)
    journals.close()
    assert not clear.path.exists() and look_at(owing.path).records == 1


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_is_no_file_is_no_journal(tmp_path: Path, kind: str) -> None:
    """A directory or a link that somebody planted goes to quarantine, and holds up no other journal."""
    path = tmp_path / "journal-1"
    path.mkdir() if kind == "directory" else path.symlink_to("elsewhere")
    with pytest.raises(JournalDamaged):
        DeadJournal.open(path)
