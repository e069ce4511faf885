"""What ended processes left goes to Redis, exactly once, beside those that live.

Promises:

- only parts that nobody owns, and that are meant for the configured destination, are touched;
- a part is owned while it is drained: other drains and starting sinks share the work, and never a row;
- it may be killed at any moment: a row is deleted once Redis has it, and else repeated under its identity;
- a record that Redis refuses does not hold up the others: it is put into the dead letters, and told;
- an interrupt lets the batch in flight come to its end, so that nothing is in doubt; a second does not wait.

Everything happens in one thread: nobody is kept waiting while a row is read from the disk.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from .._batch import AttemptedBy, Batch
from .._clock import SYSTEM_CLOCK
from .._delivery import (
    AsyncRedisClient,
    Failed,
    FailureKind,
    Sender,
    full_jitter_delay,
    import_redis,
    new_dice,
)
from .._dissection import Settled, Suspected
from .._ledger import Ledger
from .._replayer import Replayer
from .._settings import PlumelogSettings
from .._spool import (
    CorruptRow,
    DeadLetters,
    NewerFormat,
    Part,
    PartInfo,
    Recovery,
    RowKey,
    SpoolDamaged,
    SpoolDirectory,
    SpooledRow,
    SpoolError,
)

Tell = Callable[[str], None]

_LOOKS = 5
_LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to, in records unless said otherwise."""

    delivered: int
    already_applied: int  # batches
    dead_lettered: int
    remaining: int  # of the configured destination, or of one that cannot be told, and nobody's
    elsewhere: int  # of other destinations, and nobody's
    living: int  # of the configured destination, and a living process's
    seconds: float
    wrong: bool  # something went wrong, and was told
    interrupted: bool

    def to_json(self) -> dict[str, int | float]:
        """What ``--json`` prints."""
        return {
            "delivered": self.delivered,
            "already_applied": self.already_applied,
            "dead_lettered": self.dead_lettered,
            "remaining": self.remaining,
            "elsewhere": self.elsewhere,
            "seconds": round(self.seconds, 3),
        }


def drain(
    settings: PlumelogSettings,
    directory: SpoolDirectory,
    *,
    limit: int | None,
    dry_run: bool,
    tell: Tell,
    progress: Tell,
) -> Drained:
    """Deliver the free parts of the configured destination.

    Args:
        settings: the destination, and how to deliver.
        directory: the spool directory.
        limit: stop once this many records are delivered; None: deliver all.
        dry_run: deliver nothing, and change nothing.
        tell: told, in a sentence, of each thing that a person should know.
        progress: told, in a sentence, how far it has come.

    Raises:
        SpoolError: the directory is missing, or cannot be used.
    """
    started = SYSTEM_CLOCK.monotonic()
    waiting = sum(part.records for part in directory.survey() if _is_left(part, directory))
    drainer = Drainer(settings, directory, waiting=waiting, limit=limit, tell=tell, progress=progress)
    if not dry_run:
        directory.open()
        directory.clear_leftovers()
        import_redis()
        with suppress(asyncio.CancelledError):  # interrupted twice
            asyncio.run(drainer.run())
        for note in directory.notes():
            tell(note)
    parts = directory.survey()
    for part in parts:
        if part.problem is not None and (part.owner == "dead" or part.forbidden):
            drainer.complain(part.problem)
    elsewhere = directory.elsewhere()
    for destination, records in elsewhere.items():
        tell(
            f"{records} records are meant for {destination}; drain them with the settings of that destination"
        )
    ledger = drainer.ledger
    return Drained(
        delivered=ledger.settled.delivered,
        already_applied=ledger.already_applied,
        dead_lettered=ledger.settled.dead_lettered,
        remaining=sum(part.records for part in parts if _is_left(part, directory)),
        elsewhere=sum(elsewhere.values()),
        living=sum(
            part.records
            for part in parts
            if part.owner == "live" and part.destination == directory.destination
        ),
        seconds=SYSTEM_CLOCK.monotonic() - started,
        wrong=drainer.wrong,
        interrupted=drainer.interrupted,
    )


def _is_left(part: PartInfo, directory: SpoolDirectory) -> bool:
    """Whether what the part holds is ours to deliver."""
    return part.owner == "dead" and part.destination in (None, directory.destination)


