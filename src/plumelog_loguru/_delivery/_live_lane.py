"""The lane in which a living process delivers what it has in memory.

It gives identities, and reads from each answer of Redis whether Redis still knows what it acknowledged. Pure:
no I/O, no time but the clock that is handed in.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .._batch import BatchId, new_lane_id
from .._clock import Clock

_HISTORY = 4096  # acknowledged batches whose sizes are remembered, to tell how much a server has lost


@dataclass(frozen=True, slots=True)
class LaneReading:
    """What an answer says about the lane, beside that the batch is in Redis."""

    lost_records: int = 0  # acknowledged before, and unknown to Redis now: at most this many
    lost_range: str = ""  # which batches
    shared: bool = False  # another process pushes in this lane: a copy of this one was resumed


class LiveLane:
    """One process's lane, renewed when it is frozen or was idle for long."""

    def __init__(self, ttl_seconds: float, clock: Clock) -> None:
        """``ttl_seconds`` is how long Redis remembers a lane after its last push."""
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._draw()

    def __repr__(self) -> str:
        return f"<LiveLane {self.id} last={self._last_acked}>"

    def _draw(self) -> None:
        self.id = new_lane_id()
        self._given = 0
        self._last_acked = 0
        self._records_acked = 0
        self._used_at = self._clock.monotonic()
        # (number, records acknowledged up to and with it), so that a loss can be told in records
        self._history: deque[tuple[int, int]] = deque([(0, 0)], maxlen=_HISTORY)

    def next_id(self) -> BatchId:
        """The identity of the next batch."""
        if self._clock.monotonic() - self._used_at > self._ttl_seconds / 2:
            self._draw()  # Redis may forget the idle lane at any moment now
        self._given += 1
        return BatchId(self.id, self._given)

    def freeze(self) -> None:
        """Never use this lane again: one of its batches went to the spool and is delivered from there."""
        self._draw()

    def acknowledged(
        self, batch_id: BatchId, records: int, *, found: int, applied_now: bool, repeated: bool
    ) -> LaneReading:
        """Redis has the batch.

        Args:
            batch_id: the batch; one of another lane than today's says nothing about today's.
            records: how many records it holds.
            found: the last number that Redis found in the lane, before this push.
            applied_now: whether this push did it; False if Redis said that it had it already.
            repeated: whether an earlier attempt may have done it.
        """
        if batch_id.lane != self.id:
            return LaneReading()
        self._used_at = self._clock.monotonic()
        shared = not applied_now and (found > batch_id.seq or not repeated)
        if shared:
            self._draw()
            return LaneReading(shared=True)
        reading = LaneReading()
        if applied_now and found < self._last_acked:
            known = next((total for seq, total in self._history if seq == found), 0)
            reading = LaneReading(
                lost_records=self._records_acked - known,
                lost_range=f"lane {self.id}, batches {found + 1} to {self._last_acked}",
            )
        self._last_acked = batch_id.seq
        self._records_acked += records
        self._history.append((batch_id.seq, self._records_acked))
        return reading
