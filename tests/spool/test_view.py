"""Parts are seen from outside as they are, and nothing is changed by looking."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO
from zlib import crc32

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import DeadJournal, Journal, runs_of
from plumelog_loguru._spool import Part, SeenBatch, SpoolDirectory, batches_of
from tests.scale import scaled

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

MakeBatch = Callable[..., Batch]
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def directory(spool_dir: Path, destination: Destination) -> SpoolDirectory:
    directory = SpoolDirectory(spool_dir, destination)
    directory.open()
    return directory


def _picture(path: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files below, by name: mode, time of the last change, and bytes."""
    return {
        str(file.relative_to(path)): (
            file.lstat().st_mode,
            file.lstat().st_mtime_ns,
            file.read_bytes() if file.is_file() else b"",
        )
        for file in [path, *path.rglob("*")]
    }


def _seen(directory: SpoolDirectory, *, with_values: bool = True) -> list[SeenBatch]:
    """All batches in the directory, which stays as it is."""
    before = _picture(directory.path)
    found = [
        seen
        for part in directory.survey()
        for seen in batches_of(directory.path, part, with_values=with_values)
    ]
    assert _picture(directory.path) == before
    return found


def _batches(directory: SpoolDirectory) -> list[Batch | None]:
    return [seen.batch for seen in _seen(directory)]


def _fill(directory: SpoolDirectory, make_batch: MakeBatch, rows: int = 5) -> tuple[Path, list[Batch]]:
    """A part as an ended process leaves it."""
    part = Part.create(directory.path, directory.destination)
    batches = [make_batch(seq, lane=new_lane_id()) for seq in range(1, rows + 1)]
    for batch in batches:
        part.append(batch)
    part.close()
    return part.path, batches


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


@contextmanager
def _owner(spawn: Spawn, directory: SpoolDirectory, rows: int) -> Iterator[subprocess.Popen[str]]:
    """A living owner whose rows stand in the log, which it keeps."""
    process = spawn(
        """
part = Part.create(spool_dir, DESTINATION)
for seq in range(1, int(sys.argv[2]) + 1):
    part.append(batch(seq))
print("ready", flush=True)
sys.stdin.readline()
part.close()
print("closed", flush=True)
sys.stdin.readline()
""",
        str(directory.path),
        str(rows),
    )
    assert _line(process.stdout) == "ready\n"
    yield process


