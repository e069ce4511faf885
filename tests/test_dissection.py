"""A batch is divided until what is refused stands alone; nothing is lost or doubled on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId
from plumelog_loguru._delivery import (
    AlreadyApplied,
    Applied,
    Failed,
    Failure,
    FailureKind,
    Fenced,
    Healthy,
    Outcome,
    Sender,
)
from plumelog_loguru._destination import Destination
from plumelog_loguru._dissection import (
    CONNECTION_LOST,
    Dissection,
    Settled,
    Step,
    Stuck,
    Suspected,
    Suspicion,
    Waiting,
)
from plumelog_loguru._spool import DeadLetter, DeadLetters

LANE = "a" * 32
NOW_MS = 1_000_000
RESET = Failure(FailureKind.TRANSIENT, "CONNECTION", "connection reset by peer", in_doubt=True)
TOO_LARGE = Failure(FailureKind.REFUSED, "TOO_LARGE", "invalid bulk length", in_doubt=False)
AWAY = Failure(FailureKind.TRANSIENT, "CONNECTION", "nobody listens", in_doubt=False)


class Redis:
    """The lanes and one list, in the place of a sender; some values break the connection."""

    def __init__(self, *poison: bytes, failure: Failure = RESET, plain: bool = False) -> None:
        self.poison = set(poison)
        self.failure = failure
        self.plain = plain
        self.values: list[bytes] = []
        self.lanes: dict[str, tuple[int, set[int]]] = {}
        self.calls: list[str] = []
        self.sent: list[Batch] = []
        self.probe_failure: Failure | None = None
        self.has_been_used = True  # the connection
        self.cuts_used = False  # the network cuts a connection off when a second request goes over it

    async def send(self, batch: Batch) -> Outcome:
        self.calls.append(f"push {batch.id}")
        self.sent.append(batch)
        last, fenced = self.lanes.get(batch.id.lane, (0, set()))
        if self.poison.intersection(batch.values) or (self.cuts_used and self.has_been_used):
            self.has_been_used = False
            return Failed(self.failure)
        if not self.plain and batch.id.seq <= last:
            return Fenced(last) if batch.id.seq in fenced else AlreadyApplied(last)
        self.values += batch.values
        self.lanes[batch.id.lane] = batch.id.seq, fenced
        return Applied(last, len(self.values))

    async def fence(self, batch: Batch) -> AlreadyApplied | Fenced | None:
        if self.plain:
            return None
        self.calls.append(f"fence {batch.id}")
        last, fenced = self.lanes.get(batch.id.lane, (0, set()))
        if batch.id.seq <= last:
            return Fenced(last) if batch.id.seq in fenced else AlreadyApplied(last)
        self.lanes[batch.id.lane] = batch.id.seq, fenced | {batch.id.seq}
        return Fenced(last)

    async def hang_up(self) -> None:
        self.has_been_used = False

    async def probe(self) -> Healthy | Failed:
        self.calls.append("probe")
        self.has_been_used = True
        return Failed(self.probe_failure) if self.probe_failure else Healthy(0)

    def stamped(self, batch: Batch) -> Batch:
        by = AttemptedBy.PLAIN if self.plain else AttemptedBy.SCRIPT
        return replace(batch, attempted_by=by, last_attempt_ms=NOW_MS)


class Disk:
    """Letters in a dictionary, and a disk that can be full or slow."""

    def __init__(self) -> None:
        self.letters: dict[BatchId, DeadLetter] = {}
        self.prepared: dict[BatchId, DeadLetter] = {}
        self.full = False
        self.held: list[Callable[[], None]] | None = None

    def prepare(self, letter: DeadLetter) -> None:
        self.prepared[letter.id] = letter

    def commit(self, batch_id: BatchId) -> None:
        self.letters[batch_id] = self.prepared.pop(batch_id)

    def discard(self, batch_id: BatchId) -> None:
        self.prepared.pop(batch_id, None)

    def has(self, batch_id: BatchId) -> bool:
        return batch_id in self.letters

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        def answer() -> None:
            give(None if self.full else work(cast("DeadLetters", self)))

        if self.held is None:
            answer()
        else:
            self.held.append(answer)


class Clock:
    def monotonic(self) -> float:
        return 0.0

    def epoch_ms(self) -> int:
        return NOW_MS


def dissection(batch: Batch, *, retry_count: int = 3, kept: bool = True) -> Dissection:
    return Dissection(
        batch,
        destination=Destination("redis:6379", 0, "list", "left"),
        retry_count=retry_count,
        clock=Clock(),
        lane_ttl_seconds=60.0,
        kept=kept,
    )


def values(count: int) -> tuple[bytes, ...]:
    return tuple(b"%d" % number for number in range(count))


def steps(one: Dissection, redis: Redis, disk: Disk, most: int = 10_000) -> Iterator[Step]:
    loop = asyncio.new_event_loop()
    try:
        for _ in range(most):
            step = loop.run_until_complete(one.step(cast("Sender", redis), disk))
            yield step
            if isinstance(step, (Settled, Stuck)):
                return
    finally:
        loop.close()


def settle(one: Dissection, redis: Redis, disk: Disk) -> Step:
    return list(steps(one, redis, disk))[-1]


def test_a_healthy_batch_is_one_push() -> None:
    """Where Redis takes the batch there is nothing to divide, and nothing else is asked."""
    redis = Redis()
    batch = Batch(BatchId(LANE, 1), values(5))
    assert settle(dissection(batch), redis, Disk()) == Settled(5, (), (), 0, 0)
    assert redis.calls == [f"push {LANE}:1"]


def test_one_poisonous_record_is_found_among_its_neighbours() -> None:
    """It becomes a letter with its exact bytes and the reason; all others are delivered once, in order."""
    redis, disk = Redis(b"613"), Disk()
    settled = settle(dissection(Batch(BatchId(LANE, 7), values(1000))), redis, disk)
    assert settled == Settled(999, (CONNECTION_LOST,), (), 0, 0)
    assert redis.values == [value for value in values(1000) if value != b"613"]
    (letter,) = disk.letters.values()
    assert (letter.value, letter.reason, letter.at_ms) == (b"613", CONNECTION_LOST, NOW_MS)
    assert letter.id.lane.startswith(f"{LANE}.7.")


@pytest.mark.parametrize("count", [1, 7])
def test_what_else_went_over_a_connection_condemns_no_record(count: int) -> None:
    """Where connections are cut off early, a record alone gets one of its own before it is given up."""
    redis, disk = Redis(), Disk()
    redis.cuts_used = True
    settled = settle(dissection(Batch(BatchId(LANE, 7), values(count)), retry_count=0), redis, disk)
    assert settled == Settled(count, (), (), 0, 0)
    assert (redis.values, disk.letters) == (list(values(count)), {})


def test_identities_follow_from_one_another() -> None:
    """Fence, then the halves under `<lane>.<number>`, the first settled before the second is attempted."""
    redis = Redis(b"0", failure=TOO_LARGE)
    settle(dissection(Batch(BatchId(LANE, 7), values(3))), redis, Disk())
    assert redis.calls == [
        f"push {LANE}:7",
        f"fence {LANE}:7",
        f"push {LANE}.7:1",  # 0
        f"fence {LANE}.7:1",
        f"push {LANE}.7:2",  # 1, 2
    ]


def test_words_of_the_server_need_no_second_attempt() -> None:
    """What Redis itself refuses is refused; the letter says it in the server's words."""
    redis, disk = Redis(b"0", failure=TOO_LARGE), Disk()
    assert settle(dissection(Batch(BatchId(LANE, 1), values(1))), redis, disk) == Settled(
        0, ("invalid bulk length",), (), 0, 0
    )
    assert redis.calls == [f"push {LANE}:1", f"fence {LANE}:1"]


