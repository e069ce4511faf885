"""What is in the list and in the spool, read for an audit without a change to either.

A record goes from memory to the spool or to the list, and from the spool to the list. So the spool is read
first, and once more after the list, and then what has come into the list meanwhile: whatever moves is met
at least once, and one that is met in the spool and in the list is no duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from .._delivery import AsyncRedisClient, Failed
from .._spool import CorruptLetter, DeadLetters, NewerFormat, SpoolDirectory, SpoolError, batches_of
from ._producers import NotARecord, Producers
from ._trail import Trail


class Auditor:
    """Reads, and keeps count."""

    def __init__(self, producer_field: str) -> None:
        self.producers = Producers(producer_field)
        self.values = 0
        self.unreadable: list[int] = []
        """Places of values that are no JSON objects, as they were read, from 1; the first hundred."""
        self.not_records = 0
        self.problems: list[str] = []
        """What could not be read of the spool, a sentence each."""
        self.spooled = 0
        self.dead_letters = 0
        self.living = 0
        """Processes that were alive when the spool was read last."""
        self.trail = Trail()

    async def read_list(self, client: AsyncRedisClient) -> Failed | None:
        """Read the list, or what has come into it since it was read; the failure that ended it."""
        while not self.trail.lost:
            page = await client.page(*self.trail.wanted())
            if isinstance(page, Failed):
                return page
            self.read(self.trail.found(page))
            if self.trail.at_end:
                break
        return None

    def read(self, values: Iterable[bytes]) -> None:
        """Read values as they stand in a list."""
        for value in values:
            self.values += 1
            try:
                self.producers.listed(value)
            except NotARecord:
                self.not_records += 1
                if len(self.unreadable) < 100:
                    self.unreadable.append(self.values)

    def read_spool(self, directory: SpoolDirectory) -> None:
        """Read all parts, whatever they are meant for, and the dead letters.

        Raises:
            SpoolError: the directory cannot be read.
        """
        parts = directory.survey()
        self.living = sum(part.owner == "live" for part in parts)
        self.problems = [part.problem for part in parts if part.problem is not None]
        self.spooled = self.dead_letters = 0
        for part in parts:
            try:
                for seen in batches_of(directory.path, part):
                    if seen.batch is None:
                        self.problems.append(f"batch {seen.id}: {seen.problem}")
                    else:
                        self.spooled += self._spooled(seen.batch.values, of_the_living=part.owner == "live")
            except SpoolError as error:
                if not part.forbidden and part.problem is None:
                    self.problems.append(str(error))
        for value in self._letters(directory.path):
            self.dead_letters += self._spooled([value], of_the_living=True)

    def _spooled(self, values: Iterable[bytes], *, of_the_living: bool) -> int:
        records = 0
        for value in values:
            records += 1
            try:
                self.producers.spooled(value, of_the_living=of_the_living)
            except NotARecord:
                self.problems.append("the spool holds a value that is no JSON object")
        return records

    def _letters(self, spool_dir: Path) -> Iterator[bytes]:
        letters = DeadLetters(spool_dir)
        try:
            names = letters.names()
        except SpoolError as error:
            self.problems.append(str(error))
            return
        for name in names:
            try:
                yield letters.read(name).value
            except (CorruptLetter, NewerFormat, SpoolError) as error:
                self.problems.append(f"dead letter {name}: {error}")
