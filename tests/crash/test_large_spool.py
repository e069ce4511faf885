"""A spool that grew for days: it opens at once, and is drained in little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab.servers import HOST
from plumelog_loguru._batch import Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part
from tests.crash.conftest import MakeScene
from tests.crash.scene import Scene, draw_seeds, takes_long
from tests.scale import scaled

pytestmark = [takes_long, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

_ROW_RECORDS = 1000
_OPENING_SECONDS = 0.1
_GROWTH_MIB = 64

# What a program of its own does: both say one number.
_OPEN = """
import os, sys, time
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._delivery import import_redis
from plumelog_loguru._spool import import_diskcache
from plumelog_loguru._spool._keeper import KeeperState
import_redis()
import_diskcache()
began = time.perf_counter()
keeper = DurableRedisSink()._pipeline._keeper
while keeper.state is KeeperState.OPENING:
    time.sleep(0.0002)
print(time.perf_counter() - began, flush=True)
os._exit(keeper.state is not KeeperState.READY)
"""
_DRAIN = """
import contextlib, os, sys
from plumelog_loguru.cli import main
with contextlib.redirect_stdout(sys.stderr):
    code = main(["drain"])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def _fill(scene: Scene, records: int) -> None:
    """Spool so many records, as a process that has ended leaves them."""
    scene.spool_dir.mkdir(mode=0o700, exist_ok=True)
    part = Part.create(scene.spool_dir, Destination(f"{HOST}:{scene.proxy.port}", 0, scene.key, "left"))
    for first in range(0, records, _ROW_RECORDS):
        values = (
            b'{"content":"%d","dtTime":%d,"logLevel":"INFO","method":"%s"}' % (number, number, b"x" * 100)
            for number in range(first, min(first + _ROW_RECORDS, records))
        )
        part.append(Batch(part.next_spool_id(), tuple(values)))
    part.close()


def _said(process: subprocess.Popen[str]) -> float:
    out, _ = process.communicate(timeout=1000)
    assert process.returncode == 0
    return float(out)


def test_a_large_spool_opens_as_fast_as_an_empty_one(make_scene: MakeScene) -> None:
    """With a million records in it, the spool is ready at most 100 ms later."""
    records = scaled(100_000, 1_000_000)
    (seed,) = draw_seeds(1)
    with make_scene(seed) as large, make_scene(seed) as empty:
        _fill(large, records)
        large.proxy.refuse()
        empty.proxy.refuse()
        seconds: dict[Scene, list[float]] = {large: [], empty: []}
        for _ in range(3):
            for scene, measured in seconds.items():
                measured.append(_said(scene.run("-c", _OPEN)))
        best = {scene: min(measured) for scene, measured in seconds.items()}
        print(
            f"{records} records: ready after {best[large] * 1e3:.1f} ms, without: {best[empty] * 1e3:.1f} ms"
        )
        assert best[large] - best[empty] < _OPENING_SECONDS


def test_a_large_spool_is_drained_in_little_memory(make_scene: MakeScene) -> None:
    """Draining a million records takes less than 64 MiB more than draining a single one."""
    records = scaled(100_000, 1_000_000)
    (seed,) = draw_seeds(1)
    with make_scene(seed) as large, make_scene(seed) as small:
        _fill(large, records)
        _fill(small, 1)
        most, least = (_said(scene.run("-c", _DRAIN)) / 1024 for scene in (large, small))
        print(f"{records} records: {most:.0f} MiB at most, a single one: {least:.0f} MiB")
        assert most - least < _GROWTH_MIB
        assert large.server.cli("LLEN", large.key) == records
        assert list(large.spool_dir.iterdir()) == []
