"""Up to which row, and how, the owner of a part may have delivered: it may be killed in its first attempt.

One mark is written before a row is handed out, and none when it comes back: that would be a second write for
each row. So a new owner takes every row up to there for attempted, unless the row itself says more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from .._batch import AttemptedBy
from ._files import Mark
from ._row import Row, RowKey


@dataclass(frozen=True, slots=True)
class Doubt:
    """What an earlier owner may have delivered."""

    upto: int = 0  # counter of a row
    by: AttemptedBy = AttemptedBy.NOBODY
    at_ms: int = 0

    @classmethod
    def in_mark(cls, mark: Mark) -> Doubt:
        """What a mark says; nothing where it cannot be read."""
        facts = mark.read()
        try:
            return cls(int(facts["upto"]), AttemptedBy(facts["attempted_by"]), int(facts["at_ms"]))
        except (KeyError, ValueError, TypeError):
            return cls()


class Attempts:
    """What earlier owners of a part may have delivered, and what the next one has to know of this one."""

    def __init__(self, mark: Mark, newest_row: Callable[[], RowKey | None]) -> None:
        """``newest_row`` gives the part's last row."""
        self._mark = mark
        self._doubt = _read_doubt(mark, newest_row)

    def may_include(self, key: RowKey) -> bool:
        """Whether an earlier owner may have delivered this row."""
        return key.counter <= self._doubt.upto

    def as_attempted(self, key: RowKey, row: Row) -> Row:
        """The row, with what is known of it besides what it says itself."""
        doubt = self._doubt
        if self.may_include(key) and row.batch.attempted_by is AttemptedBy.NOBODY:
            batch = replace(row.batch, attempted_by=doubt.by, last_attempt_ms=doubt.at_ms)
            return replace(row, batch=batch)
        return row

    def note(self, key: RowKey, attempted_by: AttemptedBy, at_ms: int) -> None:
        """All rows up to this one may have been delivered by this owner.

        Raises:
            OSError: that could not be written.
        """
        self._mark.write(upto=key.counter, attempted_by=attempted_by.value, at_ms=at_ms)


def _read_doubt(mark: Mark, newest_row: Callable[[], RowKey | None]) -> Doubt:
    doubt = Doubt.in_mark(mark)
    if not doubt.upto:
        return doubt
    newest = newest_row()
    if newest is None:
        mark.remove()  # counters begin anew
        return Doubt()
    if newest.counter < doubt.upto:  # the next rows will have counters that the mark speaks of
        doubt = replace(doubt, upto=newest.counter)
        with suppress(OSError):
            mark.write(upto=doubt.upto, attempted_by=doubt.by.value, at_ms=doubt.at_ms)
    return doubt