class Drainer:
    """Takes one part after the other, and delivers it row by row."""

    def __init__(
        self,
        settings: PlumelogSettings,
        directory: SpoolDirectory,
        *,
        waiting: int,
        limit: int | None,
        tell: Tell,
        progress: Tell,
    ) -> None:
        self.ledger = Ledger()
        self.wrong = False
        self.interrupted = False
        self._settings = settings
        self._directory = directory
        self._waiting = waiting
        self._limit = limit
        self._tell = tell
        self._progress = progress
        self._dice = new_dice()
        self._letters = DeadLetters(directory.path, fsync=settings.spool_fsync)
        self._reasons: set[str] = set()  # for which records became dead letters
        self._failures = 0  # in a row
        self._tried: set[str] = set()  # ids of parts
        self._not_before = 0.0  # monotonic seconds; what the rate allows

    def complain(self, sentence: str) -> None:
        """Tell of something that is wrong."""
        self.wrong = True
        self._tell(sentence)

    async def run(self) -> None:
        """Deliver until nothing is left, the limit is reached, Redis does not take more, or an interrupt."""
        self._stop = asyncio.Event()
        self._heed_interrupts()
        client = AsyncRedisClient(self._settings)
        sender = Sender(
            client,
            self._settings.delivery,
            clock=SYSTEM_CLOCK,
            report=lambda _kind, sentence: self._tell(sentence),
        )
        try:
            while not self._stop.is_set() and (part := await self._take()) is not None:
                try:
                    await self._drain(part, sender)
                finally:
                    part.remove()  # or close it, if anything is left in it
        finally:
            await client.close()
        if refused := self.ledger.settled.dead_lettered:
            reasons = "; ".join(sorted(self._reasons))
            self.complain(f"{refused} records are refused by Redis ({reasons}): see {self._letters.path}")
        if self.ledger.possibly_doubled:
            self._tell(f"{self.ledger.possibly_doubled} of the records may be in Redis twice")

    async def _take(self) -> Part | None:
        for _ in range(_LOOKS):
            part = self._directory.take_free(exclude=self._tried)
            if part is not None:
                self._tried.add(part.id)
                lost = part.take_damaged_records()
                self.ledger.adopted(part.id, part.records + lost)
                if lost:
                    self.ledger.spool_lost(part.id, lost, "corrupt")
                for note in part.notes():
                    self.complain(note)
                return part
            survey = self._directory.survey()
            if not any(_is_left(info, self._directory) and info.id not in self._tried for info in survey):
                break
            # Somebody who only looked may have held its lock for a moment.
            await self._pause(_LOOK_AGAIN_SECONDS)
        return None

    async def _drain(self, part: Part, sender: Sender) -> None:
        settings = self._settings
        rows = _PartRows(part, self._letters, self.ledger, self.complain)
        replayer = Replayer(
            rows,
            sender,
            ledger=self.ledger,
            clock=SYSTEM_CLOCK,
            destination=self._directory.destination,
            retry_count=settings.retry_count,
            lane_ttl_seconds=settings.lane_ttl_seconds,
        )
        self._recover(part)
        self._failures = 0
        while (row := await replayer.fetch()) is not None:
            await self._pause(self._not_before - SYSTEM_CLOCK.monotonic())
            if self._stop.is_set():
                return
            began = SYSTEM_CLOCK.monotonic()
            step = await replayer.deliver(row)
            if isinstance(step, Settled):
                self._failures = 0
                self._reasons.update(step.letters)
                self._note_delivered(row, began)
            elif isinstance(step, (Failed, Suspected)):
                self._note_failed(step)
            else:
                self._failures = 0

    def _recover(self, part: Part) -> None:
        """Bring what its dead owner had in memory into the part's rows."""
        recovery = Recovery(part)
        try:
            while recovery:
                found = recovery.step()
                if found.note is not None:
                    self.complain(found.note)
                if found.corrupt:
                    self.complain(f"{found.corrupt} damaged records were put into {part.path / 'quarantine'}")
                self.ledger.adopted(part.id, found.records)
                self.ledger.spool_lost(part.id, found.corrupt, "corrupt")
                self.ledger.possibly_doubled += found.possibly_doubled
        except SpoolError as error:
            self.complain(f"{error}; drain again when it can be written")

    def _note_failed(self, step: Failed | Suspected) -> None:
        settings, failure = self._settings, step.failure
        if failure.kind is FailureKind.REFUSED:
            return  # the next step is another one
        self._failures += 1
        lasts = failure.kind is not FailureKind.TRANSIENT or self._failures > settings.retry_count
        if lasts and isinstance(step, Failed):
            server = self._directory.destination.server
            self.complain(f"Redis at {server} does not take records ({failure.detail})")
            self._stop.set()
        self._not_before = SYSTEM_CLOCK.monotonic() + full_jitter_delay(
            step.strikes + 1 if isinstance(step, Suspected) else self._failures,
            settings.retry_backoff_base_seconds,
            settings.retry_backoff_max_seconds,
            self._dice,
        )

    def _note_delivered(self, row: SpooledRow, began: float) -> None:
        delivered = self.ledger.settled.delivered
        self._progress(f"{delivered} of {self._waiting} records delivered")
        if self._settings.replay_rate:
            self._not_before = began + row.records / self._settings.replay_rate
        if self._limit is not None and delivered >= self._limit:
            self._stop.set()

    def _heed_interrupts(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if self._stop.is_set():
                task.cancel()
            else:
                self._tell("stopping after the batch in flight; interrupt again to stop at once")
            self.interrupted = True
            self._stop.set()

        # Windows has none, and there the plain KeyboardInterrupt must do.
        with suppress(NotImplementedError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, interrupt)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the stop."""
        if seconds > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)


class _PartRows:
    """The rows of one part, read when they are asked for. What cannot be read ends them, and is told."""

    def __init__(self, part: Part, letters: DeadLetters, ledger: Ledger, complain: Tell) -> None:
        self._part = part
        self._letters = letters
        self._ledger = ledger
        self._complain = complain
        self._cursor: RowKey | None = None
        self._ended = False
        self._salvaged = False
        self._told: set[str] = set()

    def request_row(self, give: Callable[[SpooledRow | None], None], *, attempted_by: AttemptedBy) -> None:
        """Give the next row, or None."""
        give(None if self._ended else self._next(attempted_by))

    def acknowledge(self, row: SpooledRow) -> None:
        """Delete a row that Redis has."""
        self._try(
            lambda: self._part.ack(row.key),
            "a batch that Redis has could not be removed from the spool",
            "; drain again when it can be written: Redis takes no batch twice",
        )

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        """Write on a row that it was attempted, and when."""
        self._try(lambda: self._part.replace(row.key, batch), "a batch in doubt could not be marked")

    def leave(self, row: SpooledRow) -> None:
        """A row cannot be settled: it stays, and has been told of."""

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        """Give what ``work`` gives; None if it fails."""
        answer: list[bool] = []
        self._try(lambda: answer.append(work(self._letters)), "a record that Redis refuses stays spooled")
        give(answer[0] if answer else None)

    def _next(self, attempted_by: AttemptedBy) -> SpooledRow | None:
        part, before = self._part, self._cursor
        try:
            while (key := part.peek(self._cursor)) is not None:
                self._cursor = key
                try:
                    return SpooledRow(part.id, 0, key, part.hand_out(key, attempted_by))
                except CorruptRow:
                    part.quarantine(key)
                    self._ledger.spool_lost(part.id, key.records, "corrupt")
                    self._complain(
                        f"a damaged batch of {key.records} records was put into {part.path / 'quarantine'}"
                    )
        except NewerFormat as error:
            # Not passed by: a later row may be of its lane, and would make Redis take it for applied.
            self._complain(f"{error}; what is left of part {part.id} needs that version")
        except SpoolDamaged as error:
            if self._go_on_with_intact(error):
                self._cursor = before
                return self._next(attempted_by)
        except (SpoolError, OSError) as error:
            self._complain(str(error))
        self._ended = True
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
        self._ledger.spool_lost(self._part.id, lost, "corrupt")
        self._complain(f"{damage}; what is intact is delivered, and {lost} records are lost")
        return True

    def _try(self, write: Callable[[], None], otherwise: str, cure: str = "") -> None:
        try:
            write()
        except (SpoolError, OSError) as error:
            sentence = f"{otherwise}: {error}{cure}"
            if sentence not in self._told:  # on a full disk it is the same for every row
                self._told.add(sentence)
                self._complain(sentence)
