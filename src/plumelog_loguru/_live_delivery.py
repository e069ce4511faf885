"""The delivery of the head, one step at a time: an attempt, a probe, a division, or the way to the spool.

Promises:

- The journal says which batch is attempted, and how, before it is: after a crash it is repeated as the same.
- An identity is kept over all attempts, and given up only where nobody else can hold it: when another process
  turns out to push in the same lane.
- While an attempt is under way the head may go to the spool. Whatever the answer is, the batch is repeated
  from there, and the answer says something about Redis only.

Assumes that the courier asks for one step after the other, in the loop thread.
"""

from __future__ import annotations

from collections.abc import Callable

from ._batch import AttemptedBy, Batch
from ._clock import Clock
from ._delivery import AlreadyApplied, Failed, Failure, Fenced, LiveLane, Outcome, Sender
from ._dissection import Dissection, Settled
from ._journal import Journals
from ._ledger import Ledger
from ._losses import Losses
from ._on_the_way import Head, OnTheWay
from ._patience import Patience
from ._redis_health import RedisHealth
from ._settings import PlumelogSettings


class LiveDelivery:
    """Takes the head of what is on the way to its place."""

    sender: Sender
    """Of the loop that runs."""

    def __init__(
        self,
        settings: PlumelogSettings,
        *,
        on_the_way: OnTheWay,
        lane: LiveLane,
        journals: Journals,
        ledger: Ledger,
        losses: Losses,
        redis: RedisHealth,
        patience: Patience,
        clock: Clock,
        report: Callable[[str, str], None],
    ) -> None:
        self.settings = settings
        self.in_a_row = 0  # batches that Redis took since a row of the spool went
        self._on_the_way = on_the_way
        self._lane = lane
        self._journals = journals
        self._ledger = ledger
        self._losses = losses
        self._redis = redis
        self._patience = patience
        self._clock = clock
        self._report = report
        self._sending = False  # an attempt is under way

    async def step(self, head: Head) -> None:
        """Do with the head what comes next, now that it is time for it."""
        if head.leaves:
            await self._dissect(head)
        elif head.suspicion.wants_probe:
            await self._probe_for(head)
        else:
            await self._attempt(head)

    # ---------------------------------------------------------------- attempts

    async def _attempt(self, head: Head) -> None:
        if head.tries:
            self._ledger.retries += 1
        repeated = head.batch.attempted_by is not AttemptedBy.NOBODY
        attempted, head.batch = head.batch, self.sender.stamped(head.batch)
        self._journal_cut(head)
        self._sending = True
        try:
            outcome = await self.sender.send(attempted)
        finally:
            self._sending = False
        if self._has_left(head, outcome):
            return
        # The fall-back may have changed how the batch was attempted; stamp what really happened.
        head.batch = self.sender.stamped(attempted)
        head.tries += 1
        if isinstance(outcome, Failed):
            if not outcome.failure.in_doubt and not repeated:
                head.batch = attempted
            self._attempt_failed(head, outcome.failure)
        elif isinstance(outcome, Fenced):
            head.leaves = True  # somebody began to divide it
        else:
            self._attempt_worked(head, outcome, repeated)

    def _has_left(self, head: Head, outcome: object) -> bool:
        """Whether the head went to the spool meanwhile, and is repeated from there."""
        if self._on_the_way.head is head:
            return False
        self._redis.note(outcome.failure) if isinstance(outcome, Failed) else self._redis.took_something()
        return True

    def _journal_cut(self, head: Head) -> None:
        """Write down what is about to be attempted: after a crash it must be repeated as the same."""
        batch = head.batch
        cut = batch.id, batch.attempted_by
        if head.runs and head.journaled_as != cut:
            self._journals.cut(head.runs, *cut, batch.last_attempt_ms)
            head.journaled_as = cut

    def _attempt_worked(self, head: Head, outcome: Outcome, repeated: bool) -> None:
        assert not isinstance(outcome, (Failed, Fenced))
        self._redis.took_something()
        applied_now = not isinstance(outcome, AlreadyApplied)
        if self.sender.delivery == "exactly_once":
            shared = self._lane.acknowledged(
                head.batch.id, found=outcome.last_found, applied_now=applied_now, repeated=repeated
            )
            if shared:
                self._report(
                    "lane-shared",
                    f"another process pushes as this one does (lane {head.batch.id.lane}): was this machine "
                    "copied while it ran? A batch is pushed again in a lane of its own",
                )
                head.batch = Batch(self._lane.next_id(), head.batch.values)
                return
        elif repeated:
            self._ledger.possibly_doubled += head.records
        if not applied_now:
            self._ledger.already_applied += 1
        self._ledger.delivered(head.records)
        self.in_a_row += 1
        self._patience.pressed = False
        self._on_the_way.settled(head)

    def _attempt_failed(self, head: Head, failure: Failure) -> None:
        head.suspicion.attempt_failed(failure)
        if head.suspicion.verdict is not None:
            self._redis.note(failure)
            head.leaves = True
        elif not self._patience.lasts(head, failure):
            if head.suspicion.wants_probe and not self._redis.is_away:
                self._redis.note(failure)
                head.not_before = 0.0  # the probe goes at once
            else:
                self._patience.give_up(failure)

    # ---------------------------------------------------------------- what does not go

    async def _probe_for(self, head: Head) -> None:
        """The head failed, by its own fault or by Redis's: find out which."""
        self._sending = True
        try:
            outcome = await self.sender.probe()
        finally:
            self._sending = False
        if self._has_left(head, outcome):
            return
        if isinstance(outcome, Failed):
            head.suspicion.probe_failed()
            head.tries += 1  # it would have failed as well
            if not self._patience.lasts(head, outcome.failure):
                self._patience.give_up(outcome.failure)
            return
        self._redis.took_something()
        head.suspicion.probe_worked(self.settings.retry_count)
        # Redis is there. Nothing goes on in this lane while the head is in doubt, but in another it does.
        in_the_way = self._patience.is_out and self._on_the_way.keeper.usable
        head.leaves = in_the_way or head.suspicion.verdict is not None

    async def _dissect(self, head: Head) -> None:
        """The head is refused, and there is no spool from which it could be divided beside live traffic."""
        dissection = head.dissection
        if dissection is None:
            self._lane.freeze()
            head.tries = 0
            dissection = head.dissection = Dissection(
                head.batch,
                destination=self.settings.destination,
                retry_count=self.settings.retry_count,
                clock=self._clock,
                lane_ttl_seconds=self.settings.lane_ttl_seconds,
                kept=False,
            )
            if head.suspicion.verdict is not None:
                dissection.condemn(head.suspicion.verdict)
        step = await dissection.step(self.sender, self._on_the_way.keeper)
        head.batch = dissection.stamp
        if isinstance(step, Settled):
            self._book(step)
            self._on_the_way.settled(head)
        else:
            head.tries, pause = self._patience.judged(step, head.tries)
            head.not_before = self._clock.monotonic() + pause

    def _book(self, settled: Settled) -> None:
        """A batch that was divided in memory is settled."""
        ledger = self._ledger
        ledger.delivered(settled.delivered)
        ledger.dead_lettered(len(settled.letters), None)
        ledger.already_applied += settled.already_applied
        ledger.possibly_doubled += settled.possibly_doubled
        self._losses.put_aside(settled.letters, self.settings.spool_dir)
        if settled.dropped:
            ledger.dropped(len(settled.dropped), "refused")
            self._report(
                "refused-dropped",
                f"Redis refuses records ({settled.dropped[0]}), and there is no spool directory to keep them",
            )
            self._losses.lost(len(settled.dropped), "refused")

    # ---------------------------------------------------------------- to the spool

    def spill(self, head: Head) -> bool:
        """Give the head to the spool under its identity; its lane is never used again. False: no room now."""
        if not self._on_the_way.keeper.has_room():
            return False
        self._give_to_spool(head)
        return True

    def relieve_journal(self) -> None:
        """What waits for its answer keeps the journal from freeing the room of all that came after it."""
        head = self._on_the_way.head
        if self._sending and head is not None and self._journals.half_full and self._on_the_way.keeper.usable:
            self._give_to_spool(head)

    def _give_to_spool(self, head: Head) -> None:
        self._on_the_way.give_to_spool(head)
        self._patience.pressed = False
