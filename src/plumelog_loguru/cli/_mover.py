"""What ended processes left goes into a file, and out of the spool.

Promises:

- Nothing is lost: a batch is deleted once it is in the file and on the disk itself.
- What may be in Redis already is *fenced* first. So it is in the list, and then it is not written, or no
  request can put it there any more. Where Redis cannot be asked, such a batch stays; the others do not.
- Killed anywhere, the spool still has what is not in the file. What the file has and the spool as well is at
  most a mebibyte and a batch, at the end of the file, where the last line may be torn.
- Only parts that nobody owns, and that are meant for the configured destination, are touched.

A batch that was pushed plainly cannot be fenced, nor one that Redis has had the time to forget: it is
written, and counted as possibly doubled.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from .._batch import MAX_BATCH_BYTES, AttemptedBy, Batch
from .._clock import SYSTEM_CLOCK
from .._delivery import (
    AlreadyApplied,
    AsyncRedisClient,
    Failed,
    FailureKind,
    Fenced,
    Sender,
    full_jitter_delay,
    new_dice,
)
from .._settings import PlumelogSettings
from .._spool import (
    CorruptRow,
    DeadLetters,
    NewerFormat,
    Part,
    Recovery,
    RowKey,
    SpoolDamaged,
    SpoolDirectory,
    SpoolError,
)
from ._command import counted
from ._records import Records

_LOOKS = 5
_LOOK_AGAIN_SECONDS = 0.05


@dataclass(slots=True)
class Moved:
    """What came of it, in records unless said otherwise."""

    records: int = 0  # in the file, and no longer in the spool
    batches: int = 0
    in_redis: int = 0  # were in Redis already, and are no longer in the spool
    dead_letters: int = 0  # were dead letters already, and are no longer in the spool
    possibly_doubled: int = 0  # of those in the file
    twice: int = 0  # in the file, and yet in the spool

    def add(self, other: Moved) -> None:
        """Book all of it here, too."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class _NoAnswer(Exception):
    """Redis cannot be asked."""


class _NotWritten(Exception):
    """The file cannot be written, which its cause says; an `OSError` is the spool's."""


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotWritten from error


