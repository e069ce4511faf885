"""A part has one owner at a time, keeps what it was given, and is removed by nobody else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import _lock
from plumelog_loguru._spool._database import FILES
from plumelog_loguru._spool._facts import FORMATS, NewerPart, read_destination
from plumelog_loguru._spool._failures import SpoolDamaged, SpoolError, SpoolVanished
from plumelog_loguru._spool._part import Part
from plumelog_loguru._spool._part_directory import clear_leftover
from plumelog_loguru._spool._row import CorruptRow, NewerFormat, RowKey, encode_row

MakeBatch = Callable[..., Batch]
Spawn = Callable[..., "subprocess.Popen[str]"]
WaitUntil = Callable[[Callable[[], bool]], None]

unix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")


@pytest.fixture
def part(tmp_path: Path, destination: Destination) -> Iterator[Part]:
    part = Part.create(tmp_path, destination)
    yield part
    part.close()


def _batches(part: Part) -> list[Batch]:
    return [part.read(key).batch for key in _keys(part)]


def _keys(part: Part) -> list[RowKey]:
    keys, key = [], part.peek()
    while key is not None:
        keys.append(key)
        key = part.peek(key)
    return keys


def _flip_a_bit_of(part: Part, key: RowKey) -> bytes:
    row = bytearray(part._store.read(key))
    row[-1] ^= 1
    part._store.put(key, bytes(row))
    return bytes(row)


def test_rows_come_back_in_the_order_in_which_they_came(part: Part, make_batch: MakeBatch) -> None:
    """What was appended is read in that order, with identity and doubt; acknowledged rows are gone."""
    batches = [make_batch(seq, attempted_by=AttemptedBy.SCRIPT) for seq in (1, 2, 3)]
    for batch in batches:
        part.append(batch)
    assert _batches(part) == batches
    assert (part.batches, part.records, part.empty) == (3, 6, False)
    assert part.row_bytes == sum(len(encode_row(batch)) for batch in batches)
    for key in _keys(part):
        part.ack(key)
        part.ack(key)
    assert (part.batches, part.records, part.row_bytes, part.empty) == (0, 0, 0, True)


def test_a_repeated_batch_replaces_its_row(part: Part, make_batch: MakeBatch) -> None:
    """A write that is repeated under its identity makes no second row, and keeps its place."""
    part.append(make_batch(1))
    part.append(make_batch(2))
    part.append(make_batch(1, attempted_by=AttemptedBy.SCRIPT))
    assert _batches(part) == [make_batch(1, attempted_by=AttemptedBy.SCRIPT), make_batch(2)]
    part.ack(_keys(part)[0])
    part.append(make_batch(1))
    assert [batch.id.seq for batch in _batches(part)] == [2, 1]


def test_a_row_can_be_stamped_as_attempted(part: Part, make_batch: MakeBatch) -> None:
    """A row is written anew in its place when its batch was attempted."""
    part.append(make_batch(1))
    part.append(make_batch(2))
    attempted = replace(make_batch(1), attempted_by=AttemptedBy.SCRIPT, last_attempt_ms=5)
    part.replace(_keys(part)[0], attempted)
    assert _batches(part) == [attempted, make_batch(2)]


def test_each_opening_draws_a_lane_of_its_own(part: Part, destination: Destination) -> None:
    """Batches without an attempt get rising numbers in a lane that no other opening uses."""
    first, second = part.next_spool_id(), part.next_spool_id()
    assert (first.seq, second.seq, first.lane) == (1, 2, second.lane)
    part.close()
    again = Part.try_take(part.path, destination)
    if again is not None:  # where there are locks
        assert again.next_spool_id().lane != first.lane
        again.close()


def test_a_damaged_row_is_put_aside_byte_for_byte(part: Part, make_batch: MakeBatch) -> None:
    """A corrupt row goes into quarantine as it is; the rows around it are delivered."""
    for seq in (1, 2, 3):
        part.append(make_batch(seq))
    key = _keys(part)[1]
    damaged = _flip_a_bit_of(part, key)
    with pytest.raises(CorruptRow):
        part.read(key)
    part.quarantine(key)
    assert [batch.id.seq for batch in _batches(part)] == [1, 3]
    assert part.records == 4
    (file,) = (part.path / "quarantine").iterdir()
    assert file.read_bytes() == damaged
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_row_that_cannot_be_put_aside_is_passed_by_and_kept(
    part: Part, make_batch: MakeBatch, destination: Destination
) -> None:
    """Where quarantine has no room, the damaged row is neither delivered nor deleted."""
    part.append(make_batch(1))
    part.append(make_batch(2))
    key = _keys(part)[0]
    _flip_a_bit_of(part, key)
    (part.path / "quarantine").write_text("in the way")
    part.quarantine(key)
    assert [batch.id.seq for batch in _batches(part)] == [2]
    assert part.records == 2
    part.close()
    again = Part.try_take(part.path, destination)
    if again is not None:
        assert again.batches == 2
        again.close()


@unix
def test_a_damaged_row_that_could_not_be_put_aside_keeps_its_part(
    part: Part, destination: Destination, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part whose damaged row was only passed by is not removed, though nothing in it waits for delivery."""
    part.append(make_batch(1))
    key = _keys(part)[0]
    damaged = _flip_a_bit_of(part, key)

    def refuse(path: Path, data: bytes) -> None:
        raise OSError("no room")

    monkeypatch.setattr("plumelog_loguru._spool._quarantine.write_new", refuse)
    part.quarantine(key)
    assert part.empty and not part.remove()
    again = Part.try_take(part.path, destination)
    assert again is not None
    assert again._store.read(key) == damaged
    again.close()


