"""Identities of live batches, and what Redis's answers say about their lane."""

from __future__ import annotations

import pytest

from plumelog_loguru._batch import BatchId
from plumelog_loguru._delivery._live_lane import LiveLane

TTL_SECONDS = 100.0


class HandClock:
    """Time that moves when told."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def lane(clock: HandClock) -> LiveLane:
    return LiveLane(TTL_SECONDS, clock)


def push(lane: LiveLane) -> None:
    """One batch that Redis applies."""
    batch_id = lane.next_id()
    assert not lane.acknowledged(batch_id, found=batch_id.seq - 1, applied_now=True, repeated=False)


def test_numbers_rise_from_one_in_a_lane_of_its_own(clock: HandClock) -> None:
    """Each process counts from 1 in a lane that no other has."""
    one, other = LiveLane(TTL_SECONDS, clock), LiveLane(TTL_SECONDS, clock)
    assert [one.next_id() for _ in range(3)] == [BatchId(one.id, seq) for seq in (1, 2, 3)]
    assert one.id != other.id
    assert len(one.id) == 32


def test_a_frozen_lane_is_never_used_again(lane: LiveLane) -> None:
    """After a batch left the live order, the next one is number 1 of another lane."""
    old = lane.next_id()
    lane.freeze()
    new = lane.next_id()
    assert new.seq == 1 and new.lane != old.lane


def test_a_repetition_that_was_applied_before_is_no_sharing(lane: LiveLane) -> None:
    """A lost reply and its repetition are the ordinary case."""
    batch_id = lane.next_id()
    assert not lane.acknowledged(batch_id, found=1, applied_now=False, repeated=True)
    push(lane)
    assert lane.next_id().lane == batch_id.lane


@pytest.mark.parametrize(("found", "repeated"), [(1, False), (2, False), (2, True)])
def test_a_copy_of_this_process_is_noticed(lane: LiveLane, found: int, repeated: bool) -> None:
    """Applied before the first attempt, or beyond our own number: somebody else pushes in our lane."""
    batch_id = lane.next_id()
    assert lane.acknowledged(batch_id, found=found, applied_now=False, repeated=repeated)
    assert lane.next_id().lane != batch_id.lane


def test_an_answer_for_another_lane_says_nothing(lane: LiveLane) -> None:
    """A batch from the spool of an earlier lane does not disturb today's."""
    push(lane)
    foreign = BatchId("f" * 32, 9)
    assert not lane.acknowledged(foreign, found=9, applied_now=False, repeated=False)
    assert lane.next_id().seq == 2


def test_an_idle_lane_is_renewed_before_redis_may_forget_it(lane: LiveLane, clock: HandClock) -> None:
    """After half its time to live without a push, the lane is given up."""
    push(lane)
    first = lane.id
    clock.now += TTL_SECONDS / 2
    assert lane.next_id() == BatchId(first, 2)
    clock.now += 0.001
    renewed = lane.next_id()
    assert renewed.lane != first and renewed.seq == 1


def test_every_push_keeps_the_lane_alive(lane: LiveLane, clock: HandClock) -> None:
    """A lane that is used in time is never renewed, however long the process lives."""
    first = lane.id
    for _ in range(10):
        clock.now += TTL_SECONDS / 2
        push(lane)
    assert lane.id == first
