"""What ended processes left goes to Redis, exactly once, beside those that live.

Promises:

- only parts that nobody owns, and that are meant for a destination that was asked for, are touched;
- a part is owned while it is drained: other drains and starting sinks share the work, and never a row;
- it may be killed at any moment: a row is deleted once Redis has it, and else repeated under its identity;
- a record that Redis refuses does not hold up the others: it is put into the dead letters, and told;
- an interrupt lets the batch in flight come to its end, so that nothing is in doubt; a second does not wait.
  One that follows does not wait longer than half a second: somebody has it ended.

The thread of the loop speaks to Redis, and keeps the accounts. All parts are opened, read and written in one
other thread, so that the disk works while Redis does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from .._clock import SYSTEM_CLOCK
from .._delivery import AsyncRedisClient, Failed, FailureKind, Sender, full_jitter_delay, new_dice
from .._dissection import Settled, Suspected
from .._ledger import Ledger
from .._replayer import Replayer
from .._settings import PlumelogSettings
from .._spool import (
    DeadLetters,
    Part,
    PartInfo,
    Recovery,
    SpoolDirectory,
    SpooledRow,
    SpoolError,
    SpoolFull,
    readdress,
)
from ._command import counted
from ._part_rows import PartRows, Tell
from ._progress import Progress
from ._selection import Selection

_T = TypeVar("_T")

_LOOKS = 5
_LOOK_AGAIN_SECONDS = 0.05
_FOLLOW_SECONDS = 1.0  # between two looks for what a process that has ended left
_RETRY_PART_SECONDS = 60.0  # after which a part is tried again that could not be emptied
_GRACE_SECONDS = 0.5  # for the batch in flight, when one that follows is to end


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be drained, and until when."""

    selection: Selection
    limit: int | None = None  # stop once this many records are delivered; None: deliver all
    follow: bool = False  # wait for more where nothing is left

    def is_left(self, part: PartInfo) -> bool:
        """Whether what the part holds is to be delivered: nobody's, and for us as far as can be told."""
        if part.owner != "dead":
            return False
        return part.destination in (None, self.selection.configured) or self.selection.includes(part)


