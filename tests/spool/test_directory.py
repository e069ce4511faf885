"""Processes that share a spool directory find each other's leftovers, and never each other's parts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plumelog_loguru._batch import Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import _directory, _lock
from plumelog_loguru._spool._database import FILES
from plumelog_loguru._spool._directory import SpoolDirectory, network_file_system
from plumelog_loguru._spool._failures import SpoolError
from plumelog_loguru._spool._part import Part

MakeBatch = Callable[..., Batch]
Spawn = Callable[..., "subprocess.Popen[str]"]

_NOBODY = 65534

unix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")


@pytest.fixture
def directory(tmp_path: Path, destination: Destination) -> SpoolDirectory:
    directory = SpoolDirectory(tmp_path / "deep" / "spool", destination)
    directory.open()
    return directory


@pytest.fixture
def parts() -> Iterator[list[Part]]:
    """Parts to close at the end."""
    opened: list[Part] = []
    yield opened
    for part in opened:
        part.close()


@unix
def test_a_free_part_is_taken_before_one_is_made(
    directory: SpoolDirectory, make_batch: MakeBatch, parts: list[Part]
) -> None:
    """A starter takes over what a dead process left, with its rows; only then does it make a part."""
    left = directory.take_or_create()
    left.append(make_batch(1))
    left.close()
    for _ in range(2):
        parts.append(directory.take_or_create())
    assert [part.id == left.id for part in parts] == [True, False]
    assert [part.records for part in parts] == [2, 0]
    assert directory.take_free() is None


@unix
def test_parts_to_leave_alone_are_left_alone(directory: SpoolDirectory, parts: list[Part]) -> None:
    """`exclude` names ids that are not to be taken."""
    left = directory.take_or_create()
    left.close()
    assert directory.take_free(exclude={left.id}) is None
    taken = directory.take_free()
    assert taken is not None
    parts.append(taken)


@unix
def test_processes_that_start_at_once_own_different_parts(
    directory: SpoolDirectory, spawn: Spawn, make_batch: MakeBatch
) -> None:
    """Eight processes that race for three free parts own eight different ones, and all three are taken."""
    left = [Part.create(directory.path, directory.destination) for _ in range(3)]
    for part in left:
        part.append(make_batch(1))
    for part in left:
        part.close()
    processes = [
        spawn(
            """
directory = SpoolDirectory(spool_dir, DESTINATION)
directory.open()
print("ready", flush=True)
sys.stdin.readline()
part = directory.take_or_create()
print(part.id, part.records, flush=True)
sys.stdin.readline()
""",
            str(directory.path),
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.stdout.readline().split() for process in processes if process.stdout is not None]
    assert len({part_id for part_id, _ in answers}) == 8
    assert {part_id for part_id, records in answers if records == "2"} == {part.id for part in left}


@unix
def test_takers_and_removers_race_without_harm(directory: SpoolDirectory, spawn: Spawn) -> None:
    """Processes that take, fill, empty and remove parts never meet in one, and lose nothing."""
    code = """
directory = SpoolDirectory(spool_dir, DESTINATION)
directory.open()
written = delivered = 0
lane = os.urandom(16).hex()
for turn in range(60):
    part = directory.take_or_create()
    with open(part.path / "lock", "r+") as mark:  # two owners would see each other's mark
        assert mark.read() == ""
        mark.write("owned")
        mark.flush()
        while (key := part.peek()) is not None:
            part.ack(key)
            delivered += 1
        if turn % 3 == 0:
            written += 1
            part.append(batch(written, lane))
        mark.truncate(0)
    part.remove()
