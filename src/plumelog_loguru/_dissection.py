"""What becomes of a batch that is refused: it is divided until the record that is to blame stands alone.

Too large a value, or a firewall that dislikes what a record says, closes the connection and looks like a
network fault. So a batch is *suspected* when it fails, and a probe decides: where Redis takes the probe, and
refuses the batch again and again, it is the batch.

    attempt ──Redis has it──> delivered
       │ fails in doubt ──> probe ──works──> attempt, or, when that was often enough, condemned
       │ refused by Redis itself ──> condemned
       └ fenced: somebody came this far, and was stopped ──> as below, behind the fence

    condemned, several records ──> fence ──> halves, the first one first
    condemned, one record ──> letter prepared ──> fence ──> letter named: a dead letter

Promises:

- Nothing is lost or doubled, wherever this is stopped and by whomever it is begun again. An identity is
  fenced before its successors are used, these follow from it alone (`BatchId.child`), and the batch is
  divided at its middle: so whoever repeats a step repeats the same, and is led through the same tree by
  Redis's answers. A half is settled before the next is attempted, for they share a lane.
- The batch is settled as a whole: what its owner books, and forgets, is told once, at the end.
- `step` makes at most one call on Redis, and never waits long for the disk.

Where batches are pushed plainly there are no fences. Then what was in doubt counts as possibly doubled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from ._batch import AttemptedBy, Batch, BatchId
from ._clock import Clock
from ._delivery import AlreadyApplied, Applied, Failed, Failure, FailureKind, Fenced, Healthy, Sender
from ._destination import Destination
from ._spool import DeadLetter, DeadLetters

# A record alone is given up after this many attempts more than the first, however few were asked for: nobody
# can divide it, and get it back if it was the network after all.
_LEAST_RETRIES = 2
_DISK_SECONDS = 0.2

CONNECTION_LOST = "connection lost at each attempt"


class Suspicion:
    """Tells a batch that is refused from a Redis that is away, by probes between the attempts."""

    def __init__(self) -> None:
        self.strikes = 0  # attempts that failed, and the probe after them worked
        self.verdict: Failure | None = None  # the batch is condemned, by this failure
        self._last: Failure | None = None  # of an attempt; no probe has worked since

    @property
    def wants_probe(self) -> bool:
        """Whether a probe is to be made before the next attempt."""
        return self._last is not None and self.verdict is None

    def attempt_failed(self, failure: Failure) -> None:
        """Judge an attempt."""
        self._last = None
        if failure.kind is FailureKind.REFUSED:
            self.verdict = failure
        elif failure.kind is FailureKind.TRANSIENT and failure.in_doubt:
            self._last = failure
        else:
            self.strikes = 0  # Redis spoke of itself, or was not reached

    def probe_worked(self, retries: int) -> None:
        """So Redis is not away, and after so many attempts more than the first it is the batch."""
        self.strikes += 1
        if self.strikes > retries:
            self.verdict = self._last
        self._last = None

    def probe_failed(self) -> None:
        """It is Redis. All that counted against the batch is forgotten, and a probe goes first again."""
        self.strikes = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """The whole batch is done with: what to book."""

    delivered: int  # records
    letters: tuple[str, ...]  # the reason for each record that is a dead letter
    dropped: tuple[str, ...]  # the reason for each record that is lost, for want of a place for its letter
    already_applied: int  # batches
    possibly_doubled: int  # records


@dataclass(frozen=True, slots=True)
class Onward:
    """Redis takes records; there is more to do."""


@dataclass(frozen=True, slots=True)
class Suspected:
    """An attempt failed, by Redis's fault or its own: the next step tells."""

    failure: Failure
    strikes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The disk has not answered yet."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """A letter cannot be written: the batch stays where it is, and is begun again some time."""


Step = Settled | Onward | Suspected | Failed | Waiting | Stuck


class Disk(Protocol):
    """Where letters are kept: the spool thread, or who has none beside the loop."""

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        """Have ``give`` called, in this thread, with what ``work`` gave; None if that failed."""
        ...


class Stage(Enum):
    """``ATTEMPT <-> PROBE``; then ``FENCE``, for one record ``PREPARE -> FENCE -> NAME``; or ``LOOK``."""

    ATTEMPT = "attempt"
    PROBE = "probe"
    PREPARE = "prepare"
    FENCE = "fence"
    NAME = "name"
    LOOK = "look"  # it was fenced before: is there a letter?


@dataclass(eq=False, slots=True)
class _Node:
    """A part of the batch that is still to be settled."""

    batch: Batch
    retries: int  # how many attempts after the first must fail
    suspicion: Suspicion = field(default_factory=Suspicion)
    stage: Stage = Stage.ATTEMPT
    prepared: bool = False  # its letter is on the disk, but for the name


@dataclass(slots=True)
class _Tally:
    delivered: int = 0
    letters: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    already_applied: int = 0
    possibly_doubled: int = 0


class _DiskIsSlow(Exception):
    pass


class Dissection:
    """Delivers one batch: whole where Redis takes it, else in as few parts as it must be."""

    def __init__(
        self,
        batch: Batch,
        *,
        destination: Destination,
        retry_count: int,
        clock: Clock,
        lane_ttl_seconds: float,
        kept: bool,
    ) -> None:
        """``kept``: the batch is on the disk, and stays there while a letter cannot be written."""
        self._destination = destination
        self._retry_count = retry_count
        self._clock = clock
        self._lane_ttl_ms = lane_ttl_seconds * 1000
        self._kept = kept
        # What was pushed plainly may be there, whatever becomes of it now.
        self._may_be_there = batch.attempted_by is AttemptedBy.PLAIN
        self._tally = _Tally()
        self._answer: asyncio.Future[bool | None] | None = None  # of the disk
        self.stamp = batch
        """The whole batch as its owner should keep it: its identity, and whether it is in doubt by now."""
        retries = self._retries_alone if len(batch.values) == 1 else retry_count
        self._nodes = [_Node(batch, retries)]  # the last one goes first
        self._fenced = False  # the batch itself: what is behind it in its lane may pass

    @property
    def _retries_alone(self) -> int:
        return max(self._retry_count, _LEAST_RETRIES)

    def condemn(self, verdict: Failure) -> None:
        """Whoever attempted the batch before has found it refused."""
        self._nodes[0].suspicion.verdict = verdict
        self._condemn(self._nodes[0])

    async def step(self, sender: Sender, disk: Disk) -> Step:
        """Do the next thing; to be called until the batch is settled."""
        self._sender, self._disk = sender, disk
        node = self._nodes[-1]
        turns: dict[Stage, Callable[[_Node], Awaitable[Step]]] = {
            Stage.ATTEMPT: self._attempt,
            Stage.PROBE: self._probe,
            Stage.PREPARE: self._prepare,
            Stage.FENCE: self._fence,
            Stage.NAME: self._name,
            Stage.LOOK: self._look,
        }
        try:
            return await turns[node.stage](node)
        except _DiskIsSlow:
            return Waiting()

    # ---------------------------------------------------------------- attempts

    async def _attempt(self, node: _Node) -> Step:
        if len(node.batch.values) == 1 and node.suspicion.strikes:
            # Somebody on the way may cut connections off after so many bytes, and a probe is short: what else
            # went over this one must not count against the record.
            await self._sender.hang_up()
        outcome = await self._sender.send(node.batch)
        if isinstance(outcome, Failed):
            return self._attempt_failed(node, outcome.failure)
        if isinstance(outcome, Fenced):
            return self._go_behind(node)
        return self._taken(node, outcome)

    def _attempt_failed(self, node: _Node, failure: Failure) -> Step:
        suspicion = node.suspicion
        suspicion.attempt_failed(failure)
        if failure.in_doubt:
            node.batch = self._sender.stamped(node.batch)
            self._mark_doubt()
        if suspicion.verdict is not None:
            self._condemn(node)
        elif suspicion.wants_probe:
            node.stage = Stage.PROBE
        else:
            return Failed(failure)
        return Suspected(failure, suspicion.strikes)

    async def _probe(self, node: _Node) -> Step:
        outcome = await self._sender.probe()
        if not isinstance(outcome, Healthy):
            node.suspicion.probe_failed()
            return outcome
        node.suspicion.probe_worked(node.retries)
        node.stage = Stage.ATTEMPT
        if node.suspicion.verdict is not None:
            self._condemn(node)
        return Onward()

    def _mark_doubt(self) -> None:
        self.stamp = self._sender.stamped(self.stamp)

    def _taken(self, node: _Node, outcome: Applied | AlreadyApplied) -> Step:
        tally, batch = self._tally, node.batch
        tally.delivered += len(batch.values)
        if isinstance(outcome, AlreadyApplied):
            tally.already_applied += 1
        if (
            self._may_be_there
            or (batch.attempted_by is AttemptedBy.PLAIN and isinstance(outcome, Applied))
            or self._was_forgotten(batch, outcome)
        ):
            tally.possibly_doubled += len(batch.values)
        return self._end()

    def _was_forgotten(self, batch: Batch, outcome: Applied | AlreadyApplied) -> bool:
        """Whether Redis no longer knows the lane, and had the right to: nobody can tell what it had."""
        return (
            isinstance(outcome, Applied)
            and batch.attempted_by is AttemptedBy.SCRIPT
            and outcome.last_found == 0
            and self._clock.epoch_ms() - batch.last_attempt_ms > self._lane_ttl_ms
        )

    def _end(self) -> Step:
        self._nodes.pop()
        if self._nodes:
            return Onward()
        tally = self._tally
        return Settled(
            tally.delivered,
            tuple(tally.letters),
            tuple(tally.dropped),
            tally.already_applied,
            tally.possibly_doubled,
        )

    # ---------------------------------------------------------------- the knife

    def _condemn(self, node: _Node) -> None:
        node.stage = Stage.PREPARE if len(node.batch.values) == 1 else Stage.FENCE

    async def _fence(self, node: _Node) -> Step:
        if self.stamp.attempted_by is AttemptedBy.NOBODY:
            self._mark_doubt()  # or another owner might push the whole plainly
        outcome = await self._sender.fence(node.batch)
        if isinstance(outcome, Failed):
            return outcome
        if isinstance(outcome, AlreadyApplied):
            if node.prepared:
                self._disk.ask_letters(_discarding(node.batch.id), lambda _: None)
            return self._taken(node, outcome)
        if len(node.batch.values) > 1:
            return self._go_behind(node)
        if self._kept and not node.prepared:
            # Without a letter there is no end to it. It was fenced for those behind it in its lane, and goes
            # on under its next identity when it is begun again.
            self._go_behind(node)
            return Stuck()
        node.stage = Stage.NAME
        return await self._name(node)

    def _go_behind(self, node: _Node) -> Step:
        """The node's identity is fenced, or there are no fences: its successors' turn."""
        self._fenced = True
        batch = node.batch
        if len(batch.values) == 1:
            node.stage = Stage.LOOK
            return Onward()
        middle = len(batch.values) // 2
        halves = batch.values[:middle], batch.values[middle:]
        self._nodes.pop()
        for number in (2, 1):
            values = halves[number - 1]
            # To divide once more costs little: a half needs to fail only once.
            retries = self._retries_alone if len(values) == 1 else 0
            self._nodes.append(_Node(replace(batch, id=batch.id.child(number), values=values), retries))
        return Onward()

    # ---------------------------------------------------------------- letters

    async def _prepare(self, node: _Node) -> Step:
        verdict = node.suspicion.verdict
        assert verdict is not None
        letter = DeadLetter(
            node.batch.id,
            node.batch.values[0],
            self._destination,
            _reason(verdict),
            self._clock.epoch_ms(),
        )
        node.prepared = await self._ask(_preparing(letter)) is not None
        if self._kept and self._fenced and not node.prepared:
            return Stuck()  # before its fence, so that beginning again does not lead deeper and deeper
        node.stage = Stage.FENCE
        return await self._fence(node)

    async def _name(self, node: _Node) -> Step:
        verdict = node.suspicion.verdict
        assert verdict is not None
        if node.prepared and await self._ask(_naming(node.batch.id)) is None:
            node.prepared = False
        if node.prepared:
            self._tally.letters.append(_reason(verdict))
        elif self._kept:
            return Stuck()
        else:
            self._tally.dropped.append(_reason(verdict))
        return self._end()

    async def _look(self, node: _Node) -> Step:
        batch_id = node.batch.id
        found = await self._ask(lambda letters: letters.has(batch_id))
        if found is None and self._kept:
            return Stuck()
        if found:
            self._tally.letters.append("given up before")
            return self._end()
        node.batch = replace(node.batch, id=batch_id.child(1))
        node.stage = Stage.ATTEMPT
        return await self._attempt(node)

    async def _ask(self, work: Callable[[DeadLetters], bool]) -> bool | None:
        """What the disk answers; None if it could not do it. All that is asked may be repeated."""
        loop = asyncio.get_running_loop()
        answer = self._answer
        if answer is None or answer.get_loop() is not loop:  # a loop that has ended hears nothing any more
            answer = self._answer = loop.create_future()
            self._disk.ask_letters(work, answer.set_result)
        if not answer.done():
            await asyncio.wait([answer], timeout=_DISK_SECONDS)
        if not answer.done():
            raise _DiskIsSlow
        self._answer = None
        return answer.result()


def _preparing(letter: DeadLetter) -> Callable[[DeadLetters], bool]:
    def work(letters: DeadLetters) -> bool:
        letters.prepare(letter)
        return True

    return work


def _naming(batch_id: BatchId) -> Callable[[DeadLetters], bool]:
    def work(letters: DeadLetters) -> bool:
        letters.commit(batch_id)
        return True

    return work


def _discarding(batch_id: BatchId) -> Callable[[DeadLetters], bool]:
    def work(letters: DeadLetters) -> bool:
        letters.discard(batch_id)
        return True

    return work


def _reason(verdict: Failure) -> str:
    if verdict.kind is not FailureKind.REFUSED and verdict.code in ("CONNECTION", "TIMEOUT"):
        return CONNECTION_LOST
    return verdict.detail or verdict.code
