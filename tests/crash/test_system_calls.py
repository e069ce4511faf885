"""A process killed at each system call that touches the spool: opening, adopting, writing, closing, draining.

strace counts the calls, and kills at the n-th, before it is carried out. It counts each kind of call for each
thread alone, so a point is a kind and a number; a first run without a kill tells which points there are.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.servers import RedisServer
from tests.crash.conftest import MakeScene
from tests.crash.scene import Scene, draw_seeds, takes_long
from tests.scale import scaled

pytestmark = [takes_long, pytest.mark.needs_strace]

Act = Callable[[Scene, tuple[str, ...]], int]

_NEW_PART = "5" * 16
_CALL = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\(")
# To be killed before one of these is to be killed after the call before it: they change nothing that stays.
_CHANGES_NOTHING = re.compile("access|fcntl|fstat|getdents|ioctl|lseek|lstat|mmap|newfstatat|pread|read|stat")


class Point(NamedTuple):
    """The n-th system call of one kind, in whichever thread makes so many first."""

    call: str
    number: int

    @property
    def options(self) -> tuple[str, ...]:
        """For strace."""
        return ("-e", f"inject={self.call}:signal=SIGKILL:when={self.number}")


def _traced(scene: Scene, log: Path) -> tuple[str, ...]:
    """The command that traces what touches the spool; strace knows no folders, only paths."""
    parts = {*scene.parts(), scene.spool_dir / f"part-{_NEW_PART}", scene.spool_dir / f"new-{_NEW_PART}"}
    journals = [f"journal-{number}" for number in range(8)]
    files = ["spool/cache.db", "spool/cache.db-wal", "spool/cache.db-shm", "spool/cache.db-journal"]
    names = ["", "lock", "part.json", "spool", *files, *journals, "quarantine"]
    paths = [scene.spool_dir, *(part / name for part in parts for name in names)]
    return ("strace", "-f", "-qq", "-o", str(log), *(word for path in paths for word in ("-P", str(path))))


def _points(log: Path) -> list[Point]:
    """Every point in the log of a run that could make a difference."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if (found := _CALL.match(line)) and not _CHANGES_NOTHING.match(found["call"]):
            counts[found["thread"], found["call"]] += 1
    most: dict[str, int] = {}
    for (_, call), count in counts.items():
        most[call] = max(count, most.get(call, 0))
    return [Point(call, number) for call, count in most.items() for number in range(1, count + 1)]


def _leave_two_parts(scene: Scene) -> None:
    """Two processes are killed while Redis is away: rows in both spools, and records on their way there."""
    scene.proxy.refuse()
    victims = [scene.start_victim(records=60) for _ in range(2)]
    for victim in victims:
        victim.wait_for(180)
    for victim in victims:
        victim.kill()


def _live(scene: Scene, before: tuple[str, ...]) -> int:
    """Open a part of the dead, adopt the other, write to the spool, deliver, and close."""
    scene.proxy.refuse()
    victim = scene.start_victim(before=before, records=100, end="close")
    victim.wait_for(150)
    scene.proxy.heal()
    return victim.end()


def _begin(scene: Scene, before: tuple[str, ...]) -> int:
    """Make a part of its own, write to it, and close."""
    shutil.rmtree(scene.spool_dir)
    scene.proxy.refuse()
    return scene.start_victim(before=before, new_part=_NEW_PART, records=60, end="close").end()


def _drain(scene: Scene, before: tuple[str, ...]) -> int:
    """Drain what the dead left."""
    scene.proxy.heal()
    drain = scene.start_drain(before=before)
    drain.communicate()
    return drain.returncode


@pytest.mark.parametrize("act", [_begin, _live, _drain])
def test_a_process_killed_at_any_system_call_on_the_spool_loses_nothing(
    make_scene: MakeScene, redis_server: RedisServer, tmp_path: Path, act: Act
) -> None:
    """Whichever call it is that is never carried out: after a drain all owed is there, once."""
    (seed,) = draw_seeds(1)
    with make_scene(seed) as scene:
        _leave_two_parts(scene)
        shutil.copytree(scene.spool_dir, tmp_path / "left")
        left_books = [] if act is _begin else list(scene.books)

        def begin_again() -> tuple[str, ...]:
            """The directory as it was left, and a Redis that knows of nothing."""
            redis_server.cli("FLUSHALL")
            shutil.rmtree(scene.spool_dir, ignore_errors=True)
            shutil.copytree(tmp_path / "left", scene.spool_dir)
            scene.books[:] = left_books
            return _traced(scene, tmp_path / "log")

        assert act(scene, begin_again()) == 0
        scene.settle()
        points = _points(tmp_path / "log")
        struck = 0
        tried = scene.dice.sample(points, scaled(2, len(points)))
        for point in tried:
            print(point)
            struck += act(scene, (*begin_again(), *point.options)) != 0
            scene.settle()
        print(f"killed at {struck} of {len(tried)} points, of {len(points)} that there are")
        # A busy machine makes fewer calls than the one that counted: of a few points, some are not reached.
        assert struck > (len(tried) / 2 if len(tried) == len(points) else 0)
