"""``repair`` keeps what is intact, puts the rest aside, and can be killed anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.servers import RedisServer
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part
from tests.scale import scaled

from .conftest import KEY, Replay, Run, RunCode, assert_schema
from .damage import (
    DAMAGES,
    RECORDS,
    Damage,
    Leave,
    each_scene,
    flip,
    flip_in,
    left_by_a_killed_process,
    left_by_an_ended_process,
    letter_in,
    value,
)
from .test_verify import DESTINATION, LETTER_DAMAGES, everything_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")


def repaired(replay: Replay, *words: str) -> Run:
    """Repair, and see that the answer is as documented."""
    run = replay("repair", "--apply", "--json", *words)
    assert_schema("repair", run.json)
    assert run.code == bool(run.json["left"])
    return run


def delivered(server: RedisServer, replay: Replay) -> list[bytes]:
    """What a drain brings into the list."""
    assert replay("drain").code in (0, 1)
    found = server.cli("LRANGE", KEY, "0", "-1")
    assert isinstance(found, list)
    return found


def test_where_nothing_is_wrong_nothing_is_done(spool_dir: Path, replay: Replay) -> None:
    """With and without --apply, on an empty spool too."""
    assert replay("repair").code == repaired(replay).code == 0
    left_by_a_killed_process(spool_dir, DESTINATION)
    before = everything_in(spool_dir)
    assert "nothing is wrong in" in replay("repair").out
    assert (repaired(replay).code, replay("repair", "--apply").err) == (0, "")
    assert everything_in(spool_dir) == before


def test_a_missing_spool_is_told_and_not_made(spool_dir: Path, replay: Replay) -> None:
    """Exit code 2, with and without --apply."""
    spool_dir.rmdir()
    for words in ((), ("--apply",)):
        run = replay("repair", *words)
        assert run.code == 2 and "cannot be read (No such file or directory)" in run.err
        assert not spool_dir.exists()


@each_scene
def test_what_is_intact_is_delivered_afterwards(
    leave: Leave,
    name: str,
    damage: Damage,
    most_lost: int,
    server: RedisServer,
    destination: Destination,
    spool_dir: Path,
    replay: Replay,
) -> None:
    """The plan changes nothing; afterwards nothing is wrong, and what is intact comes, once, as it was."""
    part, values = leave(spool_dir, destination)
    damage(part)
    before = everything_in(spool_dir)
    run = replay("repair")
    assert run.code == 1 and "nothing is changed yet" in run.err
    assert everything_in(spool_dir) == before
    run = repaired(replay)
    assert (run.code, run.json["left"], run.json["problems"]) == (0, [], [])
    assert run.json["findings"] and run.json["applied"]
    assert replay("verify").code == 0
    found = delivered(server, replay)
    assert len(found) == len(set(found))
    assert set(found) <= values
    assert len(values) - len(found) <= most_lost
    assert replay("verify").code == 0


def test_original_bytes_are_in_quarantine(spool_dir: Path, replay: Replay) -> None:
    """Of a row, a database, a journal, a letter, of part.json: as they were found."""
    part, _ = left_by_an_ended_process(spool_dir, DESTINATION)
    flip_in(part / "spool/cache.db", b"-5-1")
    flip(part / "part.json", 20)
    (part / "journal-7").write_bytes(b"garbage")
    other, _ = left_by_an_ended_process(spool_dir, DESTINATION)
    os.truncate(other / "spool/cache.db", 20_000)
    letter = letter_in(spool_dir, DESTINATION)
    flip(letter, 30)
    facts, database = (part / "part.json").read_bytes(), (other / "spool/cache.db").read_bytes()
    damaged_letter = letter.read_bytes()
    assert repaired(replay).code == 0
    (row,) = (part / "quarantine").glob("*.row")
    assert row.read_bytes().count(b'"content"') >= 2
    assert (part / "quarantine/part.json").read_bytes() == facts
    assert (part / "quarantine/journal-7").read_bytes() == b"garbage"
    assert (other / "quarantine/spool/cache.db").read_bytes() == database
    assert (spool_dir / "quarantine" / letter.name).read_bytes() == damaged_letter
    assert replay("verify", "--json").json["quarantined"] >= 5


@pytest.mark.parametrize("name", LETTER_DAMAGES)
def test_letters(name: str, spool_dir: Path, replay: Replay) -> None:
    """A damaged one is put aside, one under another's name gets its own, all others stay."""
    damaged = letter_in(spool_dir, DESTINATION, 1)
    other = letter_in(spool_dir, DESTINATION, 2)
    LETTER_DAMAGES[name](damaged)
    assert repaired(replay).code == 0
    assert other.exists() == (name != "all behind a link")
    if name == "other name":
        assert damaged.read_bytes().endswith(value("letter 1"))
    else:
        assert not damaged.exists()
    assert list((spool_dir / "quarantine").glob("*")) or name in ("other name", "half-written")


