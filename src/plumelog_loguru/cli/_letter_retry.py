"""Dead letters are sent once more, each under the identity that follows from its own.

Promises:

- A letter is removed once Redis has its record, and else stays: killed anywhere, nothing is lost.
- Redis takes the record once, however often it is retried and by whomever, for as long as it remembers the
  lane. Where records are pushed plainly it may be doubled, and is counted so, also by a later retry: the
  letter itself says that it may be in Redis, from before the first such push on.
- Redis being away is no reason to call a record refused: a probe tells the one from the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from .._batch import AttemptedBy, Batch
from .._clock import SYSTEM_CLOCK
from .._delivery import (
    AlreadyApplied,
    AsyncRedisClient,
    Failed,
    FailureKind,
    Fenced,
    Healthy,
    Sender,
    full_jitter_delay,
    new_dice,
)
from .._settings import PlumelogSettings
from .._spool import DeadLetter, DeadLetters, SpoolError
from ._letters import Seen, look_at


class Retry:
    """Sends letters to the configured list, one after the other."""

    def __init__(self, settings: PlumelogSettings, letters: DeadLetters, tell: Callable[[str], None]) -> None:
        self.possibly_doubled = 0  # records
        self._settings = settings
        self._letters = letters
        self._tell = tell
        self._away = False
        self._in_hand: DeadLetter | None = None
        self._dice = new_dice()

    async def run(self, names: Sequence[str]) -> list[Seen]:
        """Send these, and say what became of each."""
        client = AsyncRedisClient(self._settings)
        self._sender = Sender(
            client,
            self._settings.delivery,
            clock=SYSTEM_CLOCK,
            report=lambda _kind, sentence: self._fell_back(sentence),
        )
        try:
            return [await self._retry(name) for name in names]
        finally:
            await client.close()

    async def _retry(self, name: str) -> Seen:
        seen, letter = look_at(self._letters, name)
        if letter is None:
            return seen.became("failed", seen.problem)
        if letter.destination != self._settings.destination:
            return seen.became("elsewhere")
        if self._away:
            return seen.became("untried")
        try:
            return await self._deliver(seen, letter)
        except SpoolError as error:
            return seen.became("failed", str(error))

    async def _deliver(self, seen: Seen, letter: DeadLetter) -> Seen:
        self._in_hand = letter
        if self._sender.delivery == "at_least_once":
            self._mark()
        settings, batch, failures = self._settings, Batch(letter.id.child(1), (letter.value,)), 0
        while True:
            outcome = await self._sender.send(batch)
            while isinstance(outcome, Fenced):
                # An owner that had not forgotten the record yet went on with it, and gave it up once more.
                if self._letters.has(batch.id):
                    self._letters.remove(seen.name)
                    return seen.became("refused", f"{seen.name} has become another letter")
                batch = replace(batch, id=batch.id.child(1))
                outcome = await self._sender.send(batch)
            if not isinstance(outcome, Failed):
                if letter.may_be_there or batch.attempted_by is AttemptedBy.PLAIN:
                    self.possibly_doubled += 1
                self._letters.remove(seen.name)
                had = isinstance(outcome, AlreadyApplied)
                return seen.became("already_delivered" if had else "delivered")
            if outcome.failure.in_doubt:
                batch = self._sender.stamped(batch)
            failures += 1
            if outcome.failure.kind is not FailureKind.TRANSIENT or failures > settings.retry_count:
                in_doubt = letter.may_be_there or batch.attempted_by is AttemptedBy.PLAIN
                return self._with_doubt(await self._judged(seen, outcome), letter, in_doubt=in_doubt)
            base, cap = settings.retry_backoff_base_seconds, settings.retry_backoff_max_seconds
            await asyncio.sleep(full_jitter_delay(failures, base, cap, self._dice))

    async def _judged(self, seen: Seen, outcome: Failed) -> Seen:
        """What a failure means that does not go away: the record is refused, or Redis is away."""
        reason = outcome.failure.detail
        if outcome.failure.kind is not FailureKind.REFUSED:
            probed = await self._sender.probe()
            if not isinstance(probed, Healthy) or outcome.failure.kind is FailureKind.OPERATOR:
                self._away = True
                self._tell(f"Redis at {self._settings.destination.server} does not take records ({reason})")
                return seen.became("untried")
        return seen.became("refused", f"Redis refuses {seen.name} again ({reason})")

    # ---------------------------------------------------------------- doubt

    def _fell_back(self, sentence: str) -> None:
        """The letter in hand goes plainly, from here on."""
        self._tell(sentence)
        self._mark()

    def _mark(self) -> None:
        """Note in the letter in hand that Redis may have its record: who is killed cannot say so later."""
        if self._in_hand is not None and not self._in_hand.may_be_there:
            self._letters.write(replace(self._in_hand, may_be_there=True))

    def _with_doubt(self, seen: Seen, letter: DeadLetter, *, in_doubt: bool) -> Seen:
        """Tell of the doubt in which a letter stays; and have it say so, or no longer."""
        if not in_doubt:
            if self._sender.delivery == "at_least_once":
                self._letters.write(letter)
            return seen
        doubt = "may be in Redis already, and another retry may double it"
        problem = f"{seen.name} {doubt}" if seen.problem is None else f"{seen.problem}; it {doubt}"
        return replace(seen, may_be_there=True, problem=problem)
