"""When a loss is said in the stream, how often, and in which words."""

from __future__ import annotations

import json
import threading

import pytest

from plumelog_loguru._handoff import Bounds, HandOff
from plumelog_loguru._loss_marker import Loss, LossMarkers, marker_line
from plumelog_loguru._record import FieldExtractor
from plumelog_loguru._settings import PlumelogSettings

FULL_AT = 3


class FakeClock:
    """Time as the test wants it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def handoff() -> HandOff:
    return HandOff(Bounds(FULL_AT, 1 << 20))


@pytest.fixture
def made() -> list[Loss]:
    return []


@pytest.fixture
def markers(clock: FakeClock, handoff: HandOff, made: list[Loss]) -> LossMarkers:
    def line(loss: Loss) -> bytes:
        made.append(loss)
        return f"marker {len(made)}".encode()

    return LossMarkers(line, handoff, clock)


def test_one_marker_for_a_burst(markers: LossMarkers, clock: FakeClock, made: list[Loss]) -> None:
    """It waits until a second is quiet, and then says all of it; without a loss there is none."""
    assert markers.make() is None
    for n in range(1, 4):
        markers.lost(n, "corrupt", 100 * n, 100 * n + 50)
        assert markers.make() is None
        clock.now += 0.9
    assert markers.make() is None
    clock.now += 0.2
    assert markers.make() == b"marker 1"
    assert made == [Loss("corrupt", 6, 6, 100, 350)]
    clock.now += 100
    assert markers.make() is None


def test_a_long_burst_is_told_every_ten_seconds(
    markers: LossMarkers, clock: FakeClock, made: list[Loss]
) -> None:
    """While records go on being lost there is a marker in ten seconds, and together they say all."""
    for _ in range(300):
        markers.lost(1, "corrupt")
        markers.make()
        clock.now += 0.1
    clock.now += 1
    markers.make()
    assert [loss.records for loss in made] == pytest.approx([101, 101, 98], abs=2)
    assert sum(loss.records for loss in made) == made[-1].in_all == 300


def test_each_reason_has_its_own(markers: LossMarkers, made: list[Loss]) -> None:
    """Losses for two reasons at one time are two markers."""
    markers.lost(1, "corrupt")
    markers.lost(2, "spool_lost")
    assert markers.make(at_once=True) and markers.make(at_once=True)
    assert markers.make(at_once=True) is None
    assert {(loss.reason, loss.records) for loss in made} == {("corrupt", 1), ("spool_lost", 2)}
    assert markers.made == 2


def test_what_the_queue_lost_is_noticed(
    markers: LossMarkers, handoff: HandOff, clock: FakeClock, made: list[Loss]
) -> None:
    """Callers tell nobody of what found no room: it is seen, with the times of the records themselves."""
    for n in range(FULL_AT + 2):
        handoff.put(b'{"dtTime":%d,"n":1}' % (500 + n))
    assert markers.is_due(at_once=True)
    assert not markers.is_due()
    clock.now += 1
    assert markers.is_due()
    markers.make()
    handoff.bounds.policy = "drop_newest"
    clock.now += 5
    handoff.put(b'{"dtTime":600}')
    markers.make(at_once=True)
    assert made[0] == Loss("queue_full", 2, 2, 500, 501)
    assert made[1] == Loss("queue_full", 1, 3, 1_001_000, 1_006_000)  # refused between two looks


@pytest.mark.parametrize("reason", ["spool_full", "expired"])
def test_what_the_spool_drops_by_its_limits_is_not_marked_in_it(reason: str, markers: LossMarkers) -> None:
    """Such a marker could be the next that the spool drops, and so on for ever: it waits for Redis."""
    markers.lost(5, reason)
    assert not markers.is_due(at_once=True, spooled=True)
    assert markers.make(at_once=True, spooled=True) is None
    assert markers.make(at_once=True)


def test_a_marker_that_the_spool_refused_waits_for_redis(markers: LossMarkers, made: list[Loss]) -> None:
    """It is offered to the spool once, and what it said is not forgotten; other values are none of it."""
    markers.lost(5, "corrupt", 10, 20)
    line = markers.make(at_once=True, spooled=True)
    assert line is not None
    markers.take_back([b"something else"])
    markers.take_back([line, line])
    assert not markers.is_due(at_once=True)
    markers.take_back([line])
    markers.lost(2, "corrupt", 30, 40)
    assert not markers.is_due(at_once=True, spooled=True)
    assert markers.make(at_once=True)
    assert made[-1] == Loss("corrupt", 7, 7, 10, 40)


def test_a_marker_that_cannot_be_made_is_owed(handoff: HandOff, clock: FakeClock) -> None:
    """Where there is no memory for it, it is made later; nothing is counted twice."""
    memory = [MemoryError()]

    def line(loss: Loss) -> bytes:
        if memory:
            raise memory.pop()
        return str(loss.records).encode()

    markers = LossMarkers(line, handoff, clock)
    markers.lost(4, "corrupt")
    with pytest.raises(MemoryError):
        markers.make(at_once=True)
    assert markers.made == 0
    assert markers.make(at_once=True) == b"4"
    assert markers.made == 1


def test_a_marker_is_an_ordinary_record() -> None:
    """It has this producer's next number, Plumelog's level, and says the loss in words and in fields."""
    extractor = FieldExtractor(PlumelogSettings(app_name="shop", extra_fields="none", _env_file=None))
    record = json.loads(marker_line(extractor, 2**20, Loss("spool_full", 12, 40, 0, 86_400_000)))
    assert (record["seq"], record["producer"], record["appName"]) == (1, extractor.producer, "shop")
    assert record["content"].startswith("12 records lost, spool_full, from 19")
    assert (record["lostReason"], record["lostRecords"], record["lostInAll"]) == ("spool_full", "12", "40")
    assert record["logLevel"] == "ERROR"
    expired = json.loads(marker_line(extractor, 2**20, Loss("expired", 1, 1, 0, 10**15)))
    assert (expired["seq"], expired["logLevel"]) == (2, "WARN")
    assert expired["content"].endswith(f"{10**15} ms")


def test_numbers_are_drawn_by_any_thread() -> None:
    """The loop thread draws a marker's number while callers draw theirs: none is given twice or left out."""
    extractor = FieldExtractor(PlumelogSettings(_env_file=None))
    found: list[int] = []
    together = threading.Barrier(4)

    def draw() -> None:
        together.wait()
        for _ in range(500):
            line = marker_line(extractor, 2**20, Loss("corrupt", 1, 1, 0, 0))
            found.append(json.loads(line)["seq"])

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 2001))
