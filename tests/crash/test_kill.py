"""kill -9 and its relatives: what a call returned from is in Redis after a drain, once."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from tests.crash.conftest import MakeScene
from tests.crash.scene import Scene, draw_seeds, takes_long
from tests.scale import scaled

pytestmark = [takes_long, pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")]


def test_the_judge_sees_a_loss(make_scene: MakeScene) -> None:
    """Without a journal a killed process loses what is in memory, and this harness says so."""
    (seed,) = draw_seeds(1)
    with make_scene(seed) as scene:
        settings = {"durability": "memory", "batch_size": 10_000, "batch_interval_seconds": 30}
        victim = scene.start_victim(settings=settings)
        victim.wait_for(50)
        victim.kill()
        with pytest.raises(AssertionError, match="lost"):
            scene.settle()


def test_a_process_killed_at_a_random_moment_loses_nothing(make_scene: MakeScene) -> None:
    """Whatever Redis does, and though those that adopt the part are killed too: all owed is there, once."""
    runs = owed = kills = 0
    for seed in draw_seeds(scaled(5, 200)):
        with make_scene(seed) as scene:
            runs += 1
            kills += _kill_some(scene)
            owed += scene.settle()
    print(f"{runs} runs, {kills} kills, {owed} records owed")
    assert owed > 20 * runs


def _kill_some(scene: Scene) -> int:
    """Kill one under load, or while it opens; now and then kill its heirs as well. Gives how many."""
    dice, kills = scene.dice, 1
    scene.set_weather()
    threads = dice.randint(1, 4)
    victim = scene.start_victim(
        threads=threads,
        settings={"queue_max_size": dice.choice([10_000, 30])},
        journal_bytes=dice.choice([0, 1 << 17]),  # the smaller one goes round several times
        journal_mapped=dice.choice([True, False]),
    )
    victim.wait_for(dice.choice([1, dice.randrange(1, 100), dice.randrange(100, 190 * threads)]))
    time.sleep(dice.uniform(0, 0.02))
    victim.kill()
    while dice.random() < 0.4:
        heir = scene.start_victim(threads=dice.randint(1, 4))
        time.sleep(dice.uniform(0.15, 0.4))  # it opens, adopts, and logs
        heir.kill()
        kills += 1
    return kills


@pytest.mark.parametrize("end", ["_exit", "abort", "SIGTERM"])
def test_a_process_that_ends_without_a_word_loses_nothing(make_scene: MakeScene, end: str) -> None:
    """`os._exit`, `abort` and SIGTERM without a handler run nothing of ours: all owed is there, once."""
    codes = {"_exit": 0, "abort": -signal.SIGABRT, "SIGTERM": -signal.SIGTERM}
    for seed in draw_seeds(scaled(1, 15)):
        with make_scene(seed) as scene:
            scene.set_weather()
            victim = scene.start_victim(end=end, end_at=scene.dice.randrange(1, 200))
            assert victim.end() == codes[end]
            assert scene.settle() > 0


def test_what_was_accepted_survives_the_end_of_memory(make_scene: MakeScene) -> None:
    """No memory is left, for the application and for our threads: all that was accepted is there, once."""
    for seed in draw_seeds(scaled(1, 15)):
        with make_scene(seed) as scene:
            scene.set_weather()
            records = scene.dice.randrange(300, 2000)
            victim = scene.start_victim(threads=1, records=records, starve_at=100)
            assert victim.end() == -signal.SIGKILL, "not by its own hand"
            owed = scene.settle()
            print(f"{owed} of {records} calls were accepted")
            assert owed > 100
