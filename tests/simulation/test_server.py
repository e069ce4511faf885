"""The simulated Redis answers as a real one does, or the simulation would prove nothing."""

from __future__ import annotations

import random

import pytest

from lab.servers import RedisServer
from plumelog_loguru._delivery._lane_script import LANE_SCRIPT, lane_key

from .server import SimulatedRedis

LIST = "plume_log_list"


@pytest.mark.parametrize("seed", range(5))
def test_the_simulated_script_answers_like_the_real_one(redis_server: RedisServer, seed: int) -> None:
    """Over a random walk of pushes, fences and probes, answers, lanes and list are the same."""
    dice = random.Random(seed)
    simulated = SimulatedRedis(lambda: 0, lambda value: None)
    for step in range(150):
        lane = lane_key(LIST, dice.choice("abc"))
        mode = dice.choices(("left", "right", "fence", "probe"), (4, 4, 2, 1))[0]
        seq = dice.randint(1, 3 + step // 15)
        values = (
            [b"%d-%d" % (step, n) for n in range(dice.randint(1, 4))] if mode in ("left", "right") else []
        )
        real = redis_server.cli("EVAL", LANE_SCRIPT, 2, LIST, lane, mode, seq, 60_000, *values)
        assert simulated.run_script(lane, mode, seq, 60_000, list(values)) == real
        assert (simulated.lane(lane) or "").encode() == redis_server.cli("GET", lane)
    assert list(simulated.values) == redis_server.values(LIST)
    assert simulated.values


def test_a_simulated_lane_is_forgotten_after_its_time() -> None:
    """A lane lives on with every request in it, and not longer than its time to live."""
    now = 0
    simulated = SimulatedRedis(lambda: now, lambda value: None)
    simulated.run_script("lane", "right", 1, 100, [b"1"])
    now = 99
    assert simulated.run_script("lane", "right", 1, 100, [b"1"]) == [b"already", 1, 0]
    now = 198
    assert simulated.lane("lane") == "1"
    now = 199
    assert simulated.lane("lane") is None
