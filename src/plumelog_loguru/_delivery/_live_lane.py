"""The lane in which a living process delivers what it has in memory.

It gives identities, and notices from the answers of Redis when another process pushes under the same ones.
Pure: no I/O, no time but the clock that is handed in.
"""

from __future__ import annotations

from .._batch import BatchId, new_lane_id
from .._clock import Clock


class LiveLane:
    """One process's lane, renewed when it is frozen or was idle for long."""

    def __init__(self, ttl_seconds: float, clock: Clock) -> None:
        """``ttl_seconds`` is how long Redis remembers a lane after its last push."""
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._draw()

    def __repr__(self) -> str:
        return f"<LiveLane {self.id} given={self._given}>"

    def _draw(self) -> None:
        self.id = new_lane_id()
        self._given = 0
        self._used_at = self._clock.monotonic()

    def next_id(self) -> BatchId:
        """The identity of the next batch."""
        if self._clock.monotonic() - self._used_at > self._ttl_seconds / 2:
            self._draw()  # Redis may forget the idle lane at any moment now
        self._given += 1
        return BatchId(self.id, self._given)

    def freeze(self) -> None:
        """Never use this lane again: one of its batches went to the spool and is delivered from there."""
        self._draw()

    def acknowledged(self, batch_id: BatchId, *, found: int, applied_now: bool, repeated: bool) -> bool:
        """Redis has the batch.

        Args:
            batch_id: the batch; one of another lane than today's says nothing about today's.
            found: the last number that Redis found in the lane, before this push.
            applied_now: whether this push did it; False if Redis said that it had it already.
            repeated: whether an earlier attempt may have done it.

        Returns:
            Whether it is somebody else's batch: a copy of this process was resumed, and pushes in this lane.
        """
        if batch_id.lane != self.id:
            return False
        self._used_at = self._clock.monotonic()
        shared = not applied_now and (found > batch_id.seq or not repeated)
        if shared:
            self._draw()
        return shared