def test_what_makers_left_is_removed(spool_dir: Path, replay: Replay) -> None:
    """And a link in the place of a part is put aside, without a look at where it leads."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    (spool_dir / f"new-{'0' * 16}").mkdir()
    (spool_dir / f"part-{'1' * 16}").mkdir()
    (spool_dir / f"part-{'1' * 16}" / "lock").touch()
    (spool_dir / f"part-{'2' * 16}").symlink_to(part)
    before = everything_in(part)
    assert repaired(replay).code == 0
    assert sorted(os.listdir(spool_dir)) == sorted([part.name, "quarantine"])
    assert everything_in(part) == before


def test_what_belongs_to_the_living_is_left(spool_dir: Path, replay: Replay) -> None:
    """Its damage stays told, and not a byte is changed."""
    part, _ = left_by_an_ended_process(spool_dir, DESTINATION)
    flip_in(part / "spool/cache.db", b"-5-1")
    flip(part / "part.json", 20)
    owner = Part.try_take(part, DESTINATION, opened=False)
    assert owner is not None
    try:
        before = everything_in(part)
        run = repaired(replay)
        assert run.code == 1
        assert ["its owner" in finding["cure"] for finding in run.json["left"]] == [True]
        assert everything_in(part) == before
    finally:
        owner.close()
    assert repaired(replay).code == 0


def test_parts_of_all_destinations(spool_dir: Path, replay: Replay) -> None:
    """Each stays meant for its own list."""
    parts = [
        left_by_an_ended_process(spool_dir, Destination(f"redis-{n}:6379", 0, KEY, "left"))[0] for n in (1, 2)
    ]
    before = [(part / "part.json").read_bytes() for part in parts]
    for part in parts:
        flip_in(part / "spool/cache.db", b"-5-1")
        flip(part / "part.json", 20)
    assert repaired(replay).code == 0
    assert [(part / "part.json").read_bytes() for part in parts] == before


@pytest.mark.parametrize("lost", ["both lines", "missing", "a link"])
def test_a_part_that_is_meant_for_nobody_knows_which_list(
    lost: str, server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """It stays until an operator says that it is the configured one."""
    part, values = left_by_a_killed_process(spool_dir, destination)
    if lost == "both lines":
        (part / "part.json").write_bytes(b"{}")
    else:
        (part / "part.json").unlink()
    if lost == "a link":
        (part / "part.json").symlink_to("/etc/hostname")
    run = repaired(replay)
    assert run.code == 1 and "--adopt-unknown" in run.json["left"][0]["cure"]
    assert delivered(server, replay) == []
    assert repaired(replay, "--adopt-unknown").code == 0
    assert set(delivered(server, replay)) == values


USER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM Cache").fetchall()
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def open_elsewhere(database: Path) -> Iterator[None]:
    """Another process has it open."""
    command = [sys.executable, "-c", USER, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"open\n"
        yield
        process.communicate()


def test_no_lock_is_made_while_a_process_has_the_database_open(spool_dir: Path, replay: Replay) -> None:
    """Somebody deleted the lock of a living owner: its part must not be taken from it."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    (part / "lock").unlink()
    with open_elsewhere(part / "spool/cache.db"):
        run = repaired(replay)
        assert run.code == 1
        assert "a process has its database open" in run.json["problems"][0]
        assert not (part / "lock").exists()
    assert repaired(replay).code == 0
    assert (part / "lock").exists()


