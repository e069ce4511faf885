"""The journal of a living owner: what is in memory, in a file that survives the process.

Promises:

- A record that ``append`` returned is in the file, whatever becomes of the process.
- A signal handler, a ``__del__`` or an interrupt in the middle of ``append`` leaves no hole and no half
  frame: what decides on a place and what writes there is one stretch of byte code that calls nothing, makes
  no container, and does not branch, and only there does Python (3.10 also at a branch) run handlers and
  collect garbage. What came before, it sees.
- The ring frees its room from its tail only. The header is written before that room is given away.

Three kinds of threads meet here without a lock of their own: callers ``append`` (one at a time: they hold a
lock), the loop thread moves the tail, and any thread may cut or settle frames that it alone has in hand.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from .._batch import AttemptedBy, BatchId, new_lane_id
from ._file import identity_of, make_file
from ._format import (
    CUT_OFFSET,
    HEAD,
    HEADER_BYTES,
    HEADER_COPIES,
    LEAST_CAPACITY,
    MAGIC,
    MOST_CAPACITY,
    NEW_FRAME,
    SETTLED_OFFSET,
    TAIL_OFFSET,
    VALUE_OFFSET,
    Attempt,
    Cut,
    Header,
    JournalError,
    Run,
    encode_attempt,
    encode_cut,
    encode_header,
    encode_settled,
    encode_tail,
)

_UNMOVED = {0: None}  # to look up how far the head has moved decides without a branch: KeyError, if at all
_REWIND_BYTES = 64 << 10  # an emptied ring begins anew only behind this much: a new lap is not for nothing


class Journal:
    """A ring of frames in one file. It is made by ``create``."""

    __slots__ = (
        "_closed",
        "_copies",
        "_file",
        "_floor",
        "_head",
        "_lap",
        "_made",
        "_ring",
        "_settled",
        "_shift",
        "_stop",
        "_tail",
        "capacity",
        "fetched",
        "key",
        "mapped",
        "path",
    )

    def __init__(self, path: Path, capacity: int, mapped: bool | None) -> None:
        self.path = path
        # Bytes of the ring; odd, so that at one place of it no two laps begin a checksum alike: only the
        # lower 32 bits of a position count there.
        self.capacity = capacity = capacity - 1 | 1
        self.key = int.from_bytes(os.urandom(4), "little")
        self.fetched: set[int] = set()  # positions that `strays` has given out
        self._ring, self._file = make_file(path, HEADER_BYTES + capacity, mapped)
        self._made = identity_of(path)
        self.mapped = self._file is None
        self._closed = False
        # Written by callers, under their lock.
        self._head = 0  # position of the next frame
        self._lap = 0  # position at which this lap began
        self._shift = -HEADER_BYTES  # from an offset in the file to a position of this lap
        self._stop = capacity  # position up to which frames may be appended without another look
        self._floor = 0  # nothing below it counts against the room, though the tail has yet to come here
        # Written by the loop thread.
        self._tail = 0  # everything below is settled; never above what the header says
        self._copies = list(HEADER_COPIES)
        # Starts and ends of settled runs that the tail has not reached.
        self._settled: dict[int, int] = {}

    @classmethod
    def create(cls, path: Path, capacity: int, *, mapped: bool | None = None) -> Journal:
        """Make a journal.

        Args:
            path: of the file, which must not be there.
            capacity: bytes of the ring; one less if that is even.
            mapped: write through a mapping, or with ``pwrite``; None leaves the choice to the file system.

        Raises:
            JournalError: there can be none here; the message says why, and nothing is left behind.
        """
        if not LEAST_CAPACITY <= capacity <= MOST_CAPACITY:
            raise JournalError(f"a journal cannot have {capacity} bytes")
        journal = cls(path, capacity, mapped)
        header = encode_header(Header(journal.key, journal.capacity, new_lane_id()))
        try:
            for at in HEADER_COPIES:
                journal._write(at + TAIL_OFFSET, encode_tail(journal.key, 0))
                journal._write(at, header)
        except JournalError:
            journal.remove()
            raise
        return journal

    def __repr__(self) -> str:
        return f"<Journal {self.path} {self._tail}..{self._head} of {self.capacity}>"

    # ---------------------------------------------------------------- callers, under their lock

    def append(
        self,
        value: bytes,
        _new_frame: Callable[..., bytes] = NEW_FRAME.pack,
        _crc32: Callable[[bytes, int], int] = crc32,
    ) -> bytes | None:
        """Write a record, and return the frame that it is in now; None: the ring has no room for it.

        Raises:
            JournalError: the file could not be written; nothing was appended.
        """
        size = len(value) + VALUE_OFFSET
        position = self._head
        end = position + size
        if end > self._stop or position == self._tail:
            if not self._find_place(size):
                return None
            position = self._head
            end = position + size
            if end > self._stop:  # a handler took the place
                return self.append(value)
        at = position - self._shift
        key = self.key
        frame = _new_frame(MAGIC, size, key, position, _crc32(value, position ^ key)) + value
        place = slice(at, at + size)
        try:
            _UNMOVED[self._head - position]
            self._ring[place] = frame
            self._head = end
        except KeyError:  # a handler took the place
            return self.append(value)
        if self._file is not None:
            self._write_through(at, frame, position, end)
        return frame

    def _write_through(self, at: int, frame: bytes, position: int, end: int) -> None:
        """Write a frame that has its place to the file, or else give the place back."""
        try:
            if self._file is not None:
                self._file.write(at, frame)
        except JournalError:
            if self._head == end:
                self._head = position
                # Should the next frame begin in a new lap, this one must not be found here.
                self._ring[at : at + len(MAGIC)] = bytes(len(MAGIC))
                if self._file is not None:
                    with suppress(JournalError):
                        self._file.write(at, bytes(len(MAGIC)))
            else:  # a handler has appended behind it
                self._settled[position] = end
            raise

    def _find_place(self, size: int) -> bool:
        """Let the next frame begin where it fits: here, or in a new lap. False: nowhere."""
        if self._closed:
            return False
        capacity, head, tail, lap, floor = self.capacity, self._head, self._tail, self._lap, self._floor
        begin, lap_end = head, lap + capacity
        if head == tail and (head - lap > _REWIND_BYTES or head + size > lap_end):
            # Empty: a service in good health touches the first few pages only. The tail follows from here.
            if size > capacity:
                return False
            begin = lap = floor = lap_end
            stop = lap_end + capacity
        else:
            limit = max(tail, floor) + capacity
            if head + size > lap_end:
                if lap_end + size > limit:
                    return False
                begin = lap = lap_end
                lap_end += capacity
            elif head + size > limit:
                return False
            stop = min(lap_end, limit)
        try:
            _UNMOVED[self._head - head]
            self._head = begin
            self._lap = lap
            self._floor = floor
            self._shift = lap - HEADER_BYTES
            self._stop = stop
        except KeyError:  # a handler found a place, and used it
            return self._find_place(size)
        return True

    # ---------------------------------------------------------------- any thread, for frames in its hands

    def cut(self, runs: Sequence[Run], batch_id: BatchId, attempted_by: AttemptedBy, at_ms: int) -> None:
        """Write down which batch these frames are; before it is attempted, and before it is spooled.

        A second call for the same batch writes down a later attempt.

        Raises:
            JournalError: the file could not be written.
        """
        attempt = Attempt(attempted_by, at_ms)
        for run in self._living(runs):
            cut = encode_cut(self.key, run.start, Cut(batch_id, run.upto, run.index))
            self._write(
                self._offset_of(run.start) + CUT_OFFSET, cut + encode_attempt(self.key, run.start, attempt)
            )

    def settle(self, runs: Sequence[Run]) -> None:
        """Write down that these frames are needed no more: delivered, spooled or dropped. Never raises.

        The runs of a batch are settled in one call: recovery repeats a batch whole or not at all.
        """
        runs = self._living(runs)
        for run in runs:
            # What is not written down is repeated under its identity, and recognised.
            with suppress(JournalError):
                self._write(
                    self._offset_of(run.start) + SETTLED_OFFSET,
                    encode_settled(self.key, run.start, run.upto),
                )
        # Only now: the tail must not pass one run of a batch before all of them are written down.
        self._settled.update([(run.start, run.upto) for run in runs])

    def _living(self, runs: Sequence[Run]) -> list[Run]:
        """Without those that are settled: where they were, another frame may stand."""
        return [run for run in runs if run.start >= self._tail]

    # ---------------------------------------------------------------- the loop thread

    def advance(self) -> None:
        """Give the room of what is settled back. Never raises: a header that cannot be written keeps it."""
        tail = self._pass(self._tail, self._head, self._settled)
        if tail == self._tail:
            return
        moving = encode_tail(self.key, tail)
        with suppress(JournalError):
            for at in list(self._copies):
                self._copies.sort(key=at.__ne__)  # should this fail half-way, it is the first of the next try
                self._write(at + TAIL_OFFSET, moving)
            for start in list(self._settled):  # other threads add to it meanwhile
                if start < tail:
                    del self._settled[start]
            self._tail = tail

    def strays(self, in_flight: Iterable[Run], *, upto: int | None = None) -> list[bytes]:
        """Find the frames that are nowhere else: their caller was interrupted before the queue had them.

        Args:
            in_flight: the runs of everything that is on its way, of this journal or others. Of frames behind
                the newest of them nothing is known: they may be about to come.
            upto: look as far as this position instead (``head``, once no caller can come any more).

        Returns:
            The frames, each only once; should one come after all, its position is in ``fetched``.
        """
        known = [(run.start, run.upto) for run in in_flight if run.key == self.key]
        if upto is None:
            upto = max((behind for _, behind in known), default=0)
        # They overlap: of what is in flight the beginning may be settled, and the tail be within it.
        known = sorted(known + list(self._settled.copy().items()), reverse=True)
        found: list[bytes] = []
        position = covered = self._tail
        while position < upto:
            while known and known[-1][0] <= position:
                covered = max(covered, known.pop()[1])
            if covered > position:
                position = covered
            elif not self._begins_frame(position):
                position += self.capacity - position % self.capacity  # the lap ended here
            else:
                size = HEAD.unpack(self._read(position, HEAD.size))[1]
                if position not in self.fetched:
                    self.fetched.add(position)
                    found.append(self._read(position, size))
                position += size
        return found

    def _pass(self, position: int, upto: int, runs: dict[int, int]) -> int:
        """The first position at or behind this one that is in none of these runs."""
        while position < upto:
            behind = runs.get(position)
            if behind is None:
                if self._begins_frame(position):
                    break
                behind = position - position % self.capacity + self.capacity  # the lap ended here
            position = behind
        return position

    def _begins_frame(self, position: int) -> bool:
        if self.capacity - position % self.capacity < VALUE_OFFSET:
            return False
        magic, _, key, found, _ = HEAD.unpack(self._read(position, HEAD.size))
        return bool(magic == MAGIC and key == self.key and found == position)

    # ---------------------------------------------------------------- any thread

    def is_there(self) -> bool:
        """Whether the file is still at its path; a mapping does not notice when it is deleted."""
        try:
            return identity_of(self.path) == self._made
        except OSError:  # the disk does not say
            return True

    @property
    def head(self) -> int:
        """The position behind the newest frame."""
        return self._head

    @property
    def tail(self) -> int:
        """The position of the oldest frame that is not settled."""
        return self._tail

    @property
    def used_bytes(self) -> int:
        """Bytes of the ring that are not free."""
        return max(0, self._head - max(self._tail, self._floor))

    @property
    def half_full(self) -> bool:
        """Whether what waits long has to go elsewhere."""
        return self.used_bytes * 2 >= self.capacity

    @property
    def is_clear(self) -> bool:
        """Whether everything is settled, as far as ``advance`` has seen."""
        return self._tail == self._head

    # ---------------------------------------------------------------- the end

    def retire(self) -> None:
        """Take nothing more in. Whoever is inside `append` at this moment may still come through."""
        self._closed = True
        self._stop = 0

    def close(self) -> None:
        """Let go of the file, which stays; from now on there is no room."""
        self._closed = True
        self._stop = -1
        ring, file = self._ring, self._file
        # What is still inside a method here writes into memory that nobody reads.
        self._ring, self._file = mmap.mmap(-1, len(ring), flags=mmap.MAP_PRIVATE), None
        ring.close()
        if file is not None:
            file.close()

    def remove(self) -> None:
        """Close, and delete the file. Never raises."""
        self.close()
        with suppress(OSError):
            os.unlink(self.path)

    def forget_in_child(self) -> None:
        """Let go of the parent's file after a fork, without a write to it.

        The fork may have come in the middle of any method here, in a handler or a ``__del__``. In the child
        that method goes on, and finds nothing that it could harm.
        """
        self.close()

    # ---------------------------------------------------------------- inside

    def _offset_of(self, position: int) -> int:
        return HEADER_BYTES + position % self.capacity

    def _read(self, position: int, size: int) -> bytes:
        at = self._offset_of(position)
        return self._ring[at : at + size]

    def _write(self, at: int, data: bytes) -> None:
        place = slice(at, at + len(data))
        if self._file is not None:
            self._file.write(at, data)
        self._ring[place] = data
