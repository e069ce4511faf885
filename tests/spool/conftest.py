"""A spool to try: its destination, batches that look like ours, and processes that share it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId
from plumelog_loguru._clock import SYSTEM_CLOCK, Clock
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import KeeperOptions
from tests.spool.rig import Rig, start_keeper

LANE = "0123456789abcdef" * 2

Spawn = Callable[..., "subprocess.Popen[str]"]

PRELUDE = """
import os, sys, time
from pathlib import Path
from typing import Any
from plumelog_loguru._batch import Batch, BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool._directory import SpoolDirectory
from plumelog_loguru._spool._part import Part
DESTINATION = Destination("localhost:6379", 0, "plume_log_list", "left")
spool_dir = Path(sys.argv[1])
def batch(seq, lane="a" * 32):
    return Batch(BatchId(lane, seq), (b'{"seq":%d}' % seq,))
"""


@pytest.fixture
def destination() -> Destination:
    """The list that the records are meant for; the same as in the prelude of other processes."""
    return Destination("localhost:6379", 0, "plume_log_list", "left")


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """Makes a batch of one lane, by its number."""

    def make(
        seq: int, records: int = 2, lane: str = LANE, attempted_by: AttemptedBy = AttemptedBy.NOBODY
    ) -> Batch:
        values = tuple(
            b'{"dtTime":%d,"logLevel":"INFO","seq":%d}' % (1_795_305_614_000 + seq, number)
            for number in range(records)
        )
        return Batch(BatchId(lane, seq), values, attempted_by, 0)

    return make


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts Python processes that have the prelude, and ends them."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PRELUDE + code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits, at most ten seconds, for what the kernel or another process is about to do."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not happen within 10 s"
            time.sleep(0.005)

    return wait


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def start(spool_dir: Path, destination: Destination) -> Iterator[Callable[..., Rig]]:
    """Starts keepers, and ends those that the test did not."""
    rigs: list[Rig] = []

    def start(
        max_bytes: int = 1 << 30,
        full_policy: str = "drop_oldest",
        *,
        wait: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        **options: Any,
    ) -> Rig:
        given = {"spool_dir": spool_dir, "destination": destination, **options}
        rigs.append(
            start_keeper(
                KeeperOptions(max_bytes=max_bytes, full_policy=full_policy, **given), clock, wait=wait
            )
        )
        return rigs[-1]

    yield start
    for rig in rigs:
        rig.close(0.0)