class Mover:
    """Takes one part after the other, and empties it into the file, row by row."""

    def __init__(
        self,
        settings: PlumelogSettings,
        directory: SpoolDirectory,
        *,
        complain: Callable[[str], None],
    ) -> None:
        """``complain`` is told of each thing that is wrong."""
        self.moved = Moved()
        self.interrupted = False
        self._settings = settings
        self._directory = directory
        self._complain = complain
        self._letters = DeadLetters(directory.path)
        self._dice = new_dice()
        self._tried: set[str] = set()  # ids of parts
        self._no_answer = False  # by Redis: from here on, what is in doubt stays
        self._written: list[RowKey] = []  # rows that are in the file, and maybe not yet on the disk
        self._booked = Moved()  # what these come to
        self._written_bytes = 0

    async def run(self, records: Records) -> None:
        """Move what is there.

        Raises:
            OSError: the file cannot be written; what was not surely in it is still in the spool.
        """
        self._records = records
        self._heed_interrupts()
        client = AsyncRedisClient(self._settings)
        self._sender = Sender(
            client,
            self._settings.delivery,
            clock=SYSTEM_CLOCK,
            report=lambda _kind, sentence: self._complain(sentence),
        )
        try:
            while not self.interrupted and (part := await self._take()) is not None:
                try:
                    self._recover(part)
                    await self._empty(part)
                finally:
                    part.remove()  # or close it, if anything is left in it
        except _NotWritten as error:
            raise error.__cause__ or error from None
        finally:
            await client.close()

    # ---------------------------------------------------------------- parts

    async def _take(self) -> Part | None:
        for _ in range(_LOOKS):
            part = self._directory.take_free(self._tried)
            if part is not None:
                self._tried.add(part.id)
                if lost := part.take_damaged_records():
                    self._complain(f"{counted(lost, 'record')} in part {part.id} cannot be read")
                for note in part.notes():
                    self._complain(note)
                return part
            survey, mine = self._directory.survey(), self._directory.destination
            if not any(
                info.owner == "dead" and info.destination == mine and info.id not in self._tried
                for info in survey
            ):
                break
            # Somebody who only looked may have held its lock for a moment.
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return None

    def _recover(self, part: Part) -> None:
        """Bring what its dead owner had in memory into the part's rows."""
        try:
            recovery = Recovery(part)
        except OSError as error:
            self._complain(f"part {part.id} cannot be read for journals ({error.strerror})")
            return
        try:
            while recovery:
                found = recovery.step()
                if found.note is not None:
                    self._complain(found.note)
                if found.corrupt:
                    damaged = counted(found.corrupt, "damaged record was", "damaged records were")
                    self._complain(f"{damaged} put into {part.path / 'quarantine'}")
                self.moved.possibly_doubled += found.possibly_doubled
        except SpoolError as error:
            self._complain(str(error))
        finally:
            recovery.close()

    # ---------------------------------------------------------------- rows

    async def _empty(self, part: Part) -> None:
        key, salvaged = None, False
        while not self.interrupted:
            await asyncio.sleep(0)  # an interrupt is heard here
            before = key
            try:
                key = part.peek(key)
                if key is None:
                    break
                await self._move(part, key)
            except CorruptRow:
                assert key is not None
                part.quarantine(key)
                damaged = f"a damaged batch of {counted(key.records, 'record')}"
                self._complain(f"{damaged} was put into {part.path / 'quarantine'}")
            except NewerFormat as error:
                # Not passed by: a later row may be of its lane, which must not be fenced before it.
                self._complain(f"{error}; what is left of part {part.id} needs that version")
                break
            except SpoolDamaged as error:
                if not self._go_on_with_intact(part, error, again=salvaged):
                    break
                key, salvaged = before, True
            except (SpoolError, OSError) as error:
                self._complain(str(error))
                break
        self._let_go(part)

    def _go_on_with_intact(self, part: Part, damage: SpoolDamaged, *, again: bool) -> bool:
        """Once: a disk that damages what was just written anew would go on so for ever."""
        if again:
            self._complain(str(damage))
            return False
        self._let_go(part)
        try:
            lost = part.go_on_with_intact(str(damage))
        except (SpoolError, OSError) as error:
            self._complain(str(error))
            return False
        lost_records = counted(lost, "record is", "records are")
        self._complain(f"{damage}; what is intact is exported, and {lost_records} lost")
        return True

    async def _move(self, part: Part, key: RowKey) -> None:
        booked = Moved()
        batch = part.read(key).batch
        try:
            values = await self._free_of_doubt(batch, booked)
        except _NoAnswer:
            return
        if values:
            booked.batches, booked.records = 1, len(values)
            with _told_apart():
                self._records.write(values)
        self._written.append(key)
        self._written_bytes += batch.size_bytes
        self._booked.add(booked)
        if self._written_bytes >= MAX_BATCH_BYTES:
            self._let_go(part)

    def _let_go(self, part: Part) -> None:
        """Delete from the spool what is in the file."""
        if not self._written:
            return
        with _told_apart():
            self._records.sync()
        keys, self._written, self._written_bytes = self._written, [], 0
        self.moved.add(self._booked)
        self._booked = Moved()
        for key in keys:
            try:
                part.ack(key)
            except (SpoolError, OSError) as error:
                if not self.moved.twice:
                    self._complain(str(error))
                self.moved.twice += key.records

    # ---------------------------------------------------------------- doubt

    async def _free_of_doubt(self, batch: Batch, booked: Moved) -> tuple[bytes, ...]:
        """What of a batch is not in Redis, and cannot come there any more.

        Raises:
            _NoAnswer: that cannot be told now.
        """
        if batch.attempted_by is AttemptedBy.PLAIN:
            booked.possibly_doubled += len(batch.values)
        if batch.attempted_by is not AttemptedBy.SCRIPT:
            return batch.values
        outcome = await self._fence(batch)
        if isinstance(outcome, AlreadyApplied):
            booked.in_redis += len(batch.values)
            return ()
        if outcome.last_found < batch.id.seq:  # it is our fence
            age_ms = SYSTEM_CLOCK.epoch_ms() - batch.last_attempt_ms
            if outcome.last_found == 0 and age_ms > self._settings.lane_ttl_seconds * 1000:
                booked.possibly_doubled += len(batch.values)
            return batch.values
        return await self._behind_a_fence(batch, booked)

    async def _behind_a_fence(self, batch: Batch, booked: Moved) -> tuple[bytes, ...]:
        """Somebody has fenced it before, and may have gone on under its next identities: see `Dissection`."""
        if len(batch.values) == 1:
            if self._letters.has(batch.id):
                booked.dead_letters += 1
                return ()
            return await self._free_of_doubt(replace(batch, id=batch.id.child(1)), booked)
        middle = len(batch.values) // 2
        left: list[bytes] = []
        for number, values in enumerate((batch.values[:middle], batch.values[middle:]), 1):
            half = replace(batch, id=batch.id.child(number), values=values)
            left += await self._free_of_doubt(half, booked)
        return tuple(left)

    async def _fence(self, batch: Batch) -> AlreadyApplied | Fenced:
        settings, attempts = self._settings, 0
        while not (self._no_answer or self.interrupted):
            outcome = await self._sender.fence(batch)
            assert outcome is not None, "what was attempted by a script can be fenced"
            if not isinstance(outcome, Failed):
                return outcome
            attempts += 1
            if outcome.failure.kind is FailureKind.TRANSIENT and attempts <= settings.retry_count:
                base, cap = settings.retry_backoff_base_seconds, settings.retry_backoff_max_seconds
                await asyncio.sleep(full_jitter_delay(attempts, base, cap, self._dice))
                continue
            # Nothing is fenced behind one that stays: Redis would take that one for applied.
            self._no_answer = True
            self._complain(
                f"Redis at {self._directory.destination.server} does not say what it has "
                f"({outcome.failure.detail}); what may be in it stays in the spool"
            )
        raise _NoAnswer

    def _heed_interrupts(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if self.interrupted:
                task.cancel()
            self.interrupted = True

        # Windows has none, and there the plain KeyboardInterrupt must do.
        with suppress(NotImplementedError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, interrupt)