class Drainer:
    """Takes one part after the other, and delivers it row by row."""

    def __init__(
        self,
        settings: PlumelogSettings,
        directory: SpoolDirectory,
        order: Order,
        *,
        waiting: dict[str, int],
        tell: Tell,
        progress: Progress,
    ) -> None:
        """``waiting`` says how many records each part is known to hold; the progress is reckoned by it."""
        self.ledger = Ledger()
        self.wrong = False
        self.signalled: signal.Signals | None = None
        self._settings = settings
        self._directory = directory
        self._order = order
        self._waiting = waiting
        self._tell = tell
        self._progress = progress
        self._dice = new_dice()
        self._letters = DeadLetters(directory.path, fsync=settings.spool_fsync)
        self._reasons: set[str] = set()  # for which records became dead letters
        self._told: set[str] = set()
        self._failures = 0  # in a row
        self._away = False  # Redis, and that was told
        self._leave_until: dict[str, float] = {}  # by part, monotonic seconds
        self._not_before = 0.0  # monotonic seconds; what the rate allows

    def complain(self, sentence: str) -> None:
        """Tell of something that is wrong; once, for one that follows meets it again and again."""
        self.wrong = True
        if sentence not in self._told:
            self._told.add(sentence)
            self._tell(sentence)

    def tell_notes(self) -> None:
        """Tell what the directory has found, once."""
        for note in self._directory.notes():
            if note not in self._told:
                self._told.add(note)
                self._tell(note)

    async def run(self) -> None:
        """Deliver until nothing is left, the limit is reached, Redis does not take more, or an interrupt."""
        self._stop = asyncio.Event()
        self._heed_signals()
        client = AsyncRedisClient(self._settings)
        sender = Sender(
            client,
            self._settings.delivery,
            clock=SYSTEM_CLOCK,
            report=lambda _kind, sentence: self._tell(sentence),
        )
        try:
            if self._order.follow:
                self._tell(f"following {self._directory.path}, for {self._directory.destination}")
            with ThreadPoolExecutor(1, "plumelog-disk") as self._disk:
                while not self._stop.is_set():
                    part = await self._take()
                    if part is not None:
                        await self._drain(part, sender)
                    elif self._order.follow and self._directory.adopts:
                        self.tell_notes()
                        await self._pause(_FOLLOW_SECONDS)
                    else:
                        break
        finally:
            await client.close()
        if refused := self.ledger.settled.dead_lettered:
            reasons = "; ".join(sorted(self._reasons))
            records = counted(refused, "record is", "records are")
            self.complain(f"{records} refused by Redis ({reasons}): see {self._letters.path}")
        if self.ledger.possibly_doubled:
            self._tell(f"{self.ledger.possibly_doubled} of the records may be in Redis twice")

    async def _on_disk(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work)

    # ---------------------------------------------------------------- parts

    async def _take(self) -> Part | None:
        now = SYSTEM_CLOCK.monotonic()
        self._leave_until = {part_id: until for part_id, until in self._leave_until.items() if until > now}
        also = self._order.selection.names
        for _ in range(_LOOKS):
            part = await self._on_disk(partial(self._directory.take_free, self._leave_until, also=also))
            if part is not None:
                again = now + _RETRY_PART_SECONDS if self._order.follow else float("inf")
                self._leave_until[part.id] = again
                return part
            if self._order.follow or not await self._on_disk(self._is_any_left):
                break
            # Somebody who only looked may have held its lock for a moment.
            await self._pause(_LOOK_AGAIN_SECONDS)
        return None

    def _is_any_left(self) -> bool:
        with suppress(SpoolError):  # which the last look tells
            survey = self._directory.survey()
            return any(self._order.is_left(info) and info.id not in self._leave_until for info in survey)
        return False

    async def _drain(self, part: Part, sender: Sender) -> None:
        self._waiting.pop(part.id, None)
        try:
            recovery = Recovery(part)
        except OSError as error:
            self.complain(f"part {part.id} cannot be read for journals ({error.strerror})")
            await self._on_disk(part.close)
            return
        lost = part.take_damaged_records()
        self.ledger.adopted(part.id, part.records + lost)
        if lost:
            self.ledger.spool_lost(part.id, lost, "corrupt")
        for note in part.notes():
            self.complain(note)
        settled = self.ledger.settled
        self._progress(settled.delivered, settled.delivered + settled.spooled + sum(self._waiting.values()))
        before = settled.delivered
        try:
            # It books and tells as this thread does, which waits for it.
            while await self._on_disk(partial(self._prepare, part, recovery)):
                await self._deliver(part, sender)
                if not recovery or not part.empty:
                    break
        finally:
            await self._on_disk(partial(self._let_go, part, recovery))
            if self._order.follow and (came := self.ledger.settled.delivered - before):
                self._tell(f"part {part.id}: {counted(came, 'record')} delivered")
            self.ledger.adopted(part.id, -self.ledger.settled.spooled_by_part.get(part.id, 0))

    def _let_go(self, part: Part, recovery: Recovery) -> None:
        recovery.close()
        part.remove()  # or close it, if anything is left in it

    def _prepare(self, part: Part, recovery: Recovery) -> bool:
        """Have all of a part in its rows, and meant for our destination. Whether it can be delivered.

        Where the disk is full, as much as it takes: once that is delivered, there is room for more.
        """
        try:
            while recovery and not self._stop.is_set():
                found = recovery.step()
                if found.note is not None:
                    self.complain(found.note)
                if found.corrupt:
                    damaged = counted(found.corrupt, "damaged record was", "damaged records were")
                    self.complain(f"{damaged} put into {part.path / 'quarantine'}")
                self.ledger.adopted(part.id, found.records)
                self.ledger.spool_lost(part.id, found.corrupt, "corrupt")
                self.ledger.possibly_doubled += found.possibly_doubled
        except SpoolError as error:
            if part.empty or not isinstance(error, SpoolFull):
                self.complain(f"{error}; drain again when it can be written")
            if part.empty:
                return False
        if part.destination != self._directory.destination:
            try:
                readdress(part, self._directory.destination, is_stopped=self._stop.is_set)
            except SpoolError as error:
                self.complain(str(error))
        part.expect_emptying()
        return part.destination == self._directory.destination

    # ---------------------------------------------------------------- rows

    async def _deliver(self, part: Part, sender: Sender) -> None:
        settings = self._settings
        rows = PartRows(part, self._letters, self.ledger, self.complain, self._disk)
        replayer = Replayer(
            rows,
            sender,
            ledger=self.ledger,
            clock=SYSTEM_CLOCK,
            destination=self._directory.destination,
            retry_count=settings.retry_count,
            lane_ttl_seconds=settings.lane_ttl_seconds,
        )
        self._failures = 0
        try:
            while not (self._stop.is_set() or sender.knows_how):
                await self._find_out_how(sender)
            while not self._stop.is_set():
                row = await replayer.fetch()
                if row is None and rows.ended:
                    break
                await self._pause(self._not_before - SYSTEM_CLOCK.monotonic())
                if row is not None and not self._stop.is_set():
                    await self._step(replayer, row)
        finally:
            await rows.written()

    async def _find_out_how(self, sender: Sender) -> None:
        """Before a row is marked as attempted: whether there are scripts."""
        await self._pause(self._not_before - SYSTEM_CLOCK.monotonic())
        if not self._stop.is_set() and isinstance(outcome := await sender.probe(), Failed):
            self._note_failed(outcome)

    async def _step(self, replayer: Replayer, row: SpooledRow) -> None:
        began = SYSTEM_CLOCK.monotonic()
        step = await replayer.deliver(row)
        if isinstance(step, (Failed, Suspected)):
            self._note_failed(step)
            return
        self._failures = 0
        if isinstance(step, Settled):
            self._note_letters(step.letters)
            self._note_delivered(row, began)

    def _note_failed(self, step: Failed | Suspected) -> None:
        settings, failure = self._settings, step.failure
        if failure.kind is FailureKind.REFUSED:
            return  # the next step is another one
        self._failures += 1
        lasts = failure.kind is not FailureKind.TRANSIENT or self._failures > settings.retry_count
        if lasts and isinstance(step, Failed):
            sentence = (
                f"Redis at {self._directory.destination.server} does not take records ({failure.detail})"
            )
            if not self._order.follow:
                self.complain(sentence)
                self._stop.set()
            elif not self._away:
                self._away = True
                self._tell(f"{sentence}; it is tried again")
        self._not_before = SYSTEM_CLOCK.monotonic() + full_jitter_delay(
            step.strikes + 1 if isinstance(step, Suspected) else self._failures,
            settings.retry_backoff_base_seconds,
            settings.retry_backoff_max_seconds,
            self._dice,
        )

    def _note_letters(self, reasons: tuple[str, ...]) -> None:
        new = set(reasons) - self._reasons
        self._reasons |= new
        if new and self._order.follow:  # else it is told at the end, which is near
            self._tell(f"records are refused by Redis ({'; '.join(sorted(new))}): see {self._letters.path}")

    def _note_delivered(self, row: SpooledRow, began: float) -> None:
        settled = self.ledger.settled
        if self._away:
            self._away = False
            self._tell("Redis takes records again")
        expected = settled.delivered + settled.spooled + sum(self._waiting.values())
        self._progress(settled.delivered, expected)
        if self._settings.replay_rate:
            self._not_before = began + row.records / self._settings.replay_rate
        if self._order.limit is not None and settled.delivered >= self._order.limit:
            self._stop.set()

    # ---------------------------------------------------------------- ending

    def _heed_signals(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: signal.Signals) -> None:
            if self.signalled is not None:
                task.cancel()
            elif self._order.follow:
                loop.call_later(_GRACE_SECONDS, task.cancel)
            else:
                self._tell("stopping after the batch in flight; interrupt again to stop at once")
            self.signalled = number
            self._stop.set()

        # Windows has none, and there the plain KeyboardInterrupt must do.
        with suppress(NotImplementedError, RuntimeError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, end, number)

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the stop."""
        if seconds > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), seconds)
