"""What an owner had in memory when it died: from its journals into the rows of its part.

Each batch keeps the identity that its cut gave it, so that repeating what the dead owner did, or what an
earlier recovery did before it died in turn, changes nothing. A journal is removed when all of it is in rows.

Everything here is done by the part's owner, under the lock for SQLite where that is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from .._batch import BatchId
from .._journal import DeadJournal, JournalDamaged, JournalError, NewerJournal, RecoveredBatch
from ._part import Part
from ._store import RowKey, SpoolError


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one step has brought to light."""

    records: int = 0  # now in a row
    possibly_doubled: int = 0  # of these: nobody knows whether they were attempted
    corrupt: int = 0  # records that could not be read, and are in quarantine
    note: str | None = None  # what a person should know


class Recovery:
    """The journals that were in a part when it was taken over; a step at a time."""

    def __init__(self, part: Part) -> None:
        """Before the new owner makes a journal of its own."""
        self.part = part
        self._left = deque(part.journals())
        self._journal: DeadJournal | None = None
        self._batches: Iterator[RecoveredBatch] = iter(())
        self._batch: RecoveredBatch | None = None  # in hand, until it is in a row
        self._in_row = False  # the one in hand, and it is not yet settled
        self._wrote = False  # so that the newest row is our own

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return self._journal is not None or bool(self._left)

    def is_writing(self, batch_id: BatchId) -> bool:
        """Whether this batch may be in the part already, and yet was not told of."""
        return self._batch is not None and not self._in_row and self._batch.batch.id == batch_id

    def is_at(self, part: Part, key: RowKey) -> bool:
        """The same, of the row in this place."""
        if part is not self.part or self._batch is None or self._in_row:
            return False
        return part.is_of(key, self._batch.batch.id)

    def step(self) -> Recovered:
        """Open a journal, bring one batch into a row, or remove a journal that is done with.

        Raises:
            SpoolError: the disk does not take it now; nothing is lost, and the step can be repeated.
        """
        try:
            return self._bring_in() if self._journal is not None else self._open_next()
        except (JournalError, OSError) as error:
            raise SpoolError(f"a journal in part {self.part.id} cannot be recovered now: {error}") from error

    def _open_next(self) -> Recovered:
        path = self._left[0]
        try:
            journal = DeadJournal.open(path)
        except NewerJournal as error:
            self._left.popleft()
            return Recovered(note=f"{error}; it is left for that version")
        except JournalDamaged as error:
            target = self.part.set_aside(path)
            self._left.popleft()
            return Recovered(note=f"a journal could not be used ({error}); it was put aside as {target}")
        try:
            for stretch in journal.corrupt:
                self.part.keep_aside(f"{path.name}.{stretch.position}.frame", stretch.data)
            self._batches = journal.batches()
        except BaseException:
            journal.close()
            raise
        self._journal = journal
        self._left.popleft()
        return Recovered(corrupt=sum(stretch.records for stretch in journal.corrupt))

    def _bring_in(self) -> Recovered:
        assert self._journal is not None
        found = self._batch = self._batch or next(self._batches, None)
        if found is None:
            self._journal.remove()
            self._journal = None
            return Recovered()
        if self._in_row:
            # A step of its own: that may fail, and what is in a row has been told of.
            found.settle()
            self._batch, self._in_row = None, False
            return Recovered()
        batch = found.batch
        # The dead owner may have written its last row and died before it said so in the journal.
        known = not self._wrote and self.part.is_newest(batch.id)
        if not known:
            self._wrote = True  # also if it fails: it may have been done all the same
            self.part.append(batch, inherited=True)
        self._in_row = True
        return Recovered(0 if known else len(batch.values), found.doubtful_records)
