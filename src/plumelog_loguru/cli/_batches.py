"""The batches that a command looks at, in all parts that were chosen, and what is wrong with them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

from .._spool import PartInfo, SeenBatch, SpoolDirectory, SpoolError, batches_of
from ._command import counted
from ._selection import Selection


class Batches:
    """A walk through the spool, which changes nothing; what it meets is added up on the way."""

    def __init__(self, directory: SpoolDirectory, selection: Selection, *, with_values: bool = True) -> None:
        """Look at the parts that there are now.

        Raises:
            SpoolError: the directory is missing, or cannot be read.
        """
        self._directory = directory
        self._selection = selection
        self._with_values = with_values
        self._parts = directory.survey()
        self._chosen = [part for part in self._parts if selection.includes(part)]
        self.intact = 0  # batches
        self.records = 0  # in these
        self.bytes = 0
        self._lost: Counter[str] = Counter()  # batches and records that cannot be read
        self._faults: list[str] = []

    def __iter__(self) -> Iterator[SeenBatch]:
        """Oldest first: each part in its order, and the parts side by side by the times of their records."""
        for seen in heapq.merge(*map(self._walk, self._chosen), key=lambda seen: seen.first_ms or 0):
            if seen.problem is None:
                self.intact += 1
                self.records += seen.records
                self.bytes += seen.bytes
            else:
                self._lost["batches"] += 1
                self._lost["records"] += seen.records
            yield seen

    def _walk(self, part: PartInfo) -> Iterator[SeenBatch]:
        try:
            yield from batches_of(self._directory.path, part, with_values=self._with_values)
        except SpoolError as error:
            self._faults.append(str(error))

    def find(self, name: str) -> SeenBatch | None:
        """The batch with this id."""
        part = next((part for part in self._parts if part.id == name.partition(".")[0]), None)
        return None if part is None else next((seen for seen in self._walk(part) if seen.id == name), None)

    def faults(self) -> Iterator[str]:
        """What is wrong, a sentence each, once the walk has ended."""
        problems = [
            part.problem
            for part in self._parts
            # What is meant for nobody knows whom may have been meant.
            if part.problem is not None and (part in self._chosen or part.destination is None)
        ]
        yield from dict.fromkeys(problems + self._faults)  # the walk met what the survey had seen, mostly
        if self._lost:
            batches = counted(self._lost["batches"], "batch", "batches")
            yield (
                f"{batches} with {counted(self._lost['records'], 'record')} cannot be read; "
                "'plumelog-replay verify' says what is damaged"
            )

    def remarks(self) -> Iterator[str]:
        """What a person should know of what was not chosen, a sentence each."""
        slip = self._selection.complaint(self._parts)
        if slip is not None:
            yield slip
        waiting: Counter[str] = Counter()
        for part in self._parts:
            if self._selection.wanted is None and part not in self._chosen and part.records:
                waiting[str(part.destination or "a destination that cannot be read")] += part.records
        for destination, records in waiting.items():
            yield f"{counted(records, 'record')} for {destination} left out; --from any takes all"