def test_what_an_ended_process_left_is_seen_as_it_was_written(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """Every batch is seen, oldest first, with its identity, its bytes and what can be said of it."""
    path, batches = _fill(directory, make_batch, rows=40)
    seen = _seen(directory)
    (part,) = directory.survey()
    assert [one.batch for one in seen] == batches
    assert [one.id for one in seen] == [f"{path.name.removeprefix('part-')}.{n}" for n in range(1, 41)]
    assert (sum(one.records for one in seen), sum(one.bytes for one in seen)) == (part.records, part.bytes)
    first = seen[0]
    assert (first.part, first.problem, first.level) == (part, None, "INFO")
    assert (first.first_ms, first.last_ms) == (part.oldest_ms, part.oldest_ms)


def test_without_values_all_else_is_seen(directory: SpoolDirectory, make_batch: MakeBatch) -> None:
    """Without values a batch is what it is with them, but for these."""
    _fill(directory, make_batch)
    wanted = [replace(one, batch=one.batch and replace(one.batch, values=())) for one in _seen(directory)]
    assert _seen(directory, with_values=False) == wanted


@pytest.mark.parametrize("end", ["lives", "closed", "killed"])
def test_rows_in_the_log_are_seen(end: str, directory: SpoolDirectory, spawn: Spawn) -> None:
    """What stands in the log of a living owner, or of one that was killed, is seen without a trace."""
    with _owner(spawn, directory, rows=7) as process:
        if end == "killed":
            process.kill()
            process.wait()
        elif end == "closed":
            print(file=process.stdin, flush=True)
            assert _line(process.stdout) == "closed\n"
        seen = _seen(directory)
        assert [one.batch and one.batch.id.seq for one in seen] == list(range(1, 8))
        assert {one.part.owner for one in seen} == {"live" if end == "lives" else "dead"}
        logs = {path.name for path in directory.path.glob("part-*/spool/*")}
        assert ("cache.db-wal" in logs) == (end != "closed")


def test_a_log_without_its_index_is_read(directory: SpoolDirectory, spawn: Spawn) -> None:
    """Who copies a spool may leave the log's index out: it is not made anew by looking."""
    with _owner(spawn, directory, rows=7) as process:
        process.kill()
        process.wait()
    (index,) = directory.path.glob("part-*/spool/cache.db-shm")
    index.unlink()
    assert [one.batch and one.batch.id.seq for one in _seen(directory)] == list(range(1, 8))
    assert [part.records for part in directory.survey()] == [7]


def test_a_log_that_was_begun_anew_is_not_waited_for(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """An owner that is killed before its first commit into a new log leaves an index that is of no use."""
    path, batches = _fill(directory, make_batch)
    database, index, log = (path / "spool" / f"cache.db{end}" for end in ("", "-shm", "-wal"))
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("SELECT count(*) FROM Cache").fetchone()
        empty_index = index.read_bytes()
        connection.execute("PRAGMA user_version = 1")
        begun = log.read_bytes()[:32]
    log.write_bytes(begun)
    index.write_bytes(empty_index)
    assert _batches(directory) == batches
    assert [part.records for part in directory.survey()] == [sum(len(one.values) for one in batches)]


@pytest.mark.needs_root
@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_disk_that_cannot_be_written_is_read(
    end: str, directory: SpoolDirectory, spawn: Spawn, tmp_path: Path
) -> None:
    """A volume that is mounted for reading only shows what is on it, the log too."""
    with _owner(spawn, directory, rows=7) as process:
        if end == "killed":
            process.kill()
            process.wait()
        else:
            process.communicate("\n\n")
    point = tmp_path / "mounted"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "--bind", "-o", "ro", directory.path, point], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="Read-only"):
            (point / "new").touch()
        there = SpoolDirectory(point, directory.destination)
        assert [one.batch and one.batch.id.seq for one in _seen(there)] == list(range(1, 8))
    finally:
        subprocess.run(["umount", "-l", point], check=True)


def test_a_busy_owner_is_looked_at_without_harm(directory: SpoolDirectory, spawn: Spawn) -> None:
    """Beside an owner that opens, fills, empties and closes its part, rows are seen whole and in order."""
    process = spawn(
        """
part = Part.create(spool_dir, DESTINATION)
print("ready", flush=True)
seq = 0
while not os.path.exists(sys.argv[2]):
    for _ in range(20):
        seq += 1
        value = b'{"n":%d,"x":"%s"}' % (seq, b"x" * (seq * 7919 % 200_000))
        part.append(Batch(BatchId("a" * 32, seq), (value,)))
    while part.batches > seq % 9:
        part.ack(part.peek())
    if seq % 100 == 0:
        part.close()
        part = Part.try_take(part.path, DESTINATION)
print(part.records, flush=True)
part.close()
""",
        str(directory.path),
        str(directory.path.parent / "stop"),
    )
    assert _line(process.stdout) == "ready\n"
    looks = seen_rows = 0
    while looks < scaled(60, 600):
        looks += 1
        for part in directory.survey():
            assert part.problem is None
            for with_values in (True, False):
                last = 0
                for one in batches_of(directory.path, part, with_values=with_values):
                    assert one.batch is not None, one.problem
                    assert one.batch.id.seq > last
                    last = one.batch.id.seq
                    seen_rows += 1
                    if with_values:
                        assert one.batch.values[0].startswith(b'{"n":%d,' % last)
    (directory.path.parent / "stop").touch()
    left = int(_line(process.stdout))
    process.communicate()
    assert process.returncode == 0
    assert seen_rows
    assert len(_seen(directory)) == left


