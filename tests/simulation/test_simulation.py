"""Schedules of faults, each drawn from a seed: nothing that is owed is lost, and nothing is doubled."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from tests.scale import scaled

from .network import Fate
from .schedule import play
from .world import Violation, World

SCHEDULES, ALL_SCHEDULES = 400, 100_000


@pytest.mark.timeout(4 * 3600)
def test_no_schedule_loses_or_doubles_a_record() -> None:
    """Over lost and late requests, disks that fail, kills and adoptions, each owed record comes once."""
    met: Counter[str] = Counter()
    for failure, met_now in _played(range(scaled(SCHEDULES, ALL_SCHEDULES))):
        assert failure is None, failure
        met.update(met_now)
    expected = {fate.value for fate in Fate}
    expected |= {"disk", "killed", "adopted", "recovered", "torn", "interrupted", "dropped", "dead letters"}
    assert set(met) == expected
    assert min(met.values()) > 15, f"a kind of fault was hardly met: {met}"


def _played(seeds: Iterable[int]) -> Iterator[tuple[str | None, dict[str, int]]]:
    # All that is simulated is put in the place of module attributes: so processes, and fresh ones.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        yield from pool.imap_unordered(play_one, seeds, chunksize=20)


def play_one(seed: int) -> tuple[str | None, dict[str, int]]:
    """Play a schedule; what went wrong, and how often each fault was met."""
    world = World(seed)
    try:
        play(world)
    except Exception as error:
        return (
            f"seed {seed}: {type(error).__name__}: {error}; to see what happened: "
            f"python -m tests.simulation {seed}",
            {},
        )
    return None, dict(world.met())


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
