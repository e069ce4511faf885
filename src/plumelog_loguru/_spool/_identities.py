"""Which batch the owner of a part has put where; and the identities of what it spools without an attempt.

The lane for those is drawn at each opening of a part: nobody goes on with a lane that another process began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from .._batch import BatchId, new_lane_id
from ._row import RowKey


class Identities:
    """The rows that were written since the opening, and the spool's own lane."""

    def __init__(self) -> None:
        self._key_of: dict[BatchId, RowKey] = {}
        self._id_of: dict[RowKey, BatchId] = {}
        self._inherited: set[RowKey] = set()  # of these, what an ended owner gave its identity
        # What is cut and not yet written when we die is recovered into another part than the rows before it,
        # and may be delivered before them: each row then has a lane of its own.
        self.each_in_a_lane_of_its_own = False
        self.begin_lane()

    def __iter__(self) -> Iterator[RowKey]:
        return iter(self._id_of)

    def next_id(self) -> BatchId:
        """The identity for a batch that is spooled without ever having been attempted."""
        if self.each_in_a_lane_of_its_own:
            self.begin_lane()
        return BatchId(self._lane, next(self._seqs))

    def begin_lane(self) -> None:
        """Go on in a new lane: a number of this one is written down, and not in a row.

        Whoever finds it after our death makes a row of it, behind all that come now.
        """
        self._lane, self._seqs = new_lane_id(), count(1)

    def note(self, batch_id: BatchId, key: RowKey, *, inherited: bool) -> None:
        """A batch has this place, for as long as it is here."""
        self._key_of[batch_id] = key
        self._id_of[key] = batch_id
        if inherited:
            self._inherited.add(key)

    def key_of(self, batch_id: BatchId) -> RowKey | None:
        """The place of a batch that was written since the opening."""
        return self._key_of.get(batch_id)

    def is_of(self, key: RowKey, batch_id: BatchId) -> bool:
        """Whether this is the batch in that place."""
        return self._id_of.get(key) == batch_id

    def is_our_own(self, key: RowKey) -> bool:
        """Whether the batch in this place is of a lane in which no earlier owner can have left rows."""
        return key in self._id_of and key not in self._inherited

    def forget(self, key: RowKey) -> None:
        """The batch is no longer in this place."""
        batch_id = self._id_of.pop(key, None)
        if batch_id is not None:
            del self._key_of[batch_id]
            self._inherited.discard(key)

    def forget_unless(self, is_there: Callable[[RowKey], bool]) -> None:
        """Forget all that is gone."""
        for key in list(self._id_of):
            if not is_there(key):
                self.forget(key)