def test_what_was_handed_out_may_have_been_attempted(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """Rows up to the owner's mark are seen as attempted, as the next owner will take them."""
    part = Part.create(directory.path, directory.destination)
    for seq in (1, 2, 3):
        part.append(make_batch(seq))
    second = part.peek(part.peek())
    assert second is not None
    part.hand_out(second, AttemptedBy.SCRIPT)
    part.close()
    assert [batch and batch.attempted_by.value for batch in _batches(directory)] == [
        "script",
        "script",
        "nobody",
    ]


# ---------------------------------------------------------------- journals


def _journaled(path: Path, *values: bytes, cut: BatchId | None = None) -> Path:
    """What an owner had in memory; ``cut``: the identity that it gave the first two records."""
    name = path / f"journal-{len(list(path.glob('journal-*'))) + 1}"
    journal = Journal.create(name, 1 << 16)
    frames = [frame for frame in map(journal.append, values) if frame is not None]
    assert len(frames) == len(values)
    if cut is not None:
        journal.cut(runs_of(frames[:2]), cut, AttemptedBy.SCRIPT, 7)
    journal.close()
    return name


def test_what_a_dead_owner_had_in_memory_is_seen_behind_its_rows(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """Batches of its journals follow, with the identity they were given; what had none is seen too."""
    path, batches = _fill(directory, make_batch, rows=2)
    cut = BatchId(new_lane_id(), 5)
    values = [b'{"dtTime":%d,"logLevel":"ERROR"}' % number for number in range(1, 6)]
    _journaled(path, *values[:3], cut=cut)
    _journaled(path, *values[3:])
    seen = _seen(directory)
    first, second, third = seen[2:]
    assert [one.batch for one in seen[:2]] == batches
    assert first.batch == Batch(cut, tuple(values[:2]), AttemptedBy.SCRIPT, 7)
    assert (first.records, first.bytes, first.first_ms, first.last_ms) == (2, 62, 1, 2)
    assert first.level == "ERROR"
    assert second.batch is not None and second.batch.values == (values[2],)
    assert third.batch is not None and third.batch.values == tuple(values[3:])
    part = path.name.removeprefix("part-")
    assert [one.id for one in seen[2:]] == [
        f"{part}.journal-1.1",
        f"{part}.journal-1.2",
        f"{part}.journal-2.1",
    ]
    assert [one.batch for one in _seen(directory, with_values=False)[2:]] == [
        one.batch and replace(one.batch, values=()) for one in seen[2:]
    ]


def test_what_nobody_cut_is_seen_as_it_will_be_recovered(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """The batches seen in a journal are those that become rows."""
    path, _ = _fill(directory, make_batch, rows=1)
    journal = _journaled(path, *[b'{"n":%d}' % number for number in range(100)])
    seen = [one.batch for one in _seen(directory)[1:]]
    dead = DeadJournal.open(journal)
    assert [found.batch for found in dead.batches()] == seen
    dead.close()


def test_a_batch_in_a_row_and_in_a_journal_is_seen_once(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """An owner may die between the row and the note in the journal that it is there."""
    path, (batch,) = _fill(directory, make_batch, rows=1)
    _journaled(path, *batch.values, cut=batch.id)
    for with_values in (True, False):
        assert len(_seen(directory, with_values=with_values)) == 1


def test_a_living_owners_journal_is_not_seen(directory: SpoolDirectory, spawn: Spawn) -> None:
    """It is memory, until the owner has ended."""
    with _owner(spawn, directory, rows=1) as process:
        (path,) = directory.path.iterdir()
        _journaled(path, b"{}")
        assert len(_seen(directory)) == 1
        process.kill()
        process.wait()
        assert len(_seen(directory)) == 2


# ---------------------------------------------------------------- damage


def test_a_damaged_row_is_seen_as_such(directory: SpoolDirectory, make_batch: MakeBatch) -> None:
    """One flipped bit in a row hides that row only, and its records are still counted."""
    path, batches = _fill(directory, make_batch)
    database = path / "spool" / "cache.db"
    data = bytearray(database.read_bytes())
    data[data.index(batches[2].values[1]) + 3] ^= 1
    database.write_bytes(data)
    seen = _seen(directory)
    assert [one.batch for one in seen] == [*batches[:2], None, *batches[3:]]
    assert (seen[2].records, seen[2].problem is None) == (2, False)


def test_what_is_intact_in_a_damaged_database_is_seen(
    directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """Whatever page is damaged, all rows that are not in it are seen, each once."""
    path, batches = _fill(directory, make_batch, rows=60)
    database = path / "spool" / "cache.db"
    intact = database.read_bytes()
    for page in range(len(intact) // 4096):
        start = page * 4096 + (100 if page == 0 else 0)
        database.write_bytes(intact[:start] + b"\xff" * 8 + intact[start + 8 :])
        found = [batch for batch in _batches(directory) if batch is not None]
        assert found == batches, f"page {page + 1}"


def test_a_key_with_a_flipped_bit_hides_nothing(directory: SpoolDirectory, make_batch: MakeBatch) -> None:
    """A row whose key says that it comes far behind is seen, and so is what follows."""
    path, batches = _fill(directory, make_batch)
    database = path / "spool" / "cache.db"
    data = bytearray(database.read_bytes())
    in_table = data.rindex(b"%016d." % 3, 0, data.index(batches[2].id.lane.encode()))
    data[in_table + 14] ^= 1
    database.write_bytes(data)
    seen = _seen(directory)
    assert [one.batch for one in seen] == batches
    assert len({one.id for one in seen}) == len(batches)


def test_a_log_that_is_broken_inside_hides_nothing(directory: SpoolDirectory, spawn: Spawn) -> None:
    """SQLite takes a damaged frame for the end of the log: what follows is seen all the same."""
    with _owner(spawn, directory, rows=7) as process:
        process.kill()
        process.wait()
    (log,) = directory.path.glob("part-*/spool/cache.db-wal")
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    assert [one.batch and one.batch.id.seq for one in _seen(directory)] == list(range(1, 8))


def test_a_row_of_a_newer_version_is_seen_as_such(directory: SpoolDirectory, make_batch: MakeBatch) -> None:
    """What this version cannot read it says so of, and shows the rest."""
    path, _ = _fill(directory, make_batch, rows=2)
    body = b'{"format":99}\n{}'
    with closing(sqlite3.connect(path / "spool" / "cache.db", isolation_level=None)) as database:
        row = b"PLS1 %08x %b" % (crc32(body), body)
        database.execute("UPDATE Cache SET value = ? WHERE rowid = 1", (row,))
    for with_values in (True, False):
        first, second = _seen(directory, with_values=with_values)
        assert (first.batch, first.problem) == (
            None,
            "a spooled batch has format 99; this version reads 1",
        )
        assert second.batch is not None


def test_a_damaged_journal_is_seen_as_such(directory: SpoolDirectory, make_batch: MakeBatch) -> None:
    """A damaged stretch hides what is in it, and a damaged header hides the journal; the others are seen."""
    path, _ = _fill(directory, make_batch, rows=1)
    values = [b'{"n":%d}' % number for number in range(3)]
    stretch, header, intact = (_journaled(path, *values) for _ in range(3))
    data = bytearray(stretch.read_bytes())
    data[data.index(values[1]) + 2] ^= 1
    stretch.write_bytes(data)
    header.write_bytes(b"garbage" * 1000)
    seen = _seen(directory)[1:]
    assert [one.batch and one.batch.values for one in seen] == [
        (values[0], values[2]),
        None,
        None,
        tuple(values),
    ]
    assert [one.records for one in seen] == [2, 1, 0, 3]
    assert str(stretch) in (seen[1].problem or "") and str(header) in (seen[2].problem or "")
    assert intact.name in seen[3].id


@pytest.mark.parametrize("step", ["no directory", "directory", "file", "journal", "settings"])
def test_a_part_in_the_making_is_no_fault(
    step: str, directory: SpoolDirectory, make_batch: MakeBatch
) -> None:
    """A database that its maker has not finished, or never will, holds nothing, and nothing is wrong."""
    part = Part.create(directory.path, directory.destination)
    part.close()
    spool = part.path / "spool"
    for file in spool.iterdir():
        file.unlink()
    if step == "no directory":
        spool.rmdir()
    elif step != "directory":
        (spool / "cache.db").touch()
    if step == "journal":
        (spool / "cache.db-journal").touch()
    if step == "settings":
        with closing(sqlite3.connect(spool / "cache.db")) as connection:
            connection.execute("CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
    assert _seen(directory) == []
    (info,) = directory.survey()
    assert (info.problem, info.records) == (None, 0)
