"""Many processes on one directory: each part has one owner at a time, and none is robbed or left behind."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.crash.conftest import MakeScene
from tests.crash.scene import Scene, draw_seeds, takes_long
from tests.scale import scaled

pytestmark = takes_long


def _leave_parts(scene: Scene, count: int, *, records: int = 60, key: str | None = None) -> None:
    """So many processes are killed while Redis is away."""
    scene.proxy.refuse()
    victims = [scene.start_victim(records=records, key=key) for _ in range(count)]
    for victim in victims:
        victim.wait_for(victim.book.threads * records)
    for victim in victims:
        victim.kill()
    scene.proxy.heal()


def test_four_drains_beside_two_sinks(make_scene: MakeScene) -> None:
    """Drains that are killed at random share the parts of the dead with living sinks: all is there, once."""
    for seed in draw_seeds(scaled(1, 20)):
        with make_scene(seed) as scene:
            _leave_parts(scene, 4)
            sinks = [scene.start_victim(records=200, pause_seconds=0.003, end="close") for _ in range(2)]
            drains: list[subprocess.Popen[str]] = []
            kills = 0
            while not kills or any(sink.process.poll() is None for sink in sinks):
                while len(drains) < 4:
                    drains.append(scene.start_drain())
                time.sleep(scene.dice.uniform(0.05, 0.25))
                drain = drains.pop(0)
                kills += drain.poll() is None
                drain.kill()
                drain.wait()
            assert [sink.end() for sink in sinks] == [0, 0]
            for drain in drains:
                drain.wait()
            print(f"{kills} kills")
            assert scene.settle() > 1500


def test_a_stopped_owner_is_not_robbed(make_scene: MakeScene) -> None:
    """A sink and a drain run beside a process whose time stands still; it goes on, and all is there, once."""
    for seed in draw_seeds(scaled(1, 10)):
        with make_scene(seed) as scene:
            scene.proxy.refuse()
            owner = scene.start_victim(records=300, end="close", settings={"queue_max_size": 50})
            owner.wait_for(scene.dice.randrange(200, 800))
            owner.stop()
            held = {part: sorted(part.rglob("*")) for part in scene.parts()}
            assert scene.start_victim(records=20, end="close").end() == 0
            scene.drain()
            assert {part: sorted(part.rglob("*")) for part in held} == held
            owner.go_on()
            assert owner.end() == 0
            assert scene.settle() > 900


def _contents(scene: Scene) -> dict[Path, bytes]:
    # Not that of the index that SQLite keeps beside its log: whoever only reads makes it anew.
    files = (path for path in scene.spool_dir.rglob("*") if path.is_file() and path.suffix != ".db-shm")
    return {path: path.read_bytes() for path in files}


def test_parts_of_another_destination_are_left_alone(make_scene: MakeScene) -> None:
    """A sink and a drain for one list change no byte of what the dead left for another."""
    (seed,) = draw_seeds(1)
    with make_scene(seed) as scene:
        _leave_parts(scene, 2, key="another list")
        others = list(scene.books)
        files = _contents(scene)
        _leave_parts(scene, 1)
        assert scene.start_victim(end="close").end() == 0
        assert scene.drain()["elsewhere"] > 0
        assert _contents(scene) == files
        scene.judge(books=scene.books[len(others) :])
        assert scene.drain(key="another list")["elsewhere"] == 0
        scene.judge(books=others, key="another list")
        assert not scene.parts()