@pytest.mark.parametrize(("retry_count", "attempts"), [(0, 3), (1, 3), (2, 3), (3, 4), (5, 6)])
def test_a_record_alone_is_given_up_slowly(retry_count: int, attempts: int) -> None:
    """Each attempt must fail, and a probe after each must work; three times at least."""
    redis = Redis(b"0")
    settle(dissection(Batch(BatchId(LANE, 1), values(1)), retry_count=retry_count), redis, Disk())
    assert redis.calls == [f"push {LANE}:1", "probe"] * attempts + [f"fence {LANE}:1"]


def test_a_redis_that_is_away_condemns_nobody() -> None:
    """While probes fail too nothing counts against the batch, and it is not even sent."""
    redis = Redis(b"0")
    one = dissection(Batch(BatchId(LANE, 1), values(1)))
    going = steps(one, redis, Disk())
    for _ in range(3):
        assert isinstance(next(going), Suspected)
        next(going)
    redis.probe_failure = AWAY
    assert isinstance(next(going), Suspected)
    assert [next(going) for _ in range(20)] == [Failed(AWAY)] * 20
    redis.probe_failure, redis.poison = None, set()
    assert list(going)[-1] == Settled(1, (), (), 0, 0)


@pytest.mark.parametrize(
    "failure",
    [
        AWAY,
        Failure(FailureKind.TRANSIENT, "OOM", "out of memory", in_doubt=False),
        Failure(FailureKind.OPERATOR, "NOPERM", "no permission", in_doubt=False),
    ],
)
def test_what_redis_says_of_itself_is_no_suspicion(failure: Failure) -> None:
    """A server that is full, forbids, or cannot be reached says nothing about the batch."""
    redis = Redis(b"0", failure=failure)
    going = steps(dissection(Batch(BatchId(LANE, 1), values(1))), redis, Disk())
    assert [next(going) for _ in range(10)] == [Failed(failure)] * 10
    assert "probe" not in redis.calls


