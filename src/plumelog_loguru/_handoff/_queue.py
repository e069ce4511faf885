"""The bounded queue between the threads that log and the loop thread.

Promises:

- ``put`` never waits for a thread of ours. The lock in it is shared by callers only; the loop thread takes
  records with the deque's own atomic operations. (Our threads run users' ``__del__`` methods when the garbage
  collector strikes there; those may log, and then wait for a lock that a caller inside ``put`` holds. A lock
  common to both stopped the program for good.)
- The bounds, in records and in bytes, hold from the first record on.
- Where there is a journal, a record is in it before ``put`` returns, and so survives the process. The queue
  then holds frames: the record's bytes behind a head that names its place in the journal.
- The loop is woken once for a batch, not once for a record: a wake-up is a system call and costs as much as
  everything else in ``put`` together.

Every counter has one writer: the callers (under their lock) or the loop thread. Readers add them up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat, starmap
from typing import Literal, Protocol

from .._batch import MAX_BATCH_BYTES
from .._journal import Journal, JournalError, Journals, of_one_journal, runs_of

# "drop_lowest_level" is for the spool, whose rows know their levels; here the oldest records go.
OverflowPolicy = Literal["drop_oldest", "drop_newest", "drop_lowest_level", "block"]

_NEVER = 1 << 62
_POLL_SECONDS = 0.001
_PATIENCE_SECONDS = 0.1  # for a spool thread that is behind, before a policy that drops does so


class Overflow(Protocol):
    """Where records go that find the queue full: the spool thread's door, which never waits."""

    def has_room(self) -> bool: ...

    def pause_seconds(self) -> float: ...

    def takes_records(self) -> bool:
        """Whether there will be room soon."""
        ...

    def offer(self, values: list[bytes]) -> None:
        """Take these records; the same list a second time is the same records, and is taken once."""


@dataclass(slots=True)
class Bounds:
    """How much the queue holds, and what happens when neither it nor the spool has room."""

    max_records: int
    max_bytes: int
    policy: OverflowPolicy = "drop_oldest"
    block_timeout_seconds: float = 1.0


