"""What a dead owner left in its journal, made into batches that can be repeated.

Promises:

- A batch that was cut comes back under the identity that it was given, whole: also the runs that were settled
  already, when one of its others was not.
- Frames that nobody had cut get an identity of their own before the first batch is given out, and it is
  written down: a later recovery, after a crash in this one, finds it.
- A damaged frame costs what is in it and nothing else. The file is read with plain reads, never mapped: a
  truncated file is short, and kills nobody.

Intact is a frame whose checksum is right for the place where a frame has to stand; then a flipped bit in the
rest of its head does no harm. Where none stands, the next one in the lap is looked for; a lap may also end
early, and then the gap at its end is none.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from zlib import crc32

from .._batch import MAX_BATCH_BYTES, AttemptedBy, Batch, BatchId
from .._errors import PlumelogError
from ._file import PlainFile
from ._format import (
    CUT_OFFSET,
    HEAD,
    HEADER_BYTES,
    LEAST_CAPACITY,
    MAGIC,
    MOST_CAPACITY,
    SETTLED_OFFSET,
    VALUE_OFFSET,
    Attempt,
    Cut,
    Header,
    JournalDamaged,
    JournalError,
    NewerJournal,
    decode_attempt,
    decode_cut,
    decode_header,
    decode_settled,
    encode_attempt,
    encode_cut,
    encode_settled,
)

_UNTOUCHED = bytes(VALUE_OFFSET - CUT_OFFSET)  # neither cut nor settled
_DT_TIME = re.compile(rb'"dtTime": ?(\d{1,15})[,}]')
_EVERYTHING = 1 << 64
_SLICE_BYTES = 1 << 20
_SEARCHES = 8  # how often the bytes of a ring are summed up in search of what is intact, at most


@dataclass(frozen=True, slots=True)
class CorruptStretch:
    """Bytes that cannot be read; the caller puts them into quarantine."""

    position: int
    data: bytes
    records: int  # at least; 0: the newest frame, whose call never returned


@dataclass(frozen=True, slots=True)
class RecoveredBatch:
    """A batch, to be brought to where it is safe; then it is settled."""

    batch: Batch
    doubtful_records: int  # of these nobody knows the identity under which they may have been attempted
    settle: Callable[[], None]  # raises JournalError where the file cannot be written; it can be repeated


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """What a journal holds, seen from outside."""

    records: int
    bytes: int  # of their values
    first_ms: int | None  # dtTime of the oldest record, epoch milliseconds
    last_ms: int | None  # of the newest


@dataclass(slots=True)
class Place:
    """Where a frame stands, or stood."""

    position: int
    upto: int
    intact: bool
    cut: Cut | None = None
    attempt: Attempt | None = None
    settled: int = 0
    damaged: bool = False  # there may have been a cut


@dataclass(slots=True)
class _Batch:
    """Frames that go under one identity."""

    id: BatchId
    runs: list[tuple[int, int]] = field(default_factory=list)  # start and end of each
    frames: list[tuple[int, Place]] = field(default_factory=list)  # with the place of their run in the batch
    attempts: list[Attempt] = field(default_factory=list)
    unsettled: bool = False


class DeadJournal:
    """A journal whose owner has ended. It is made by ``open``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.corrupt: list[CorruptStretch] = []
        self._file = PlainFile(path, descriptor)
        try:
            header, self._tail, self._ring = _read(path, descriptor)
        except BaseException:
            self._file.close()
            raise
        self._key, self._capacity, self._lane = header.key, header.capacity, header.recovery_lane
        self._search_bytes = _SEARCHES * self._capacity
        self._batches: dict[BatchId, _Batch] = {}
        self._fresh: list[tuple[Place, bool]] = []  # that nobody cut; and whether that is in doubt
        self._next_seq = 1  # in the lane of what recovery cuts
        places = self._find_places()
        self._sort(places)

    @classmethod
    def open(cls, path: Path) -> DeadJournal:
        """Read the journal of an owner that has ended.

        Raises:
            NewerJournal: a later version wrote it; it is left as it is.
            JournalDamaged: nothing in it can be read.
            JournalError: the disk does not let us.
        """
        with damage_told(path):
            return cls(path, open_journal(path, os.O_RDWR))

    @property
    def key(self) -> int:
        """What tells this journal from others."""
        return self._key

    @property
    def records(self) -> int:
        """Records that ``batches`` gives out."""
        return sum(len(batch.frames) for batch in self._unsettled()) + len(self._fresh)

    def batches(self) -> Iterator[RecoveredBatch]:
        """All that is unsettled: each lane by rising seq, the lanes as they began, what nobody had cut last.

        What nobody had cut is cut before this returns; the iteration itself touches no disk.

        Raises:
            JournalDamaged: it is not what any owner left.
            JournalError: the file cannot be written; call again.
        """
        with damage_told(self.path):
            while self._fresh:
                self._cut_some()
            return map(self._recovered, list(self._unsettled()))

    def seen(self) -> list[Batch]:
        """The same without writing: what nobody had cut has the identity that it would be given."""
        while self._fresh:
            self._cut_some(written=False)
        return [self._recovered(batch).batch for batch in self._unsettled()]

    def remove(self) -> None:
        """Delete the file. Never raises; what is left of it is settled."""
        self.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def close(self) -> None:
        """Let go of the file, which stays."""
        self._file.close()

    def facts(self) -> JournalFacts:
        """What there is to recover."""
        frames = [place for batch in self._unsettled() for _, place in batch.frames]
        frames += [place for place, _ in self._fresh]
        frames.sort(key=lambda place: place.position)
        first, last = (_dt_time(self._value(frames[end])) if frames else None for end in (0, -1))
        size = sum(place.upto - place.position - VALUE_OFFSET for place in frames)
        return JournalFacts(len(frames), size, first, last)

    # ---------------------------------------------------------------- finding frames

    def _find_places(self) -> list[Place]:
        places: list[Place] = []
        position = self._tail
        # Frames reach at most one lap further than the room above the tail: a journal that was found empty
        # began anew before its tail could follow.
        while position < self._tail + 2 * self._capacity:
            if size := self._intact_size(position):
                readable = self._ring.find(b"\n", *self._span(position + VALUE_OFFSET, position + size)) < 0
                places.append(self._place(position, position + size, intact=readable))
                position += size
            else:
                lap_end = position - position % self._capacity + self._capacity
                found = self._next_intact(position, lap_end)
                places += self._wrecks(position, found or lap_end, certain=found is not None)
                position = found or lap_end
        return places

    def _intact_size(self, position: int) -> int:
        """The size of the frame that stands here; 0: none does, or it is damaged."""
        at = position % self._capacity
        size = self._size_at(at)
        if not VALUE_OFFSET <= size <= len(self._ring) - at:
            return 0
        _, _, _, _, checksum = HEAD.unpack_from(self._ring, at)
        value = memoryview(self._ring)[at + VALUE_OFFSET : at + size]
        return size if crc32(value, position ^ self._key) == checksum else 0

    def _size_at(self, at: int) -> int:
        if at + VALUE_OFFSET > len(self._ring):
            return 0
        _, size, _, _, _ = HEAD.unpack_from(self._ring, at)
        return int(size)

    def _next_intact(self, position: int, lap_end: int) -> int | None:
        lap = lap_end - self._capacity
        for at in self._magics(position - lap + 1):
            if self._resembles(lap + at):
                # A forged ring can hold a head at every place, each with a size that reaches to the end.
                self._search_bytes -= self._size_at(at)
                if self._search_bytes < 0:
                    return None
                if self._intact_size(lap + at):
                    return lap + at
        return None

    def _magics(self, start: int) -> Iterator[int]:
        """Where frames may begin, from this place of the ring on."""
        # Without its zero: a ring is full of zeros, and to find one among them is slow. In slices: `find`
        # keeps all other threads waiting.
        rest, at = MAGIC[1:], start + 1
        while at < len(self._ring):
            end = min(at + _SLICE_BYTES, len(self._ring))
            while (found := self._ring.find(rest, at, end + len(rest) - 1)) >= 0:
                yield found - 1
                at = found + 1
            at = max(at, end)

    def _resembles(self, position: int) -> bool:
        """Whether what stands here began as a frame for this place."""
        at = position % self._capacity
        if at + VALUE_OFFSET > len(self._ring):
            return False
        magic, _, key, found, _ = HEAD.unpack_from(self._ring, at)
        return bool(magic == MAGIC and key == self._key and found == position)

    def _wrecks(self, position: int, end: int, *, certain: bool) -> list[Place]:
        """What stands between two intact frames; or, not certain, where the lap may just have ended."""
        wrecks: list[Place] = []
        while position < end:
            size = self._size_at(position % self._capacity)
            fits = VALUE_OFFSET <= size <= end - position
            if not self._resembles(position):
                if not certain:
                    break
                if wrecks:
                    wrecks[-1].upto = end  # its size was wrong
                else:
                    wrecks.append(self._place(position, end, intact=False))
                    wrecks[0].damaged = wrecks[0].cut is None
                break
            upto = position + size if fits else end if certain else min(end, position + MAX_BATCH_BYTES)
            wrecks.append(self._place(position, upto, intact=False))
            position = upto
        return wrecks

    def _place(self, position: int, upto: int, *, intact: bool) -> Place:
        place = Place(position, upto, intact)
        at = position % self._capacity
        frame = self._ring[at : at + VALUE_OFFSET]
        if frame[CUT_OFFSET:] == _UNTOUCHED:
            return place
        place.settled = decode_settled(self._key, position, frame)
        try:
            place.cut = decode_cut(self._key, position, frame)
        except ValueError:
            place.damaged = True
        if place.cut is not None:
            try:
                place.attempt = decode_attempt(self._key, position, frame)
            except ValueError:
                place.attempt = Attempt(AttemptedBy.SCRIPT, 0, doubtful=True)
        return place

    # ---------------------------------------------------------------- sorting them

    def _sort(self, places: list[Place]) -> None:
        """Find out what is settled, what belongs together, and what is lost."""
        run: Place | None = None  # the last whose first frame had a cut
        settled_upto = doubt_upto = behind = highest = damaged = 0
        for place in places:
            position, cut = place.position, place.cut
            settled_upto = max(settled_upto, place.settled)
            if position != behind:
                doubt_upto = 0
            behind = place.upto
            if cut is not None:
                run, doubt_upto = place, 0
                batch = self._batches.setdefault(cut.batch_id, _Batch(cut.batch_id))
                batch.runs.append((position, cut.upto))
                batch.attempts.append(place.attempt or Attempt(AttemptedBy.NOBODY, 0))
                if cut.batch_id.lane == self._lane:
                    highest = max(highest, cut.batch_id.seq)
            damaged += place.damaged
            covered = run is not None and run.cut is not None and position < run.cut.upto
            if place.damaged and not covered:
                doubt_upto = place.settled or _EVERYTHING
            settled = position < settled_upto
            if place.intact and covered:
                assert run is not None and run.cut is not None
                batch = self._batches[run.cut.batch_id]
                batch.frames.append((run.cut.index, place))
                batch.unsettled = batch.unsettled or not settled
            elif place.intact and not settled:
                self._fresh.append((place, position < doubt_upto))
            elif not place.intact and not settled:
                data = self._ring[slice(*self._span(position, place.upto))]
                # The newest is a call that never returned, or looks like one.
                records = 0 if place is places[-1] and not self._is_short() else 1
                self.corrupt.append(CorruptStretch(position, data, records))
        # A cut that cannot be read may have had any number up to here. A number given twice would be taken
        # for applied already.
        lost = self._capacity // VALUE_OFFSET if damaged or self.corrupt or self._is_short() else 0
        self._next_seq = highest + 1 + lost

    def _is_short(self) -> bool:
        return len(self._ring) < self._capacity

    def _span(self, start: int, upto: int) -> tuple[int, int]:
        at = start % self._capacity
        return at, at + upto - start

    # ---------------------------------------------------------------- giving them out

    def _cut_some(self, *, written: bool = True) -> None:
        """Cut the oldest frames that nobody has cut, about one batch of bytes, and write that down."""
        batch = _Batch(BatchId(self._lane, self._next_seq), unsettled=True)
        size, index, doubtful = 0, 0, self._fresh[0][1]
        for place, in_doubt in self._fresh:
            size += place.upto - place.position - VALUE_OFFSET
            if in_doubt != doubtful or (size > MAX_BATCH_BYTES and batch.frames):
                break
            if batch.runs and batch.runs[-1][1] == place.position:
                batch.runs[-1] = batch.runs[-1][0], place.upto
            else:
                batch.runs.append((place.position, place.upto))
                index = len(batch.frames)
            batch.frames.append((index, place))
        attempt = Attempt(AttemptedBy.NOBODY, 0, doubtful)
        indexes = {place.position: index for index, place in reversed(batch.frames)}
        for start, upto in batch.runs if written else ():
            cut = encode_cut(self._key, start, Cut(batch.id, upto, indexes[start]))
            self._write(start, CUT_OFFSET, cut + encode_attempt(self._key, start, attempt))
        batch.attempts.append(attempt)
        self._batches[batch.id] = batch
        self._next_seq += 1
        del self._fresh[: len(batch.frames)]

    def _unsettled(self) -> Iterable[_Batch]:
        """Each lane by rising seq, the lanes as they began; those of recovery last."""
        lanes: defaultdict[str, list[_Batch]] = defaultdict(list)
        for batch in self._batches.values():
            if batch.unsettled:
                lanes[batch.id.lane].append(batch)
        ordered = sorted(lanes, key=self._lane.__eq__)
        return [batch for lane in ordered for batch in sorted(lanes[lane], key=lambda one: one.id.seq)]

    def _recovered(self, found: _Batch) -> RecoveredBatch:
        frames = sorted(found.frames, key=lambda one: (one[0], one[1].position))
        batch = Batch(
            found.id,
            tuple(self._value(place) for _, place in frames),
            max((attempt.attempted_by for attempt in found.attempts), key=list(AttemptedBy).index),
            max(attempt.at_ms for attempt in found.attempts),
        )
        doubtful = any(attempt.doubtful for attempt in found.attempts)
        return RecoveredBatch(batch, doubtful * len(batch.values), partial(self._settle, found))

    def _settle(self, batch: _Batch) -> None:
        for start, upto in batch.runs:
            self._write(start, SETTLED_OFFSET, encode_settled(self._key, start, upto))

    def _value(self, place: Place) -> bytes:
        return self._ring[slice(*self._span(place.position + VALUE_OFFSET, place.upto))]

    def _write(self, position: int, offset: int, area: bytes) -> None:
        self._file.write(HEADER_BYTES + position % self._capacity + offset, area)


