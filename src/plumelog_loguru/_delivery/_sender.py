"""One attempt to deliver a batch, by the idempotent script or, where there are no scripts, plainly.

Falling back to plain pushes is a loss of a promise, so it is taken only before the first scripted push of
this process has worked, only when the server says in so many words that it has no scripts, and never for a
batch that a script may have applied already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from .._batch import AttemptedBy, Batch
from .._clock import Clock
from ._acknowledged import Acknowledged
from ._client import AsyncRedisClient
from ._outcomes import AlreadyApplied, Applied, Failed, Fenced, Healthy

Outcome = Applied | AlreadyApplied | Fenced | Failed


class Sender:
    """Sends batches in the way that this sink may."""

    def __init__(
        self,
        client: AsyncRedisClient,
        delivery: Literal["exactly_once", "at_least_once"],
        *,
        clock: Clock,
        report: Callable[[str, str], None],
        acknowledged: Acknowledged | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            client: makes the calls.
            delivery: how batches are to go.
            clock: stamps attempts.
            report: ``report(kind, sentence)`` tells a person about the fall-back.
            acknowledged: hears what Redis has taken; None where nobody wants to know what it then forgets.
        """
        self.delivery: Literal["exactly_once", "at_least_once"] = delivery
        self._client = client
        self._clock = clock
        self._report = report
        self._acknowledged = acknowledged
        self._scripts_have_worked = False

    @property
    def knows_how(self) -> bool:
        """Whether it is settled in which way batches go: scripts have worked, or are not used.

        Until then nothing should be marked as attempted by a script: the first answer may lead to plain
        pushes.
        """
        return self._scripts_have_worked or self.delivery == "at_least_once"

    @property
    def attempts_by(self) -> AttemptedBy:
        """How a batch is attempted now that never was."""
        return AttemptedBy.SCRIPT if self.delivery == "exactly_once" else AttemptedBy.PLAIN

    def stamped(self, batch: Batch) -> Batch:
        """The batch as it is once it has been attempted now: in doubt, and since when."""
        # What a script may have done stays in doubt, whatever was not tried since.
        scripted = self.delivery == "exactly_once" or batch.attempted_by is AttemptedBy.SCRIPT
        by = AttemptedBy.SCRIPT if scripted else AttemptedBy.PLAIN
        return replace(batch, attempted_by=by, last_attempt_ms=self._clock.epoch_ms())

    async def send(self, batch: Batch) -> Outcome:
        """Make one attempt. ``batch.attempted_by`` says what earlier attempts may have done."""
        in_doubt = batch.attempted_by is AttemptedBy.SCRIPT
        if in_doubt or self.delivery == "exactly_once":
            outcome = await self._client.send_batch(batch)
            fell_back = self.delivery == "exactly_once" and self._may_fall_back(outcome)
            if in_doubt or not fell_back:
                self._remember(batch, outcome)
                return outcome
        return await self._client.push_plain(batch.values)

    async def hang_up(self) -> None:
        """Let the next request go over a connection of its own."""
        await self._client.hang_up()

    async def fence(self, batch: Batch) -> AlreadyApplied | Fenced | Failed | None:
        """Take the batch's identity out of use; None where it went plainly, and there is nothing to fence."""
        if self.delivery == "exactly_once" or batch.attempted_by is AttemptedBy.SCRIPT:
            return await self._client.fence(batch.id)
        return None

    async def recount(self) -> Failed | None:
        """Ask what Redis still knows of what it acknowledged; not all of it was asked for if that fails."""
        acknowledged = self._acknowledged
        if acknowledged is None:
            return None
        for lane in acknowledged.lanes():
            last = await self._client.last_of(lane)
            if isinstance(last, Failed):
                return last
            acknowledged.found(lane, last)
        return None

    async def probe(self) -> Healthy | Failed:
        """Try the write path when there is nothing to send."""
        outcome = await self._client.health_check()
        if self.delivery == "exactly_once" and self._may_fall_back(outcome):
            return await self._client.health_check()
        return outcome

    def _remember(self, batch: Batch, outcome: Outcome) -> None:
        if self._acknowledged is None:
            return
        if isinstance(outcome, Applied):
            self._acknowledged.applied(batch.id, len(batch.values), outcome.last_found)
        elif isinstance(outcome, AlreadyApplied):
            self._acknowledged.known(batch.id, len(batch.values))

    def _may_fall_back(self, outcome: Outcome | Healthy) -> bool:
        if not isinstance(outcome, Failed):
            self._scripts_have_worked = True
            return False
        if self._scripts_have_worked or not outcome.failure.scripting_unavailable:
            return False
        self.delivery = "at_least_once"
        self._client.scripted = False
        self._report(
            "no-scripts",
            f"the server allows no scripts ({outcome.failure.detail}); records are pushed plainly, at least "
            "once, until the user may run EVAL and EVALSHA and the sink is started again",
        )
        return True
