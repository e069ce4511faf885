"""The bench: it measures what it says, and its table compares within rounds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import drain
from bench.__main__ import run_variant, table
from lab.servers import RedisServer


@pytest.mark.parametrize("measure", ["plain", "bound"])
def test_a_call_is_timed(redis_server: RedisServer, measure: str) -> None:
    """The cost of a call is a median, a mean and a 99.9th percentile in nanoseconds."""
    found = run_variant("nothing", Path(sys.executable), measure, redis_server, 2000)
    assert 0 < found["median"] <= found["p999"]
    assert found["mean"] > 0


def test_throughput_counts_what_arrived(redis_server: RedisServer) -> None:
    """Every record of ours is in Redis when the clock stops."""
    found = run_variant("ours", Path(sys.executable), "throughput", redis_server, 2050)
    assert found["missing"] == found["spooled"] == found["dropped"] == 0
    assert redis_server.cli("LLEN", "bench") == 2050


def test_ratios_are_taken_within_rounds() -> None:
    """A slow round gives the same ratio as a fast one; without the earlier release its row is left out."""

    def one_round(slow: float) -> dict[str, dict[str, dict[str, float]]]:
        calls = {"median": 1000 * slow, "mean": 1000 * slow, "p999": 1000 * slow}
        memory = {name: value * 1.2 for name, value in calls.items()}
        ours = {name: value + 700 for name, value in memory.items()}
        sinks = {"nothing": calls, "memory": memory, "ours": ours}
        rates = {"nothing": 100 / slow, "memory": 70 / slow, "ours": 60 / slow}
        through = {sink: {"records_per_second": rate} for sink, rate in rates.items()}
        return {"plain": sinks, "bound": sinks, "throughput": through}

    lines = table([one_round(1), one_round(7)], ["nothing", "memory", "ours"])
    assert "1.20 /  1.20 /  1.20   aim ≤ 1.35: met" in lines[1]
    assert "0.70 /  0.70 /  0.70   aim ≤ 1: met" in lines[2]
    assert "0.60 /  0.60 /  0.60   aim ≥ 0.55: met" in lines[-1]
    assert len(lines) == 10


def test_a_drain_is_measured_against_bare_pushes(redis_server: RedisServer) -> None:
    """Both deliver every record, and the ratio is that of their rates."""
    (found,) = drain.rounds(redis_server, 1, 2500)
    assert found.process < found.drain
    assert found.ratio == found.drain / found.bare > 0