def test_a_row_of_a_newer_version_stays(part: Part, make_batch: MakeBatch) -> None:
    """A row that only a newer version can read is not damage: it is passed by, and stays."""
    part.append(make_batch(1))
    part.append(make_batch(2))
    key = _keys(part)[0]
    rest = encode_row(make_batch(1))[14:].replace(b'"format":1', b'"format":2')
    part._store.put(key, b"PLS1 %08x %b" % (crc32(rest), rest))
    with pytest.raises(NewerFormat):
        part.read(key)
    after = part.peek(key)
    assert after is not None and part.read(after).batch == make_batch(2)
    assert part.batches == 2


def test_a_spool_that_cannot_be_opened_is_put_aside(
    part: Part, make_batch: MakeBatch, destination: Destination
) -> None:
    """Garbage where the database was: it is kept in quarantine, said, and a new spool works."""
    part.append(make_batch(1))
    part.close()
    (part.path / "spool" / FILES[0]).write_bytes(b"garbage " * 999)
    again = Part.try_take(part.path, destination)
    assert again is not None
    again.append(make_batch(2))
    assert _batches(again) == [make_batch(2)]
    assert (part.path / "quarantine" / "spool" / FILES[0]).read_bytes() == b"garbage " * 999
    (note,) = again.notes()
    assert "put aside as" in note and "\n" not in note
    assert not again.remove(), "what is in quarantine is not removed"
    assert (part.path / "quarantine" / "spool").is_dir()


def test_a_spool_can_be_begun_anew(part: Part, make_batch: MakeBatch) -> None:
    """A spool that turns out damaged in the midst of work is put aside whole, and its records are counted."""
    part.append(make_batch(1))
    part.append(make_batch(2))
    with closing(sqlite3.connect(part.path / "spool" / FILES[0], isolation_level=None)) as other:
        other.execute("DROP TABLE Cache")
    with pytest.raises(SpoolDamaged):
        part.append(make_batch(3))
    assert part.start_anew() == 4
    part.append(make_batch(3))
    assert _batches(part) == [make_batch(3)]
    assert (part.path / "quarantine" / "spool").is_dir()


def test_an_empty_part_is_removed_by_its_owner(part: Part, tmp_path: Path) -> None:
    """An empty part leaves nothing behind."""
    assert part.remove()
    assert not list(tmp_path.iterdir())


