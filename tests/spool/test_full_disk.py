"""A full disk, for real: what was spooled before it filled comes out again, to the last record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.oracle import content_of, read_list
from lab.servers import RedisServer
from plumelog_loguru._batch import Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part
from plumelog_loguru._spool._failures import SpoolError, SpoolFull
from plumelog_loguru._spool._files import Ballast
from plumelog_loguru._spool._part import PartOptions
from plumelog_loguru._spool._part_directory import BALLAST
from plumelog_loguru._spool._row import RowKey
from plumelog_loguru._spool._store import Store

MIB = 1 << 20
BALLAST_BYTES = 2 * MIB

MakeBatch = Callable[..., Batch]

# Logs until the disk itself says no, then tells how much is spooled.
UNTIL_FULL = """
import json, os, signal, sys, time
from loguru import logger
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._spool import SpoolDirectory
url, spool_dir, size, end = sys.argv[1:]
SpoolDirectory.free_bytes = lambda self: 1 << 40
logger.remove()
sink = DurableRedisSink(
    redis_url=url, spool_dir=spool_dir, spool_min_free_bytes=0, durability="memory", retry_count=0,
    spool_full_policy="drop_newest", batch_interval_seconds=0.02, retry_backoff_base_seconds=0.01,
)
logger.add(sink, format="{message}")
keeper = sink._pipeline._keeper
number = 0
while keeper.state.value != "failing" and sink.stats().dropped.get("spool_full", 0) == 0:
    logger.info(f"{number} " + "x" * int(size))
    number += 1
    if number % 50 == 0 or int(size) > 10_000:
        time.sleep(0.0005)
before = None
while (now := sink.stats().spooled) != before:
    before = now
    time.sleep(0.1)
if end == "closed":
    print(json.dumps({"spooled": sink.close(1.0).spooled}), flush=True)
