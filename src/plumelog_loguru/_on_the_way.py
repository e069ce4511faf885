"""What has left the queue and is neither in Redis nor in the spool yet, and how to wait for it.

That is at most one *head*, the live batch whose delivery has begun; blocks on their way to the spool thread;
and blocks that came back, because there turned out to be no spool. Each has a place in the order in which
records left the queue, and whatever continues its way inherits it.

Callers add to it too, when they hand the queue's oldest records to the spool thread; so it is a set, whose
steps are atomic, and every look at it takes a copy first. All else happens in the loop thread, or when that
has ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from ._batch import AttemptedBy, Batch, BatchId
from ._clock import Clock
from ._delivery import LiveLane
from ._dissection import Dissection, Suspicion
from ._handoff import HandOff
from ._journal import Journals, Run, of_one_journal, runs_of, value_of
from ._runtime import Signal
from ._spool import Block, SpoolKeeper

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
    """The head and the blocks between the queue and their place."""

    keeper: SpoolKeeper
    """The spool thread, to which blocks go; each start has its own."""

    def __init__(self, handoff: HandOff, journals: Journals, lane: LiveLane, clock: Clock) -> None:
        self.head: Head | None = None
        self.returned: deque[Block] = deque()  # from a spool that turned out to be none
        self._handoff = handoff
        self._journals = journals
        self._lane = lane
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
        """Nothing is on the way any more, and nothing is waited for."""
        self.head = None
        self.returned.clear()
        self._things.clear()

    # ---------------------------------------------------------------- heads

    def begin(self, items: Sequence[bytes], origin: Block | None = None) -> Head:
        """Make a batch of these under the lane's next identity."""
        batch = Batch(self._lane.next_id(), tuple(map(value_of, items)))
        return self._begun(Head(batch, runs_of(items), origin=origin))

    def begin_returned(self) -> Head:
        """Make a batch of what came back first; one that was attempted already is repeated as it was."""
        block = self.returned.popleft()
        if block.batch is not None:
            return self._begun(Head(block.batch, block.runs, origin=block))
        items = block.values[block.written :]
        if (together := of_one_journal(items)) < len(items):
            block = self._divide(block, together)
        return self.begin(block.values[block.written :], block)

    def _divide(self, block: Block, records: int) -> Block:
        """Two blocks in the place of one: so many of its records, which is returned, and the others."""
        items = block.values[block.written :]
        parts = Block(items[:records], since=block.since), Block(items[records:], since=block.since)
        for part in parts:
            self.add(part)
        self.discard(block)
        self.returned.appendleft(parts[1])
        return parts[0]

    def _begun(self, head: Head) -> Head:
        if head.origin is not None:
            head.since = head.origin.since
        self.add(head)
        return head

    def settled(self, head: Head) -> None:
        """The head has arrived; the journal needs its records no more."""
        self.head = None
        self._journals.settle(head.runs)
        self._journals.advance()
        self.discard(head, head.origin)

    # ---------------------------------------------------------------- to the spool and back

    def offer(self, block: Block) -> None:
        """Give a block to the spool thread."""
        self.add(block)
        self.keeper.offer(block, from_loop=True)

    def give_to_spool(self, head: Head) -> None:
        """The head goes on as a block, under its identity."""
        self.offer(Block(head.batch.values, head.batch, head.runs, since=head.since))
        self.leave(head)

    def leave(self, head: Head) -> None:
        """The head is delivered from the disk, after what comes next: its lane is never used again."""
        self.head = None
        self._lane.freeze()
        self.discard(head, head.origin)

    def take_back(self, block: Block) -> None:
        """The block stays in memory, after those that came back before."""
        self.add(block)
        self.returned.append(block)

    def runs(self) -> list[Run] | None:
        """Where in the journal is what is queued or on its way; None while that cannot be told."""
        # The queue first: what leaves it meanwhile is seen twice and not missed.
        runs = runs_of(self._handoff.snapshot())
        if self._handoff.shifting:
            return None  # it may have left before, and be in a caller's hands
        for one in self:
            if isinstance(one, Head) or one.batch is not None:
                runs += one.runs
            else:
                runs += runs_of(one.values)
        return runs

    # ---------------------------------------------------------------- waiting for it

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
            until: monotonic seconds; None sets no limit.
            hopeless: whether it is of no use to wait any longer.

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
        wait = (
            _LOOK_AGAIN_SECONDS
            if until is None
            else min(_LOOK_AGAIN_SECONDS, until - self._clock.monotonic())
        )
        if hopeless() or wait <= 0:
            return False
        self.changed.clear()
        await self.changed.wait(wait)
        return True