def test_a_part_with_rows_or_foreign_files_is_not_removed(
    part: Part, make_batch: MakeBatch, tmp_path: Path
) -> None:
    """Removing is refused as long as anything at all is in the part."""
    part.append(make_batch(1))
    assert not part.remove()
    assert (part.path / "spool" / FILES[0]).stat().st_size
    other = Part.create(tmp_path, part.destination)
    (other.path / "spool" / "notes.txt").write_text("mine")
    assert not other.remove()
    assert (other.path / "lock").exists() and (other.path / "part.json").exists()


@unix
def test_a_part_has_one_owner(part: Part, destination: Destination) -> None:
    """A part that is owned cannot be taken, not even by its own process; once closed it can."""
    assert Part.try_take(part.path, destination) is None
    part.close()
    part.close()
    again = Part.try_take(part.path, destination)
    assert again is not None
    assert Part.try_take(part.path, destination) is None
    again.close()


@unix
def test_a_part_is_adopted_only_with_its_destination(part: Part, destination: Destination) -> None:
    """A part for another server, database, list or side is left alone."""
    part.close()
    for other in (
        replace(destination, server="elsewhere:6379"),
        replace(destination, db=1),
        replace(destination, list_key="other"),
        replace(destination, push_side="right"),
    ):
        assert Part.try_take(part.path, other) is None
    again = Part.try_take(part.path, destination)
    assert again is not None
    again.close()


@pytest.mark.parametrize(
    "facts",
    [b"", b"[]", b"{}", b'{"format":1,"destination":{}}', b'{"format":1,"destination":[]}', b"\xff" * 99],
)
def test_a_part_that_does_not_say_where_to_is_left_alone(
    part: Part, destination: Destination, facts: bytes
) -> None:
    """A part whose part.json makes no sense is not touched."""
    part.close()
    (part.path / "part.json").write_bytes(facts)
    assert read_destination(part.path) is None
    assert Part.try_take(part.path, destination) is None


def test_a_part_of_a_newer_format_is_left_alone(part: Part, destination: Destination) -> None:
    """A part that a newer version made is refused untouched."""
    part.close()
    facts = {"format": FORMATS.stop, "destination": part.destination.to_json(), "more": [1]}
    (part.path / "part.json").write_text(json.dumps(facts))
    before = sorted(part.path.rglob("*"))
    with pytest.raises(NewerPart, match=f"format {FORMATS.stop}"):
        Part.try_take(part.path, destination)
    assert sorted(part.path.rglob("*")) == before


@unix
@pytest.mark.parametrize("name", ["", "lock", "part.json", "spool"])
def test_symbolic_links_are_refused(part: Part, destination: Destination, tmp_path: Path, name: str) -> None:
    """A part with a link in the place of its directory, lock, facts or spool is not taken."""
    part.close()
    place = part.path / name
    place.rename(tmp_path / "target")
    place.symlink_to(tmp_path / "target")
    if name == "spool":
        with pytest.raises(SpoolError, match="symbolic link"):
            Part.try_take(part.path, destination)
        place.unlink()
        (tmp_path / "target").rename(place)
        again = Part.try_take(part.path, destination)
        assert again is not None, "the lock was let go"
        again.close()
    else:
        assert Part.try_take(part.path, destination) is None


@unix
@pytest.mark.parametrize("name", ["lock", "part.json"])
def test_a_planted_pipe_is_not_waited_for(part: Part, destination: Destination, name: str) -> None:
    """A named pipe in the place of a file does not stop the thread."""
    part.close()
    (part.path / name).unlink()
    os.mkfifo(part.path / name)
    assert Part.try_take(part.path, destination) is None


@unix
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_everything_is_for_the_owner_alone(
    tmp_path: Path, destination: Destination, make_batch: MakeBatch, mask: int
) -> None:
    """Directories 0700 and files 0600, whatever the umask."""
    before = os.umask(mask)
    try:
        part = Part.create(tmp_path, destination)
        part.append(make_batch(1))
        modes = {path: path.stat().st_mode & 0o777 for path in [part.path, *part.path.rglob("*")]}
        part.close()
    finally:
        os.umask(before)
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def test_nothing_that_is_written_names_a_password(part: Part, make_batch: MakeBatch) -> None:
    """part.json holds a format and a destination, and nothing else."""
    for line in (part.path / "part.json").read_bytes().splitlines():
        text, _, _checksum = line.rpartition(b" ")
        assert json.loads(text) == {"format": 2, "destination": part.destination.to_json()}