def test_what_was_in_redis_after_all_is_not_divided() -> None:
    """The fence finds that a lost reply was the trouble: delivered, and the letter is forgotten."""
    redis, disk = Redis(b"0"), Disk()
    one = dissection(Batch(BatchId(LANE, 1), values(1)))
    going = steps(one, redis, disk)
    for _ in range(8):
        next(going)
    redis.lanes[LANE] = 1, set()
    assert list(going) == [Settled(1, (), (), 1, 0)]
    assert not disk.letters and not disk.prepared


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(1, 20),
    data=st.data(),
    refused=st.booleans(),
    stops=st.lists(st.integers(1, 40), max_size=6),
)
def test_it_may_be_stopped_anywhere(count: int, data: st.DataObject, refused: bool, stops: list[int]) -> None:
    """Begun again from the whole batch, however often: each neighbour once, each poison a letter."""
    poison = data.draw(st.sets(st.sampled_from(values(count))))
    redis, disk = Redis(*poison, failure=TOO_LARGE if refused else RESET), Disk()
    done: list[Step] = []
    batch = Batch(BatchId(LANE, 3), values(count))
    for stop in [*stops, 10_000]:
        disk.prepared.clear()
        done = list(steps(dissection(batch), redis, disk, most=stop))
        if isinstance(done[-1], Settled):
            break
    assert redis.values == [value for value in values(count) if value not in poison]
    assert sorted(letter.value for letter in disk.letters.values()) == sorted(poison)
    settled = done[-1]
    assert isinstance(settled, Settled)
    assert (settled.delivered, len(settled.letters)) == (count - len(poison), len(poison))


