"""`spool_fsync`: what counts as spooled is on the disk itself; and nobody waits for a disk that is slow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._batch import Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part, SpoolDirectory
from plumelog_loguru._spool._part import PartOptions
from plumelog_loguru._spool._row import RowKey
from plumelog_loguru._spool._store import Store
from tests.spool.rig import Rig

ROOT = Path(__file__).parents[2]
MakeBatch = Callable[..., Batch]
SLOW_SECONDS = 0.5

# A keeper that writes one block when it is told to, and tells in which order things happened.
ONE_BLOCK = """
import sys, time
from pathlib import Path
from plumelog_loguru._clock import SYSTEM_CLOCK
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import KeeperOptions
from tests.spool.rig import start_keeper, values_of
destination = Destination("localhost:6379", 0, "plume_log_list", "left")
options = KeeperOptions(Path(sys.argv[1]), destination, 1 << 30, "drop_oldest", fsync=True)
rig = start_keeper(options, SYSTEM_CLOCK, wait=True)
rig.store(b"0")
print("ready", flush=True)
sys.stdin.readline()
rig.store(b"1" * 10_000)
failures = [sentence for kind, sentence in rig.reports if kind == "spool-failing"]
stored = [told for told in rig.listener.told if told[0] == "stored"]
print(len(failures), len(stored), len(values_of(rig.rows())), flush=True)
"""

# A sink on a disk that is slow as soon as strace makes it so.
LATENCIES = """
import json, sys, time
from loguru import logger
from plumelog_loguru import DurableRedisSink
url, spool_dir = sys.argv[1:]
logger.remove()
sink = DurableRedisSink(redis_url=url, spool_dir=spool_dir, spool_fsync=True, batch_interval_seconds=0.05,
    retry_count=0, queue_max_size=200)
logger.add(sink, format="{message}")
logger.info("0")
while not sink.stats().spooled:
    time.sleep(0.01)
print("ready", flush=True)
sys.stdin.readline()
took = []
until = time.monotonic() + 3
while time.monotonic() < until:
    began = time.perf_counter()
    logger.info("x" * 500)
    took.append(time.perf_counter() - began)
    time.sleep(0.001)
print(json.dumps(took), flush=True)
"""


@pytest.fixture
def spawn_script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts scripts, and ends them."""
    seen = os.environ.get("PYTHONPATH")
    started: list[subprocess.Popen[str]] = []

    def spawn(*command: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, [seen]), str(ROOT)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield spawn
    for process in started:
        process.kill()
        process.communicate()


def attach(spawn: Callable[..., subprocess.Popen[str]], pid: int, log: Path, *options: str) -> None:
    """Have strace do something to each of the process's system calls from now on."""
    tracer = spawn("strace", "-f", "-p", pid, "-o", log, *options)
    assert tracer.stderr is not None
    for line in tracer.stderr:
        if "attached" in line:
            return
    pytest.fail("strace did not attach")


@pytest.mark.needs_strace
@pytest.mark.parametrize("failures", [1, 2])
def test_a_sync_that_fails_is_no_success(
    tmp_path: Path, spawn_script: Callable[..., subprocess.Popen[str]], failures: int
) -> None:
    """The kernel may have dropped what it could not write: the batch is written anew, and told then."""
    process = spawn_script(sys.executable, "-c", ONE_BLOCK, tmp_path / "spool")
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    log = tmp_path / "calls"
    inject = f"inject=fsync,fdatasync:error=EIO:when=1..{failures}"
    attach(spawn_script, process.pid, log, "-y", "-e", "trace=pwrite64,fsync,fdatasync", "-e", inject)
    out, err = process.communicate("go\n", timeout=30)
    assert out.split() == [str(failures), "2", "2"], err
    written, synced = 0, []
    for line in log.read_text().splitlines():
        if "-wal>" in line and "pwrite64" in line:
            written += 1
        elif "-wal>" in line and "sync(" in line:
            synced.append(("INJECTED" in line, written))
            written = 0
    print("on the log, failed or not, and after how many writes:", synced)
    assert [failed for failed, _ in synced[: failures + 1]] == [True] * failures + [False]
    assert all(written >= 3 for _, written in synced[: failures + 1])  # all of the row, each time


