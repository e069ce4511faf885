"""The courier: the one task that decides what goes to Redis next, and what goes to the disk instead.

A record's road forks here and nowhere else:

- Redis answers: the queue's content goes as one batch, one in flight, under the live lane's next identity;
  where nothing is due, or after ten live batches in a row, a row of the spool goes.
- An attempt fails: again, with exponential backoff and full jitter, under the same identity. When the retries
  are exhausted, or the queue is under pressure, or the sink is closing, the batch goes to the spool with its
  identity, its lane is frozen, and Redis counts as away.
- Redis is away: what is due goes straight to the spool, and one attempt is made whenever a probe is due. The
  probe is the next waiting row itself; a lane makes that harmless. The first success ends it.
- There is no spool: the batch stays in memory, and is the probe.

Everything here runs in the loop thread, so nothing needs a lock. `_step` looks at the state and does one
thing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence

from ._batch import MAX_BATCH_BYTES, AttemptedBy, Batch
from ._clock import Clock
from ._delivery import (
    AlreadyApplied,
    Failed,
    Failure,
    FailureKind,
    Fenced,
    LiveLane,
    Outcome,
    Sender,
    full_jitter_delay,
    new_dice,
)
from ._dissection import Dissection, Onward, Settled, Step, Stuck, Suspected, Waiting
from ._handoff import Batcher, HandOff
from ._journal import Journals, Run, of_one_journal, runs_of, value_of
from ._ledger import Ledger
from ._loss_marker import Loss, LossMarkers
from ._on_the_way import Head, OnTheWay
from ._redis_health import RedisHealth, Tell
from ._replayer import Replayer
from ._runtime import Signal
from ._settings import PlumelogSettings
from ._spool import Block, SpooledRow, SpoolKeeper

_NEVER = 1 << 62
_LIVE_BATCHES_BEFORE_A_ROW = 10
_NO_ROOM_POLL_SECONDS = 0.02
_UNREADABLE_PAUSE_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.02
_FETCH_EVERY_SECONDS = 1.0
_DISK_PAUSE_SECONDS = 0.1


class Courier:
    """Takes batches from the hand-off to Redis or to the spool, and rows from the spool to Redis.

    It outlives the loop: when the sink stops and starts again, or the loop had to be restarted, `run`
    continues with the batch that was in hand.
    """

    def __init__(
        self,
        settings: PlumelogSettings,
        *,
        handoff: HandOff,
        journals: Journals,
        ledger: Ledger,
        clock: Clock,
        tell: Tell,
        report: Callable[[str, str], None],
        marker: Callable[[Loss], bytes],
    ) -> None:
        self.settings = settings
        self._handoff = handoff
        self._journals = journals
        self._ledger = ledger
        self._clock = clock
        self._tell = tell
        self._report = report
        self._dice = new_dice()
        self._batcher = Batcher(settings.batch_size, settings.batch_interval_seconds)
        self.redis = RedisHealth(
            probe_interval_seconds=settings.health_check_interval_seconds,
            operator_cap_seconds=settings.retry_backoff_max_seconds,
            clock=clock,
            dice=self._dice,
            tell=tell,
            report=report,
        )
        self.markers = LossMarkers(marker, handoff, clock)
        self._lane = LiveLane(settings.lane_ttl_seconds, clock)
        self._head: Head | None = None
        self._returned: deque[Block] = deque()  # from a spool that turned out to be none
        self._on_the_way = OnTheWay(handoff, clock)
        self._busy = False  # an attempt is under way, or its backoff
        self._sending = False  # an attempt is under way
        self._fetch_at = 0.0
        self._pressed = False  # the queue had to be relieved while we were busy
        self._spooling = False  # said so to the hooks
        self._hurry = False  # the sink is closing: what fails once goes to the spool
        self._live_in_a_row = 0
        self._replay_failures = 0
        self._replay_not_before = 0.0
        self._replayed_since_told = 0
        self._signal = Signal()
        self._keeper: SpoolKeeper
        self._replayer: Replayer | None = None  # while the delivery runs
        # Rows in the replayer's hands whose part is gone, and why it is.
        self._orphans: list[tuple[SpooledRow, str]] = []

    def expect(self, block: Block) -> None:
        """A caller is about to give this block to the spool thread."""
        self._on_the_way.add(block)

    # ---------------------------------------------------------------- the loop thread

    def wake(self) -> None:
        """The queue holds what we asked to be woken for."""
        self._signal.set()
        if self._busy:
            self._relieve()

    def apply(self, settings: PlumelogSettings) -> None:
        """Use other settings from now on."""
        self.settings = settings
        self._batcher.batch_size = settings.batch_size
        self._batcher.interval_seconds = settings.batch_interval_seconds
        if self._replayer is not None:
            self._replayer.retry_count = settings.retry_count
        self._signal.set()

    async def run(self, sender: Sender, keeper: SpoolKeeper) -> None:
        """Work until cancelled."""
        self._signal, self._on_the_way.changed = Signal(), Signal()  # who waited in an earlier loop is gone
        self._sender, self._keeper = sender, keeper
        self._hurry = False
        # A row that an earlier loop had in hand is in the spool too, and is asked for again.
        keeper.rewind()
        self._replayer = Replayer(
            keeper,
            sender,
            ledger=self._ledger,
            clock=self._clock,
            destination=self.settings.destination,
            retry_count=self.settings.retry_count,
            lane_ttl_seconds=self.settings.lane_ttl_seconds,
        )
        try:
            await self._make_contact()
            while True:
                await self._step()
        finally:
            self._let_go_of_rows()

    def _let_go_of_rows(self) -> None:
        """The delivery ends: a row that it had in hand is in the spool too, or was lost with its part."""
        replayer, self._replayer = self._replayer, None
        orphans, self._orphans = self._orphans, []
        for row, reason in orphans:
            if replayer is not None and replayer.has(row):
                self._ledger.spool_lost(row.part_id, row.records, reason)
                self._lost(row.records, reason)

    async def _make_contact(self) -> None:
        """Open a connection before the first batch needs it, and learn whether Redis is there."""
        self._become_busy()
        await self._probe()

    async def _step(self) -> None:
        """Look at the state, and do the one thing that comes next."""
        self._fetch_strays()
        if self._head is None:
            self._head = self._take_back() or self._mark_a_loss() or self._cut_if_due()
        if self._head is not None:
            await self._deliver_head(self._head)
        elif self.redis.is_away:
            await self._wait_for_redis()
        elif self._row_may_go():
            await self._replay_row()
        else:
            await self._rest()

    # --- live batches

    def _cut_if_due(self) -> Head | None:
        """Take a batch from the queue if one is due and may go to Redis now."""
        is_open = self.redis.is_away
        if (is_open and self._keeper.usable) or (
            self._live_in_a_row >= _LIVE_BATCHES_BEFORE_A_ROW and self._row_may_go()
        ):
            return None
        if self._due_in() != 0:
            return None
        items = self._take_from_queue()
        return self._begin(self._new_head(items)) if items else None

    def _new_head(self, items: Sequence[bytes], origin: Block | None = None) -> Head:
        batch = Batch(self._lane.next_id(), tuple(map(value_of, items)))
        return Head(batch, runs_of(items), origin=origin)

    def _due_in(self) -> float | None:
        """Seconds until the queue's content is due; 0.0 when it is, None when there is nothing."""
        handoff = self._handoff
        return self._batcher.seconds_until_due(
            depth=handoff.depth,
            size_bytes=handoff.queued_bytes,
            now=self._clock.monotonic(),
            flush=self._hurry or self._on_the_way.is_awaited,
        )

    def _take_from_queue(self) -> list[bytes]:
        self._batcher.cut(self._clock.monotonic())
        return self._handoff.take()

    def _take_back(self) -> Head | None:
        """What could not be spooled is delivered from memory, oldest first."""
        if not self._returned or (self.redis.is_away and self._keeper.usable):
            return None
        block = self._returned.popleft()
        if block.batch is not None:
            return self._begin(Head(block.batch, block.runs, origin=block))
        items = block.values[block.written :]
        if (count := of_one_journal(items)) < len(items):
            block = self._divide(block, count)
        return self._begin(self._new_head(block.values[block.written :], block))

    def _divide(self, block: Block, count: int) -> Block:
        """Two blocks in the place of one: so many of its records, which is returned, and the others."""
        items = block.values[block.written :]
        parts = Block(items[:count], since=block.since), Block(items[count:], since=block.since)
        for part in parts:
            self._on_the_way.add(part)
        self._on_the_way.discard(block)
        self._returned.appendleft(parts[1])
        return parts[0]

    def _mark_a_loss(self) -> Head | None:
        """A marker of what was lost, as a batch of its own; while Redis is away it is spooled like any."""
        away = self.redis.is_away
        if away and not self._keeper.has_room():
            return None
        line = self.markers.make(at_once=self._hurry, spooled=away)
        return self._begin(self._new_head((line,))) if line is not None else None

    def _begin(self, head: Head) -> Head:
        if head.origin is not None:
            head.since = head.origin.since
        self._on_the_way.add(head)
        return head

    async def _deliver_head(self, head: Head) -> None:
        now = self._clock.monotonic()
        if (self.redis.is_away or head.leaves) and self._spill(head):
            return
        if self.redis.is_away:
            wait = self.redis.seconds_until_probe()
            wait = min(wait, _NO_ROOM_POLL_SECONDS if self._keeper.usable else wait)
        elif head.leaves and self._keeper.usable:
            wait = _NO_ROOM_POLL_SECONDS
        else:
            wait = 0.0 if self._hurry or self._pressed else head.not_before - now
        self._become_busy()
        if wait > 0:
            await self._wait(now + wait)
        elif head.leaves:
            await self._dissect(head)
        elif head.suspicion.wants_probe:
            await self._probe_for(head)
        else:
            await self._attempt(head)

    async def _attempt(self, head: Head) -> None:
        self._become_busy()
        if head.tries:
            self._ledger.retries += 1
        repeated = head.batch.attempted_by is not AttemptedBy.NOBODY
        attempted, head.batch = head.batch, self._sender.stamped(head.batch)
        self._journal_cut(head)
        self._sending = True
        try:
            outcome = await self._sender.send(attempted)
        finally:
            self._sending = False
        if self._head is not head:  # it went to the spool meanwhile, and is repeated from there
            self.redis.note(outcome.failure) if isinstance(outcome, Failed) else self.redis.took_something()
            return
        # The fall-back may have changed how the batch was attempted; stamp what really happened.
        head.batch = self._sender.stamped(attempted)
        head.tries += 1
        if isinstance(outcome, Failed):
            if not outcome.failure.in_doubt and not repeated:
                head.batch = attempted
            self._attempt_failed(head, outcome.failure)
        elif isinstance(outcome, Fenced):
            head.leaves = True  # somebody began to divide it
        else:
            self._attempt_worked(head, outcome, repeated)

    def _journal_cut(self, head: Head) -> None:
        """Write down what is about to be attempted: after a crash it must be repeated as the same."""
        batch = head.batch
        cut = batch.id, batch.attempted_by
        if head.runs and head.journaled_as != cut:
            self._journals.cut(head.runs, *cut, batch.last_attempt_ms)
            head.journaled_as = cut

    def _attempt_worked(self, head: Head, outcome: Outcome, repeated: bool) -> None:
        assert not isinstance(outcome, (Failed, Fenced))
        self.redis.took_something()
        applied_now = not isinstance(outcome, AlreadyApplied)
        if self._sender.delivery == "exactly_once":
            reading = self._lane.acknowledged(
                head.batch.id,
                head.records,
                found=outcome.last_found,
                applied_now=applied_now,
                repeated=repeated,
            )
            if reading.shared:
                self._report(
                    "lane-shared",
                    f"another process pushes as this one does (lane {head.batch.id.lane}): was this machine "
                    "copied while it ran? A batch is pushed again in a lane of its own",
                )
                head.batch = Batch(self._lane.next_id(), head.batch.values)
                return
            if reading.lost_records:
                self._ledger.server_lost += reading.lost_records
                self._report(
                    "server-lost",
                    f"Redis has forgotten what it acknowledged: {reading.lost_range}, "
                    f"at most {reading.lost_records} records",
                )
                self._tell("server_lost_data", records=reading.lost_records, detail=reading.lost_range)
        elif repeated:
            self._ledger.possibly_doubled += head.records
        if not applied_now:
            self._ledger.already_applied += 1
        self._ledger.delivered(head.records)
        self._live_in_a_row += 1
        self._pressed = False
        self._settled(head)

    def _attempt_failed(self, head: Head, failure: Failure) -> None:
        head.suspicion.attempt_failed(failure)
        if head.suspicion.verdict is not None:
            self.redis.note(failure)
            head.leaves = True
        elif not self._is_patient(head, failure):
            if head.suspicion.wants_probe and not self.redis.is_away:
                self.redis.note(failure)
                head.not_before = 0.0  # the probe goes at once
            else:
                self._redis_is_down(failure)

    def _is_patient(self, head: Head, failure: Failure) -> bool:
        """Whether the head is tried again without much ado; if so, it is known when."""
        if (
            failure.kind is not FailureKind.TRANSIENT
            or head.tries > self.settings.retry_count
            or self._hurry
            or self._pressed
            or self.redis.is_away
        ):
            return False
        self.redis.note(failure)
        head.not_before = self._clock.monotonic() + self._backoff(head.tries)
        return True

    def _backoff(self, attempt: int) -> float:
        return full_jitter_delay(
            attempt,
            self.settings.retry_backoff_base_seconds,
            self.settings.retry_backoff_max_seconds,
            self._dice,
        )

    async def _probe_for(self, head: Head) -> None:
        """The head failed, by its own fault or by Redis's: find out which."""
        self._sending = True
        try:
            outcome = await self._sender.probe()
        finally:
            self._sending = False
        if self._head is not head:  # it went to the spool meanwhile
            self.redis.note(outcome.failure) if isinstance(outcome, Failed) else self.redis.took_something()
            return
        if isinstance(outcome, Failed):
            head.suspicion.probe_failed()
            head.tries += 1  # it would have failed as well
            if not self._is_patient(head, outcome.failure):
                self._redis_is_down(outcome.failure)
            return
        self.redis.took_something()
        head.suspicion.probe_worked(self.settings.retry_count)
        # Redis is there. Nothing goes on in this lane while the head is in doubt, but in another it does.
        in_the_way = (self._pressed or self._hurry) and self._keeper.usable
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
        step = await dissection.step(self._sender, self._keeper)
        head.batch = dissection.stamp
        if isinstance(step, Settled):
            self._book(step)
            self._settled(head)
        else:
            head.tries, pause = self._judged(step, head.tries)
            head.not_before = self._clock.monotonic() + pause

    def _book(self, settled: Settled) -> None:
        """A batch that was divided in memory is settled."""
        ledger = self._ledger
        ledger.delivered(settled.delivered)
        ledger.dead_lettered(len(settled.letters), None)
        ledger.already_applied += settled.already_applied
        ledger.possibly_doubled += settled.possibly_doubled
        self._tell_of_letters(settled)
        if settled.dropped:
            ledger.dropped(len(settled.dropped), "refused")
            self._report(
                "refused-dropped",
                f"Redis refuses records ({settled.dropped[0]}), and there is no spool directory to keep them",
            )
            self._lost(len(settled.dropped), "refused")

    def _tell_of_letters(self, settled: Settled) -> None:
        for reason, records in Counter(settled.letters).items():
            self._tell("dead_lettered", records=records, reason=reason)
            self._report(
                "dead-lettered",
                f"{records} records are refused by Redis ({reason}); they lie in the dead letters of the "
                f"spool directory {self.settings.spool_dir}",
            )

    def _judged(self, step: Step, failures: int) -> tuple[int, float]:
        """What a step that settled nothing says of Redis.

        Args:
            step: what came of it.
            failures: how many steps in a row have failed before it.

        Returns:
            how many have failed now, and how long, in seconds, to wait for the next.
        """
        if isinstance(step, Onward):
            self.redis.took_something()
            return 0, 0.0
        if not isinstance(step, (Failed, Suspected)):
            return failures, _DISK_PAUSE_SECONDS
        failure = step.failure
        failures += 1
        lasts = failure.kind is not FailureKind.TRANSIENT or failures > self.settings.retry_count
        if self.redis.is_away or (isinstance(step, Failed) and lasts):
            self._redis_is_down(failure)
            return failures, 0.0
        self.redis.note(failure)
        if failure.kind is FailureKind.REFUSED:
            return failures, 0.0  # the next step is another one
        return failures, self._backoff(step.strikes + 1 if isinstance(step, Suspected) else failures)

    def _spill(self, head: Head) -> bool:
        """Give the head to the spool under its identity; its lane is never used again. False: no room now."""
        if not self._keeper.has_room():
            return False
        self._give_to_spool(head)
        return True

    def _give_to_spool(self, head: Head) -> None:
        block = Block(head.batch.values, head.batch, head.runs, since=head.since)
        self._offer(block)
        self._on_the_way.discard(head, head.origin)
        self._lane.freeze()
        self._head = None
        self._pressed = False

    def _settled(self, head: Head) -> None:
        self._head = None
        self._journals.settle(head.runs)
        self._journals.advance()
        self._on_the_way.discard(head, head.origin)

    # --- while Redis is away

    async def _wait_for_redis(self) -> None:
        if self._keeper.usable and self._due_in() == 0:
            if not self._may_offer_queue():
                await self._idle(self._clock.monotonic() + _NO_ROOM_POLL_SECONDS)
                return
            self._offer_queue()
        wait = self.redis.seconds_until_probe()
        if wait > 0:
            await self._rest(self._clock.monotonic() + wait)
            return
        self._become_busy()
        replayer = self._replayer
        assert replayer is not None
        row = await replayer.fetch() if self._ledger.settled.spooled else None
        step = await replayer.deliver(row) if row is not None else Waiting()
        if row is not None and isinstance(step, Stuck):
            self._lose_orphan(row)
        if isinstance(step, (Waiting, Stuck)):
            await self._probe()
        elif isinstance(step, Settled):
            self._replayed(step)
        else:
            self._replay_failures, _ = self._judged(step, self._replay_failures)

    async def _probe(self) -> None:
        outcome = await self._sender.probe()
        if isinstance(outcome, Failed):
            self._redis_is_down(outcome.failure)
        else:
            self.redis.took_something()

    def _redis_is_down(self, failure: Failure) -> None:
        where = "go to the spool" if self._keeper.usable else "wait in memory, for there is no spool"
        self.redis.gave_up(failure, records_wait=where)

    def _may_offer_queue(self) -> bool:
        # Where the spool thread does not keep up, only callers hand over, who pause for it.
        return self._keeper.has_room() and not self._keeper.pause_seconds()

    def _offer_queue(self) -> None:
        values = self._take_from_queue()
        if values:
            self._offer(Block(values))

    def _offer(self, block: Block) -> None:
        self._on_the_way.add(block)
        self._keeper.offer(block, from_loop=True)

    def _relieve(self) -> None:
        """The queue fills while an attempt is under way: move its oldest records to the spool."""
        if self._sending and self._head is not None and self._journals.half_full and self._keeper.usable:
            # What waits for its answer keeps the journal from freeing the room of all that came after it.
            self._give_to_spool(self._head)
        while self._over_mark() and self._may_offer_queue():
            self._pressed = True
            self._offer_queue()
        self._watch_pressure()

    def _mark(self) -> tuple[int, int]:
        """How much the queue may hold, in records and in bytes, while an attempt is under way."""
        bounds = self._handoff.bounds
        if self.redis.is_away:  # the attempt is a probe, and the queue goes to the spool anyway
            return self.settings.batch_size, MAX_BATCH_BYTES
        return max(1, bounds.max_records * 3 // 4), bounds.max_bytes * 3 // 4

    def _over_mark(self) -> bool:
        records, size_bytes = self._mark()
        return self._handoff.depth >= records or self._handoff.queued_bytes >= size_bytes

    def _become_busy(self) -> None:
        self._busy = True
        self._relieve()

    def _watch_pressure(self) -> None:
        records, size_bytes = self._mark() if self._may_offer_queue() else (_NEVER, _NEVER)
        self._handoff.wake_when(records=records, size_bytes=size_bytes)

    # --- the journal

    def _fetch_strays(self) -> None:
        """Now and then: fetch from the journal what an interrupted caller did not bring to the queue."""
        now = self._clock.monotonic()
        if now < self._fetch_at:
            return
        self._fetch_at = now + _FETCH_EVERY_SECONDS
        self._journals.advance()
        if not self._journals.is_stuck():
            return
        runs = self._runs_on_the_way()
        if runs is not None and (strays := self._journals.strays(runs)):
            block = Block(strays)
            if self.redis.is_away and self._keeper.has_room():
                self._offer(block)
            else:
                self._on_the_way.add(block)
                self._returned.append(block)

    def _runs_on_the_way(self) -> list[Run] | None:
        """Where in the journal is what is on its way; None while that cannot be told."""
        # The queue first: what leaves it meanwhile is seen twice and not missed.
        runs = runs_of(self._handoff.snapshot())
        if self._handoff.shifting:
            return None  # it may have left before, and be in a caller's hands
        for one in self._on_the_way:
            if isinstance(one, Head) or one.batch is not None:
                runs += one.runs
            else:
                runs += runs_of(one.values)
        return runs

    # --- rows of the spool

    def _row_may_go(self) -> bool:
        return self._ledger.settled.spooled > 0 and self._clock.monotonic() >= self._replay_not_before

    async def _replay_row(self) -> None:
        self._become_busy()
        self._live_in_a_row = 0
        replayer = self._replayer
        assert replayer is not None
        row = await replayer.fetch()
        if row is None:
            # All that is spooled is on its way to us, or cannot be read now.
            self._replay_not_before = self._clock.monotonic() + _UNREADABLE_PAUSE_SECONDS
            return
        step = await replayer.deliver(row)
        if isinstance(step, Stuck):
            self._lose_orphan(row)
        if isinstance(step, Settled):
            self._replayed(step)
        else:
            self._replay_failures, pause = self._judged(step, self._replay_failures)
            self._replay_not_before = self._clock.monotonic() + pause
            self._on_the_way.changed.set()

    def _lose_orphan(self, row: SpooledRow) -> None:
        """A row is left for later; if its part is gone, it was only in our hands."""
        for orphan, reason in self._orphans:
            if orphan is row:
                self._ledger.spool_lost(row.part_id, row.records, reason)
                self._lost(row.records, reason)

    def _replayed(self, settled: Settled) -> None:
        records = settled.delivered + len(settled.letters)
        self.redis.took_something()
        self._tell_of_letters(settled)
        self._replay_failures = 0
        if self.settings.replay_rate:
            self._replay_not_before = self._clock.monotonic() + records / self.settings.replay_rate
        if not self._replayed_since_told:
            self._tell("replaying", records=self._ledger.settled.spooled + records)
        self._replayed_since_told += records
        if not self._ledger.settled.spooled:
            self._tell("drained", records=self._replayed_since_told)
            self._replayed_since_told = 0
            self._spooling = False
        self._on_the_way.changed.set()

    # --- waiting

    async def _rest(self, until: float | None = None) -> None:
        """Nothing to do: wait for the queue, the age of what is in it, the replay's turn, or ``until``."""
        handoff, due_in = self._handoff, self._due_in()
        if due_in is None:
            records = 1
        elif handoff.depth < self.settings.batch_size:
            records = self.settings.batch_size
        else:
            records = _NEVER  # a batch follows the last one soon, with all that comes till then
        handoff.wake_when(records=records, size_bytes=MAX_BATCH_BYTES)
        if (
            due_in == 0
            or handoff.depth >= records
            or (handoff.depth and handoff.queued_bytes >= MAX_BATCH_BYTES)
        ):
            await asyncio.sleep(0)  # so that calls and the cancellation come through, whatever is found here
            return  # came before the line above, and so woke nobody
        due_at = None if due_in is None else self._clock.monotonic() + due_in
        ends = [end for end in (until, due_at) if end is not None]
        if self._ledger.settled.spooled and not self.redis.is_away:
            ends.append(self._replay_not_before)
        await self._idle(min(ends, default=None))

    async def _idle(self, until: float | None) -> None:
        self._busy = False
        await self._wait(until)

    async def _wait(self, until: float | None) -> None:
        self._signal.clear()
        # Not without a limit: a caller that is interrupted (Ctrl-C) between its record and the wake-up, which
        # is asked for once, would leave the record and all after it waiting.
        longest = self._clock.monotonic() + max(1.0, self.settings.batch_interval_seconds)
        until = longest if until is None else min(until, longest)
        await self._signal.wait(until - self._clock.monotonic())

    # ---------------------------------------------------------------- what the spool thread tells

    def on_spool_opened(self, part_id: str, adopted: int) -> None:
        if adopted:
            self._ledger.adopted(part_id, adopted)
        self._replay_not_before = 0.0
        self._signal.set()

    def on_recovered(self, part_id: str, records: int, possibly_doubled: int) -> None:
        self._ledger.possibly_doubled += possibly_doubled
        self.on_spool_opened(part_id, records)

    def on_spool_unusable(self, reason: str, returned: list[Block]) -> None:
        self.redis.last_error = reason
        for block in returned:
            if block.written < len(block.values):
                self._on_the_way.add(block)
                self._returned.append(block)
            else:
                self._on_the_way.discard(block)
        self._signal.set()

    def on_stored(self, part_id: str, block: Block, records: int, done: bool) -> None:
        self._ledger.spooled(part_id, records)
        if not self._spooling:
            self._spooling = True
            self._tell("spooling", records=records)
        if not self.settings.replay_rate and not self._replay_failures:
            self._replay_not_before = 0.0  # the pause was for want of rows
        if not self.redis.is_away:
            self._signal.set()
        if done:
            self._journals.advance()
            self._on_the_way.discard(block)
            if self._busy:
                self._relieve()

    def on_spool_loss(self, part_id: str, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        self._ledger.spool_lost(part_id, records, reason)
        self._lost(records, reason, first_ms, last_ms)

    def on_refused(
        self, part_id: str, block: Block, records: int, done: bool, first_ms: int, last_ms: int
    ) -> None:
        self._ledger.dropped(records, "spool_full")
        if done:
            self._journals.advance()
            self._on_the_way.discard(block)
        self._lost(records, "spool_full", first_ms, last_ms)
        self.markers.take_back(block.values)

    def on_part_lost(self, part_id: str, reason: str) -> None:
        lost = self._ledger.settled.spooled_by_part.get(part_id, 0)
        for row in self._replayer.rows_of(part_id) if self._replayer is not None else ():
            lost -= row.records  # it is in our hands, and is delivered from them unless the sink ends before
            if not any(row is orphan for orphan, _ in self._orphans):
                self._orphans.append((row, reason))
        if lost > 0:
            self._ledger.spool_lost(part_id, lost, reason)
            self._lost(lost, reason)

    def _lost(self, records: int, reason: str, first_ms: int = 0, last_ms: int = 0) -> None:
        self.markers.lost(records, reason, first_ms, last_ms)
        self._report(f"dropped-{reason}", f"{records} records are lost: {reason}")
        self._tell("dropped", records=records, reason=reason)

    # ---------------------------------------------------------------- draining and closing

    async def settle(self, watermark: int, until: float | None) -> bool:
        """Wait until the queue's first ``watermark`` records are in Redis or in the spool.

        Args:
            watermark: a count as of `HandOff.put_count`.
            until: monotonic seconds; None also ends when neither Redis nor the spool takes records.

        Returns:
            Whether they are.
        """
        arriving = self._on_the_way.arrival(watermark, until, hopeless=self._nothing_takes_records)
        self._signal.set()
        return await arriving

    def _nothing_takes_records(self) -> bool:
        return self.redis.is_away and not self._keeper.takes_records()

    async def replay_the_rest(self, until: float) -> None:
        """Wait for the spool's rows while Redis takes them without a pause; ``until`` is monotonic seconds.

        A short job whose burst overflowed should not leave it behind until its next run.
        """
        while (
            self._ledger.settled.spooled
            and self.redis.state == "up"
            and self._replay_not_before <= (now := self._clock.monotonic()) < until
        ):
            await self._on_the_way.changed.wait(until - now)

    async def mark_the_losses(self, until: float) -> None:
        """Wait for the last markers while Redis takes them; ``until`` is monotonic seconds."""
        while self._clock.monotonic() < until and self.redis.state == "up":
            if not self.markers.is_due(at_once=True):
                await self.settle(0, until)  # the one that was made last
                return
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def hurry(self) -> None:
        """The sink is closing: no backoff; what fails once goes to the spool, or stays there."""
        self._hurry = True
        self._signal.set()

    def spool_the_rest(self, keeper: SpoolKeeper) -> bool:
        """After `run` has ended: give what is left to the spool. False: it has no room just now."""
        self._keeper = keeper
        if self._head is not None:
            self._spill(self._head)
        while self._returned and keeper.has_room():
            self._offer_back(self._returned.popleft())
        while self._handoff.depth and keeper.has_room():
            self._offer_queue()
        left = bool(self._head or self._returned or self._handoff.depth)
        if not left:
            self._spool_markers(keeper)
        return not keeper.usable or not left

    def _spool_markers(self, keeper: SpoolKeeper) -> None:
        """The last markers. A spool that may be full takes those of its own drops only if it makes room."""
        makes_room = self.settings.spool_full_policy in ("drop_oldest", "drop_lowest_level")
        while keeper.has_room():
            line = self.markers.make(at_once=True, spooled=not makes_room)
            if line is None:
                return
            self._offer(Block((line,)))

    def _offer_back(self, origin: Block) -> None:
        self._offer(Block(origin.values[origin.written :], origin.batch, origin.runs, since=origin.since))
        self._on_the_way.discard(origin)

    def take_back(self, blocks: list[Block]) -> None:
        """After the end: keep what the spool did not get, for the next start."""
        self._returned.extend(blocks)

    def leave_in_journal(self) -> int:
        """After the end: let go of all that the journal holds; returns how many records that are."""
        left = 0
        if (head := self._head) is not None and self._journals.holds_runs(head.runs):
            left += head.records
            self._head = None
            self._lane.freeze()  # it is delivered from there, and not before what would come next
            self._on_the_way.discard(head, head.origin)
        while items := self._handoff.take():
            self._returned.append(Block(items))
            self._on_the_way.add(self._returned[-1])
        returned, self._returned = self._returned, deque()
        for block in returned:
            kept = self._kept_in_memory(block)
            left += len(block.values) - block.written
            if kept is not None:
                left -= len(kept.values) - kept.written
                self._returned.append(kept)
                self._on_the_way.add(kept)
            if kept is not block:
                self._on_the_way.discard(block)
        return left

    def _kept_in_memory(self, block: Block) -> Block | None:
        """What is left of the block and not in the journal."""
        if block.batch is not None:
            return None if self._journals.holds_runs(block.runs) else block
        items = block.values[block.written :]
        others = [item for item in items if not self._journals.holds([item])]
        if len(others) == len(items):
            return block
        return Block(others, since=block.since) if others else None

    def remains(self) -> int:
        """After the end: records that are in memory, and neither in Redis nor in the spool."""
        head = self._head
        blocks = {one for one in self._on_the_way if isinstance(one, Block)}.union(self._returned)
        if head is not None:
            blocks.discard(head.origin)  # the head's own records
        return (
            self._handoff.depth
            + (head.records if head else 0)
            + sum(len(block.values) - block.written for block in blocks)
        )

    @property
    def is_idle(self) -> bool:
        """Whether no record is in memory, neither in the queue nor on its way."""
        return self._on_the_way.is_clear

    def abandon(self, reason: str) -> int:
        """Count everything that is left as lost; the sink is closed for good."""
        lost = self.remains()
        while self._handoff.take():
            pass
        self._head = None
        self._returned.clear()
        self._on_the_way.clear()
        if lost:
            self._ledger.dropped(lost, reason)
            self._lost(lost, reason)
        return lost
