"""What Redis has acknowledged, and what is said when it has forgotten it."""

from __future__ import annotations

import pytest

from plumelog_loguru._batch import BatchId
from plumelog_loguru._delivery import _acknowledged
from plumelog_loguru._delivery._acknowledged import Acknowledged

TTL_SECONDS = 100.0


class HandClock:
    """Time that moves when told."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return int(self.now * 1000)


class Rig:
    """Pushes in lanes of a server that may forget."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.told: list[tuple[int, str]] = []
        self.acknowledged = Acknowledged(TTL_SECONDS, self.clock, lambda *loss: self.told.append(loss))
        self._last: dict[str, int] = {}

    def push(self, records: int, lane: str = "a", *, found: int | None = None) -> None:
        """The next batch of a lane; ``found`` is what Redis knew of it before."""
        last = self._last.get(lane, 0)
        self._last[lane] = last + 1
        self.acknowledged.applied(BatchId(lane, last + 1), records, last if found is None else found)

    @property
    def lost(self) -> int:
        return sum(records for records, _ in self.told)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_healthy_server_has_nothing_to_tell(rig: Rig) -> None:
    """As long as Redis knows what it acknowledged last, nothing is told."""
    for _ in range(5):
        rig.push(10)
        rig.push(10, "b")
    rig.acknowledged.found("a", 5)
    rig.acknowledged.found("b", 6)  # another process goes on in it
    assert not rig.told
    assert rig.acknowledged.lanes() == ["a", "b"]


@pytest.mark.parametrize("by_push", [True, False])
@pytest.mark.parametrize(
    ("found", "lost", "which"),
    [(3, 0, ""), (2, 30, "batches 3 to 3"), (1, 50, "batches 2 to 3"), (0, 60, "batches 1 to 3")],
)
def test_a_loss_is_told_in_records(rig: Rig, found: int, lost: int, which: str, by_push: bool) -> None:
    """A lane that went back by some batches has lost the records that were in them."""
    for records in (10, 20, 30):
        rig.push(records)
    if by_push:
        rig.push(5, found=found)
    else:
        rig.acknowledged.found("a", found)
    assert rig.told == ([(lost, f"lane a, {which}")] if lost else [])


def test_a_loss_is_told_once(rig: Rig) -> None:
    """What was told to be lost is not told again by a later loss, however deep."""
    for _ in range(3):
        rig.push(10)
    rig.push(7, found=1)
    assert rig.lost == 20
    rig.push(7)
    rig.push(7, found=0)
    assert rig.lost == 20 + 10 + 7 + 7


def test_a_lane_that_is_used_no_more_is_remembered(rig: Rig) -> None:
    """A lane that was frozen in an outage, and of which Redis knows nothing afterwards, is lost."""
    rig.push(10, "frozen")
    rig.push(20, "of the spool")
    rig.push(5, "next")
    for lane in rig.acknowledged.lanes():
        rig.acknowledged.found(lane, 1 if lane == "next" else 0)
    assert rig.told == [(10, "lane frozen, batches 1 to 1"), (20, "lane of the spool, batches 1 to 1")]
    assert rig.acknowledged.lanes() == ["next"]


def test_a_batch_that_is_there_again_is_not_lost(rig: Rig) -> None:
    """Forgotten by Redis after its late answer, and pushed again from the spool: it counts as there."""
    rig.push(10)
    rig.push(20)
    rig.acknowledged.applied(BatchId("a", 2), 20, 0)
    assert rig.told == [(10, "lane a, batches 1 to 1")]
    rig.acknowledged.found("a", 0)
    assert rig.lost == 30


def test_an_answer_that_comes_twice_counts_once(rig: Rig) -> None:
    """Redis may say of a batch that it has it already, once or several times."""
    rig.acknowledged.known(BatchId("a", 4), 10)
    rig.acknowledged.known(BatchId("a", 4), 10)
    rig.acknowledged.found("a", 3)
    assert rig.lost == 10


def test_an_idle_lane_may_be_forgotten(rig: Rig) -> None:
    """Once Redis may have let a lane expire, its absence says nothing."""
    rig.push(10)
    rig.clock.now += TTL_SECONDS / 2
    assert rig.acknowledged.lanes() == ["a"]
    rig.clock.now += 0.001
    rig.push(5, found=0)
    assert not rig.told


def test_what_is_remembered_is_bounded_and_then_told_at_its_most(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bounds batches, and lanes, are taken together: more is told rather than less."""
    monkeypatch.setattr(_acknowledged, "_BATCHES", 3)
    monkeypatch.setattr(_acknowledged, "_LANES", 2)
    for lane in ("a", "b", "c"):
        for _ in range(5):
            rig.push(1, lane)
    assert rig.acknowledged.lanes() == ["b", "c"]
    rig.acknowledged.found("c", 4)
    assert rig.told.pop() == (1, "lane c, batches 5 to 5")
    rig.acknowledged.found("c", 2)
    assert rig.told.pop() == (4, "lane c, batches 3 to 4")  # 1 to 3 were taken together
    rig.acknowledged.found("b", 0)
    assert rig.told.pop() == (10, "lane b, batches 1 to 5")  # with all of lane a


def test_lanes_share_what_is_remembered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lanes there are, no more batches are remembered, and of the newest lane the most."""
    monkeypatch.setattr(_acknowledged, "_BATCHES", 10)
    for lane in "abcd":
        for _ in range(20):
            rig.push(1, lane)
    assert sum(len(lane.batches) for lane in rig.acknowledged._lanes.values()) == 10
    rig.acknowledged.found("d", 19)
    assert rig.told.pop() == (1, "lane d, batches 20 to 20")
    for lane in "abc":
        rig.acknowledged.found(lane, 0)
    assert rig.lost == 60