print(written - delivered, flush=True)
"""
    processes = [spawn(code, str(directory.path)) for _ in range(4)]
    left = 0
    for process in processes:
        out, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        left += int(out)
    assert left == sum(part.records for part in directory.survey())


@unix
def test_leftovers_of_dead_makers_are_cleared(directory: SpoolDirectory, parts: list[Part]) -> None:
    """What a maker or remover left half-way goes; what is locked, or not ours, stays."""
    for name in (
        "new-00000000000000aa",
        "new-00000000000000bb",
        "new-00000000000000cc",
        "part-00000000000000dd",
    ):
        (directory.path / name).mkdir()
        (directory.path / name / "lock").touch()
    (directory.path / "new-00000000000000bb" / "part.json").write_text("{}")
    (directory.path / "part-00000000000000ee").mkdir()
    (directory.path / "new-of-somebody-else").mkdir()
    alive = _lock.PartLock.take(directory.path / "new-00000000000000cc" / "lock")
    assert alive is not None
    parts.append(directory.take_or_create())
    alive.release()
    assert {path.name for path in directory.path.iterdir()} == {
        "new-00000000000000cc",
        "new-of-somebody-else",
        parts[0].path.name,
    }


@unix
def test_a_part_that_cannot_be_opened_is_noted_and_left(directory: SpoolDirectory, parts: list[Part]) -> None:
    """A part that is in no state to be opened does not keep a sink from starting."""
    left = directory.take_or_create()
    left.close()
    (left.path / "spool").rename(directory.path / "target")
    (left.path / "spool").symlink_to(directory.path / "target")
    parts.append(directory.take_or_create())
    assert parts[0].id != left.id
    directory.take_free()
    (note,) = directory.notes()
    assert "cannot be taken over" in note and "symbolic link" in note


def test_a_look_at_everything_changes_nothing(
    directory: SpoolDirectory, destination: Destination, make_batch: MakeBatch, parts: list[Part]
) -> None:
    """Live, dead, foreign, damaged and newer parts are all shown, beside their owners, without a trace."""
    elsewhere = replace(destination, server="elsewhere:6379")
    live, dead, foreign, damaged, newer = (
        Part.create(directory.path, elsewhere if place == 2 else destination) for place in range(5)
    )
    for part in (live, dead, foreign, damaged, newer):
        for seq in (1, 2, 3):
            part.append(make_batch(seq))
    parts.append(live)
    for part in (dead, foreign, damaged, newer):
        part.close()
    (damaged.path / "spool" / FILES[0]).write_bytes(b"garbage " * 999)
    (newer.path / "part.json").write_text('{"format":99}')
    before = _picture(directory.path)
    found = {info.id: info for info in directory.survey()}
    assert _picture(directory.path) == before
    assert set(found) == {part.id for part in (live, dead, foreign, damaged, newer)}
    if _lock.LOCKS:
        assert {id_ for id_, info in found.items() if info.owner == "live"} == {live.id}
    for part in (live, dead, foreign):
        info = found[part.id]
        assert (info.batches, info.records, info.bytes, info.problem) == (3, 6, part.row_bytes, None)
        assert (info.oldest_ms, info.newest_ms) == (1_795_305_614_001, 1_795_305_614_003)
        assert info.destination == part.destination
    assert found[damaged.id].problem is not None
    assert found[newer.id].destination is None and found[newer.id].problem is not None
    if _lock.LOCKS:
        assert directory.elsewhere() == {elsewhere: 6}
    live.append(make_batch(4))
    assert {info.records for info in directory.survey() if info.id == live.id} == {8}


def _picture(path: Path) -> dict[str, str]:
    """All files and their contents, but for the index of a live log, in which readers mark what they read."""
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file() and not file.name.endswith("-shm")
    }


@unix
def test_a_killed_owners_rows_can_be_seen(directory: SpoolDirectory, spawn: Spawn) -> None:
    """What lies only in the log of a killed process is shown too, and the part is dead."""
    owner = spawn(
        """
part = Part.create(spool_dir, DESTINATION)
part.append(batch(1))
print(flush=True)
time.sleep(60)
""",
        str(directory.path),
    )
    assert owner.stdout is not None
    owner.stdout.readline()
    assert [(info.owner, info.records) for info in directory.survey()] == [("live", 1)]
    owner.kill()
    owner.wait()
    before = _picture(directory.path)
    assert [(info.owner, info.records) for info in directory.survey()] == [("dead", 1)]
    assert _picture(directory.path) == before


def test_disk_space_is_that_of_all_files(
    directory: SpoolDirectory, make_batch: MakeBatch, parts: list[Part]
) -> None:
    """The bytes of the directory are those of all files of all processes."""
    assert directory.disk_bytes() == 0
    for _ in range(2):
        part = Part.create(directory.path, directory.destination)
        part.append(make_batch(1))
        parts.append(part)
    expected = sum(path.stat().st_size for path in directory.path.rglob("*") if path.is_file())
    assert directory.disk_bytes() == expected > 0


def test_a_directory_that_cannot_be_used_is_an_error_with_the_cure(
    tmp_path: Path, destination: Destination
) -> None:
    """The error for a spool directory that cannot be made names the setting to change."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SpoolError, match="set PLUMELOG_SPOOL_DIR"):
            SpoolDirectory(path, destination).open()
    with pytest.raises(SpoolError, match="cannot be read"):
        SpoolDirectory(tmp_path / "missing", destination).survey()


