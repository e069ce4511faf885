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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .._batch import AttemptedBy, Batch
from .._clock import Clock
from .._destination import Destination
from .._journal import Journals
from ._common import Common
from ._dead_letters import DeadLetters
from ._directory import SpoolDirectory
from ._failures import SpoolDamaged, SpoolError, SpoolVanished
from ._holder import PartHolder
from ._listener import Block, KeeperListener
from ._part import Part, PartOptions
from ._quota import Limits, Quota
from ._reader import SpooledRow, SpoolReader
from ._recoverer import Recoverer
from ._repair import Repair
from ._row import RowKey
from ._writer import SpoolWriter

_PENDING_BYTES = 16 << 20  # offered and not yet written; bounds memory while the disk is slow
# How long a caller that hands over a mebibyte pauses, by the share of the above that is in use. Callers that
# never pause leave the interpreter to this thread only a switch interval at a time, several of which every
# row needs.
_PAUSES = ((0.75, 0.05), (0.5, 0.01), (0.25, 0.002))
_ADOPT_EVERY_SECONDS = 60.0
_CHECK_EVERY_SECONDS = 5.0
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
        self._clock = clock
        self._journals = journals
        self.sqlite_lock = threading.Lock()
        common = self._common = Common(listener, post, report, self.sqlite_lock)
        self.state = KeeperState.OPENING
        self.degraded = False  # there is no spool, and so records are kept in memory only
        self.last_error: str | None = None
        self._inbox: queue.SimpleQueue[Block | Callable[[], None] | None] = queue.SimpleQueue()
        # What is pending keeps its place in the journal, which has to hold the queue as well.
        self._pending_bytes_max = min(_PENDING_BYTES, options.journal_bytes // 4 or _PENDING_BYTES)
        self._offered_by_callers = 0
        self._offered_by_loop = 0
        self._check_at = 0.0
        self._letters = (
            DeadLetters(options.spool_dir, fsync=options.fsync) if options.spool_dir is not None else None
        )
        self._close_at: float | None = None
        self._ended = threading.Event()
        self._holder = PartHolder(
            options.spool_dir,
            options.destination,
            common,
            options=PartOptions(
                fsync=options.fsync,
                ballast_bytes=min(_BALLAST_BYTES, options.max_bytes // 4),
                max_age_seconds=options.max_age_seconds,
                clock=clock,
            ),
            journal_bytes=options.journal_bytes,
            journals=journals,
        )
        self._quota = Quota(
            Limits(options.max_bytes, options.full_policy, options.min_free_bytes, options.max_age_seconds),
            common,
            parts=self._holder.parts,
            keep=self._must_keep,
            tell_loss=self._tell_loss,
            tell_broken=self._begin_anew,
            clock=clock,
        )
        self._expire_at = 0.0
        self._writer = SpoolWriter(
            common,
            make_room=self._quota.make_room,
            refuses=options.full_policy != "block",
            journals=journals,
            clock=clock,
        )
        self._reader = SpoolReader(
            self._holder,
            self._writer,
            self._quota,
            common,
            tell_broken=self._begin_anew,
            tell_error=self._note_error,
        )
        self._repair = Repair(self._holder, self._reader, common)
        self._recoverer = Recoverer(self._holder, self._reader, common, tell_broken=self._begin_anew)

    def __repr__(self) -> str:
        return f"<SpoolKeeper {self.state.value}>"

    # ---------------------------------------------------------------- any thread

    @property
    def spool_bytes(self) -> int:
        """Bytes of all rows in parts that are ours."""
        return self._holder.row_bytes

    @property
    def oldest_ms(self) -> int:
        """The time of the oldest record in them, about; 0 where there is none."""
        return self._reader.oldest_ms

    @property
    def journal_degraded(self) -> bool:
        """Whether there should be a journal, and there is none."""
        return self._holder.journal_degraded

    @property
    def usable(self) -> bool:
        """Whether records may be offered: there is a spool, or it is not yet known that there is none."""
        return self.state in (KeeperState.OPENING, KeeperState.READY, KeeperState.FAILING)

    def takes_records(self) -> bool:
        """Whether what is offered will be written soon."""
        return self.state in (KeeperState.OPENING, KeeperState.READY) and not self._writer.full

    @property
    def stuck(self) -> bool:
        """Whether what was offered cannot be written now; see `return_stuck`."""
        return self._writer.stuck

    @property
    def leaves_in_journal(self) -> bool:
        """Whether what comes next is not written: the end has begun, and the journal has it."""
        return self._writer.stays

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
                row = self._reader.next_row(attempted_by)
            finally:
                self._common.tell(give, row)

        self._inbox.put(work)

    def rewind(self) -> None:
        """Hand out every row again that was not acknowledged, beginning with the oldest."""
        self._inbox.put(self._reader.rewind)

    def acknowledge(self, row: SpooledRow) -> None:
        """Delete a row that Redis has."""
        self._inbox.put(lambda: self._reader.acknowledge(row))

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        """Write on a row that it was attempted, and when: a crash must not hide what is in doubt."""
        self._inbox.put(lambda: self._reader.restamp(row, batch))

    def leave(self, row: SpooledRow) -> None:
        """A row cannot be settled now: hand it out again after a while, once there is no other."""
        self._inbox.put(lambda: self._reader.leave(row))

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        """Have ``give`` called, in the loop thread, with what ``work`` gave; None if it failed."""

        def ask() -> None:
            answer = None
            try:
                if self._letters is not None:
                    answer = work(self._letters)
            except SpoolError as error:
                self.last_error = str(error)
                self._common.report("dead-letters-failing", str(error))
            finally:
                self._common.tell(give, answer)

        self._inbox.put(ask)

    def return_stuck(self) -> None:
        """Give back what was offered and cannot be written now: somebody else takes it."""

        def work() -> None:
            if self._writer.stuck and (returned := self._writer.give_back(self._holder.own, if_sure=True)):
                self._common.tell(self._listener.on_returned, returned)

        self._inbox.put(work)

    def stop_dropping(self) -> None:
        """The end begins: what has no room, and is in the journal, stays there from now on."""

        def work() -> None:
            self._writer.ending = True

        self._inbox.put(work)

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
        self._holder.release_in_child()

    # ---------------------------------------------------------------- before and after the thread

    @property
    def part_id(self) -> str | None:
        """The id of our own part; None also where somebody has deleted it."""
        part = self._holder.claimed
        return part.id if part is not None and part.is_there() else None

    def claim(self) -> None:
        """Take over or make a part, and begin a journal in it, so that the first record finds one.

        Opens no database: it takes a moment. Never raises; what goes wrong, `run` meets again and tells.
        """
        try:
            self._claim()
        except (SpoolError, OSError):
            self._holder.journal_degraded = bool(self._options.journal_bytes)

    def release(self) -> None:
        """Let go of the part. What its journal still holds is for the next owner."""
        self._holder.release()

    def _claim(self) -> None:
        self._holder.claim()
        self._quota.directory = self._holder.directory

    # ---------------------------------------------------------------- the spool thread

    def run(self) -> None:
        """Serve until closed: in the spool thread, or at interpreter exit in the one that is left."""
        try:
            while True:
                try:
                    if self._serve():
                        return
                except Exception as error:
                    self._common.report(
                        "spool-thread", f"the spool thread met {type(error).__name__}: {error}; it goes on"
                    )
                    time.sleep(1.0)
        finally:
            self.state = KeeperState.CLOSED
            self._ended.set()

    def _serve(self) -> bool:
        """Serve until the thread is to end (True) or an unexpected exception."""
        if self._holder.own is None:
            self._open()
        while True:
            self._take_in(self._pause())
            self._write_next()
            if self._close_at is None:
                self._recoverer.step()
            self._expire()
            if self._close_at is not None and (
                not self._writer.busy
                or self._writer.stays
                or self._holder.own is None
                or time.monotonic() >= self._close_at
            ):
                self._shut()
                return True
            self._check_place()
            self._look_round()

    def _pause(self) -> float:
        """How long, in seconds, to wait for the next thing to do."""
        now = time.monotonic()
        until = self._holder.adopt_at if self._close_at is None else self._close_at
        if self._writer.busy:
            until = min(until, self._writer.retry_at) if self._holder.own is not None else now
        elif self._close_at is not None:
            until = now
        if self._close_at is None:
            until = min(until, self._expire_at, self._check_at)
            if (due_at := self._recoverer.due_at) is not None:
                until = min(until, due_at)
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
        self._holder.adopt_at = time.monotonic() + _ADOPT_EVERY_SECONDS
        try:
            if self._holder.claimed is None:
                self._claim()
            if not self._options.uses_database:
                raise SpoolError("this process was forked while its parent was writing to the spool")
            part, directory = self._holder.open_own(), self._holder.directory
            assert directory is not None
        except (SpoolError, OSError) as error:
            self._become_unusable(str(error))
            return
        self._holder.adopt_at = time.monotonic()
        self._take_charge(part)
        self.state = KeeperState.READY
        self.degraded = False
        for sentence in (*directory.notes(), *part.notes()):
            self._common.report("spool-found", sentence)
        self._tell_of_room(directory)
        self._tell_of_others(directory)

    def _tell_of_room(self, directory: SpoolDirectory) -> None:
        """A disk with less free space than has to be left takes nothing: better known before an outage."""
        free, least = directory.free_bytes(), self._options.min_free_bytes
        if free < least:
            self._common.report(
                "spool-room",
                f"nothing can be spooled in {directory.path}: {free} bytes are free, and spool_min_free_bytes"
                f" leaves {least} free; make room, or lower PLUMELOG_SPOOL_MIN_FREE_BYTES",
            )

    def _tell_of_others(self, directory: SpoolDirectory) -> None:
        """Records that wait for another server or list are left alone, and spoken of."""
        try:
            with self.sqlite_lock:
                elsewhere = directory.elsewhere()
        except (SpoolError, OSError):
            return  # a remark is not worth a failure
        for destination, records in elsewhere.items():
            self._common.report(
                f"spool-elsewhere {destination}",
                f"{records} records in the spool wait for {destination}, not for this sink's list; "
                "`plumelog-replay drain` with the settings of that list delivers them",
            )

    def _become_unusable(self, reason: str) -> None:
        first = self.state is not KeeperState.UNUSABLE
        self.state = KeeperState.UNUSABLE
        self.degraded = True
        self.last_error = reason
        returned = self._writer.give_back(self._holder.own)
        if first:
            where = "in memory only" if self._journals.current is None else "in memory and in the journal"
            self._common.report("spool-unusable", f"no spool: {reason}; records are kept {where}")
        self._common.tell(self._listener.on_spool_unusable, reason, returned)

    def _note_error(self, sentence: str) -> None:
        self.last_error = sentence

    def _take_charge(self, part: Part) -> None:
        self._holder.measure()
        self._reader.note_oldest(part)
        lost = part.take_damaged_records()
        waiting = sum(recovery.count() for recovery in self._holder.recoveries if recovery.part is part)
        self._common.tell(self._listener.on_spool_opened, part.id, part.records + lost + waiting)
        if lost:
            self._common.tell(self._listener.on_spool_loss, part.id, lost, "corrupt", 0, 0)

    def _check_place(self) -> None:
        """Now and then: whether our part was deleted, which SQLite does not tell, and the journal neither."""
        now, part = time.monotonic(), self._holder.claimed
        if now < self._check_at or self._close_at is not None:
            return
        self._check_at = now + _CHECK_EVERY_SECONDS
        self._holder.let_go_of_lost()
        if part is None:
            return
        if not part.is_there():
            self._begin_anew(
                part, SpoolVanished(f"the part {part.path} was deleted or replaced while in use")
            )
        elif self._holder.journal_degraded or not self._holder.journal_is_there():
            self._holder.begin_journal(part)

    def _look_round(self) -> None:
        """Once a minute: look for a part that nobody owns, or try again to open a spool."""
        now = time.monotonic()
        if now < self._holder.adopt_at or self._close_at is not None:
            return
        self._holder.adopt_at = now + _ADOPT_EVERY_SECONDS
        if self._holder.own is None:
            self._open()
        elif (part := self._holder.adopt(exclude=self._reader.parts_of_newer)) is not None:
            self._take_charge(part)
            self._reader.let_go_if_done()

    # --- writing

    def _write_next(self) -> None:
        part = self._holder.own
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
            self._reader.oldest_ms = self._clock.epoch_ms()
        self._holder.measure()
        if self._writer.failing:
            self.last_error = self._writer.last_error
        self.state = KeeperState.FAILING if self._writer.failing else KeeperState.READY

    def _tell_loss(self, part: Part, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        if part is self._holder.adopted or self._holder.adopted is None:
            self._reader.oldest_ms = max(
                self._reader.oldest_ms, last_ms
            )  # most times; the next row that is read says it
        self._holder.measure()
        self._common.tell(self._listener.on_spool_loss, part.id, records, reason, first_ms, last_ms)

    # --- expiring

    def _expire(self) -> None:
        """Drop what is too old, some rows at a time."""
        now = time.monotonic()
        if now < self._expire_at or self._close_at is not None:
            return
        try:
            left = self._quota.expire()
        except (SpoolError, OSError) as error:
            self._common.report("spool-failing", f"the spool cannot be written: {error}; it is tried again")
            left = None
        # No later than a row that comes meanwhile can expire.
        every = min(_LOOK_AT_AGES_SECONDS, self._options.max_age_seconds or _LOOK_AT_AGES_SECONDS)
        self._expire_at = now + (every if left is None else min(every, left))

    # --- what the other rooms ask for

    def _must_keep(self, part: Part, key: RowKey) -> bool:
        return self._reader.must_keep(part, key)

    def _begin_anew(self, part: Part, error: SpoolError) -> bool:
        """A part can no longer be used; whether its rows are there again, under the same keys."""
        ours = part is not self._holder.adopted
        kept = self._repair.begin_anew(part, error)
        if ours and self._holder.own is None:
            self._open()
        return kept

    # --- ending

    def _shut(self) -> None:
        self.state = KeeperState.CLOSED  # nothing more is offered, but by callers that have asked already
        self._take_in(0)
        returned = self._writer.give_back(self._holder.own)
        self._holder.close()
        if returned:
            self._common.tell(self._listener.on_spool_unusable, "it was not written in time", returned)
