"""When a batch goes, written down whole."""

from __future__ import annotations

import pytest

from plumelog_loguru._batch import MAX_BATCH_BYTES
from plumelog_loguru._handoff._batcher import LINGER_SECONDS, Batcher

INF = float("inf")


@pytest.mark.parametrize(
    ("depth", "size_bytes", "waited", "since_cut", "flush", "due_in"),
    [
        # nothing there: nothing is due, not even by force
        (0, 0, 0.0, INF, False, None),
        (0, 0, 0.0, INF, True, None),
        # fewer than a batch: due by the age of the oldest
        (1, 10, 0.0, INF, False, 2.0),
        (99, 990, 1.5, INF, False, 0.5),
        (99, 990, 2.0, INF, False, 0.0),
        (99, 990, 7.0, INF, False, 0.0),
        # a batch: due at once, but a moment after the last one
        (100, 1000, 0.0, INF, False, 0.0),
        (5000, 50_000, 0.0, INF, False, 0.0),
        (100, 1000, 0.0, 0.0, False, LINGER_SECONDS),
        (100, 1000, 0.0, LINGER_SECONDS / 2, False, LINGER_SECONDS / 2),
        (100, 1000, 0.0, LINGER_SECONDS, False, 0.0),
        # a mebibyte, or somebody who waits: no moment longer
        (1, MAX_BATCH_BYTES - 1, 0.0, 0.0, False, 2.0),
        (1, MAX_BATCH_BYTES, 0.0, 0.0, False, 0.0),
        (1, 10, 0.0, 0.0, True, 0.0),
        (100, 1000, 0.0, 0.0, True, 0.0),
    ],
)
def test_the_whole_decision(
    depth: int, size_bytes: int, waited: float, since_cut: float, flush: bool, due_in: float | None
) -> None:
    """The decision is a table of depth, bytes, age, the last cut and whether somebody waits."""
    batcher = Batcher(batch_size=100, interval_seconds=2.0)
    now = 1024.0
    if since_cut != INF:
        batcher.cut(now - waited - since_cut)
    if waited:
        batcher.seconds_until_due(depth=1, size_bytes=10, now=now - waited, flush=False)
    found = batcher.seconds_until_due(depth=depth, size_bytes=size_bytes, now=now, flush=flush)
    assert found == (None if due_in is None else pytest.approx(due_in))


def test_age_is_counted_from_the_first_look_after_a_cut() -> None:
    """What is left when a batch was cut waits a whole interval, whatever waited before it."""
    batcher = Batcher(batch_size=100, interval_seconds=2.0)

    def due_in(now: float, depth: int = 1) -> float | None:
        return batcher.seconds_until_due(depth=depth, size_bytes=depth, now=now, flush=False)

    assert [due_in(10.0), due_in(11.0), due_in(12.0)] == [2.0, 1.0, 0.0]
    batcher.cut(12.0)
    assert [due_in(12.5), due_in(13.5)] == [2.0, 1.0]


def test_an_empty_queue_forgets_the_age() -> None:
    """A record that comes to an emptied queue does not inherit the age of one that is gone."""
    batcher = Batcher(batch_size=100, interval_seconds=2.0)
    ages = [
        batcher.seconds_until_due(depth=depth, size_bytes=depth, now=now, flush=False)
        for now, depth in ((10.0, 1), (11.0, 0), (11.5, 1))
    ]
    assert ages == [2.0, None, 2.0]