@unix
def test_a_directory_that_cannot_be_written_is_an_error_with_the_cure(destination: Destination) -> None:
    """The error for a spool directory without the right to write names the setting to change."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o555)
        child = os.fork()
        if child == 0:
            complaint = ""
            try:
                if os.geteuid() == 0:
                    os.setuid(_NOBODY)  # root may write everywhere
                SpoolDirectory(Path(path), destination).open()
            except SpoolError as error:
                complaint = str(error)
            finally:
                os._exit(0 if "set PLUMELOG_SPOOL_DIR" in complaint else 1)
        assert os.waitpid(child, 0)[1] == 0


@unix
def test_parts_of_another_user_are_no_empty_spool(destination: Destination, make_batch: MakeBatch) -> None:
    """A survey names the parts that it may not read, instead of leaving them out."""
    with tempfile.TemporaryDirectory() as path:
        part = Part.create(Path(path), destination)
        part.append(make_batch(1))
        part.close()
        os.chmod(path, 0o755)
        os.chmod(part.path, 0o700 if os.geteuid() == 0 else 0)
        child = os.fork()
        if child == 0:
            told = False
            try:
                if os.geteuid() == 0:
                    os.setuid(_NOBODY)  # root may read everything
                (found,) = SpoolDirectory(Path(path), destination).survey()
                told = found.forbidden and found.id == part.id and "run the command as" in str(found.problem)
            finally:
                os._exit(0 if told else 1)
        status = os.waitpid(child, 0)[1]
        os.chmod(part.path, 0o700)
        assert status == 0


def test_a_path_that_diskcache_would_expand_is_refused(
    tmp_path: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A $variable in the path would send the rows elsewhere than the locks."""
    monkeypatch.setenv("SPOOL_TEST", "x")
    with pytest.raises(SpoolError, match=r"\$variable"):
        SpoolDirectory(tmp_path / "$SPOOL_TEST", destination).open()
    SpoolDirectory(tmp_path / "$SPOOL_TEST_UNKNOWN", destination).open()


def test_the_directory_does_not_follow_the_working_directory(
    tmp_path: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means the directory that it meant at the start."""
    monkeypatch.chdir(tmp_path)
    directory = SpoolDirectory(Path("spool"), destination)
    directory.open()
    monkeypatch.chdir("/")
    assert directory.take_or_create().remove()
    assert (tmp_path / "spool").is_dir()


@unix
def test_a_directory_that_is_made_is_for_the_owner_alone(directory: SpoolDirectory) -> None:
    """A spool directory that did not exist is made with 0700."""
    assert directory.path.stat().st_mode & 0o777 == 0o700


MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /home rw - nfs4 server:/home rw
24 23 0:22 / /home/local\040disk rw - xfs /dev/vdb rw
25 22 0:23 / /mnt/a rw - fuse.sshfs host:/ rw
26 22 0:24 / /mnt/b rw - fuseblk /dev/vdc rw
27 22 0:25 / /mnt/c rw master:1 - cifs //server/share rw
28 22 0:26 / /mnt/d rw - nfs server:/d rw
29 28 0:27 / /mnt/d rw - tmpfs tmpfs rw
30 22 0:28 / /var/lib rw - fuse.fuse-overlayfs fuse-overlayfs rw
a broken line
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/spool", None),
        ("/home/me/spool", "nfs4"),
        ("/home", "nfs4"),
        ("/homes/spool", None),
        ("/home/local disk/spool", None),
        ("/mnt/a/spool", "fuse.sshfs"),
        ("/mnt/b/spool", None),
        ("/mnt/c", "cifs"),
        ("/mnt/d/spool", None),
        ("/var/lib/spool", None),
    ],
)
def test_network_file_systems_are_known(path: str, found: str | None) -> None:
    """The mount that a path lies on decides, the later one of two on one point."""
    assert network_file_system(path, MOUNTS) == found


@unix
def test_nothing_is_adopted_on_a_network_file_system(
    tmp_path: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch, parts: list[Part]
) -> None:
    """Where locks may lapse a sink makes parts of its own, takes over none, and says so."""
    Part.create(tmp_path, destination).close()
    monkeypatch.setattr(_directory, "network_file_system", lambda path, mounts: "nfs4")
    directory = SpoolDirectory(tmp_path, destination)
    directory.open()
    assert not directory.adopts and directory.take_free() is None
    parts.append(directory.take_or_create())
    assert len(directory.survey()) == 2
    (note,) = directory.notes()
    assert "nfs4" in note and "PLUMELOG_SPOOL_DIR" in note