else:
    print(json.dumps({"spooled": now}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

# Logs into the journal, and is killed before anything was ever spooled.
NEVER_SPOOLED = """
import os, signal, sys, time
from loguru import logger
from plumelog_loguru import DurableRedisSink
url, spool_dir, size, records = sys.argv[1:]
logger.remove()
sink = DurableRedisSink(
    redis_url=url, spool_dir=spool_dir, spool_min_free_bytes=0, journal_max_bytes=8 << 20,
    record_max_bytes=1 << 20, batch_size=10_000, batch_interval_seconds=60,
)
logger.add(sink, format="{message}")
while sink._pipeline._keeper.state.value != "ready":
    time.sleep(0.001)
for number in range(int(records)):
    logger.info(f"{number} " + "x" * int(size))
os.kill(os.getpid(), signal.SIGKILL)
"""

# Delivers what is there as a sink that starts on the directory.
SINK = """
import json, sys, time
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._spool import _recoverer
url, spool_dir = sys.argv[1:]
_recoverer._AGAIN_SECONDS = 0.1
sink = DurableRedisSink(
    redis_url=url, spool_dir=spool_dir, spool_min_free_bytes=0, durability="memory",
    health_check_interval_seconds=0.05,
)
sink._pipeline.start()
give_up_at = time.monotonic() + 30
while not sink.stats().adopted or sink.stats().spooled:
    assert time.monotonic() < give_up_at, sink.stats()
    time.sleep(0.02)
stats = sink.stats()
sink.close()
print(json.dumps({"delivered": stats.delivered, "already_applied": stats.already_applied, "remaining": 0}))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB, in memory."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", point],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def fill(disk: Path) -> Path:
    """Somebody else takes what is left, to the last byte."""
    path = disk / "of somebody else"
    with open(path, "ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return path


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *(("-c", code) if code else ()), *map(str, arguments)],
        env={**os.environ, "PLUMELOG_REDIS_KEY": "plume_log_list"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("size", "end", "way"),
    [
        (200, "closed", "drain"),
        (200, "killed", "sink"),
        (20_000, "killed", "drain"),
        (20_000, "closed", "sink"),
        (900_000, "closed", "drain"),
        (900_000, "killed", "sink"),
    ],
)
def test_a_disk_that_is_full_to_the_last_byte_drains(
    own_server: RedisServer, small_disk: Path, size: int, end: str, way: str
) -> None:
    """All that was counted as spooled is delivered, once, though there is not a byte to delete it with."""
    own_server.stop()
    spool = small_disk / "spool"
    logged = run(UNTIL_FULL, own_server.url, spool, size, end)
    assert logged.stdout, logged.stderr
    spooled = json.loads(logged.stdout)["spooled"]
    fill(small_disk)
    own_server.start()
    if way == "drain":
        flags = ("--redis-url", own_server.url, "--spool-dir", spool, "--json")
        drained = run("", "-m", "plumelog_loguru.cli", "drain", *flags)
    else:
        drained = run(SINK, own_server.url, spool)
    assert drained.returncode == 0, drained.stderr
    facts = json.loads(drained.stdout)
    numbers = [int(content_of(one).split()[0]) for one in read_list(own_server)]
    print(f"spooled {spooled}, drained {facts}, in the list {len(numbers)}")
    assert spooled >= 15 * MIB // (size + 600)
    assert len(numbers) == len(set(numbers))
    # A write that was tried again may have worked between the count and the kill.
    assert len(numbers) == spooled or (end == "killed" and len(numbers) > spooled)
    assert (facts["delivered"], facts["remaining"]) == (len(numbers), 0)
    assert not any(spool.glob("part-*"))


@pytest.mark.needs_root
def test_the_ballast_is_for_deleting_and_never_for_new_rows(
    small_disk: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """A full disk takes no new row and keeps the ballast; deleting uses it; it is back before new rows."""
    part = Part.create(small_disk, destination, options=PartOptions(ballast_bytes=BALLAST_BYTES))
    large = tuple(b"%d" % n + b"x" * 100_000 for n in range(9))
    _append_many(part, [Batch(part.next_spool_id(), large) for _ in range(8)])
    ballast = part.path / BALLAST
    part.close()  # so that the log is gone, and has to be made again
    others = fill(small_disk)
    reopened = Part.try_take(part.path, destination)
    assert reopened is not None
    assert not ballast.exists()  # opening a database takes room
    reopened.close()
    others.unlink()
    part = _taken(part.path, destination)
    fresh = make_batch(1)
    part.append(fresh)
    assert ballast.stat().st_size == BALLAST_BYTES
    others = fill(small_disk)
    with pytest.raises(SpoolFull):
        _append_many(part, [Batch(make_batch(seq).id, large) for seq in range(2, 40)])
    assert ballast.stat().st_size == BALLAST_BYTES
    while (key := part.peek()) is not None and part.read(key).batch != fresh:
        part.ack(key)
    others.unlink()
    part.append(make_batch(50))
    assert ballast.stat().st_size == BALLAST_BYTES
    while (key := part.peek()) is not None:
        part.ack(key)
    assert part.remove()
    assert list(small_disk.iterdir()) == []


def _append_many(part: Part, batches: list[Batch]) -> None:
    for batch in batches:
        part.append(batch)


def _taken(path: Path, destination: Destination) -> Part:
    part = Part.try_take(path, destination, options=PartOptions(ballast_bytes=BALLAST_BYTES))
    assert part is not None
    return part


# ---------------------------------------------------------------- without the rights of root


def full_for(monkeypatch: pytest.MonkeyPatch, method: str, part: Part) -> list[str]:
    """Have this call of the store fail for want of room as long as there is ballast."""
    real = getattr(Store, method)
    calls: list[str] = []

    def call(store: Store, *arguments: object) -> object:
        calls.append(method)
        if (part.path / BALLAST).exists():
            raise SpoolFull("database or disk is full")
        return real(store, *arguments)

    monkeypatch.setattr(Store, method, call)
    return calls


@pytest.mark.parametrize("doing", ["ack", "replace", "quarantine"])
def test_what_frees_room_has_the_ballast(
    tmp_path: Path,
    destination: Destination,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
    doing: str,
) -> None:
    """Deleting, restamping and putting aside go on with it, at the second try."""
    part = Part.create(tmp_path, destination, options=PartOptions(ballast_bytes=MIB))
    part.append(make_batch(1))
    key = part.peek()
    assert key is not None
    calls = full_for(monkeypatch, "put" if doing == "replace" else "delete", part)
    changes: dict[str, Callable[[], object]] = {
        "ack": lambda: part.ack(key),
        "replace": lambda: part.replace(key, make_batch(1)),
        "quarantine": lambda: part.quarantine(key),
    }
    changes[doing]()
    assert len(calls) == 2
    assert part.empty == (doing != "replace")
    part.close()


def test_new_rows_have_no_ballast(
    tmp_path: Path, destination: Destination, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not there to make the spool larger."""
    part = Part.create(tmp_path, destination, options=PartOptions(ballast_bytes=MIB))
    part.append(make_batch(1))
    calls = full_for(monkeypatch, "put", part)
    with pytest.raises(SpoolFull):
        part.append(make_batch(2))
    assert len(calls) == 1
    part.close()


def test_without_room_for_the_ballast_nothing_is_written(
    tmp_path: Path, destination: Destination, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a spool could fill the disk that it could not be emptied on."""

    def refuse(ballast: Ballast) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Ballast, "make", refuse)
    part = Part.create(tmp_path, destination, options=PartOptions(ballast_bytes=MIB))
    with pytest.raises(SpoolError, match="no room"):
        part.append(make_batch(1))
    assert part.empty
    part.close()


def test_ballast_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that fails leaves nothing, one that was left half-way is begun anew, and links are refused."""
    ballast = Ballast(tmp_path / BALLAST, MIB)
    with monkeypatch.context() as patch:

        def refuse(fd: int, offset: int, size: int) -> None:
            os.ftruncate(fd, 100)
            raise OSError(28, "no space left on device")

        patch.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match="no space"):
            ballast.make()
    assert not (tmp_path / BALLAST).exists() and ballast.missing_bytes == MIB
    (tmp_path / BALLAST).write_bytes(b"half")
    ballast.make()
    found = (tmp_path / BALLAST).stat()
    assert (found.st_size, found.st_blocks * 512, found.st_mode & 0o777) == (MIB, MIB, 0o600)
    assert ballast.missing_bytes == 0
    assert ballast.release() and not ballast.release()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / BALLAST).symlink_to(victim)
    ballast.make()
    assert victim.read_text() == "mine" and not (tmp_path / BALLAST).is_symlink()


def test_a_store_tells_a_full_disk_from_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says it in several ways; each may be cured by room."""
    store = Store(tmp_path / "spool")
    key: RowKey = store.append(b"1", 1)
    store._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(SpoolFull):
        store.append(b"x" * 100_000, 1)
    assert store.read(key) == b"1"
    store.close()


@pytest.mark.needs_root
@pytest.mark.parametrize("way", ["drain", "sink"])
@pytest.mark.parametrize(("size", "records"), [(200, 5_000), (60_000, 40)])
def test_a_journal_beside_a_full_disk_drains(
    own_server: RedisServer, small_disk: Path, size: int, records: int, way: str
) -> None:
    """What was only ever in a journal comes out too, when a full disk takes no row of it."""
    own_server.stop()
    spool_dir = small_disk / "spool"
    killed = run(NEVER_SPOOLED, own_server.url, spool_dir, size, records)
    assert killed.returncode == -9, killed
    fill(small_disk)
    own_server.start()
    if way == "sink":
        done = run(SINK, own_server.url, spool_dir)
        assert done.returncode == 0, done
    else:
        done = run(
            "import sys; from plumelog_loguru.cli import main; sys.exit(main(sys.argv[1:]))",
            "drain", "--redis-url", own_server.url, "--spool-dir", spool_dir, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done
    contents = [content_of(value).split()[0] for value in read_list(own_server)]
    assert sorted(contents, key=int) == [str(number) for number in range(records)]
