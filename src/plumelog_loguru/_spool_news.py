"""What the spool thread tells, booked: the loop thread's ear for it.

Each message says what became of records that were given to the spool, or were found there. It is booked at
once, for nobody else books it; what has arrived is waited for no longer, and the courier looks again at what
comes next.
"""

from __future__ import annotations

from collections.abc import Callable

from ._journal import Journals
from ._ledger import Ledger
from ._loss_marker import LossMarkers
from ._losses import Losses
from ._on_the_way import OnTheWay
from ._redis_health import RedisHealth
from ._replay_turn import ReplayTurn
from ._spool import Block


class SpoolNews:
    """Implements `KeeperListener`; everything runs in the loop thread, or when that has ended."""

    def __init__(
        self,
        *,
        on_the_way: OnTheWay,
        journals: Journals,
        ledger: Ledger,
        losses: Losses,
        markers: LossMarkers,
        redis: RedisHealth,
        replay: ReplayTurn,
        look_again: Callable[[], None],
        relieve: Callable[[], None],
    ) -> None:
        """``look_again`` is called when there may be something to do, ``relieve`` when there is room."""
        self._on_the_way = on_the_way
        self._journals = journals
        self._ledger = ledger
        self._losses = losses
        self._markers = markers
        self._redis = redis
        self._replay = replay
        self._look_again = look_again
        self._relieve = relieve

    def on_spool_opened(self, part_id: str, adopted: int) -> None:
        if adopted:
            self._ledger.adopted(part_id, adopted)
        self._replay.not_before = 0.0
        self._look_again()

    def on_recovered(self, part_id: str, records: int, possibly_doubled: int) -> None:
        self._ledger.possibly_doubled += possibly_doubled
        self.on_spool_opened(part_id, records)

    def on_spool_unusable(self, reason: str, returned: list[Block]) -> None:
        self._redis.last_error = reason
        self.on_returned(returned)

    def on_returned(self, returned: list[Block]) -> None:
        for block in returned:
            if block.written < len(block.values):
                self._on_the_way.take_back(block)
            else:
                self._on_the_way.discard(block)
        self._look_again()

    def on_stored(self, part_id: str, block: Block, records: int, done: bool) -> None:
        self._ledger.spooled(part_id, records)
        self._replay.rows_came(records)
        if not self._redis.is_away:
            self._look_again()
        if done:
            self._journals.advance()
            self._on_the_way.discard(block)
            self._relieve()

    def on_spool_loss(self, part_id: str, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        self._losses.lost_by_spool(part_id, records, reason, first_ms, last_ms)

    def on_refused(
        self, part_id: str, block: Block, records: int, done: bool, first_ms: int, last_ms: int
    ) -> None:
        self._ledger.dropped(records, "spool_full")
        if done:
            self._journals.advance()
            self._on_the_way.discard(block)
        self._losses.lost(records, "spool_full", first_ms, last_ms)
        self._markers.take_back(block.values)

    def on_part_lost(self, part_id: str, reason: str) -> None:
        self._replay.part_lost(part_id, reason)
