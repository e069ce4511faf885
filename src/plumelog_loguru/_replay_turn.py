"""When a row of the spool goes to Redis, and what is said of the replay.

The replayer delivers rows; this gives it its turn, whenever the courier sees that nothing live is due. It
keeps to ``replay_rate``, pauses where the spool has nothing to give or a row fails, and tells the hooks when
records begin to be spooled, to be replayed, and when all of them are.

A part may be lost while one of its rows is in our hands. Such an *orphan* is delivered from memory, and
counts as lost only if it is not.
"""

from __future__ import annotations

from ._clock import Clock
from ._delivery import Sender
from ._dissection import Settled, Step, Stuck, Waiting
from ._ledger import Ledger
from ._losses import Losses
from ._on_the_way import OnTheWay
from ._patience import Patience
from ._redis_health import RedisHealth, Tell
from ._replayer import Replayer
from ._settings import PlumelogSettings
from ._spool import SpooledRow, SpoolKeeper

_UNREADABLE_PAUSE_SECONDS = 1.0


class ReplayTurn:
    """Lets one row go at a time, beside live traffic."""

    def __init__(
        self,
        settings: PlumelogSettings,
        *,
        on_the_way: OnTheWay,
        ledger: Ledger,
        losses: Losses,
        redis: RedisHealth,
        patience: Patience,
        clock: Clock,
        tell: Tell,
    ) -> None:
        self.settings = settings
        self.not_before = 0.0  # monotonic seconds
        self._on_the_way = on_the_way
        self._ledger = ledger
        self._losses = losses
        self._redis = redis
        self._patience = patience
        self._clock = clock
        self._tell = tell
        self._failures = 0  # in a row
        self._spooling = False  # said so to the hooks
        self._replayed_since_told = 0
        self._replayer: Replayer | None = None  # while the delivery runs
        # Rows in the replayer's hands whose part is gone, and why it is.
        self._orphans: list[tuple[SpooledRow, str]] = []

    # ---------------------------------------------------------------- while the delivery runs

    def begin(self, sender: Sender, keeper: SpoolKeeper) -> None:
        """The delivery begins."""
        # A row that an earlier loop had in hand is in the spool too, and is asked for again.
        keeper.rewind()
        self._sender = sender
        self._replayer = Replayer(
            keeper,
            sender,
            ledger=self._ledger,
            clock=self._clock,
            destination=self.settings.destination,
            retry_count=self.settings.retry_count,
            lane_ttl_seconds=self.settings.lane_ttl_seconds,
        )

    def end(self) -> None:
        """The delivery ends: a row that it had in hand is in the spool too, or was lost with its part."""
        replayer, self._replayer = self._replayer, None
        orphans, self._orphans = self._orphans, []
        for row, reason in orphans:
            if replayer is not None and replayer.has(row):
                self._losses.lost_by_spool(row.part_id, row.records, reason)

    def apply(self, settings: PlumelogSettings) -> None:
        """Use other settings from now on."""
        self.settings = settings
        if self._replayer is not None:
            self._replayer.retry_count = settings.retry_count

    # ---------------------------------------------------------------- rows

    @property
    def is_due(self) -> bool:
        """Whether there are rows, and one may go."""
        return self._ledger.settled.spooled > 0 and self._clock.monotonic() >= self.not_before

    async def go(self) -> None:
        """Take the next step with the oldest row."""
        row = await self._rows.fetch()
        if row is None:
            # All that is spooled is on its way to us, or cannot be read now.
            self.not_before = self._clock.monotonic() + _UNREADABLE_PAUSE_SECONDS
            return
        step = await self._deliver(row)
        if not isinstance(step, Settled):
            self._failures, pause = self._patience.judged(step, self._failures)
            self.not_before = self._clock.monotonic() + pause
            self._on_the_way.changed.set()

    async def probe(self) -> bool:
        """Redis is away: attempt the oldest row, to see whether it still is. False: there is none to go."""
        may_go = self._ledger.settled.spooled and self._sender.knows_how
        row = await self._rows.fetch() if may_go else None
        step = await self._deliver(row) if row is not None else Waiting()
        if isinstance(step, (Waiting, Stuck)):
            return False
        if not isinstance(step, Settled):
            self._failures, _ = self._patience.judged(step, self._failures)
        return True

    @property
    def _rows(self) -> Replayer:
        assert self._replayer is not None
        return self._replayer

    async def _deliver(self, row: SpooledRow) -> Step:
        step = await self._rows.deliver(row)
        if isinstance(step, Stuck):
            self._lose_orphan(row)
        if isinstance(step, Settled):
            self._replayed(step)
        return step

    def _lose_orphan(self, row: SpooledRow) -> None:
        """A row is left for later; if its part is gone, it was only in our hands."""
        for orphan, reason in self._orphans:
            if orphan is row:
                self._losses.lost_by_spool(row.part_id, row.records, reason)

    def _replayed(self, settled: Settled) -> None:
        records = settled.delivered + len(settled.letters)
        self._redis.took_something()
        self._losses.put_aside(settled.letters, self.settings.spool_dir)
        self._failures = 0
        if self.settings.replay_rate:
            self.not_before = self._clock.monotonic() + records / self.settings.replay_rate
        if not self._replayed_since_told:
            self._tell("replaying", records=self._ledger.settled.spooled + records)
        self._replayed_since_told += records
        if not self._ledger.settled.spooled:
            self._tell("drained", records=self._replayed_since_told)
            self._replayed_since_told = 0
            self._spooling = False
        self._on_the_way.changed.set()

    # ---------------------------------------------------------------- what becomes of the spool

    def rows_came(self, records: int) -> None:
        """So many records were spooled just now."""
        if not self._spooling:
            self._spooling = True
            self._tell("spooling", records=records)
        if not self.settings.replay_rate and not self._failures:
            self.not_before = 0.0  # the pause was for want of rows

    def part_lost(self, part_id: str, reason: str) -> None:
        """A part is gone, and all in it that is not in our hands."""
        lost = self._ledger.settled.spooled_by_part.get(part_id, 0)
        for row in self._replayer.rows_of(part_id) if self._replayer is not None else ():
            lost -= row.records  # it is in our hands, and is delivered from them unless the sink ends before
            if not any(row is orphan for orphan, _ in self._orphans):
                self._orphans.append((row, reason))
        if lost > 0:
            self._losses.lost_by_spool(part_id, lost, reason)
