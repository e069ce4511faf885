"""The delivering half of the spool thread: rows are handed out, and deleted once Redis has them.

Promises:

- Rows of a part are handed out in their order, each once until it is given back; a part of the dead goes
  before our own.
- A row that is in flight is never deleted but by its acknowledgement.
- What a row of files that were replaced is acknowledged or noted for, does not touch the new ones.

Everything here runs in the spool thread.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .._batch import AttemptedBy, Batch
from ._common import Common
from ._failures import SpoolDamaged, SpoolError, SpoolVanished
from ._holder import PartHolder
from ._part import Part
from ._quota import Quota
from ._row import CorruptRow, NewerFormat, Row, RowKey
from ._writer import SpoolWriter

_LEFT_SECONDS = 5.0


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


class SpoolReader:
    """Hands out the rows of our parts, one after the other."""

    def __init__(
        self,
        holder: PartHolder,
        writer: SpoolWriter,
        quota: Quota,
        common: Common,
        *,
        tell_broken: Callable[[Part, SpoolError], bool],
        tell_error: Callable[[str], None],
    ) -> None:
        """The reader of a spool.

        Args:
            holder: knows what is ours.
            writer: knows which row was not told of yet.
            quota: drops what is too old.
            common: what all rooms are given.
            tell_broken: told of a part that can no longer be used; says whether its rows are there again.
            tell_error: told of what went wrong.
        """
        self._holder = holder
        self._writer = writer
        self._quota = quota
        self._common = common
        self._listener = common.listener
        self._tell_broken = tell_broken
        self._tell_error = tell_error
        self.oldest_ms = 0
        self._cursor: dict[str, RowKey] = {}
        self._generations: Counter[str] = Counter()  # by part: how often its files were begun anew
        self._newer: dict[str, RowKey] = {}  # by part: its oldest row of a newer version
        self._handed_out: set[tuple[str, RowKey]] = set()  # in flight, read ahead, or left
        self._left: deque[tuple[float, str, RowKey]] = deque()  # rows to hand out again, and not before when

    # ---------------------------------------------------------------- handing out

    def next_row(self, attempted_by: AttemptedBy) -> SpooledRow | None:
        """The next row that was not handed out yet; a part of the dead goes first."""
        for part in (self._holder.adopted, self._holder.own):
            if part is None:
                continue
            try:
                if (row := self._read_on(part, attempted_by)) is not None:
                    return row
            except (SpoolVanished, SpoolDamaged) as error:
                if self._tell_broken(part, error):
                    return self.next_row(attempted_by)
            except (SpoolError, OSError) as error:
                self._tell_error(str(error))
                self._common.report("spool-reading", f"the spool cannot be read: {error}; it is tried again")
            if part is self._holder.adopted:
                self._let_go_of_newer()
                self.let_go_if_done()
        if self._holder.own is None or self._holder.own.empty:
            self.oldest_ms = 0
        return None

    def _read_on(self, part: Part, attempted_by: AttemptedBy) -> SpooledRow | None:
        """The part's next row; damaged ones are put aside and passed by.

        Nothing else is passed by: a later row of the same lane, once delivered, would make Redis take the one
        that was left out for already applied. So behind one of a newer version, whose lane cannot be read,
        only rows of lanes that are new in this opening are handed out.
        """
        while True:
            with self._common.sqlite_lock:
                key = self._next_key(part)
            if key is None:
                return None
            if self._writer.is_at(part, key) or self._holder.is_recovered_to(part, key):
                return None  # its write failed and yet was done: it is told of before it is handed out
            if self._quota.drop_if_expired(part, key):
                continue
            if key > self._newer.get(part.id, key) and not part.identities.is_our_own(key):
                self._cursor[part.id] = key
                continue
            with self._common.sqlite_lock:
                try:
                    row = part.hand_out(key, attempted_by)
                except NewerFormat as error:
                    self._common.report(
                        "spool-newer", f"{error}; it is left for a newer version, and what is old behind it"
                    )
                    if part.identities.is_our_own(key):
                        return None
                    self._newer[part.id] = self._cursor[part.id] = key
                    continue
                except CorruptRow:
                    part.quarantine(key)
                    row = None
            if row is not None and self._is_writing(row.batch):
                return None  # the same
            if not part.awaits_row_before(key):
                self._cursor[part.id] = max(key, self._cursor.get(part.id, key))
            if self._left and self._left[0][1:] == (part.id, key):
                self._left.popleft()
            if row is not None:
                self._handed_out.add((part.id, key))
                self.oldest_ms = row.first_ms
                return SpooledRow(part.id, self._generations[part.id], key, row)
            self._holder.measure()
            self._common.report(
                "spool-corrupt", f"a damaged batch of {key.records} records was put into quarantine"
            )
            self._common.tell(self._listener.on_spool_loss, part.id, key.records, "corrupt", 0, 0)

    def _next_key(self, part: Part) -> RowKey | None:
        key = part.peek(self._cursor.get(part.id))
        while key is not None and (part.id, key) in self._handed_out:
            key = part.peek(key)
        return key or self._left_row_of(part)

    def _left_row_of(self, part: Part) -> RowKey | None:
        if self._left and self._left[0][1] == part.id and self._left[0][0] <= time.monotonic():
            return self._left[0][2]
        return None

    def _is_writing(self, batch: Batch) -> bool:
        """Whether this batch may be in a row already, and yet was not told of."""
        return self._writer.is_writing(batch) or self._holder.is_recovering(batch.id)

    def rewind(self) -> None:
        """Hand out every row again that was not acknowledged, beginning with the oldest."""
        self._cursor.clear()
        self._handed_out.clear()
        self._left.clear()
        self._quota.search_anew()

    # ---------------------------------------------------------------- what has become of a row

    def acknowledge(self, row: SpooledRow) -> None:
        """Delete a row that Redis has."""
        self._handed_out.discard((row.part_id, row.key))
        part = self._part_of(row)
        if part is None:
            return
        try:
            with self._common.sqlite_lock:
                part.ack(row.key)
        except (SpoolVanished, SpoolDamaged) as error:
            if self._tell_broken(part, error):  # this row is in the new ones, too
                with suppress(SpoolError, OSError), self._common.sqlite_lock:
                    part.ack(row.key)
        except (SpoolError, OSError) as error:
            # Redis has the batch and remembers its identity: should the next owner send it, nothing happens.
            # This one does not, or it would count the records twice.
            part.pass_by(row.key)
            self._common.report("spool-ack", f"a delivered batch cannot be removed from the spool: {error}")
        self._holder.measure()
        if part is self._holder.adopted:
            self.let_go_if_done()  # now: where nothing else is spooled, nobody asks for a row

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        """Write on a row that it was attempted, and when."""
        part = self._part_of(row)
        if part is None:
            return
        try:
            with self._common.sqlite_lock:
                part.replace(row.key, batch)
        except (SpoolError, OSError) as error:
            self._common.report("spool-failing", f"the spool cannot be written: {error}; it is tried again")

    def leave(self, row: SpooledRow) -> None:
        """Hand a row out again after a while, once there is no other."""
        if self._part_of(row) is not None:
            self._left.append((time.monotonic() + _LEFT_SECONDS, row.part_id, row.key))

    # ---------------------------------------------------------------- what others have to know

    def must_keep(self, part: Part, key: RowKey) -> bool:
        """Whether the row in this place may be in Redis already, or was not told of yet."""
        return (
            (part.id, key) in self._handed_out
            or self._writer.is_at(part, key)
            or self._holder.is_recovered_to(part, key)
        )

    def in_hand(self, part: Part) -> list[RowKey]:
        """The part's rows that were handed out."""
        return [key for part_id, key in self._handed_out if part_id == part.id]

    def note_oldest(self, part: Part) -> None:
        """A part is ours now: how old its oldest record is."""
        try:
            with self._common.sqlite_lock:
                key = part.peek(None)
                if key is not None:
                    first_ms = part.read(key).first_ms
                    self.oldest_ms = min(first_ms, self.oldest_ms) if self.oldest_ms else first_ms
        except (CorruptRow, NewerFormat, SpoolError, OSError):
            pass  # delivery meets the same row, and deals with it

    def forget(self, part: Part) -> None:
        """The part's files were begun anew: what was handed out of the old ones means nothing any more."""
        self._generations[part.id] += 1
        self._cursor.pop(part.id, None)
        self._handed_out = {(part_id, key) for part_id, key in self._handed_out if part_id != part.id}
        self._left = deque(left for left in self._left if left[1] != part.id)

    # ---------------------------------------------------------------- letting go

    @property
    def parts_of_newer(self) -> frozenset[str]:
        """Ids of parts in which something waits for a newer version."""
        return frozenset(self._newer)

    def let_go_if_done(self) -> None:
        """Let go of the adopted part once nothing is left in it."""
        part = self._holder.adopted
        if part is not None and part.empty and not self._holder.recovers(part):
            self._let_go_of_adopted()

    def _let_go_of_newer(self) -> None:
        """What is left in the adopted part is for a newer version, and must not keep us from other parts."""
        part = self._holder.adopted
        if part is None or part.id not in self._newer or self._holder.recovers(part):
            return
        if not any(part_id == part.id for part_id, _ in self._handed_out):
            self._common.tell(self._listener.on_spool_opened, part.id, -part.records)
            self._let_go_of_adopted()

    def _let_go_of_adopted(self) -> None:
        if self._holder.adopted is not None:
            self._cursor.pop(self._holder.adopted.id, None)
        self._holder.let_go_of_adopted()

    # ---------------------------------------------------------------- inside

    def _part_of(self, row: SpooledRow) -> Part | None:
        if row.generation != self._generations[row.part_id]:
            return None
        return next(
            (
                part
                for part in (self._holder.own, self._holder.adopted)
                if part is not None and part.id == row.part_id
            ),
            None,
        )
