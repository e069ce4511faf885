"""The spool thread: the one thread that touches the disk.

Promises:

- ``offer`` never waits: it is called from ``logger.info()`` when the queue is full, and by the loop thread.
- Batches enter the spool in the order in which they were offered; one whose write failed holds back the later
  ones and is tried again under the same identity.
- Every call into SQLite is made under ``sqlite_lock``, which the fork hook takes first: a child that is
  forked while SQLite holds its allocator's mutex would hang in any SQLite call, its own application's too.
- The loop thread hears of everything through ``post``, in order; nothing here calls into it directly.

States: ``OPENING -> READY <-> FAILING -> CLOSED``, or ``OPENING <-> UNUSABLE -> CLOSED``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Protocol

from .._batch import MAX_BATCH_BYTES, Batch
from .._clock import Clock
from .._destination import Destination
from ._directory import SpoolDirectory
from ._part import Part
from ._row import CorruptRow, NewerFormat, Row
from ._store import RowKey, SpoolDamaged, SpoolError, SpoolVanished

_PENDING_BYTES = 16 << 20  # offered and not yet written; bounds memory while the disk is slow
# How long a caller that hands over a mebibyte pauses, by the share of the above that is in use. Callers that
# never pause leave the interpreter to this thread only a switch interval at a time, several of which every
# row needs.
_PAUSES = ((0.75, 0.05), (0.5, 0.01), (0.25, 0.002))
_RETRY_FIRST_SECONDS = 0.1
_RETRY_MOST_SECONDS = 5.0
_ADOPT_EVERY_SECONDS = 60.0
_FULL_POLL_SECONDS = 0.05


class KeeperState(Enum):
    """``OPENING -> READY <-> FAILING -> CLOSED``; ``OPENING <-> UNUSABLE -> CLOSED``."""

    OPENING = "opening"
    READY = "ready"
    FAILING = "failing"  # the last write failed; it is tried again
    UNUSABLE = "unusable"  # there is no spool: records stay in memory
    CLOSED = "closed"


@dataclass(eq=False, slots=True)
class Block:
    """Records on their way to the disk: with an identity if they were attempted, else without."""

    values: Sequence[bytes]
    batch: Batch | None = None
    written: int = 0  # how many of the values are in rows already
    since: int = 0  # where it stands in the order in which records left the queue; given by who offers it
    counted: bool = False  # among what is pending
    taken: bool = False  # by the spool thread, which takes a block once however often it is offered

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.values))


@dataclass(frozen=True, slots=True)
class SpooledRow:
    """A row that was handed out for delivery, and where it came from."""

    part_id: str
    generation: int  # of the part's files: a row of files that were replaced means nothing to the new ones
    key: RowKey
    row: Row

    @property
    def records(self) -> int:
        return len(self.row.batch.values)


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A row that is being written, and how many of its records come from which block."""

    batch: Batch
    pieces: list[tuple[Block, int]]


class KeeperListener(Protocol):
    """What the loop thread is told, always in the loop thread."""

    def on_spool_opened(self, part_id: str, adopted: int) -> None:
        """A part of the spool is ours now, with this many records of a process that has ended."""

    def on_spool_unusable(self, reason: str, returned: list[Block]) -> None:
        """There is no spool; these blocks come back to memory."""

    def on_stored(self, part_id: str, block: Block, records: int, done: bool) -> None:
        """Records of the block are on disk; ``done`` when all of them are."""

    def on_spool_loss(self, part_id: str, records: int, reason: str) -> None:
        """Records that were in the spool are gone."""

    def on_refused(self, part_id: str, block: Block, records: int, done: bool) -> None:
        """The spool is full, and its policy refuses these records of the block; ``done``: it was the last."""

    def on_part_lost(self, part_id: str, reason: str) -> None:
        """Whatever the part held is gone from here, but for a row that was handed out."""


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """The settings of the spool thread."""

    spool_dir: Path | None  # None: there is no place for one
    destination: Destination
    max_bytes: int
    full_policy: str


