"""The rows of one part, as the replay asks for them: read and deleted in a thread of their own.

So the next row is read, and the last one deleted, while Redis takes the one in between. The thread is the one
that has opened the part; it does one thing after the other, in the order in which it was asked. What it finds
is told in the thread of the loop, before the row that it was looking for is given.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from .._batch import AttemptedBy, Batch
from .._ledger import Ledger
from .._spool import (
    CorruptRow,
    DeadLetters,
    NewerFormat,
    Part,
    RowKey,
    SpoolDamaged,
    SpooledRow,
    SpoolError,
)
from ._command import counted

Tell = Callable[[str], None]


class PartRows:
    """What cannot be read ends the rows, and is told."""

    def __init__(
        self, part: Part, letters: DeadLetters, ledger: Ledger, complain: Tell, disk: Executor
    ) -> None:
        """To be made in the thread of a running loop; ``disk`` has one thread, which has opened the part."""
        self._loop = asyncio.get_running_loop()
        self._part = part
        self._letters = letters
        self._ledger = ledger
        self._tell = complain
        self._disk = disk
        self._writes: deque[asyncio.Future[None]] = deque()  # that are under way
        self._failure: BaseException | None = None  # what nobody has reckoned with
        self.ended = False
        """Whether there is no further row: None was given for good."""
        # From here on: of the disk's thread.
        self._cursor: RowKey | None = None
        self._nothing_left = False
        self._salvaged = False
        self._told: set[str] = set()

    # ---------------------------------------------------------------- in the thread of the loop

    def request_row(self, give: Callable[[SpooledRow | None], None], *, attempted_by: AttemptedBy) -> None:
        """Give the next row, or None."""

        def read(future: asyncio.Future[SpooledRow | None]) -> None:
            self._failure = future.exception()
            row = None if self._failure else future.result()
            self.ended = row is None
            give(row)

        if self.ended:
            give(None)
        else:
            asked = self._loop.run_in_executor(self._disk, self._next, attempted_by)
            asked.add_done_callback(read)

    def acknowledge(self, row: SpooledRow) -> None:
        """Delete a row that Redis has."""
        self._write(
            partial(
                self._try,
                lambda: self._part.ack(row.key),
                "a batch that Redis has could not be removed from the spool",
                "; drain again when it can be written: Redis takes no batch twice",
            )
        )

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        """Write on a row that it was attempted, and when."""
        mark = partial(self._part.replace, row.key, batch)
        self._write(partial(self._try, mark, "a batch in doubt could not be marked"))

    def leave(self, row: SpooledRow) -> None:
        """A row cannot be settled: it stays, and has been told of."""

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        """Give what ``work`` gives; None if it fails."""

        def answer() -> bool | None:
            answers: list[bool] = []
            self._try(
                lambda: answers.append(work(self._letters)), "a record that Redis refuses stays spooled"
            )
            return answers[0] if answers else None

        asked = self._loop.run_in_executor(self._disk, answer)
        asked.add_done_callback(lambda future: give(future.result()))

    async def written(self) -> None:
        """Wait for all that was to be written; raises what nobody has reckoned with."""
        while self._writes:
            await self._writes.popleft()
        if self._failure is not None:
            raise self._failure

    def _write(self, work: Callable[[], None]) -> None:
        self._writes.append(self._loop.run_in_executor(self._disk, work))
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()

    # ---------------------------------------------------------------- in the disk's thread

    def _next(self, attempted_by: AttemptedBy) -> SpooledRow | None:
        part, before = self._part, self._cursor
        try:
            while not self._nothing_left and (key := part.peek(self._cursor)) is not None:
                self._cursor = key
                try:
                    return SpooledRow(part.id, 0, key, part.hand_out(key, attempted_by))
                except CorruptRow:
                    part.quarantine(key)
                    self._lost(key.records)
                    damaged = f"a damaged batch of {counted(key.records, 'record')}"
                    self._complain(f"{damaged} was put into {part.path / 'quarantine'}")
        except NewerFormat as error:
            # Not passed by: a later row may be of its lane, and would make Redis take it for applied.
            self._complain(f"{error}; what is left of part {part.id} needs that version")
        except SpoolDamaged as error:
            if self._go_on_with_intact(error):
                self._cursor = before
                return self._next(attempted_by)
        except (SpoolError, OSError) as error:
            self._complain(str(error))
        self._nothing_left = True
        return None

    def _go_on_with_intact(self, damage: SpoolDamaged) -> bool:
        """Once: a disk that damages what was just written anew would go on so for ever."""
        if self._salvaged:
            self._complain(str(damage))
            return False
        self._salvaged = True
        try:
            lost = self._part.go_on_with_intact(str(damage))
        except (SpoolError, OSError) as error:
            self._complain(str(error))
            return False
        self._lost(lost)
        lost_records = counted(lost, "record is", "records are")
        self._complain(f"{damage}; what is intact is delivered, and {lost_records} lost")
        return True

    def _try(self, write: Callable[[], None], otherwise: str, cure: str = "") -> None:
        try:
            write()
        except (SpoolError, OSError) as error:
            sentence = f"{otherwise}: {error}{cure}"
            if sentence not in self._told:  # on a full disk it is the same for every row
                self._told.add(sentence)
                self._complain(sentence)

    def _complain(self, sentence: str) -> None:
        self._loop.call_soon_threadsafe(self._tell, sentence)

    def _lost(self, records: int) -> None:
        # The accounts have one writer: the thread of the loop.
        self._loop.call_soon_threadsafe(self._ledger.spool_lost, self._part.id, records, "corrupt")
