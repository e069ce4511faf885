"""What is left when the delivery has ended: it goes to the spool, stays in the journal, or in memory.

In this order, and each for what the one before it did not take. What stays in memory is for the next start;
when the sink is closed for good, it is counted as lost.

Assumes that nobody delivers any more. The spool thread may still run, or one without a thread is made for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ._handoff import HandOff
from ._journal import Journals
from ._ledger import Ledger
from ._live_delivery import LiveDelivery
from ._loss_marker import LossMarkers
from ._losses import Losses
from ._on_the_way import OnTheWay
from ._settings import PlumelogSettings
from ._spool import Block, SpoolKeeper


class Leftovers:
    """Finds a place for what is in the queue or on its way."""

    def __init__(
        self,
        settings: PlumelogSettings,
        *,
        handoff: HandOff,
        on_the_way: OnTheWay,
        live: LiveDelivery,
        journals: Journals,
        ledger: Ledger,
        losses: Losses,
        markers: LossMarkers,
        take_from_queue: Callable[[], list[bytes]],
    ) -> None:
        self._makes_room = settings.spool_full_policy in ("drop_oldest", "drop_lowest_level")
        self._handoff = handoff
        self._on_the_way = on_the_way
        self._live = live
        self._journals = journals
        self._ledger = ledger
        self._losses = losses
        self._markers = markers
        self._take_from_queue = take_from_queue

    @property
    def records(self) -> int:
        """Records that are in memory, and neither in Redis nor in the spool."""
        way = self._on_the_way
        blocks = {one for one in way if isinstance(one, Block)}.union(way.returned)
        if way.head is not None:
            blocks.discard(way.head.origin)  # the head's own records
        return (
            self._handoff.depth
            + (way.head.records if way.head else 0)
            + sum(len(block.values) - block.written for block in blocks)
        )

    # ---------------------------------------------------------------- to the spool

    def spool(self, keeper: SpoolKeeper) -> bool:
        """Give what is left to the spool. False: it has no room just now."""
        way = self._on_the_way
        way.keeper = keeper
        if way.head is not None:
            self._live.spill(way.head)
        while way.returned and keeper.has_room():
            self._offer_back(way.returned.popleft())
        while self._handoff.depth and keeper.has_room():
            if values := self._take_from_queue():
                way.offer(Block(values))
        left = bool(way.head or way.returned or self._handoff.depth)
        if not left:
            self._spool_markers(keeper)
        return not keeper.usable or not left

    def _spool_markers(self, keeper: SpoolKeeper) -> None:
        """The last markers. A spool that may be full takes those of its own drops only if it makes room."""
        while keeper.has_room():
            line = self._markers.make(at_once=True, spooled=not self._makes_room)
            if line is None:
                return
            self._on_the_way.offer(Block((line,)))

    def _offer_back(self, origin: Block) -> None:
        values = origin.values[origin.written :]
        self._on_the_way.offer(Block(values, origin.batch, origin.runs, since=origin.since))
        self._on_the_way.discard(origin)

    def take_back(self, blocks: list[Block]) -> None:
        """Keep what the spool did not get, for the next start."""
        self._on_the_way.returned.extend(blocks)

    # ---------------------------------------------------------------- to the journal

    def leave_in_journal(self) -> int:
        """Let go of all that the journal holds; returns how many records that are."""
        left, way = 0, self._on_the_way
        if (head := way.head) is not None and self._journals.holds_runs(head.runs):
            left += head.records
            way.leave(head)
        while items := self._handoff.take():
            way.take_back(Block(items))
        returned, way.returned = way.returned, deque()
        for block in returned:
            kept = self._kept_in_memory(block)
            left += len(block.values) - block.written
            if kept is not None:
                left -= len(kept.values) - kept.written
                way.take_back(kept)
            if kept is not block:
                way.discard(block)
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

    # ---------------------------------------------------------------- nowhere

    def abandon(self, reason: str) -> int:
        """Count everything that is left as lost; the sink is closed for good."""
        lost = self.records
        while self._handoff.take():
            pass
        self._on_the_way.clear()
        if lost:
            self._ledger.dropped(lost, reason)
            self._losses.lost(lost, reason)
        return lost