def test_a_full_disk_keeps_the_batch_and_nobody_behind_it() -> None:
    """No letter, no end: but the batch's own identity is fenced, so that its lane may go on."""
    for count in (1, 2):
        redis, disk = Redis(b"0", failure=TOO_LARGE), Disk()
        disk.full = True
        batch = Batch(BatchId(LANE, 1), values(count))
        lanes = set()
        for _ in range(5):
            assert settle(dissection(batch), redis, disk) == Stuck()
            assert redis.lanes[LANE] == (1, {1})
            lanes = set(redis.lanes)
        assert len(lanes) <= 2, "each try leads deeper"
        disk.full = False
        settled = settle(dissection(batch), redis, disk)
        assert isinstance(settled, Settled) and len(settled.letters) == 1
        assert redis.values == list(values(count)[1:])


def test_without_a_place_for_letters_a_record_in_memory_is_dropped() -> None:
    """It is fenced all the same: what is counted as lost does not come later."""
    redis, disk = Redis(b"1", failure=TOO_LARGE), Disk()
    disk.full = True
    settled = settle(dissection(Batch(BatchId(LANE, 1), values(3)), kept=False), redis, disk)
    assert settled == Settled(2, (), ("invalid bulk length",), 0, 0)
    assert redis.values == [b"0", b"2"]
    assert any(fenced for _, fenced in redis.lanes.values())


def test_a_slow_disk_is_not_waited_for() -> None:
    """The step ends, and the next one looks again; nothing is asked twice."""
    redis, disk = Redis(b"0", failure=TOO_LARGE), Disk()
    disk.held = []

    async def main() -> None:
        one = dissection(Batch(BatchId(LANE, 1), values(1)))
        sender = cast("Sender", redis)
        assert isinstance(await one.step(sender, disk), Suspected)
        assert await one.step(sender, disk) == Waiting()
        assert await one.step(sender, disk) == Waiting()
        assert disk.held is not None and len(disk.held) == 1
        disk.held.pop()()
        disk.held = None
        assert isinstance(await one.step(sender, disk), Settled)

    asyncio.run(main())


def test_plain_pushes_are_divided_without_fences() -> None:
    """What was in doubt counts as possibly doubled; what the server has refused was never in doubt."""
    for failure, doubled in ((RESET, 7), (TOO_LARGE, 0)):
        redis, disk = Redis(b"5", failure=failure, plain=True), Disk()
        settled = settle(dissection(Batch(BatchId(LANE, 1), values(8))), redis, disk)
        assert isinstance(settled, Settled)
        assert (settled.delivered, len(settled.letters), settled.possibly_doubled) == (7, 1, doubled)
        assert redis.values == [value for value in values(8) if value != b"5"]


def test_the_whole_is_noted_to_be_in_doubt_under_its_own_identity() -> None:
    """Whoever keeps the batch writes that on it; another owner then sends it by script, and nothing else."""
    redis = Redis(b"0", failure=TOO_LARGE)
    one = dissection(Batch(BatchId(LANE, 1), values(2)))
    going = steps(one, redis, Disk())
    next(going)
    assert one.stamp.attempted_by is AttemptedBy.NOBODY
    next(going)
    assert one.stamp == Batch(BatchId(LANE, 1), values(2), AttemptedBy.SCRIPT, NOW_MS)
    list(going)


def test_parts_of_what_a_script_may_have_applied_go_by_script() -> None:
    """A part inherits how the whole was attempted, so that no plain push doubles it."""
    redis = Redis(b"0")
    batch = Batch(BatchId(LANE, 1), values(2), AttemptedBy.SCRIPT, NOW_MS)
    settle(dissection(batch), redis, Disk())
    assert {part.attempted_by for part in redis.sent} == {AttemptedBy.SCRIPT}


def test_suspicion_needs_failures_without_a_break() -> None:
    """A failure that Redis explains in between clears the batch."""
    suspicion = Suspicion()
    for _ in range(2):
        suspicion.attempt_failed(RESET)
        assert suspicion.wants_probe
        suspicion.probe_worked(2)
    assert suspicion.strikes == 2
    suspicion.attempt_failed(AWAY)
    assert (suspicion.strikes, suspicion.wants_probe, suspicion.verdict) == (0, False, None)
