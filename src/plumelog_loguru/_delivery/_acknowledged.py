"""What Redis has acknowledged, lane by lane, so that it is told when Redis has forgotten it.

A server may come back without data, or a replica that was behind may take its place. Then it knows lower
numbers of our lanes than those that it acknowledged, or none. A push shows it for its own lane, a question
for the others. What is said to be lost is the most that can be: of a list that had been read it is less.

What is remembered is bounded. Beyond that, batches next to each other are taken together, and so are the
oldest lanes: then more is told rather than less. Pure: no I/O, no time but the clock that is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .._batch import BatchId
from .._clock import Clock

_BATCHES = 4096  # of all lanes
_LANES = 64


@dataclass(slots=True)
class _Lane:
    used_at: float
    batches: deque[tuple[int, int]] = field(default_factory=deque)  # number and records of each


class Acknowledged:
    """The batches that this process pushed by script, and that Redis is to know."""

    def __init__(self, ttl_seconds: float, clock: Clock, forgotten: Callable[[int, str], None]) -> None:
        """Remember nothing yet.

        Args:
            ttl_seconds: how long Redis remembers a lane after its last push.
            clock: tells how long ago that was.
            forgotten: called with how many records Redis has forgotten at most, and which batches.
        """
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._forgotten = forgotten
        self._lanes: dict[str, _Lane] = {}  # the one that was used last is the last

    def lanes(self) -> list[str]:
        """The lanes that Redis is to know."""
        long_ago = self._clock.monotonic() - self._ttl_seconds / 2
        self._lanes = {name: lane for name, lane in self._lanes.items() if lane.used_at >= long_ago}
        return list(self._lanes)

    def applied(self, batch_id: BatchId, records: int, found: int) -> None:
        """Redis has the batch since now; ``found`` is the last number that it knew of the lane before."""
        lane = self._lanes.get(batch_id.lane)
        if lane is not None and lane.batches and lane.batches[-1][0] == batch_id.seq:
            lane.batches.pop()  # it was forgotten, repeated, and is there again
        self.found(batch_id.lane, found)
        self.known(batch_id, records)

    def known(self, batch_id: BatchId, records: int) -> None:
        """Redis says that it has the batch already."""
        self.lanes()
        lane = self._lanes.pop(batch_id.lane, None) or _Lane(0.0)
        self._lanes[batch_id.lane] = lane
        lane.used_at = self._clock.monotonic()
        if not lane.batches or lane.batches[-1][0] < batch_id.seq:
            lane.batches.append((batch_id.seq, records))
        if len(self._lanes) > _LANES:
            self._take_oldest_lanes_together()
        if sum(len(one.batches) for one in self._lanes.values()) > _BATCHES:
            self._take_oldest_batches_together()

    def found(self, name: str, last: int) -> None:
        """Redis knows a lane up to this number; what it should know beyond that is lost."""
        lane = self._lanes.get(name) if name in self.lanes() else None
        if lane is None or not lane.batches or lane.batches[-1][0] <= last:
            return
        upto, records = lane.batches[-1][0], 0
        while lane.batches and lane.batches[-1][0] > last:
            records += lane.batches.pop()[1]
        if not lane.batches:
            del self._lanes[name]
        self._forgotten(records, f"lane {name}, batches {last + 1} to {upto}")

    def _take_oldest_batches_together(self) -> None:
        batches = next(lane.batches for lane in self._lanes.values() if len(lane.batches) > 1)
        (_, first), (seq, second) = batches.popleft(), batches.popleft()
        batches.appendleft((seq, first + second))

    def _take_oldest_lanes_together(self) -> None:
        # Where the first batch of the one lane is lost, what came before it is lost as well.
        oldest, second = list(self._lanes)[:2]
        seq, records = self._lanes[second].batches.popleft()
        before = sum(records for _, records in self._lanes.pop(oldest).batches)
        self._lanes[second].batches.appendleft((seq, records + before))
