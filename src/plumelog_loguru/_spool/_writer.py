"""The writing half of the spool thread: what is offered becomes rows, in the order in which it was offered.

Promises:

- A row whose write failed holds back the later ones and is tried again under the same identity.
- Records are told of once, as stored or as refused, when that is sure.

Everything here runs in the spool thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from .._batch import MAX_BATCH_BYTES, Batch
from .._clock import Clock
from .._journal import Journals, Run, of_one_journal, runs_of, value_of
from ._common import Common
from ._failures import SpoolDamaged, SpoolError, SpoolVanished
from ._listener import Block
from ._part import Part
from ._row import RowKey, dt_time_ms

_RETRY_FIRST_SECONDS = 0.1
_RETRY_MOST_SECONDS = 5.0
_FULL_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Unwritten:
    """A row that is being written, and how many of its records come from which block."""

    batch: Batch
    pieces: list[tuple[Block, int]]
    runs: Sequence[Run]  # where they are in the journal


class SpoolWriter:
    """Cuts rows from what was offered, and writes them one at a time."""

    def __init__(
        self,
        common: Common,
        *,
        make_room: Callable[[Batch, bool], bool],
        refuses: bool,
        journals: Journals,
        clock: Clock,
    ) -> None:
        """``make_room`` says whether a batch may be written, and drops rows for it where it may.

        What it has no room for is refused, or waits.
        """
        self._common = common
        self._listener = common.listener
        self._make_room = make_room
        self._refuses = refuses
        self._journals = journals
        self._clock = clock
        self.settled_bytes = 0  # of all blocks that are done with
        self.failing = False  # the last write failed; it is tried again
        self.full = False  # and waits for room
        self.ending = False  # nobody waits for room any more
        self.stays = False  # what comes next stays in the journal: nothing is dropped for it
        self.last_error: str | None = None
        self.retry_at = 0.0  # monotonic seconds
        self._retry_delay = _RETRY_FIRST_SECONDS
        self._backlog: deque[Block] = deque()
        self._unwritten: _Unwritten | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._backlog)

    @property
    def stuck(self) -> bool:
        """Whether what is to be written waits: for room, or for a disk that takes it."""
        return bool(self._backlog) and (self.full or self.failing)

    def take(self, block: Block) -> None:
        """Have the block written behind all others; once, however often it is offered."""
        if not block.taken:
            block.taken = True
            self._backlog.append(block)

    def is_writing(self, batch: Batch) -> bool:
        """Whether this batch may be in the part already, and yet was not told of."""
        return self._unwritten is not None and self._unwritten.batch.id == batch.id

    def is_at(self, part: Part, key: RowKey) -> bool:
        """The same, of the row in this place."""
        return self._unwritten is not None and part.identities.is_of(key, self._unwritten.batch.id)

    def write_next(self, part: Part) -> None:
        """Write one row, and no more: between two, the inbox may say that the time for writing is up.

        Raises:
            SpoolVanished, SpoolDamaged: the part can no longer be written; nothing was told.
        """
        if time.monotonic() < self.retry_at:
            return
        try:
            stored = self._write_row(part)
        except (SpoolVanished, SpoolDamaged):
            raise
        except (SpoolError, OSError) as error:
            self._postpone(error)
            return
        self.full = not stored
        if self.full:
            self.retry_at = time.monotonic() + _FULL_POLL_SECONDS
            return
        self._retry_delay = _RETRY_FIRST_SECONDS
        self.failing = False

    def give_back(self, part: Part | None, *, if_sure: bool = False) -> list[Block]:
        """What was offered and is not on disk; with ``if_sure`` nothing, where that cannot be told.

        Records whose write failed are in no row, and so are not bound to its number in the spool's lane:
        delivered under that, they would make Redis take the lane's earlier rows for already applied.
        """
        row = self._unwritten
        if row is not None and part is not None:
            try:
                found = self._is_there(part, row)
            except (SpoolError, OSError):
                if if_sure:
                    return []
                found = False  # the least bad guess: a failed write is rarely done
            if found:
                self._book(part, row, self._listener.on_stored)
            else:
                part.identities.begin_lane()
        self._unwritten = None
        returned = list(self._backlog)
        self._backlog.clear()
        self.settled_bytes += sum(block.size_bytes for block in returned)
        return returned

    # ---------------------------------------------------------------- inside

    def _postpone(self, error: Exception) -> None:
        self.failing = True
        self.last_error = str(error)
        self._common.report("spool-failing", f"the spool cannot be written: {error}; it is tried again")
        self.retry_at = time.monotonic() + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, _RETRY_MOST_SECONDS)

    def _write_row(self, part: Part) -> bool:
        """Write the next row of the backlog. False: there is no room, and it waits."""
        # Kept until it is stored: a write that failed may have been done all the same, and is repeated under
        # the same identity, so that it replaces its row.
        row = self._unwritten = self._unwritten or self._cut_row(part)
        self.stays = self.ending and self._journals.holds_runs(row.runs)
        if self._make_room(row.batch, not self.stays):
            self.stays = False
            with self._common.sqlite_lock:
                part.append(row.batch)
            self._book(part, row, self._listener.on_stored)
        elif self._is_there(part, row):  # an earlier write was said to have failed, and takes room already
            self._book(part, row, self._listener.on_stored)
        elif self._refuses and not self.stays:
            self._book(part, row, self._listener.on_refused)
        else:
            return False
        return True

    def _is_there(self, part: Part, row: _Unwritten) -> bool:
        with self._common.sqlite_lock:
            return part.find(row.batch.id)

    def _book(self, part: Part, row: _Unwritten, told: Callable[..., None]) -> None:
        """A row is done with: tell of each block's share."""
        self._unwritten = None
        self._journals.settle(row.runs)
        refused = told == self._listener.on_refused
        values = iter(row.batch.values)
        for block, count in row.pieces:
            block.written += count
            done = block.written == len(block.values)
            if done:
                self._backlog.popleft()
                self.settled_bytes += block.size_bytes
            span = _span(list(islice(values, count))) if refused else ()
            self._common.tell(told, part.id, block, count, done, *span)

    def _cut_row(self, part: Part) -> _Unwritten:
        """The next row: a batch that has its identity already, or up to a mebibyte of what has none."""
        first = self._backlog[0]
        if first.batch is not None:
            return _Unwritten(first.batch, [(first, len(first.values))], first.runs)
        items: list[bytes] = []
        pieces: list[tuple[Block, int]] = []
        size = 0
        for block in self._backlog:
            if block.batch is not None or size > MAX_BATCH_BYTES:
                break
            before = len(items)
            for item in islice(block.values, block.written, None):
                size += len(item)
                if size > MAX_BATCH_BYTES and items:
                    break
                items.append(item)
            if len(items) > before:
                pieces.append((block, len(items) - before))
        # Only what is in one journal, or in none; the others are cut next.
        surplus = len(items) - of_one_journal(items)
        del items[len(items) - surplus :]
        while surplus:
            block, count = pieces.pop()
            if count > surplus:
                pieces.append((block, count - surplus))
            surplus = max(0, surplus - count)
        batch, runs = Batch(part.next_spool_id(), tuple(map(value_of, items))), runs_of(items)
        # Before the row is written: whoever finds both must know them for the same.
        self._journals.cut(runs, batch.id, batch.attempted_by, self._clock.epoch_ms())
        return _Unwritten(batch, pieces, runs)


def _span(values: Sequence[bytes]) -> tuple[int, int]:
    return (dt_time_ms(values[0]), dt_time_ms(values[-1])) if values else (0, 0)