def look_at(path: Path) -> JournalFacts:
    """See what a journal holds; changes nothing, also beside its owner.

    Raises:
        NewerJournal: a later version wrote it.
        JournalDamaged: nothing in it can be read.
        JournalError: the disk does not let us.
    """
    with damage_told(path):
        journal = DeadJournal(path, open_journal(path, os.O_RDONLY))
        journal.close()
        return journal.facts()


def see_into(path: Path) -> tuple[list[Batch], list[CorruptStretch]]:
    """The batches in a dead owner's journal, and what is damaged in it; changes nothing.

    Raises:
        NewerJournal: a later version wrote it.
        JournalDamaged: nothing in it can be read.
        JournalError: the disk does not let us.
    """
    with damage_told(path):
        journal = DeadJournal(path, open_journal(path, os.O_RDONLY))
        journal.close()
        return journal.seen(), journal.corrupt


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """What nobody has thought of, in a file that an enemy may have written, must not stop all behind it."""
    try:
        yield
    except (PlumelogError, OSError, MemoryError):
        raise
    except Exception as error:
        raise JournalDamaged(f"the journal {path} cannot be read: {type(error).__name__}: {error}") from error


def open_journal(path: Path, flags: int) -> int:
    """A descriptor of the file; a link is refused, and nothing waits."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A directory or a link in its place is none, today and tomorrow; it must not hold up the others.
        kind = JournalDamaged if error.errno in (errno.EISDIR, errno.ELOOP) else JournalError
        raise kind(f"the journal {path} cannot be opened ({error.strerror})") from error


def _read(path: Path, descriptor: int) -> tuple[Header, int, bytes]:
    """The header, the tail and the ring, as far as the file reaches."""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise JournalDamaged(f"the journal {path} is no regular file")
        if found.st_size > HEADER_BYTES + MOST_CAPACITY:
            raise JournalDamaged(f"the journal {path} is larger than one can be")
        head = read_all(descriptor, 0, HEADER_BYTES)
        ring = read_all(descriptor, HEADER_BYTES, found.st_size - HEADER_BYTES)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read ({error.strerror})") from error
    try:
        header, tail = decode_header(head)
    except NewerJournal as error:
        raise NewerJournal(f"the journal {path} is of a later version: {error}") from None
    except JournalDamaged as error:
        if _is_empty(ring) and (ring or _is_empty(head)):
            return Header(0, LEAST_CAPACITY, ""), 0, b""  # its maker died before the first record
        raise JournalDamaged(f"the journal {path} cannot be read: {error}") from None
    if not ring:
        raise JournalDamaged(f"the journal {path} cannot be read: it is cut off")
    return header, tail, ring[: header.capacity]


def _is_empty(data: bytes) -> bool:
    return data.count(0) == len(data)


def read_all(descriptor: int, at: int, size: int) -> bytes:
    """This stretch of a file, as far as the file reaches."""
    pieces: list[bytes] = []
    while size > 0 and (piece := os.pread(descriptor, size, at)):
        pieces.append(piece)
        at, size = at + len(piece), size - len(piece)
    return b"".join(pieces)


def _dt_time(value: bytes) -> int | None:
    found = _DT_TIME.search(value)
    return int(found[1]) if found else None
