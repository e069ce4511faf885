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
thing; how it is done stands elsewhere: for a live batch in `_live_delivery.py`, for a row in
`_replay_turn.py`, and what a failure means for both in `_patience.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._batch import MAX_BATCH_BYTES
from ._clock import Clock
from ._delivery import Acknowledged, Failed, FailureKind, LiveLane, Sender, new_dice
from ._handoff import Batcher, HandOff
from ._journal import Journals
from ._ledger import Ledger
from ._leftovers import Leftovers
from ._live_delivery import LiveDelivery
from ._loss_marker import Loss, LossMarkers
from ._losses import Losses
from ._on_the_way import Head, OnTheWay
from ._patience import Patience
from ._redis_health import RedisHealth, Tell
from ._replay_turn import ReplayTurn
from ._runtime import Signal
from ._settings import PlumelogSettings
from ._spool import Block, SpoolKeeper
from ._spool_news import SpoolNews

_NEVER = 1 << 62
_LIVE_BATCHES_BEFORE_A_ROW = 10
_NO_ROOM_POLL_SECONDS = 0.02
_LOOK_AGAIN_SECONDS = 0.02
_FETCH_EVERY_SECONDS = 1.0
_STUCK_SECONDS = 1.0  # what the spool cannot write for so long goes to Redis instead
_FETCH_EVERY_SECONDS_IF_NARROW = 0.1  # what stands still may be all that keeps a journal full


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
        self._batcher = Batcher(settings.batch_size, settings.batch_interval_seconds)
        self._report = report
        self._signal = Signal()
        self._busy = False  # an attempt is under way, or its backoff
        self._recount_failed = False
        self._recount_at = 0.0  # monotonic seconds, and not before
        self._fetched_at = -_FETCH_EVERY_SECONDS
        self._stuck_since: float | None = None
        dice, lane = new_dice(), LiveLane(settings.lane_ttl_seconds, clock)
        self.redis = redis = RedisHealth(
            probe_interval_seconds=settings.health_check_interval_seconds,
            operator_cap_seconds=settings.retry_backoff_max_seconds,
            clock=clock,
            dice=dice,
            tell=tell,
            report=report,
        )
        self.markers = markers = LossMarkers(
            marker, handoff, clock, tell_queue_loss=lambda records: losses.tell(records, "queue_full")
        )
        losses = Losses(markers, ledger, tell, report)
        self._losses = losses
        self.acknowledged = Acknowledged(settings.lane_ttl_seconds, clock, self._forgotten)
        self._on_the_way = on_the_way = OnTheWay(handoff, journals, lane, clock)
        self._patience = patience = Patience(
            settings, redis=redis, on_the_way=on_the_way, clock=clock, dice=dice
        )
        self._live = LiveDelivery(
            settings,
            on_the_way=on_the_way,
            lane=lane,
            journals=journals,
            ledger=ledger,
            losses=losses,
            redis=redis,
            patience=patience,
            clock=clock,
            report=report,
        )
        self._replay = ReplayTurn(
            settings,
            on_the_way=on_the_way,
            ledger=ledger,
            losses=losses,
            redis=redis,
            patience=patience,
            clock=clock,
            tell=tell,
        )
        self.spool_news = SpoolNews(
            on_the_way=on_the_way,
            journals=journals,
            ledger=ledger,
            losses=losses,
            markers=markers,
            redis=redis,
            replay=self._replay,
            look_again=self._look_again,
            relieve=self._relieve_if_busy,
        )
        self.leftovers = Leftovers(
            settings,
            handoff=handoff,
            on_the_way=on_the_way,
            live=self._live,
            journals=journals,
            ledger=ledger,
            losses=losses,
            markers=markers,
            take_from_queue=self._take_from_queue,
        )

    @property
    def _keeper(self) -> SpoolKeeper:
        return self._on_the_way.keeper

    def expect(self, block: Block) -> None:
        """A caller is about to give this block to the spool thread."""
        self._on_the_way.add(block)

    # ---------------------------------------------------------------- the loop thread

    def wake(self) -> None:
        """The queue holds what we asked to be woken for."""
        self._look_again()
        self._relieve_if_busy()

    def _look_again(self) -> None:
        self._signal.set()

    def apply(self, settings: PlumelogSettings) -> None:
        """Use other settings from now on."""
        self.settings = self._patience.settings = self._live.settings = settings
        self._replay.apply(settings)
        self._batcher.batch_size = settings.batch_size
        self._batcher.interval_seconds = settings.batch_interval_seconds
        self._look_again()

    async def run(self, sender: Sender, keeper: SpoolKeeper) -> None:
        """Work until cancelled."""
        self._signal, self._on_the_way.changed = Signal(), Signal()  # who waited in an earlier loop is gone
        self._sender = self._live.sender = sender
        self._on_the_way.keeper = keeper
        self._patience.hurry = False
        self._replay.begin(sender, keeper)
        try:
            await self._make_contact()
            while True:
                await self._step()
        finally:
            self._replay.end()

    async def _make_contact(self) -> None:
        """Open a connection before the first batch needs it, and learn whether Redis is there."""
        self._become_busy()
        await self._probe()

    async def _step(self) -> None:
        """Look at the state, and do the one thing that comes next."""
        self._fetch_strays()
        self._fetch_stuck()
        if self._recount_is_due:
            await self._recount()
        way = self._on_the_way
        if way.head is None:
            way.head = self._take_back() or self._mark_a_loss() or self._cut_if_due()
        if way.head is not None:
            await self._deliver_head(way.head)
        elif self.redis.is_away:
            await self._wait_for_redis()
        elif self._replay.is_due:
            self._become_busy()
            self._live.in_a_row = 0
            await self._replay.go()
        else:
            await self._rest()

    @property
    def _recount_is_due(self) -> bool:
        return self.redis.may_have_forgotten and self._clock.monotonic() >= self._recount_at

    async def _recount(self) -> None:
        """Redis is there again: find out what it has forgotten, before anything is added to what it has."""
        self._become_busy()
        failed = await self._sender.recount()
        self.redis.may_have_forgotten = False  # now, so that the next loop does it where this one is ended
        failed_before, self._recount_failed = self._recount_failed, False
        if failed is None or failed.failure.kind is not FailureKind.TRANSIENT:
            return
        self.redis.note(failed.failure)  # so it is done again when Redis is there again
        self._recount_failed = True
        if failed_before:  # pushes work, and this does not: it must not cost each of them
            self._recount_at = self._clock.monotonic() + self.settings.health_check_interval_seconds

    def _forgotten(self, records: int, which: str) -> None:
        self._losses.lost_by_server(records, which)
        self.redis.may_have_forgotten = True  # of other lanes, too

    # --- live batches

    def _cut_if_due(self) -> Head | None:
        """Take a batch from the queue if one is due and may go to Redis now."""
        is_open = self.redis.is_away
        if (is_open and self._keeper.usable) or (
            self._live.in_a_row >= _LIVE_BATCHES_BEFORE_A_ROW and self._replay.is_due
        ):
            return None
        if self._due_in() != 0:
            return None
        items = self._take_from_queue()
        return self._on_the_way.begin(items) if items else None

    def _due_in(self) -> float | None:
        """Seconds until the queue's content is due; 0.0 when it is, None when there is nothing."""
        handoff = self._handoff
        return self._batcher.seconds_until_due(
            depth=handoff.depth,
            size_bytes=handoff.queued_bytes,
            now=self._clock.monotonic(),
            flush=self._patience.hurry or self._on_the_way.is_awaited,
        )

    def _take_from_queue(self) -> list[bytes]:
        self._batcher.cut(self._clock.monotonic())
        return self._handoff.take()

    def _take_back(self) -> Head | None:
        """What could not be spooled is delivered from memory, oldest first."""
        way = self._on_the_way
        if not way.returned or (self.redis.is_away and self._keeper.usable):
            return None
        return way.begin_returned()

    def _mark_a_loss(self) -> Head | None:
        """A marker of what was lost, as a batch of its own; while Redis is away it is spooled like any."""
        away = self.redis.is_away
        if away and not self._keeper.has_room():
            return None
        line = self.markers.make(at_once=self._patience.hurry, spooled=away)
        return self._on_the_way.begin((line,)) if line is not None else None

    async def _deliver_head(self, head: Head) -> None:
        now = self._clock.monotonic()
        if (self.redis.is_away or head.leaves) and self._live.spill(head):
            return
        if self.redis.is_away:
            wait = self.redis.seconds_until_probe()
            wait = min(wait, _NO_ROOM_POLL_SECONDS if self._keeper.usable else wait)
        elif head.leaves and self._keeper.usable:
            wait = _NO_ROOM_POLL_SECONDS
        else:
            wait = 0.0 if self._patience.is_out else head.not_before - now
        self._become_busy()
        if wait > 0:
            await self._wait(now + wait)
        else:
            await self._live.step(head)

    # --- while Redis is away

    async def _wait_for_redis(self) -> None:
        is_due = self._keeper.usable and self._due_in() == 0
        has_room = is_due and self._may_offer_queue()
        if has_room:
            self._offer_queue()
        wait = self.redis.seconds_until_probe()
        if wait > 0 and is_due and not has_room:  # probed all the same: Redis may be there before the disk
            await self._idle(self._clock.monotonic() + min(wait, _NO_ROOM_POLL_SECONDS))
            return
        if wait > 0:
            await self._rest(self._clock.monotonic() + wait)
            return
        self._become_busy()
        if not await self._replay.probe():
            await self._probe()

    async def _probe(self) -> None:
        outcome = await self._sender.probe()
        if isinstance(outcome, Failed):
            self._patience.give_up(outcome.failure)
        else:
            self.redis.took_something()

    def _may_offer_queue(self) -> bool:
        # Where the spool thread does not keep up, only callers hand over, who pause for it.
        return self._keeper.has_room() and not self._keeper.pause_seconds()

    def _offer_queue(self) -> None:
        values = self._take_from_queue()
        if values:
            self._on_the_way.offer(Block(values))

    def _relieve(self) -> None:
        """The queue fills while an attempt is under way: move its oldest records to the spool."""
        self._live.relieve_journal()
        while self._over_mark() and self._may_offer_queue():
            self._patience.pressed = True
            self._offer_queue()
        self._watch_pressure()

    def _relieve_if_busy(self) -> None:
        if self._busy:
            self._relieve()

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
        if now < self._fetched_at + self._fetch_every_seconds():
            return
        self._fetched_at = now
        self._journals.advance()
        if (error := self._handoff.journal_error) is not None:
            self._report("journal", f"{error}; what is in memory does not survive the death of the process")
        if not self._journals.is_stuck():
            return
        runs = self._on_the_way.runs()
        if runs is not None and (strays := self._journals.strays(runs)):
            block = Block(strays)
            if self.redis.is_away and self._keeper.has_room():
                self._on_the_way.offer(block)
            else:
                self._on_the_way.take_back(block)

    def _fetch_every_seconds(self) -> float:
        return _FETCH_EVERY_SECONDS_IF_NARROW if self._journals.half_full else _FETCH_EVERY_SECONDS

    def _fetch_stuck(self) -> None:
        """Deliver from memory what the spool cannot write, while Redis takes records."""
        now = self._clock.monotonic()
        if self.redis.is_away or not self._keeper.stuck:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now  # a disk may say no once
        elif now >= self._stuck_since + _STUCK_SECONDS:
            self._stuck_since = None
            self._keeper.return_stuck()

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
            ends.append(self._replay.not_before)
        await self._idle(min(ends, default=None))

    async def _idle(self, until: float | None) -> None:
        self._busy = False
        await self._wait(until)

    async def _wait(self, until: float | None) -> None:
        self._signal.clear()
        # Not without a limit: a caller that is interrupted (Ctrl-C) between its record and the wake-up, which
        # is asked for once, would leave the record and all after it waiting; where a journal is full, callers
        # wait themselves, for the room that a look at what stands still may give.
        seconds = max(1.0, self.settings.batch_interval_seconds)
        if self._journals.half_full:
            seconds = self._fetch_every_seconds()
        longest = self._clock.monotonic() + seconds
        until = longest if until is None else min(until, longest)
        await self._signal.wait(until - self._clock.monotonic())

    # ---------------------------------------------------------------- draining and closing

    async def settle(self, watermark: int, until: float | None) -> bool:
        """Wait until the queue's first ``watermark`` records are in Redis or in the spool.

        Args:
            watermark: a count as of `HandOff.put_count`.
            until: monotonic seconds; None also ends when neither Redis nor the spool takes records.

        Returns:
            Whether they are.
        """
        hopeless = self._nothing_takes_records if until is None else self._rest_stays_in_journal
        arriving = self._on_the_way.arrival(watermark, until, hopeless=hopeless)
        self._look_again()
        return await arriving

    def _nothing_takes_records(self) -> bool:
        return self.redis.is_away and not self._keeper.takes_records()

    def _rest_stays_in_journal(self) -> bool:
        return self.redis.is_away and self._keeper.leaves_in_journal

    async def replay_the_rest(self, until: float) -> None:
        """Wait for the spool's rows while Redis takes them without a pause; ``until`` is monotonic seconds.

        A short job whose burst overflowed should not leave it behind until its next run.
        """
        while (
            self._ledger.settled.spooled
            and self.redis.state == "up"
            and self._replay.not_before <= (now := self._clock.monotonic()) < until
        ):
            await self._on_the_way.changed.wait(until - now)

    async def learn_the_losses(self, until: float) -> None:
        """Wait for what Redis says it has forgotten; ``until`` is monotonic seconds."""
        while self._recount_is_due and self.redis.state == "up" and self._clock.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def mark_the_losses(self, until: float) -> None:
        """Wait for the last markers while Redis takes them; ``until`` is monotonic seconds."""
        while self._clock.monotonic() < until and self.redis.state == "up":
            if not self.markers.is_due(at_once=True):
                await self.settle(0, until)  # the one that was made last
                return
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def hurry(self) -> None:
        """The sink is closing: no backoff; what fails once goes to the spool, or stays there."""
        self._patience.hurry = True
        self._look_again()

    @property
    def is_idle(self) -> bool:
        """Whether no record is in memory, neither in the queue nor on its way."""
        return self._on_the_way.is_clear