class SpoolKeeper:
    """Owns a part of the spool directory, and adopts parts that nobody owns."""

    def __init__(
        self,
        options: KeeperOptions,
        *,
        listener: KeeperListener,
        post: Callable[[Callable[[], None]], None],
        report: Callable[[str, str], None],
        clock: Clock,
    ) -> None:
        """``post`` runs a callback in the loop thread; ``report(kind, sentence)`` tells a person."""
        self._options = options
        self._listener = listener
        self._post = post
        self._report = report
        self._clock = clock
        self.sqlite_lock = threading.Lock()
        self.state = KeeperState.OPENING
        self.degraded = False  # there is no spool, and so records are kept in memory only
        self.spool_bytes = 0
        self.oldest_ms = 0
        self.last_error: str | None = None
        self._inbox: queue.SimpleQueue[Block | Callable[[], None] | None] = queue.SimpleQueue()
        self._backlog: deque[Block] = deque()
        self._unwritten: _Unwritten | None = None
        self._offered_by_callers = 0
        self._offered_by_loop = 0
        self._settled_bytes = 0
        self._directory: SpoolDirectory | None = None
        self._own: Part | None = None
        self._adopted: Part | None = None
        self._cursor: dict[str, RowKey] = {}
        self._generations: Counter[str] = Counter()  # by part: how often its files were begun anew
        self._let_go: set[str] = set()  # parts of this round of adoption that hold nothing to deliver
        self._handed_out: set[tuple[str, RowKey]] = set()  # in flight, or read ahead
        self._full = False  # and waits for room
        self._retry_at = 0.0
        self._retry_delay = _RETRY_FIRST_SECONDS
        self._adopt_at = 0.0
        self._close_at: float | None = None
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<SpoolKeeper {self.state.value}>"

    # ---------------------------------------------------------------- any thread

    @property
    def usable(self) -> bool:
        """Whether records may be offered: there is a spool, or it is not yet known that there is none."""
        return self.state in (KeeperState.OPENING, KeeperState.READY, KeeperState.FAILING)

    @property
    def takes_records(self) -> bool:
        """Whether what is offered will be written soon."""
        return self.state in (KeeperState.OPENING, KeeperState.READY) and not self._full

    @property
    def pending_bytes(self) -> int:
        """Bytes offered and not yet written."""
        return self._offered_by_callers + self._offered_by_loop - self._settled_bytes

    def has_room(self) -> bool:
        """Whether a block may be offered now."""
        return self.usable and self.pending_bytes < _PENDING_BYTES

    def pause_seconds(self) -> float:
        """How long a caller should pause, in seconds, so that this thread keeps up; 0.0 when it does."""
        share = self.pending_bytes / _PENDING_BYTES
        return next((pause for above, pause in _PAUSES if share > above), 0.0)

    def offer(self, block: Block, *, from_loop: bool) -> None:
        """Have the block written. Ask :meth:`has_room` first."""
        size_bytes = block.size_bytes
        if not block.counted:  # or a caller that is interrupted and offers again would use up the room
            block.counted = True
            if from_loop:
                self._offered_by_loop += size_bytes
            else:
                self._offered_by_callers += size_bytes
        self._inbox.put(block)

    def request_row(self, give: Callable[[SpooledRow | None], None]) -> None:
        """Have ``give`` called, in the loop thread, with the next row to deliver, or with None."""

        def work() -> None:
            row = None
            try:
                row = self._next_row()
            finally:
                self._post(lambda: give(row))

        self._inbox.put(work)

    def rewind(self) -> None:
        """Hand out every row again that was not acknowledged, beginning with the oldest."""

        def work() -> None:
            self._cursor.clear()
            self._handed_out.clear()

        self._inbox.put(work)

    def acknowledge(self, row: SpooledRow) -> None:
        """Delete a row that Redis has."""
        self._inbox.put(lambda: self._acknowledge(row))

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        """Write on a row that it was attempted, and when: a crash must not hide what is in doubt."""
        self._inbox.put(lambda: self._restamp(row, batch))

    def close(self, within_seconds: float) -> None:
        """Write what was offered, at most this long, then let go of the spool. Does not wait."""
        deadline = time.monotonic() + within_seconds

        def work() -> None:
            self._close_at = deadline

        self._inbox.put(work)

    def join(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the thread to end; whether it has."""
        return self._ended.wait(timeout)

    def unclaimed(self) -> list[Block]:
        """After the thread has ended: what was offered too late for it, oldest first."""
        late: list[Block] = []
        try:
            while True:
                item = self._inbox.get_nowait()
                if isinstance(item, Block) and not item.taken:
                    item.taken = True
                    late.append(item)
        except queue.Empty:
            return late

    def release_in_child(self) -> None:
        """After a fork, in the child: close the locks' descriptors, unlock nothing that the parent holds."""
        for part in (self._own, self._adopted):
            if part is not None:
                part.release_lock_in_child()

    # ---------------------------------------------------------------- the spool thread

    def run(self) -> None:
        """Serve until closed: in the spool thread, or at interpreter exit in the one that is left."""
        try:
            while True:
                try:
                    if self._serve():
                        return
                except Exception as error:
                    self._report(
                        "spool-thread", f"the spool thread met {type(error).__name__}: {error}; it goes on"
                    )
                    time.sleep(1.0)
        finally:
            self.state = KeeperState.CLOSED
            self._ended.set()

    def _serve(self) -> bool:
        """Serve until the thread is to end (True) or an unexpected exception."""
        if self._own is None:
            self._open()
        while True:
            self._take_in(self._pause())
            self._write_next()
            if self._close_at is not None and (
                not self._backlog or self._own is None or time.monotonic() >= self._close_at
            ):
                self._shut()
                return True
            self._look_round()

    def _pause(self) -> float:
        """How long, in seconds, to wait for the next thing to do."""
        now = time.monotonic()
        until = self._adopt_at if self._close_at is None else self._close_at
        if self._backlog:
            until = min(until, self._retry_at) if self._own is not None else now
        elif self._close_at is not None:
            until = now
        return max(0.0, until - now)

    def _take_in(self, seconds: float) -> None:
        """Take everything from the inbox, waiting at most ``seconds`` for the first."""
        try:
            item = self._inbox.get(timeout=seconds) if seconds > 0 else self._inbox.get_nowait()
            while True:
                if isinstance(item, Block):
                    if not item.taken:  # else offered again, by a caller that was interrupted
                        item.taken = True
                        self._backlog.append(item)
                elif item is not None:
                    item()
                item = self._inbox.get_nowait()
        except queue.Empty:
            pass

    # --- opening

    def _open(self) -> None:
        options = self._options
        self._adopt_at = time.monotonic() + _ADOPT_EVERY_SECONDS
        try:
            if options.spool_dir is None:
                raise SpoolError(
                    "there is no home directory to keep a spool in; "
                    "set PLUMELOG_SPOOL_DIR to a directory that can be written"
                )
            with self.sqlite_lock:
                directory = SpoolDirectory(options.spool_dir, options.destination)
                directory.open()
                # Known here, under the lock: a child that is forked at this moment must close its copy of it.
                part = self._own = directory.take_or_create()
        except (SpoolError, OSError) as error:
            self._become_unusable(str(error))
            return
        self._directory = directory
        self._adopt_at = time.monotonic()
        self._take_charge(part)
        self.state = KeeperState.READY
        self.degraded = False
        for sentence in (*directory.notes(), *part.notes()):
            self._report("spool-found", sentence)
        self._tell_of_others(directory)

    def _tell_of_others(self, directory: SpoolDirectory) -> None:
        """Records that wait for another server or list are left alone, and spoken of."""
        try:
            with self.sqlite_lock:
                elsewhere = directory.elsewhere()
        except (SpoolError, OSError):
            return  # a remark is not worth a failure
        for destination, records in elsewhere.items():
            self._report(
                f"spool-elsewhere {destination}",
                f"{records} records in the spool wait for {destination}, not for this sink's list; "
                "`plumelog-replay drain` with the settings of that list delivers them",
            )

    def _become_unusable(self, reason: str) -> None:
        first = self.state is not KeeperState.UNUSABLE
        self.state = KeeperState.UNUSABLE
        self.degraded = True
        self.last_error = reason
        returned = self._give_back()
        if first:
            self._report("spool-unusable", f"no spool: {reason}; records are kept in memory only")
        self._post(lambda: self._listener.on_spool_unusable(reason, returned))

    def _give_back(self) -> list[Block]:
        """What was offered and is not on disk.

        Records whose write failed are in no row, and so are not bound to its number in the spool's lane:
        delivered under that, they would make Redis take the lane's earlier rows for already applied.
        """
        row, part = self._unwritten, self._own
        if row is not None and part is not None:
            try:
                with self.sqlite_lock:
                    found = part.find(row.batch.id)
            except (SpoolError, OSError):
                found = False  # the least bad guess: a failed write is rarely done
            if found:
                self._book(part, row, self._listener.on_stored)
        self._unwritten = None
        returned = list(self._backlog)
        self._backlog.clear()
        self._settled_bytes += sum(block.size_bytes for block in returned)
        return returned

    def _take_charge(self, part: Part) -> None:
        part_id, adopted = part.id, part.records
        self._measure()
        self._note_oldest(part)
        self._post(lambda: self._listener.on_spool_opened(part_id, adopted))

    def _look_round(self) -> None:
        """Once a minute: look for a part that nobody owns, or try again to open a spool."""
        now = time.monotonic()
        if now < self._adopt_at or self._close_at is not None:
            return
        self._adopt_at = now + _ADOPT_EVERY_SECONDS
        if self._own is None:
            self._open()
        elif self._adopted is None and self._directory is not None:
            with self.sqlite_lock:
                self._adopted = self._directory.take_free(exclude={self._own.id, *self._let_go})
            if self._adopted is None:
                self._let_go.clear()
                return
            self._take_charge(self._adopted)
            if self._adopted.empty:
                self._let_go_of_adopted()

    # --- writing

    def _write_next(self) -> None:
        """Write one row, and no more: between two, the inbox may say that the time for writing is up."""
        part = self._own
        if not self._backlog:
            return
        if part is None:
            self._become_unusable(self.last_error or "the spool is closed")
            return
        if time.monotonic() < self._retry_at:
            return
        try:
            stored = self._write_row(part)
        except (SpoolVanished, SpoolDamaged) as error:
            self._begin_anew(part, error)
            return
        except (SpoolError, OSError) as error:
            self._postpone(error)
            return
        self._full = not stored  # and the policy is to wait
        if self._full:
            self._retry_at = time.monotonic() + _FULL_POLL_SECONDS
            return
        self._retry_delay = _RETRY_FIRST_SECONDS
        if self.state is KeeperState.FAILING:
            self.state = KeeperState.READY

    def _postpone(self, error: Exception) -> None:
        self.state = KeeperState.FAILING
        self.last_error = str(error)
        self._report("spool-failing", f"the spool cannot be written: {error}; it is tried again")
        self._retry_at = time.monotonic() + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, _RETRY_MOST_SECONDS)

    def _write_row(self, part: Part) -> bool:
        """Write the next row of the backlog. False: the spool is full and its policy is to wait."""
        # Kept until it is stored: a write that failed may have been done all the same, and is repeated under
        # the same identity, so that it replaces its row.
        row = self._unwritten = self._unwritten or self._cut_row(part)
        batch = row.batch
        told = self._listener.on_stored
        if self._make_room(batch):
            if part.empty:
                self.oldest_ms = self._clock.epoch_ms()
            with self.sqlite_lock:
                part.append(batch)
            self._measure()
        elif self._options.full_policy == "block":
            return False
        else:
            told = self._listener.on_refused
        self._book(part, row, told)
        return True

    def _book(self, part: Part, row: _Unwritten, told: Callable[..., None]) -> None:
        """A row is done with: tell of each block's share."""
        self._unwritten = None
        for block, count in row.pieces:
            block.written += count
            done = block.written == len(block.values)
            if done:
                self._backlog.popleft()
                self._settled_bytes += block.size_bytes
            self._post(_told(told, part.id, block, count, done))

    def _cut_row(self, part: Part) -> _Unwritten:
        """The next row: a batch that has its identity already, or up to a mebibyte of what has none."""
        first = self._backlog[0]
        if first.batch is not None:
            return _Unwritten(first.batch, [(first, len(first.values))])
        values: list[bytes] = []
        pieces: list[tuple[Block, int]] = []
        size = 0
        for block in self._backlog:
            if block.batch is not None or size > MAX_BATCH_BYTES:
                break
            before = len(values)
            for value in islice(block.values, block.written, None):
                size += len(value)
                if size > MAX_BATCH_BYTES and values:
                    break
                values.append(value)
            if len(values) > before:
                pieces.append((block, len(values) - before))
        return _Unwritten(Batch(part.next_spool_id(), tuple(values)), pieces)

    def _make_room(self, batch: Batch) -> bool:
        """Whether the quota has room for the batch, after the policy has done what it may."""
        limit = self._options.max_bytes
        if self.spool_bytes + batch.size_bytes <= limit:
            return True
        if self._options.full_policy != "drop_oldest":
            return False
        for part in filter(None, (self._adopted, self._own)):
            try:
                while self.spool_bytes + batch.size_bytes > limit and self._drop_oldest(part):
                    pass
            except (SpoolVanished, SpoolDamaged) as error:
                if part is self._own:
                    raise
                self._begin_anew(part, error)
        return self.spool_bytes + batch.size_bytes <= limit

    def _drop_oldest(self, part: Part) -> bool:
        """Drop the part's oldest row that was not handed out (it may be in Redis). False: it has none."""
        with self.sqlite_lock:
            key = part.peek(None)
            while key is not None and (part.id, key) in self._handed_out:
                key = part.peek(key)
            if key is None:
                return False
            part.ack(key)
        self._measure()
        self._post(_told(self._listener.on_spool_loss, part.id, key.records, "spool_full"))
        return True

    def _measure(self) -> None:
        self.spool_bytes = sum(part.bytes for part in (self._own, self._adopted) if part is not None)

    # --- delivering

    def _next_row(self) -> SpooledRow | None:
        """The next row that was not handed out yet; a part of the dead goes first."""
        for part in (self._adopted, self._own):
            if part is None:
                continue
            try:
                if (row := self._read_on(part)) is not None:
                    return row
            except (SpoolVanished, SpoolDamaged) as error:
                self._begin_anew(part, error)
            except (SpoolError, OSError) as error:
                self.last_error = str(error)
                self._report("spool-reading", f"the spool cannot be read: {error}; it is tried again")
            if part is self._adopted and part.empty:
                self._let_go_of_adopted()
        if self._own is None or self._own.empty:
            self.oldest_ms = 0
        return None

    def _read_on(self, part: Part) -> SpooledRow | None:
        """The part's next row; damaged ones are put aside and passed by.

        Nothing else is passed by: a later row of the same lane, once delivered, would make Redis take the one
        that was left out for already applied.
        """
        while True:
            with self.sqlite_lock:
                key = part.peek(self._cursor.get(part.id))
                if key is None:
                    return None
                try:
                    row = part.read(key)
                except NewerFormat as error:
                    self._report("spool-newer", f"{error}; it and what follows is left for a newer version")
                    return None
                except CorruptRow:
                    part.quarantine(key)
                    row = None
            if row is not None and self._unwritten is not None and row.batch.id == self._unwritten.batch.id:
                return None  # its write failed and yet was done: it is told of before it is handed out
            self._cursor[part.id] = key
            if row is not None:
                self._handed_out.add((part.id, key))
                self.oldest_ms = row.first_ms
                return SpooledRow(part.id, self._generations[part.id], key, row)
            self._measure()
            self._report("spool-corrupt", f"a damaged batch of {key.records} records was put into quarantine")
            self._post(_told(self._listener.on_spool_loss, part.id, key.records, "corrupt"))

    def _note_oldest(self, part: Part) -> None:
        try:
            with self.sqlite_lock:
                key = part.peek(None)
                if key is not None:
                    first_ms = part.read(key).first_ms
                    self.oldest_ms = min(first_ms, self.oldest_ms) if self.oldest_ms else first_ms
        except (CorruptRow, NewerFormat, SpoolError, OSError):
            pass  # delivery meets the same row, and deals with it

    def _acknowledge(self, row: SpooledRow) -> None:
        self._handed_out.discard((row.part_id, row.key))
        part = self._part_of(row)
        if part is None:
            return
        try:
            with self.sqlite_lock:
                part.ack(row.key)
        except (SpoolVanished, SpoolDamaged) as error:
            self._begin_anew(part, error)
        except (SpoolError, OSError) as error:
            # Redis has the batch and remembers its identity: should the next owner send it, nothing happens.
            # This one does not, or it would count the records twice.
            part.pass_by(row.key)
            self._report("spool-ack", f"a delivered batch cannot be removed from the spool: {error}")
        self._measure()
        if part is self._adopted and part.empty:
            self._let_go_of_adopted()  # now: where nothing else is spooled, nobody asks for a row

    def _restamp(self, row: SpooledRow, batch: Batch) -> None:
        part = self._part_of(row)
        if part is None:
            return
        try:
            with self.sqlite_lock:
                part.replace(row.key, batch)
        except (SpoolError, OSError) as error:
            self._report("spool-failing", f"the spool cannot be written: {error}; it is tried again")

    def _part_of(self, row: SpooledRow) -> Part | None:
        if row.generation != self._generations[row.part_id]:
            return None
        return next(
            (part for part in (self._own, self._adopted) if part is not None and part.id == row.part_id), None
        )

    def _let_go_of_adopted(self) -> None:
        part, self._adopted = self._adopted, None
        if part is not None:
            self._cursor.pop(part.id, None)
            with self.sqlite_lock:
                removed = part.remove()
            if not removed:  # something is in quarantine: it must not be taken again and again, before others
                self._let_go.add(part.id)
            self._adopt_at = time.monotonic()  # there may be another one
            self._measure()

    def _begin_anew(self, part: Part, error: SpoolError) -> None:
        """The part's files are gone or damaged: say so, count what was in them, and begin new ones."""
        vanished = isinstance(error, SpoolVanished)
        self._report("spool-lost", f"{error}; a new spool is begun")
        self._generations[part.id] += 1
        self._cursor.pop(part.id, None)
        self._handed_out = {(part_id, key) for part_id, key in self._handed_out if part_id != part.id}
        self._post(_told(self._listener.on_part_lost, part.id, "spool_lost" if vanished else "corrupt"))
        if vanished or not self._put_aside(part):
            with self.sqlite_lock:
                part.close()
            if part is self._adopted:
                self._adopted = None
            else:
                self._own = None
                self._open()
        self._measure()

    def _put_aside(self, part: Part) -> bool:
        try:
            with self.sqlite_lock:
                part.start_anew()
        except (SpoolError, OSError) as error:
            self._report("spool-failing", str(error))
            return False
        return True

    # --- ending

    def _shut(self) -> None:
        self.state = KeeperState.CLOSED  # nothing more is offered, but by callers that have asked already
        self._take_in(0)
        returned = self._give_back()
        for part in filter(None, (self._adopted, self._own)):
            with self.sqlite_lock:
                try:
                    if part.empty:
                        part.remove()
                    else:
                        part.close()
                except (SpoolError, OSError) as error:
                    self._report("spool-closing", f"the spool was not closed cleanly: {error}")
        self._own = self._adopted = None
        if returned:
            self._post(lambda: self._listener.on_spool_unusable("it was not written in time", returned))


def _told(tell: Callable[..., None], *arguments: object) -> Callable[[], None]:
    """A callback with its arguments bound now, not when it runs."""
    return lambda: tell(*arguments)