class HandOff:
    """A bounded queue of encoded records with coalesced wake-ups."""

    def __init__(self, bounds: Bounds, journals: Journals | None = None) -> None:
        self.bounds = bounds
        self._journals = journals or Journals()  # that have none: records are in memory only
        self.journal_error: str | None = None  # why the last record is in memory only
        self._journal: Journal | None = None  # of the last record
        self._mixed = False  # not all records are in one journal, or in none
        self._records: deque[bytes] = deque()
        # Re-entrant: a signal handler that logs may run while its own thread is inside `put`.
        self._callers = threading.RLock()
        self._overflow: Overflow | None = None
        self._wake: Callable[[], None] | None = None
        self._wake_at_records = 1
        self._wake_at_bytes = _NEVER
        self._gave_up = False
        self._closed = False
        self.shifting = False  # records have left the queue and are not yet known to the overflow
        # Written by callers, under their lock.
        self._put_records = 0
        self._put_bytes = 0
        self._left_bytes_by_callers = 0
        self._evicted = 0
        self._evicted_span: tuple[bytes, bytes] | None = None
        self._refused_full = 0
        self._refused_closed = 0
        # Written by the loop thread.
        self._left_bytes_by_loop = 0

    # ---------------------------------------------------------------- callers

    def put(self, value: bytes) -> None:
        """Take in one encoded record, or count why not; never waits for network, disk or our threads."""
        wake: Callable[[], None] | None = None
        size_bytes = len(value)  # calls come first: see `_pop_locked`
        with self._callers:
            if self._closed:
                self._refused_closed += 1
                return
            journal = self._journals.current
            if journal is not self._journal:
                self._journal = journal
                self._mixed = self._mixed or self._put_records > 0
            bounds = self.bounds
            depth = len(self._records) + 1
            size = self._put_bytes - self._left_bytes_by_callers - self._left_bytes_by_loop + size_bytes
            if depth > bounds.max_records or size > bounds.max_bytes:
                if not self._make_room_locked(size_bytes):
                    self._refused_full += 1
                    return
                depth = len(self._records) + 1
            # Counted before it can be taken: what is in memory is never negative.
            self._put_records += 1
            item: bytes | None = value
            if journal is not None:
                try:
                    item = journal.append(value) or self._append_later_locked(journal, value)
                    self.journal_error = None
                except JournalError as error:
                    self.journal_error = str(error)
                    self._mixed = True
                except MemoryError:
                    item = None
            if item is None:
                self._put_records -= 1
                self._refused_full += 1
                return
            size_bytes = len(item)
            self._put_bytes += size_bytes
            self._records.append(item)
            if depth >= self._wake_at_records or size >= self._wake_at_bytes:
                self._wake_at_records = self._wake_at_bytes = _NEVER
                wake = self._wake
        if wake is not None:
            wake()

    def refuse(self) -> None:
        """Count a record that there was not even the memory to encode."""
        with self._callers:
            self._refused_full += 1

    def _make_room_locked(self, size_bytes: int) -> bool:
        """Move the oldest records on, or let the policy decide. False: the new record has no room."""
        give_up_at = time.monotonic() + self._patience_seconds()
        while self._is_full_for(size_bytes):
            if self._shift_locked():
                self._gave_up = False
            elif not self._gave_up and time.monotonic() < give_up_at:
                time.sleep(_POLL_SECONDS)
            else:
                # From now on at once, until there is room: a thousand callers must not wait in turn.
                self._gave_up = True
                if self.bounds.policy not in ("drop_oldest", "drop_lowest_level"):
                    return False
                self._evict_locked()
        return True

    def _patience_seconds(self) -> float:
        """How long a caller waits for room."""
        if self.bounds.policy == "block":
            return self.bounds.block_timeout_seconds
        overflow = self._overflow
        return _PATIENCE_SECONDS if overflow is not None and overflow.takes_records() else 0.0

    def _evict_locked(self) -> None:
        evicted: list[bytes] = []
        self._pop_locked(1, evicted)
        count = len(evicted)
        if evicted:
            self._evicted_span = (self._evicted_span or evicted)[0], evicted[-1]
        self._evicted += count
        self._journals.settle(runs_of(evicted))

    def _append_later_locked(self, journal: Journal, value: bytes) -> bytes | None:
        """The journal is full, which is a full queue: move records on until it has room. None: it has none.

        It frees room from its oldest record on, so that to drop one from the queue would not help.
        """
        if len(value) > journal.capacity // 2:
            raise JournalError("a record is too large for a journal that had to be small")
        give_up_at = time.monotonic() + self._patience_seconds()
        while (item := journal.append(value)) is None:
            if journal is not self._journals.current:  # it was retired: the end has begun
                return value
            if self._shift_locked():
                continue
            if self._gave_up or time.monotonic() >= give_up_at:
                self._gave_up = True
                return None
            time.sleep(_POLL_SECONDS)
        return item

    def _shift_locked(self) -> bool:
        """Hand the oldest records, about one batch of bytes, to the overflow. False: it has no room."""
        overflow = self._overflow
        if overflow is None or not overflow.has_room():
            return False
        depth = len(self._records)
        if not depth:
            return False
        average = max(1, self.queued_bytes // max(1, depth))
        popped: list[bytes] = []
        self.shifting = True
        try:
            self._pop_locked(max(1, min(depth, MAX_BATCH_BYTES // average)), popped)
            overflow.offer(popped)
        except BaseException:
            # An interrupt (Ctrl-C, a time limit's signal) ends this call, but not the records of earlier
            # ones. No call stands between here and the `try`: it could be interrupted too.
            while True:
                try:
                    self._leave_out_late(popped)
                    overflow.offer(popped)
                except Exception:
                    self._records.extendleft(reversed(popped))
                except BaseException:  # noqa: S112  # another interrupt; the first is on its way to the caller
                    continue
                break
            raise
        finally:
            self.shifting = False
        if (pause := overflow.pause_seconds()) > 0:
            time.sleep(pause)  # once for a thousand records, so that the spool thread comes to run
        return True

    def _pop_locked(self, count: int, popped: list[bytes]) -> None:
        try:
            # In one step of C: an interrupt between taking a record and keeping it would lose that record.
            popped.extend(starmap(self._records.popleft, repeat((), count)))
        except IndexError:
            pass  # the loop thread took the rest meanwhile
        # Not in one statement: a signal handler that logs may run after any call, here too, and what it has
        # added would be overwritten by a sum that began before it.
        popped_bytes = sum(map(len, popped))
        self._left_bytes_by_callers += popped_bytes
        self._leave_out_late(popped)

    def _is_full_for(self, size_bytes: int) -> bool:
        bounds = self.bounds
        return len(self._records) >= bounds.max_records or self.queued_bytes + size_bytes > bounds.max_bytes

    # ---------------------------------------------------------------- the loop thread

    def attach(self, wake: Callable[[], None], overflow: Overflow) -> None:
        """Connect the running loop and the spool thread; until then records wait in the queue."""
        self._overflow = overflow
        self._wake = wake

    def detach(self) -> None:
        """Let records wait in the queue again."""
        self._wake = None
        self._overflow = None

    def wake_when(self, *, records: int, size_bytes: int = _NEVER) -> None:
        """Ask for one wake-up when the queue holds this much.

        Look at the queue again *after* this call: a record that came before it does not wake anybody.
        """
        self._wake_at_bytes = size_bytes
        self._wake_at_records = records

    def take(self, max_bytes: int = MAX_BATCH_BYTES) -> list[bytes]:
        """Take the oldest records, at most ``max_bytes`` of them but at least one if there is one.

        All of them are in one journal, or in none.
        """
        records = self._records
        taken: list[bytes] = []
        size = 0
        try:
            while size < max_bytes:
                value = records.popleft()
                size += len(value)
                if size > max_bytes and taken:
                    records.appendleft(value)
                    size -= len(value)
                    break
                taken.append(value)
            self._left_bytes_by_loop += size
        except IndexError:
            # Empty: whatever the sums say. A caller that was interrupted between two of them would leave
            # bytes in the queue for ever, and a queue that always looks full is never waited for.
            self._left_bytes_by_loop = self._put_bytes - self._left_bytes_by_callers
        if self._mixed and (others := taken[of_one_journal(taken) :]):
            del taken[-len(others) :]
            records.extendleft(reversed(others))
            self._left_bytes_by_loop -= sum(map(len, others))
        if taken:
            self._gave_up = False  # there is room: who finds none again waits again
            self._leave_out_late(taken)
            return taken or self.take(max_bytes)
        return taken

    def _leave_out_late(self, items: list[bytes]) -> None:
        """Without what was fetched from the journal before its caller, who was held up, came with it."""
        journals = self._journals
        if journals.any_fetched:
            items[:] = [item for item in items if not journals.was_fetched(item)]

    def take_evicted_span(self) -> tuple[bytes, bytes] | None:
        """The first and the last record that had to make room since the last call.

        Good enough for the times in a message: a caller that evicts at this very moment may be left out.
        """
        span, self._evicted_span = self._evicted_span, None
        return span

    def snapshot(self) -> list[bytes]:
        """What waits at this moment."""
        return list(self._records)

    def close(self) -> None:
        """Refuse every later record and count it."""
        self._closed = True

    def wait_for_callers(self, seconds: float) -> None:
        """Let the caller that is inside `put` come out; to be called in an application's thread."""
        if self._callers.acquire(timeout=seconds):
            self._callers.release()

    def forget_interrupted(self, records: int) -> None:
        """Count fewer records: calls that an interrupt ended before the queue, and that never returned."""
        with self._callers:
            self._put_records -= records

    # ---------------------------------------------------------------- any thread

    @property
    def depth(self) -> int:
        """Records that wait."""
        return len(self._records)

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait."""
        return self._put_bytes - self._left_bytes_by_callers - self._left_bytes_by_loop

    @property
    def put_count(self) -> int:
        """Records that were ever put into the queue; also the watermark that a drain waits for."""
        return self._put_records

    def left_count(self) -> int:
        """At least this many of the oldest records have left the queue."""
        put = (
            self._put_records
        )  # read first: later arrivals then only make the answer too small, never too big
        return put - len(self._records)

    @property
    def evicted(self) -> int:
        """Records that were in the queue and had to make room."""
        return self._evicted

    @property
    def refused_full(self) -> int:
        """Records for which neither queue nor spool had room."""
        return self._refused_full

    @property
    def refused_closed(self) -> int:
        """Records that came after the sink was closed."""
        return self._refused_closed