def test_locks_that_cannot_be_trusted(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system nothing is repaired, and that is said."""
    part, _ = left_by_a_killed_process(spool_dir, DESTINATION)
    flip(part / "part.json", 20)
    monkeypatch.setattr("plumelog_loguru._spool._directory.network_file_system", lambda *_: "nfs4")
    run = replay("repair", "--apply")
    assert run.code == 2 and "where locks cannot be trusted" in run.err


AS_ROOT = """
import sys
from plumelog_loguru.cli import _owner, main
_owner._files_of_code = lambda: []  # here Python itself may be where only root can read it
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.needs_root
def test_what_root_repairs_stays_the_owners() -> None:
    """The application can use each file afterwards: all are its user's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        spool_dir = Path(folder, "spool")
        part, _ = left_by_an_ended_process(spool_dir, DESTINATION)
        os.truncate(part / "spool/cache.db", 20_000)
        flip(letter_in(spool_dir, DESTINATION), 30)
        for path in (spool_dir, *spool_dir.rglob("*")):
            os.chown(path, 65534, 65534)
        words = ("repair", "--apply", "--spool-dir", str(spool_dir))
        run = subprocess.run([sys.executable, "-c", AS_ROOT, *words], capture_output=True, check=False)
        assert run.returncode == 0, run.stderr
        assert (part / "quarantine/spool/cache.db").exists()
        assert [path for path in spool_dir.rglob("*") if path.lstat().st_uid != 65534] == []


KILLED = """
import os, sys
from plumelog_loguru._spool._store import Store
from plumelog_loguru.cli import main  # before the calls are counted: in 3.10 pathlib makes methods of them
calls = int(sys.argv[1])
def count(original):
    def call(*args, **kwargs):
        global calls
        calls -= 1
        if calls == 0:
            os._exit(9)
        return original(*args, **kwargs)
    return call
for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "chmod", "lstat"):
    setattr(os, name, count(getattr(os, name)))
Store.put = count(Store.put)
raise SystemExit(main(["repair", "--apply", "--spool-dir", sys.argv[2]]))
"""


@pytest.mark.timeout(900)
def test_killed_anywhere_and_run_again(
    server: RedisServer,
    destination: Destination,
    tmp_path: Path,
    spool_dir: Path,
    replay: Replay,
    run_code: RunCode,
) -> None:
    """Whatever it had done by then, the next run ends it, and every intact record comes, once."""
    (tmp_path / "image").mkdir()
    part, values = left_by_a_killed_process(tmp_path / "image", destination)
    damage, most_lost = DAMAGES["all at once"]
    damage(part)
    killed, code, said = 0, 9, ""
    for calls in range(1, 2000, scaled(37, 4)):
        shutil.rmtree(spool_dir, ignore_errors=True)
        shutil.copytree(tmp_path / "image", spool_dir)
        process = run_code(KILLED, str(calls), str(spool_dir))
        code, said = process.returncode, process.stdout + process.stderr
        if code != 9:
            break
        killed += 1
        run = repaired(replay)
        assert (run.code, run.json["left"]) == (0, []), calls
        server.cli("FLUSHALL")
        found = delivered(server, replay)
        assert len(found) == len(set(found)), calls
        assert set(found) <= values, calls
        assert len(found) >= RECORDS - most_lost, calls
    assert code == 0 and killed > 3, said