def test_each_write_is_synced_where_that_is_asked_for(
    tmp_path: Path, destination: Destination, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database syncs each commit; and the names of new files and directories are synced as well."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(re.sub("(part|new)-[0-9a-f]{16}", r"\1", os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    spool = tmp_path / "a" / "b"
    directory = SpoolDirectory(spool, destination, PartOptions(fsync=True))
    directory.open()
    part = directory.take_or_create()
    assert part._store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert {str(tmp_path), f"{tmp_path}/a", str(spool), f"{spool}/part"} <= set(synced)
    assert {f"{spool}/part/spool", f"{spool}/new/part.json", f"{spool}/new"} <= set(synced)
    part.close()
    part = Part.create(spool, destination)
    assert part._store._connection.execute("PRAGMA synchronous").fetchone() == (1,)
    part.close()


def test_a_directory_that_cannot_be_synced_holds_no_spool(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name might be gone after a power cut: records stay in memory, and that is said."""

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    rig = start(fsync=True)
    assert rig.listener.told[0][0] == "unusable"
    assert [kind for kind, _ in rig.reports] == ["spool-unusable"]


# ---------------------------------------------------------------- a slow disk


def check_latencies(took: list[float]) -> None:
    took = sorted(took)
    median, late, most = took[len(took) // 2], took[len(took) * 999 // 1000], took[-1]
    shown = f"median {median * 1e6:.0f} us, 99.9 % {late * 1e3:.2f} ms, most {most * 1e3:.2f} ms"
    print(f"{len(took)} calls: {shown}")
    assert median < 0.005
    assert most < SLOW_SECONDS / 2  # nobody waited for the disk, not even once


def test_a_slow_disk_does_not_slow_the_caller(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write takes half a second, and the queue overflows into the spool: calls return as ever."""
    real = Store.put
    writes: list[RowKey] = []

    def put(store: Store, key: RowKey, row: bytes) -> None:
        writes.append(key)
        time.sleep(SLOW_SECONDS)
        real(store, key, row)

    monkeypatch.setattr(Store, "put", put)
    monkeypatch.chdir(tmp_path)
    logger.remove()
    own_server.stop()
    sink = DurableRedisSink(
        redis_url=own_server.url, spool_dir=tmp_path / "spool", queue_max_size=200, retry_count=0
    )
    logger.add(sink, format="{message}")
    took: list[float] = []
    until = time.monotonic() + 20
    while len(writes) < 4:  # three of them are over
        assert time.monotonic() < until
        began = time.perf_counter()
        logger.info("x" * 500)
        took.append(time.perf_counter() - began)
        time.sleep(0.0005)
    check_latencies(took)
    stats = sink.stats()
    assert stats.accepted == len(took) == stats.in_memory + stats.spooled
    monkeypatch.undo()
    logger.remove()


@pytest.mark.needs_strace
def test_slow_system_calls_do_not_slow_the_caller(
    own_server: RedisServer, tmp_path: Path, spawn_script: Callable[..., subprocess.Popen[str]]
) -> None:
    """The same, with a disk whose writes and syncs are really slow, and with each batch synced."""
    own_server.stop()
    process = spawn_script(sys.executable, "-c", LATENCIES, own_server.url, tmp_path / "spool")
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    delay = f"inject=pwrite64,fsync,fdatasync:delay_enter={SLOW_SECONDS * 1e6:.0f}"
    attach(spawn_script, process.pid, tmp_path / "calls", "-e", "trace=pwrite64,fsync,fdatasync", "-e", delay)
    process.stdin.write("go\n")
    process.stdin.flush()
    took = json.loads(process.stdout.readline())
    assert (tmp_path / "calls").read_text().count("DELAYED") >= 5
    check_latencies(took)
