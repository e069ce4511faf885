"""Schedules of faults, each drawn from a seed: nothing that is owed is lost, and nothing is doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scale import scaled

from .network import Fate
from .schedule import play
from .world import Violation, World

SCHEDULES, ALL_SCHEDULES = 400, 100_000
_ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(4 * 3600)
def test_no_schedule_loses_or_doubles_a_record() -> None:
    """Over lost and late requests, disks that fail, kills and adoptions, each owed record comes once."""
    schedules, processors = scaled(SCHEDULES, ALL_SCHEDULES), os.cpu_count() or 1
    players = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation", str(first), str(schedules), str(processors)],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in range(processors)
    ]
    answers = [player.communicate()[0] for player in players]
    for player, answer in zip(players, answers, strict=True):
        assert player.returncode == 0, f"{answer}to see what happened: python -m tests.simulation SEED"
    met: Counter[str] = Counter()
    for answer in answers:
        met.update(json.loads(answer))
    expected = {fate.value for fate in Fate}
    expected |= {"disk", "killed", "adopted", "recovered", "torn", "interrupted", "dropped", "dead letters"}
    assert set(met) == expected
    assert min(met.values()) > 15, f"a kind of fault was hardly met: {met}"


@pytest.mark.parametrize("seed", [3, 14, 15])
def test_a_seed_decides_everything(seed: int) -> None:
    """The same seed tells the same story twice, so that a failure can be repeated."""

    def story() -> list[str]:
        world = World(seed, telling=True)
        play(world)
        assert world.story is not None
        return world.story

    first = story()
    assert len(first) > 10
    assert first == story()


@pytest.fixture
def world() -> Iterator[World]:
    world = World(0)
    yield world
    world.close()


def test_the_account_notices_a_record_that_comes_twice(world: World) -> None:
    """The judge itself works: a value that is pushed again is a violation, in any lane."""
    value = world.new_record()
    world.redis.run_script("one", "right", 1, 1000, [value])
    with pytest.raises(Violation, match="doubled"):
        world.redis.run_script("another", "right", 1, 1000, [value])


def test_the_account_notices_a_record_that_does_not_come(world: World) -> None:
    """The judge itself works: a record that was logged and is nowhere is a violation."""
    world.new_record()
    with pytest.raises(Violation, match="lost: 1 records"):
        world.check_end()
