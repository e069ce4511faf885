"""A process killed between two writes into the journal's ring, and half-way: no system call tells of them."""

from __future__ import annotations

from tests.crash.conftest import MakeScene
from tests.crash.scene import Scene, Victim, draw_seeds, takes_long
from tests.scale import scaled

pytestmark = takes_long


def _live(scene: Scene, die_at_write: int, die_half_way: bool) -> Victim:
    """Log while Redis is there, away, and there again, in a ring that goes round; then close."""
    victim = scene.start_victim(
        records=60,
        end="close",
        journal_bytes=1 << 17,
        journal_mapped=True,
        die_at_write=die_at_write,
        die_half_way=die_half_way,
    )
    victim.wait_for(60)
    scene.proxy.refuse()
    victim.wait_for(120)
    scene.proxy.heal()
    victim.process.wait(30)
    return victim


def test_a_process_killed_at_any_write_into_the_ring_loses_nothing(make_scene: MakeScene) -> None:
    """Before the write or half-way through it: after a drain all owed is there, once."""
    (seed,) = draw_seeds(1)
    with make_scene(seed) as scene:
        said, _ = _live(scene, 0, die_half_way=False).process.communicate()
        scene.settle()
        points = [(number, half_way) for number in range(1, int(said) + 1) for half_way in (False, True)]
        assert len(points) > 180
    killed = 0
    tried = scene.dice.sample(points, scaled(4, len(points)))
    for number, half_way in tried:
        print(f"write {number}{', half-way' if half_way else ''}")
        with make_scene(seed) as scene:
            killed += _live(scene, number, half_way).process.returncode != 0
            scene.settle(in_doubt=half_way)  # half a cut tells nobody what became of its batch
    print(f"killed at {killed} of {len(tried)} writes, of {len(points)} that there are")
    assert killed > len(tried) / 2
