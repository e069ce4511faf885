"""Identities of live batches, and what Redis's answers say about their lane."""

from __future__ import annotations

import pytest

from plumelog_loguru._batch import BatchId
from plumelog_loguru._delivery._live_lane import _HISTORY, LaneReading, LiveLane

TTL_SECONDS = 100.0
NOTHING = LaneReading()


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


def push(lane: LiveLane, records: int, *, found: int | None = None) -> LaneReading:
    """One batch that Redis applies; ``found`` is what it knew of the lane before."""
    batch_id = lane.next_id()
    return lane.acknowledged(
        batch_id,
        records,
        found=batch_id.seq - 1 if found is None else found,
        applied_now=True,
        repeated=False,
    )


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


def test_a_healthy_lane_has_nothing_to_tell(lane: LiveLane) -> None:
    """As long as Redis finds what it acknowledged last, an answer says nothing more."""
    assert [push(lane, 10) for _ in range(5)] == [NOTHING] * 5


@pytest.mark.parametrize(
    ("found", "lost", "lost_range"),
    [(3, 0, ""), (2, 30, "batches 3 to 3"), (1, 50, "batches 2 to 3"), (0, 60, "batches 1 to 3")],
)
def test_a_loss_is_told_in_records(lane: LiveLane, found: int, lost: int, lost_range: str) -> None:
    """A lane that went back by some batches has lost the records that were in them."""
    for records in (10, 20, 30):
        push(lane, records)
    reading = push(lane, 5, found=found)
    assert reading.lost_records == lost
    assert reading.lost_range == (f"lane {lane.id}, {lost_range}" if lost else "")
    assert not reading.shared


def test_a_loss_is_told_once(lane: LiveLane) -> None:
    """After a loss was told, the lane goes on from what Redis has now."""
    for _ in range(3):
        push(lane, 10)
    assert push(lane, 10, found=1).lost_records == 20
    assert push(lane, 10) == NOTHING
    assert push(lane, 10, found=0).lost_records == 50  # at most: two of them were told before


def test_a_loss_older_than_the_memory_is_told_at_its_most(lane: LiveLane) -> None:
    """Beyond the batches whose sizes are remembered, everything counts as lost rather than too little."""
    for _ in range(_HISTORY + 10):
        push(lane, 1)
    assert push(lane, 1, found=_HISTORY + 9).lost_records == 1
    assert push(lane, 1, found=3).lost_records == _HISTORY + 11


def test_a_repetition_that_was_applied_before_is_no_sharing(lane: LiveLane) -> None:
    """A lost reply and its repetition are the ordinary case."""
    batch_id = lane.next_id()
    assert lane.acknowledged(batch_id, 5, found=1, applied_now=False, repeated=True) == NOTHING
    assert push(lane, 5) == NOTHING


@pytest.mark.parametrize(("found", "repeated"), [(1, False), (2, False), (2, True)])
def test_a_copy_of_this_process_is_noticed(lane: LiveLane, found: int, repeated: bool) -> None:
    """Applied before the first attempt, or beyond our own number: somebody else pushes in our lane."""
    batch_id = lane.next_id()
    reading = lane.acknowledged(batch_id, 5, found=found, applied_now=False, repeated=repeated)
    assert reading == LaneReading(shared=True)
    assert lane.next_id().lane != batch_id.lane


def test_an_answer_for_another_lane_says_nothing(lane: LiveLane) -> None:
    """A batch from the spool of an earlier lane does not disturb today's."""
    push(lane, 10)
    foreign = BatchId("f" * 32, 9)
    assert lane.acknowledged(foreign, 5, found=0, applied_now=True, repeated=False) == NOTHING
    assert push(lane, 10) == NOTHING


def test_an_idle_lane_is_renewed_before_redis_may_forget_it(lane: LiveLane, clock: HandClock) -> None:
    """After half its time to live without a push, the lane is given up: no false loss is told."""
    push(lane, 10)
    first = lane.id
    clock.now += TTL_SECONDS / 2
    assert lane.next_id() == BatchId(first, 2)
    clock.now += 0.001
    renewed = lane.next_id()
    assert renewed.lane != first and renewed.seq == 1
    assert lane.acknowledged(renewed, 5, found=0, applied_now=True, repeated=False) == NOTHING


def test_every_push_keeps_the_lane_alive(lane: LiveLane, clock: HandClock) -> None:
    """A lane that is used in time is never renewed, however long the process lives."""
    first = lane.id
    for _ in range(10):
        clock.now += TTL_SECONDS / 2
        push(lane, 1)
    assert lane.id == first