@unix
def test_a_lock_that_is_won_on_a_removed_file_is_worth_nothing(
    part: Part, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A taker that opened the lock file before its owner removed it gets no part."""
    flock = _lock._flock
    steps: list[str] = []

    def remove_then_lock(fd: int) -> bool:
        if not steps:
            steps.append("removed")
            assert part.remove()
        return flock(fd)

    monkeypatch.setattr(_lock, "_flock", remove_then_lock)
    assert Part.try_take(part.path, destination) is None
    assert steps == ["removed"]
    assert not part.path.exists()


@unix
def test_a_lock_that_is_won_on_a_replaced_file_is_tried_again(
    part: Part, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another file lies at the path meanwhile, that one is locked, and there is one owner."""
    part.close()
    flock = _lock._flock
    steps: list[int] = []

    def replace_then_lock(fd: int) -> bool:
        steps.append(fd)
        if len(steps) == 1:
            (part.path / "lock").unlink()
            (part.path / "lock").touch()
        return flock(fd)

    monkeypatch.setattr(_lock, "_flock", replace_then_lock)
    again = Part.try_take(part.path, destination)
    assert again is not None and len(steps) == 2
    assert Part.try_take(part.path, destination) is None
    again.close()


@unix
def test_a_maker_that_is_taken_for_dead_begins_again(
    tmp_path: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean-up that comes between making a directory and locking it costs the maker a second try only."""
    flock = _lock._flock
    cleaned: list[Path] = []

    def clean_then_lock(fd: int) -> bool:
        if not cleaned:
            (path,) = tmp_path.iterdir()
            cleaned.append(path)
            clear_leftover(path)
        return flock(fd)

    monkeypatch.setattr(_lock, "_flock", clean_then_lock)
    part = Part.create(tmp_path, destination)
    assert list(tmp_path.iterdir()) == [part.path]
    assert Part.try_take(part.path, destination) is None
    part.close()


@unix
def test_rows_outlive_their_killed_owner(
    tmp_path: Path, destination: Destination, spawn: Spawn, wait_until: WaitUntil
) -> None:
    """Every batch whose append returned before kill -9 is found by the next owner, in order."""
    owner = spawn(
        """
part = Part.create(spool_dir, DESTINATION)
print(part.path, flush=True)
seq = 0
while True:
    seq += 1
    part.append(batch(seq))
    print(seq, flush=True)
""",
        str(tmp_path),
    )
    assert owner.stdout is not None
    path = Path(owner.stdout.readline().strip())
    for _ in range(50):
        owner.stdout.readline()
    assert Part.try_take(path, destination) is None
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    last = int(["50", *owner.stdout.read().split()][-1])
    part = Part.try_take(path, destination)
    assert part is not None
    found = [batch.id.seq for batch in _batches(part)]
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= last
    assert part.records == part.batches == len(found)
    part.close()


@unix
def test_a_forked_child_neither_keeps_nor_frees_the_lock(
    tmp_path: Path, destination: Destination, spawn: Spawn, wait_until: WaitUntil
) -> None:
    """After the fork hook the parent still owns its part, and once the parent is gone the part is free."""
    parent = spawn(
        """
part = Part.create(spool_dir, DESTINATION)
part.append(batch(1))
child = os.fork()
if child == 0:
    part.release_lock_in_child()
    os.close(0); os.close(1)
    time.sleep(60)
    os._exit(0)
print(child, part.path, flush=True)
sys.stdin.readline()
part.append(batch(2))
print(part.batches, flush=True)
sys.stdin.readline()
os._exit(0)
""",
        str(tmp_path),
    )
    assert parent.stdin is not None and parent.stdout is not None
    child, path = parent.stdout.readline().split()
    try:
        assert Part.try_take(Path(path), destination) is None
        parent.stdin.write("\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "2\n"
        assert Part.try_take(Path(path), destination) is None
        parent.stdin.write("\n")
        parent.stdin.flush()
        parent.wait(10)
        taken: list[Part] = []

        def is_free() -> bool:
            taken.extend(filter(None, [Part.try_take(Path(path), destination)]))
            return bool(taken)

        wait_until(is_free)
        assert [batch.id.seq for batch in _batches(taken[0])] == [1, 2]
        taken[0].close()
    finally:
        os.kill(int(child), signal.SIGKILL)


@unix
def test_children_that_end_in_any_way_leave_the_parents_rows_alone(tmp_path: Path, spawn: Spawn) -> None:
    """Children that end by os._exit, sys.exit or an exception do not disturb the parent's spool."""
    parent = spawn(
        """
import sqlite3, contextlib
part = Part.create(spool_dir, DESTINATION)
for seq in range(1, 21):
    part.append(batch(seq))
    child = os.fork()
    if child == 0:
        part.release_lock_in_child()
        sys.stderr = open(os.devnull, "w")
        del part
        if seq % 3 == 0: os._exit(0)
        if seq % 3 == 1: sys.exit(0)
        raise RuntimeError
    os.waitpid(child, 0)
path = part.path
keys = [part.peek()]
while keys[-1]:
    keys.append(part.peek(keys[-1]))
assert [part.read(key).batch.id.seq for key in keys[:-1]] == list(range(1, 21))
assert Part.try_take(path, DESTINATION) is None
part.close()
with contextlib.closing(sqlite3.connect(path / "spool" / "cache.db")) as database:
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
part = Part.try_take(path, DESTINATION)
assert part.batches == 20
part.close()
""",
        str(tmp_path),
    )
    assert parent.wait(40) == 0


@pytest.mark.parametrize("what", ["part", "spool"])
def test_a_part_that_vanishes_is_noticed(part: Part, make_batch: MakeBatch, what: str) -> None:
    """Deleting the directory under a living owner is an error at the next call; the count remains."""
    part.append(make_batch(1))
    shutil.rmtree(part.path if what == "part" else part.path / "spool")
    with pytest.raises(SpoolVanished):
        part.append(make_batch(2))
    assert part.records == 2
    part.close()
    assert not part.remove() or what == "spool"


def test_a_part_that_cannot_be_looked_at_has_not_vanished(
    part: Part, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that lets nobody in any more is no deleted one: what is open in it goes on."""
    part.append(make_batch(1))

    def refuse(path: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", refuse)
        part.append(make_batch(2))
        assert part.is_there()
    assert _batches(part) == [make_batch(1), make_batch(2)]


def test_leftovers_with_records_are_never_cleared(part: Part, make_batch: MakeBatch) -> None:
    """A part that lost its part.json keeps its rows: nobody knows where to, but they are not rubbish."""
    part.append(make_batch(1))
    part.close()
    (part.path / "part.json").unlink()
    clear_leftover(part.path)
    again = Part(part.path, part.destination, part._lock)
    assert _batches(again) == [make_batch(1)]
    again.close()


def test_a_directory_that_takes_no_part_is_an_error_with_its_name(
    tmp_path: Path, destination: Destination
) -> None:
    """Where no part can be made the error names the directory."""
    with pytest.raises(SpoolError, match=r"no part can be made in the spool directory .*missing"):
        Part.create(tmp_path / "missing", destination)


def test_without_locks_parts_are_made_and_never_taken(
    tmp_path: Path, destination: Destination, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no flock, a part can be made, used and removed, and none can be taken over."""
    monkeypatch.setattr(_lock, "LOCKS", False)
    part = Part.create(tmp_path, destination)
    part.append(make_batch(1))
    part.close()
    assert Part.try_take(part.path, destination) is None
    assert Part.create(tmp_path, destination).remove()


@pytest.mark.parametrize(("free_gib", "pages"), [(2, 2048), (0.5, 256)])
def test_a_log_may_grow_for_an_emptying_where_there_is_room(
    free_gib: float, pages: int, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite waits for the disk less often then; on a disk with little room the log stays short."""
    free = int(free_gib * (1 << 30))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1 << 40, 0, free))
    part.expect_emptying()
    assert part._store._connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (pages,)
