"""What an owner had in memory when it died: from its journals into the rows of its part.

Each batch keeps the identity that its cut gave it, so that repeating what the dead owner did, or what an
earlier recovery did before it died in turn, changes nothing. A journal is removed when all of it is in rows.

Everything here is done by the part's owner, under the lock for SQLite where that is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .._batch import BatchId
from .._journal import DeadJournal, JournalDamaged, JournalError, NewerJournal, RecoveredBatch, look_at
from ._failures import SpoolError
from ._part import Part
from ._row import RowKey


@dataclass(frozen=True, slots=True)
class Recovered:
    """What one step has brought to light."""

    records: int = 0  # more, or fewer, than were known to be in the part
    possibly_doubled: int = 0  # in a row now: nobody knows whether they were attempted
    corrupt: int = 0  # of the records: they could not be read, and are in quarantine
    note: str | None = None  # what a person should know


class Recovery:
    """The journals that were in a part when it was taken over; a step at a time."""

    def __init__(self, part: Part, *, is_ours: Callable[[int], bool] = lambda _key: False) -> None:
        """Before the new owner makes a journal of its own. ``is_ours`` knows the keys of our own journals."""
        self.part = part
        self._is_ours = is_ours
        self.waiting = 0  # records that are known to be in journals, and not yet in rows
        self._left = deque(part.journals())
        self._known: dict[Path, int] = {}
        self._journal: DeadJournal | None = None
        self._batches: Iterator[RecoveredBatch] = iter(())
        self._batch: RecoveredBatch | None = None  # in hand, until it is in a row
        self._in_row = False  # the one in hand, and it is not yet settled
        self._wrote = False  # so that the newest row is our own

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return self._journal is not None or bool(self._left)

    def count(self) -> int:
        """How many records there are, before anything is done; what cannot be read counts when it can."""
        for path in self._left:
            if path not in self._known:
                with suppress(JournalError):
                    self._known[path] = look_at(path).records
                    self.waiting += self._known[path]
        return self.waiting

    def close(self) -> None:
        """Leave the rest to the part's next owner. Never raises."""
        if self._journal is not None:
            if self._batch is not None and self._in_row:
                with suppress(JournalError):  # else it is brought in again, and recognised
                    self._batch.settle()
            self._journal.close()

    def is_writing(self, batch_id: BatchId) -> bool:
        """Whether this batch may be in the part already, and yet was not told of."""
        return self._batch is not None and not self._in_row and self._batch.batch.id == batch_id

    def is_at(self, part: Part, key: RowKey) -> bool:
        """The same, of the row in this place."""
        if part is not self.part or self._batch is None or self._in_row:
            return False
        return part.identities.is_of(key, self._batch.batch.id)

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
            journal, batches = self._opened(path)
        except NewerJournal as error:
            self._left.popleft()
            return self._changed(path, 0, note=f"{error}; it is left for that version")
        except JournalDamaged as error:
            target = self.part.set_aside(path)
            self._left.popleft()
            note = f"a journal could not be used ({error}); it was put aside as {target}"
            return self._changed(path, 0, self._known.get(path, 0), note)
        if self._is_ours(journal.key):
            # Somebody has put a copy of our directory in its place. What the journal holds is in memory here.
            journal.remove()
            self._left.popleft()
            return self._changed(path, 0, note=f"{path} is a copy of this process's own journal")
        self._journal, self._batches = journal, batches
        self._left.popleft()
        return self._changed(path, journal.records, sum(stretch.records for stretch in journal.corrupt))

    def _opened(self, path: Path) -> tuple[DeadJournal, Iterator[RecoveredBatch]]:
        journal = DeadJournal.open(path)
        try:
            for stretch in journal.corrupt:
                self.part.keep_aside(f"{path.name}.{stretch.position}.frame", stretch.data)
            return journal, journal.batches()
        except BaseException:
            journal.close()
            raise

    def _changed(self, path: Path, records: int, corrupt: int = 0, note: str | None = None) -> Recovered:
        change = records - self._known.pop(path, 0)
        self.waiting += change
        return Recovered(change + corrupt, corrupt=corrupt, note=note)

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
        self.waiting -= len(batch.values)
        return Recovered(-len(batch.values) if known else 0, found.doubtful_records)
