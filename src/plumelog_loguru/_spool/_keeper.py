"""The spool thread: the one thread that touches the disk.

Promises:

- ``offer`` never waits: it is called from ``logger.info()`` when the queue is full, and by the loop thread.
- What is offered is written in that order; see `_writer`.
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from .._batch import AttemptedBy, Batch
from .._clock import Clock
from .._destination import Destination
from .._journal import Journal, JournalError, Journals
from ._dead_letters import DeadLetters
from ._directory import SpoolDirectory
from ._failures import SpoolDamaged, SpoolError, SpoolVanished
from ._part import Part, PartOptions
from ._quota import Limits, Quota
from ._recovery import Recovered, Recovery
from ._row import CorruptRow, NewerFormat, Row, RowKey
from ._writer import Block, SpoolWriter, WriterListener, as_told

_PENDING_BYTES = 16 << 20  # offered and not yet written; bounds memory while the disk is slow
# How long a caller that hands over a mebibyte pauses, by the share of the above that is in use. Callers that
# never pause leave the interpreter to this thread only a switch interval at a time, several of which every
# row needs.
_PAUSES = ((0.75, 0.05), (0.5, 0.01), (0.25, 0.002))
_ADOPT_EVERY_SECONDS = 60.0
_RECOVER_AGAIN_SECONDS = 5.0
_CHECK_EVERY_SECONDS = 5.0
_LEFT_SECONDS = 5.0
_SALVAGE_AGAIN_SECONDS = 60.0
_LOOK_AT_AGES_SECONDS = 60.0
_BALLAST_BYTES = 4 << 20  # what deleting the largest row may need, and more


class KeeperState(Enum):
    """``OPENING -> READY <-> FAILING -> CLOSED``; ``OPENING <-> UNUSABLE -> CLOSED``."""

    OPENING = "opening"
    READY = "ready"
    FAILING = "failing"  # the last write failed; it is tried again
    UNUSABLE = "unusable"  # there is no spool: records stay in memory
    CLOSED = "closed"


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


class KeeperListener(WriterListener, Protocol):
    """What the loop thread is told, always in the loop thread."""

    def on_spool_opened(self, part_id: str, adopted: int) -> None:
        """A part of the spool is ours now, with this many records of a process that has ended.

        Once it is ours: so many more were found in it, or, below zero, are nobody's again.
        """

    def on_recovered(self, part_id: str, records: int, possibly_doubled: int) -> None:
        """Something of what an owner had in memory when it died is in the part's rows now.

        ``records``: more of it, or less, than the part was said to hold.
        """

    def on_spool_unusable(self, reason: str, returned: list[Block]) -> None:
        """There is no spool; these blocks come back to memory."""

    def on_spool_loss(self, part_id: str, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        """Records that were in the spool are gone; their ``dtTime`` is within this span, 0 where unknown."""

    def on_part_lost(self, part_id: str, reason: str) -> None:
        """Whatever the part held is gone from here, but for a row that was handed out."""


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """The settings of the spool thread."""

    spool_dir: Path | None  # None: there is no place for one
    destination: Destination
    max_bytes: int
    full_policy: str
    min_free_bytes: int = 0
    max_age_seconds: float = 0.0  # 0: for ever
    fsync: bool = False
    journal_bytes: int = 0  # capacity of the journal; 0: there is to be none
    uses_database: bool = True  # False in a child that was forked inside SQLite, and may not call it


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
        journals: Journals,
    ) -> None:
        """``post`` runs a callback in the loop thread; ``report(kind, sentence)`` tells a person."""
        self._options = options
        self._listener = listener
        self._post = post
        self._report = report
        self._clock = clock
        self._journals = journals
        self.sqlite_lock = threading.Lock()
        self.state = KeeperState.OPENING
        self.degraded = False  # there is no spool, and so records are kept in memory only
        self.journal_degraded = False  # there should be a journal, and there is none
        self.spool_bytes = 0
        self.oldest_ms = 0
        self.last_error: str | None = None
        self._inbox: queue.SimpleQueue[Block | Callable[[], None] | None] = queue.SimpleQueue()
        # What is pending keeps its place in the journal, which has to hold the queue as well.
        self._pending_bytes_max = min(_PENDING_BYTES, options.journal_bytes // 4 or _PENDING_BYTES)
        self._offered_by_callers = 0
        self._offered_by_loop = 0
        self._directory: SpoolDirectory | None = None
        self._claimed: Part | None = None  # ours, from `claim` to `release`
        self._own: Part | None = None  # the same, while its database is open
        self._recoveries: deque[Recovery] = deque()
        self._recover_at = 0.0
        self._check_at = 0.0
        self._adopted: Part | None = None
        self._cursor: dict[str, RowKey] = {}
        self._generations: Counter[str] = Counter()  # by part: how often its files were begun anew
        self._newer: dict[str, RowKey] = {}  # by part: its oldest row of a newer version
        self._salvage_at: dict[str, float] = {}  # by part: monotonic seconds, and not before
        self._let_go: set[str] = set()  # parts of this round of adoption that hold nothing to deliver
        self._handed_out: set[tuple[str, RowKey]] = set()  # in flight, read ahead, or left
        self._left: deque[tuple[float, str, RowKey]] = deque()  # rows to hand out again, and not before when
        self._letters = (
            DeadLetters(options.spool_dir, fsync=options.fsync) if options.spool_dir is not None else None
        )
        self._adopt_at = 0.0
        self._close_at: float | None = None
        self._ended = threading.Event()
        self._quota = Quota(
            Limits(options.max_bytes, options.full_policy, options.min_free_bytes, options.max_age_seconds),
            parts=self._parts,
            keep=self._must_keep,
            tell_loss=self._tell_loss,
            tell_broken=self._begin_anew,
            report=report,
            clock=clock,
            sqlite_lock=self.sqlite_lock,
        )
        self._expire_at = 0.0
        self._writer = SpoolWriter(
            listener=listener,
            make_room=self._quota.make_room,
            refuses=options.full_policy != "block",
            post=post,
            report=report,
            sqlite_lock=self.sqlite_lock,
            journals=journals,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"<SpoolKeeper {self.state.value}>"

    # ---------------------------------------------------------------- any thread

    @property
    def usable(self) -> bool:
        """Whether records may be offered: there is a spool, or it is not yet known that there is none."""
        return self.state in (KeeperState.OPENING, KeeperState.READY, KeeperState.FAILING)

    def takes_records(self) -> bool:
        """Whether what is offered will be written soon."""
        return self.state in (KeeperState.OPENING, KeeperState.READY) and not self._writer.full

    @property
    def pending_bytes(self) -> int:
        """Bytes offered and not yet written."""
        return self._offered_by_callers + self._offered_by_loop - self._writer.settled_bytes

    def has_room(self) -> bool:
        """Whether a block may be offered now."""
        return self.usable and self.pending_bytes < self._pending_bytes_max

    def pause_seconds(self) -> float:
        """How long a caller should pause, in seconds, so that this thread keeps up; 0.0 when it does."""
        share = self.pending_bytes / self._pending_bytes_max
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

    def request_row(
        self,
        give: Callable[[SpooledRow | None], None],
        *,
        attempted_by: AttemptedBy = AttemptedBy.SCRIPT,
    ) -> None:
        """Have ``give`` called, in the loop thread, with the next row to deliver, or with None.

        Should this process be killed, the row counts as attempted in this way.
        """

        def work() -> None:
            row = None
            try:
                row = self._next_row(attempted_by)
            finally:
                self._post(lambda: give(row))

        self._inbox.put(work)

    def rewind(self) -> None:
        """Hand out every row again that was not acknowledged, beginning with the oldest."""

        def work() -> None:
            self._cursor.clear()
            self._handed_out.clear()
            self._left.clear()
            self._quota.search_anew()

        self._inbox.put(work)

    def acknowledge(self, row: SpooledRow) -> None:
        """Delete a row that Redis has."""
        self._inbox.put(lambda: self._acknowledge(row))

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        """Write on a row that it was attempted, and when: a crash must not hide what is in doubt."""
        self._inbox.put(lambda: self._restamp(row, batch))

    def leave(self, row: SpooledRow) -> None:
        """A row cannot be settled now: hand it out again after a while, once there is no other."""
        self._inbox.put(lambda: self._leave(row))

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        """Have ``give`` called, in the loop thread, with what ``work`` gave; None if it failed."""

        def ask() -> None:
            answer = None
            try:
                if self._letters is not None:
                    answer = work(self._letters)
            except SpoolError as error:
                self.last_error = str(error)
                self._report("dead-letters-failing", str(error))
            finally:
                self._post(lambda: give(answer))

        self._inbox.put(ask)

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
        for part in (self._claimed, self._adopted):
            if part is not None:
                part.release_lock_in_child()

    # ---------------------------------------------------------------- before and after the thread

    @property
    def part_id(self) -> str | None:
        """The id of our own part; None also where somebody has deleted it."""
        part = self._claimed
        return part.id if part is not None and part.is_there() else None

    def claim(self) -> None:
        """Take over or make a part, and begin a journal in it, so that the first record finds one.

        Opens no database: it takes a moment. Never raises; what goes wrong, `run` meets again and tells.
        """
        try:
            self._claim()
        except (SpoolError, OSError):
            self.journal_degraded = bool(self._options.journal_bytes)

    def release(self) -> None:
        """Let go of the part. What its journal still holds is for the next owner."""
        part, self._claimed = self._claimed, None
        self._journals.close()
        if part is not None:
            part.remove()  # or close it, if anything is left in it

    def _claim(self) -> None:
        spool_dir = self._options.spool_dir
        if spool_dir is None:
            raise SpoolError(
                "there is no home directory to keep a spool in; "
                "set PLUMELOG_SPOOL_DIR to a directory that can be written"
            )
        with self.sqlite_lock:
            directory = SpoolDirectory(spool_dir, self._options.destination, self._part_options())
            directory.open()
            # Known here, under the lock: a child that is forked at this moment must close its copy of it.
            part = self._claimed = directory.take_or_create(opened=False)
        self._directory = self._quota.directory = directory
        self._recoveries.append(Recovery(part))
        self._begin_journal(part)

    def _part_options(self) -> PartOptions:
        options = self._options
        return PartOptions(
            fsync=options.fsync,
            ballast_bytes=min(_BALLAST_BYTES, options.max_bytes // 4),
            max_age_seconds=options.max_age_seconds,
            clock=self._clock,
        )

    def _begin_journal(self, part: Part) -> None:
        capacity = self._options.journal_bytes
        if not capacity:
            return
        try:
            self._journals.use(Journal.create(part.new_journal_path(), capacity))
        except (JournalError, OSError) as error:
            self._journals.use(None)
            self.journal_degraded = True
            self._report(
                "journal", f"no journal: {error}; what is in memory does not survive the death of the process"
            )
        else:
            self.journal_degraded = False

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
            self._recover_next()
            self._expire()
            if self._close_at is not None and (
                not self._writer.busy or self._own is None or time.monotonic() >= self._close_at
            ):
                self._shut()
                return True
            self._check_place()
            self._look_round()

    def _pause(self) -> float:
        """How long, in seconds, to wait for the next thing to do."""
        now = time.monotonic()
        until = self._adopt_at if self._close_at is None else self._close_at
        if self._writer.busy:
            until = min(until, self._writer.retry_at) if self._own is not None else now
        elif self._close_at is not None:
            until = now
        if self._may_recover():
            until = min(until, self._recover_at)
        if self._close_at is None:
            until = min(until, self._expire_at, self._check_at)
        return max(0.0, until - now)

    def _take_in(self, seconds: float) -> None:
        """Take everything from the inbox, waiting at most ``seconds`` for the first."""
        try:
            item = self._inbox.get(timeout=seconds) if seconds > 0 else self._inbox.get_nowait()
            while True:
                if isinstance(item, Block):
                    self._writer.take(item)
                elif item is not None:
                    item()
                item = self._inbox.get_nowait()
        except queue.Empty:
            pass

    # --- opening

    def _open(self) -> None:
        self._adopt_at = time.monotonic() + _ADOPT_EVERY_SECONDS
        try:
            if self._claimed is None:
                self._claim()
            part, directory = self._claimed, self._directory
            assert part is not None and directory is not None
            if not self._options.uses_database:
                raise SpoolError("this process was forked while its parent was writing to the spool")
            with self.sqlite_lock:
                part.open()
        except (SpoolError, OSError) as error:
            self._become_unusable(str(error))
            return
        self._own = part
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
        returned = self._writer.give_back(self._own)
        if first:
            self._report("spool-unusable", f"no spool: {reason}; records are kept in memory only")
        self._post(lambda: self._listener.on_spool_unusable(reason, returned))

    def _take_charge(self, part: Part) -> None:
        self._measure()
        self._note_oldest(part)
        lost = part.take_damaged_records()
        waiting = sum(recovery.count() for recovery in self._recoveries if recovery.part is part)
        self._post(as_told(self._listener.on_spool_opened, part.id, part.records + lost + waiting))
        if lost:
            self._post(as_told(self._listener.on_spool_loss, part.id, lost, "corrupt", 0, 0))

    def _check_place(self) -> None:
        """Now and then: whether our part was deleted, which SQLite does not tell, and the journal neither."""
        now, part = time.monotonic(), self._claimed
        if now < self._check_at or self._close_at is not None:
            return
        self._check_at = now + _CHECK_EVERY_SECONDS
        if part is None:
            return
        if not part.is_there():
            self._begin_anew(
                part, SpoolVanished(f"the part {part.path} was deleted or replaced while in use")
            )
        elif self.journal_degraded:
            self._begin_journal(part)

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
                self._adopted = self._directory.take_free(exclude={self._own.id, *self._let_go, *self._newer})
            if self._adopted is None:
                self._let_go.clear()
                return
            self._recoveries.append(Recovery(self._adopted))
            self._take_charge(self._adopted)
            self._let_go_if_done()

    # --- recovering

    def _recover_next(self) -> None:
        """Take one step with what the journals of the dead hold, and no more: live records come first."""
        if not self._may_recover() or time.monotonic() < self._recover_at:
            return
        recovery = self._recoveries[0]
        part = recovery.part
        try:
            with self.sqlite_lock:
                found = recovery.step() if recovery else None
        except (SpoolVanished, SpoolDamaged) as error:
            self._begin_anew(part, error)
            return
        except SpoolError as error:
            self._report("spool-failing", f"{error}; it is tried again")
            self._recover_at = time.monotonic() + _RECOVER_AGAIN_SECONDS
            return
        if found is not None:
            self._tell_of_recovered(part, found)
        if not recovery:
            self._recoveries.popleft()
            self._let_go_if_done()

    def _tell_of_recovered(self, part: Part, found: Recovered) -> None:
        if found.note:
            self._report("spool-found", found.note)
        self._measure()
        self._post(as_told(self._listener.on_recovered, part.id, found.records, found.possibly_doubled))
        if found.corrupt:
            self._report(
                "spool-corrupt", f"{found.corrupt} damaged records of a journal were put into quarantine"
            )
            self._post(as_told(self._listener.on_spool_loss, part.id, found.corrupt, "corrupt", 0, 0))

    def _forget_recovery(self, part: Part) -> None:
        for recovery in [one for one in self._recoveries if one.part is part]:
            recovery.close()
            self._recoveries.remove(recovery)

    def _may_recover(self) -> bool:
        return bool(self._recoveries) and self._own is not None and self._close_at is None

    # --- writing

    def _write_next(self) -> None:
        part = self._own
        if not self._writer.busy:
            return
        if part is None:
            self._become_unusable(self.last_error or "the spool is closed")
            return
        was_empty = part.empty
        with suppress(SpoolError, OSError), self.sqlite_lock:
            part.delete_passed()
        try:
            self._writer.write_next(part)
        except (SpoolVanished, SpoolDamaged) as error:
            self._begin_anew(part, error)
            return
        if was_empty and not part.empty:
            self.oldest_ms = self._clock.epoch_ms()
        self._measure()
        if self._writer.failing:
            self.last_error = self._writer.last_error
        self.state = KeeperState.FAILING if self._writer.failing else KeeperState.READY

    def _parts(self) -> list[Part]:
        """What is ours and open, in the order in which it is delivered."""
        return [part for part in (self._adopted, self._own) if part is not None]

    def _tell_loss(self, part: Part, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        if part is self._adopted or self._adopted is None:
            self.oldest_ms = max(self.oldest_ms, last_ms)  # most times; the next row that is read says it
        self._measure()
        self._post(as_told(self._listener.on_spool_loss, part.id, records, reason, first_ms, last_ms))

    # --- expiring

    def _expire(self) -> None:
        """Drop what is too old, some rows at a time."""
        now = time.monotonic()
        if now < self._expire_at or self._close_at is not None:
            return
        try:
            left = self._quota.expire()
        except (SpoolError, OSError) as error:
            self._report("spool-failing", f"the spool cannot be written: {error}; it is tried again")
            left = None
        # No later than a row that comes meanwhile can expire.
        every = min(_LOOK_AT_AGES_SECONDS, self._options.max_age_seconds or _LOOK_AT_AGES_SECONDS)
        self._expire_at = now + (every if left is None else min(every, left))

    def _measure(self) -> None:
        self.spool_bytes = sum(part.row_bytes for part in (self._own, self._adopted) if part is not None)

    # --- delivering

    def _next_row(self, attempted_by: AttemptedBy) -> SpooledRow | None:
        """The next row that was not handed out yet; a part of the dead goes first."""
        for part in (self._adopted, self._own):
            if part is None:
                continue
            try:
                if (row := self._read_on(part, attempted_by)) is not None:
                    return row
            except (SpoolVanished, SpoolDamaged) as error:
                if self._begin_anew(part, error):
                    return self._next_row(attempted_by)
            except (SpoolError, OSError) as error:
                self.last_error = str(error)
                self._report("spool-reading", f"the spool cannot be read: {error}; it is tried again")
            if part is self._adopted:
                self._let_go_of_newer()
                self._let_go_if_done()
        if self._own is None or self._own.empty:
            self.oldest_ms = 0
        return None

    def _read_on(self, part: Part, attempted_by: AttemptedBy) -> SpooledRow | None:
        """The part's next row; damaged ones are put aside and passed by.

        Nothing else is passed by: a later row of the same lane, once delivered, would make Redis take the one
        that was left out for already applied. So behind one of a newer version, whose lane cannot be read,
        only rows of lanes that are new in this opening are handed out.
        """
        while True:
            with self.sqlite_lock:
                key = self._next_key(part)
            if key is None:
                return None
            if self._quota.drop_if_expired(part, key):
                continue
            if key > self._newer.get(part.id, key) and not part.has_lane_of_this_opening(key):
                self._cursor[part.id] = key
                continue
            with self.sqlite_lock:
                try:
                    row = part.hand_out(key, attempted_by)
                except NewerFormat as error:
                    self._report(
                        "spool-newer", f"{error}; it is left for a newer version, and what is old behind it"
                    )
                    if part.has_lane_of_this_opening(key):
                        return None
                    self._newer[part.id] = self._cursor[part.id] = key
                    continue
                except CorruptRow:
                    part.quarantine(key)
                    row = None
            if row is not None and self._is_writing(row.batch):
                return None  # its write failed and yet was done: it is told of before it is handed out
            if not part.awaits_row_before(key):
                self._cursor[part.id] = max(key, self._cursor.get(part.id, key))
            if self._left and self._left[0][1:] == (part.id, key):
                self._left.popleft()
            if row is not None:
                self._handed_out.add((part.id, key))
                self.oldest_ms = row.first_ms
                return SpooledRow(part.id, self._generations[part.id], key, row)
            self._measure()
            self._report("spool-corrupt", f"a damaged batch of {key.records} records was put into quarantine")
            self._post(as_told(self._listener.on_spool_loss, part.id, key.records, "corrupt", 0, 0))

    def _next_key(self, part: Part) -> RowKey | None:
        key = part.peek(self._cursor.get(part.id))
        while key is not None and (part.id, key) in self._handed_out:
            key = part.peek(key)
        return key or self._left_row_of(part)

    def _must_keep(self, part: Part, key: RowKey) -> bool:
        """Whether the row in this place may be in Redis already, or was not told of yet."""
        return (
            (part.id, key) in self._handed_out
            or self._writer.is_at(part, key)
            or any(one.is_at(part, key) for one in self._recoveries)
        )

    def _is_writing(self, batch: Batch) -> bool:
        """Whether this batch may be in a row already, and yet was not told of."""
        return self._writer.is_writing(batch) or any(one.is_writing(batch.id) for one in self._recoveries)

    def _left_row_of(self, part: Part) -> RowKey | None:
        if self._left and self._left[0][1] == part.id and self._left[0][0] <= time.monotonic():
            return self._left[0][2]
        return None

    def _leave(self, row: SpooledRow) -> None:
        if self._part_of(row) is not None:
            self._left.append((time.monotonic() + _LEFT_SECONDS, row.part_id, row.key))

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
            if self._begin_anew(part, error):  # this row is in the new ones, too
                with suppress(SpoolError, OSError), self.sqlite_lock:
                    part.ack(row.key)
        except (SpoolError, OSError) as error:
            # Redis has the batch and remembers its identity: should the next owner send it, nothing happens.
            # This one does not, or it would count the records twice.
            part.pass_by(row.key)
            self._report("spool-ack", f"a delivered batch cannot be removed from the spool: {error}")
        self._measure()
        if part is self._adopted:
            self._let_go_if_done()  # now: where nothing else is spooled, nobody asks for a row

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

    def _let_go_if_done(self) -> None:
        part = self._adopted
        if part is not None and part.empty and not any(one.part is part for one in self._recoveries):
            self._let_go_of_adopted()

    def _let_go_of_newer(self) -> None:
        """What is left in the adopted part is for a newer version, and must not keep us from other parts."""
        part = self._adopted
        if part is None or part.id not in self._newer or any(one.part is part for one in self._recoveries):
            return
        if not any(part_id == part.id for part_id, _ in self._handed_out):
            self._post(as_told(self._listener.on_spool_opened, part.id, -part.records))
            self._let_go_of_adopted()

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

    def _begin_anew(self, part: Part, error: SpoolError) -> bool:
        """The part's files are gone or damaged: say so, count what is lost, and go on with new ones.

        Returns:
            Whether what is intact in the old ones is in the new ones, under the same keys.
        """
        if isinstance(error, SpoolDamaged) and self._salvage(part, error):
            return True
        vanished = isinstance(error, SpoolVanished)
        self._report("spool-lost", f"{error}; a new spool is begun")
        self._generations[part.id] += 1
        self._cursor.pop(part.id, None)
        self._handed_out = {(part_id, key) for part_id, key in self._handed_out if part_id != part.id}
        self._left = deque(left for left in self._left if left[1] != part.id)
        self._post(as_told(self._listener.on_part_lost, part.id, "spool_lost" if vanished else "corrupt"))
        gone = not part.is_there()
        if not gone and self._put_aside(part):
            waiting = sum(recovery.waiting for recovery in self._recoveries if recovery.part is part)
            self._post(as_told(self._listener.on_recovered, part.id, waiting, 0))
        else:
            if gone or part is self._adopted:
                self._forget_recovery(part)
            with self.sqlite_lock:
                # A part of ours that is still there stays ours: its journal holds what is in memory.
                part.close_database() if part is self._own and not gone else part.close()
            if part is self._adopted:
                self._adopted = None
            else:
                self._own = None
                if gone:
                    self._claimed = None
                self._open()
        self._measure()
        return False

    def _salvage(self, part: Part, error: SpoolDamaged) -> bool:
        """Go on with what is intact in a damaged spool, under the same keys; whether that was possible."""
        now = time.monotonic()
        if now < self._salvage_at.get(part.id, 0.0):
            return False  # it is the disk that damages them, and it would do so again
        self._salvage_at[part.id] = now + _SALVAGE_AGAIN_SECONDS
        try:
            with self.sqlite_lock:
                lost = part.go_on_with_intact(str(error))
                # Rows in hand are delivered from there.
                in_hand = [key for part_id, key in self._handed_out if part_id == part.id]
                lost -= sum(key.records for key in in_hand if not part.has(key))
        except (SpoolError, OSError):
            return False
        self._report(
            "spool-damaged", f"{error}; what is intact in it is kept, and {max(0, lost)} records are lost"
        )
        if lost > 0:
            self._post(as_told(self._listener.on_spool_loss, part.id, lost, "corrupt", 0, 0))
        elif lost < 0:
            self._post(as_told(self._listener.on_spool_opened, part.id, -lost))
        self._measure()
        return True

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
        returned = self._writer.give_back(self._own)
        while self._recoveries:
            self._recoveries.pop().close()
        with self.sqlite_lock:
            if self._adopted is not None:
                self._adopted.remove()  # or close it, if anything is left in it
            if self._own is not None:
                self._own.close_database()
        self._own = self._adopted = None
        if returned:
            self._post(lambda: self._listener.on_spool_unusable("it was not written in time", returned))
