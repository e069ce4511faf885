"""What has left the queue and is neither in Redis nor in the spool yet, and how to wait for it.

Callers add to it too, when they hand the queue's oldest records to the spool thread; so it is a set, whose
steps are atomic, and every look at it takes a copy first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from ._batch import AttemptedBy, Batch, BatchId
from ._clock import Clock
from ._dissection import Dissection, Suspicion
from ._handoff import HandOff
from ._journal import Run
from ._runtime import Signal
from ._spool import Block

_LOOK_AGAIN_SECONDS = 0.02  # what callers do is not told to the loop


@dataclass(eq=False, slots=True)
class Head:
    """The live batch whose delivery has begun: at most one."""

    batch: Batch
    runs: Sequence[Run] = ()  # where its records are in the journal
    since: int = 0  # where it stands in the order in which records left the queue
    origin: Block | None = None  # the block that came back from a spool that is none
    tries: int = 0
    not_before: float = 0.0  # monotonic seconds
    suspicion: Suspicion = field(default_factory=Suspicion)
    leaves: bool = False  # for the spool, though Redis is there: it holds up what is behind it
    dissection: Dissection | None = None  # it had to leave, and there is no spool
    journaled_as: tuple[BatchId, AttemptedBy] | None = None  # what the journal's cut says

    @property
    def records(self) -> int:
        return len(self.batch.values)


class OnTheWay:
    """The heads and blocks between the queue and their place."""

    def __init__(self, handoff: HandOff, clock: Clock) -> None:
        self._handoff = handoff
        self._clock = clock
        self._things: set[Head | Block] = set()
        self._departures = count(1)
        self._flush_upto = 0
        self.changed = Signal()

    def __iter__(self) -> Iterator[Head | Block]:
        return iter(list(self._things))

    def add(self, one: Head | Block) -> None:
        """From now on it is waited for; what continues another thing's way has got its place in the order."""
        one.since = one.since or next(self._departures)
        self._things.add(one)

    def discard(self, *arrived: Head | Block | None) -> None:
        """These have arrived, or others go on in their place."""
        self._things.difference_update(arrived)
        self.changed.set()

    def clear(self) -> None:
        """Nothing is waited for any more."""
        self._things.clear()

    @property
    def is_clear(self) -> bool:
        """Whether no record is in memory, neither in the queue nor on its way."""
        return not (self._things or self._handoff.depth or self._handoff.shifting)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for what is still in the queue."""
        return self._handoff.left_count() < self._flush_upto

    async def arrival(self, watermark: int, until: float | None, *, hopeless: Callable[[], bool]) -> bool:
        """Wait until the queue's first ``watermark`` records have arrived, in Redis or in the spool.

        Args:
            watermark: a count as of `HandOff.put_count`.
            until: monotonic seconds; None waits until they have, or until it is hopeless.
            hopeless: whether neither Redis nor the spool takes records.

        Returns:
            Whether they have arrived.
        """
        self._flush_upto = max(self._flush_upto, watermark)
        while self._handoff.left_count() < watermark or self._handoff.shifting:
            if not await self._something(until, hopeless):
                return False
        # By their order and not by themselves: a head that is spilled goes on as a block.
        upto = max((one.since for one in self), default=0)
        while any(one.since <= upto for one in self):
            if not await self._something(until, hopeless):
                return False
        return True

    async def _something(self, until: float | None, hopeless: Callable[[], bool]) -> bool:
        """Wait a little for something to change; False when the time is up, or nothing can change."""
        if until is None:
            if hopeless():
                return False
            wait = _LOOK_AGAIN_SECONDS
        else:
            wait = min(_LOOK_AGAIN_SECONDS, until - self._clock.monotonic())
            if wait <= 0:
                return False
        self.changed.clear()
        await self.changed.wait(wait)
        return True
