"""What nobody owns goes for good, when that is said twice; all else stays."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from plumelog_loguru._batch import BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part, SpoolDirectory
from plumelog_loguru._spool._lock import PartLock

from .conftest import KEY, Fill, Replay, RunCode, assert_schema, batch_of
from .test_drain import _files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

OTHER = Destination("redis-b:6379", 0, KEY, "left")


@pytest.fixture
def destination() -> Destination:
    """The list that is configured; no server is needed."""
    return Destination("localhost:6379", 0, KEY, "left")


def _letter(destination: Destination) -> DeadLetter:
    return DeadLetter(BatchId(new_lane_id(), 1), b"{}", destination, "too large", 1)


def test_without_a_yes_nothing_goes(
    destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """What would go is shown, nothing is touched, and the exit code is that of a command not obeyed."""
    fill(destination)
    DeadLetters(spool_dir).write(_letter(destination))
    before = _files(spool_dir)
    run = replay("purge")
    assert run.code == 2
    assert run.out.splitlines()[0].endswith("6 records for localhost:6379/0 cli_list (left)")
    assert run.out.splitlines()[1:] == ["dead letters  1 record", "7 records would be purged"]
    assert run.err == "plumelog-replay: nothing is purged; say --yes to have it go for good\n"
    run = replay("purge", "--json")
    assert_schema("purge", run.json)
    assert (run.code, run.json["purged"], run.json["records"], run.json["dead_letters"]) == (2, False, 7, 1)
    assert _files(spool_dir) == before


def test_all_of_the_configured_list_goes(
    destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Rows, journals, quarantine and letters are gone, whatever lies in them; those of other lists stay."""
    letters = DeadLetters(spool_dir)
    fill(OTHER)
    letters.write(_letter(OTHER))
    before = _files(spool_dir)
    fill(destination)
    for path in spool_dir.glob("part-*"):
        if OTHER.server not in (path / "part.json").read_text():
            (path / "quarantine" / "spool").mkdir(parents=True)
            (path / "quarantine" / "spool" / "cache.db").write_bytes(b"?")
            (path / "journal-1").write_bytes(b"?" * 5000)
            (path / "of-somebody").symlink_to(spool_dir)
    letters.write(_letter(destination))
    run = replay("purge", "--yes", "--json")
    assert_schema("purge", run.json)
    assert (run.code, run.err) == (0, "")
    assert (run.json["purged"], run.json["records"], run.json["left"]) == (True, 7, 0)
    assert [part["quarantined"] for part in run.json["parts"]] == [1]
    assert _files(spool_dir) == before
    assert replay("purge", "--yes").out == "there is nothing to purge\n"
    assert replay("purge").code == 0


def test_another_list_goes_where_it_is_named(
    destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """``--from`` takes a destination as status prints it, or any; any takes what cannot be told, too."""
    fill(destination)
    fill(OTHER)
    run = replay("purge", "--yes", "--json", "--from", str(OTHER))
    assert [part["destination"] for part in run.json["parts"]] == [str(OTHER)]
    fill(OTHER)
    letters = DeadLetters(spool_dir)
    letters.write(_letter(OTHER))
    (letters.path / letters.names()[0]).write_bytes(b"?")
    next(spool_dir.glob("part-*/part.json")).write_bytes(b"?")
    assert replay("purge", "--yes", "--from", "any").code == 0
    assert [path.name for path in spool_dir.iterdir()] == ["dead-letters"]
    assert letters.names() == []
    assert "no part is meant for elsewhere" in replay("purge", "--from", "elsewhere").err


def test_living_owners_and_newer_versions_keep_theirs(
    destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """What is owned is not touched; what a newer version made is left for it, and said."""
    living = Part.create(spool_dir, destination)
    newer = Part.create(spool_dir, destination)
    newer.append(batch_of(b"{}"))
    newer.close()
    (newer.path / "part.json").write_bytes(b'{"format":99}')
    try:
        living.append(batch_of(b"{}"))
        assert replay("purge", "--yes").out == "there is nothing to purge\n"
        run = replay("purge", "--yes", "--from", "any")
        assert run.out == "there is nothing to purge\n"
        assert run.code == 1 and "for a newer version of plumelog-loguru" in run.err
        assert living.read(key) if (key := living.peek()) else False
        assert newer.path.exists()
    finally:
        living.close()


def test_an_owner_that_comes_meanwhile_keeps_its_part(
    destination: Destination, spool_dir: Path, fill: Fill, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that was free when it was looked at, and is owned when it is to go, stays and is told of."""
    fill(destination)
    (path,) = spool_dir.iterdir()
    survey, locks = SpoolDirectory.survey, list[PartLock | None]()

    def survey_and_take(self: SpoolDirectory) -> object:
        found = survey(self)
        locks.append(PartLock.take(path / "lock"))
        return found

    monkeypatch.setattr(SpoolDirectory, "survey", survey_and_take)
    run = replay("purge", "--yes", "--json")
    if lock := locks.pop():
        lock.release()
    assert (run.code, run.json["left"]) == (1, 1)
    assert "has an owner by now, and stays" in run.err
    assert (path / "spool" / "cache.db").exists()


def test_where_locks_cannot_be_trusted_nothing_goes(
    destination: Destination, spool_dir: Path, fill: Fill, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system nobody knows who lives: that is said, with what to do."""
    fill(destination)
    before = _files(spool_dir)
    monkeypatch.setattr(SpoolDirectory, "adopts", property(lambda _: False))
    run = replay("purge", "--yes")
    assert (run.code, run.out) == (2, "")
    assert "for locks cannot be trusted there; end all processes that log there" in run.err
    assert _files(spool_dir) == before


def test_empty_missing_and_unreadable_directories(
    tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is made, and what cannot be read is told in one sentence."""
    assert (replay("purge", "--yes").code, (tmp_path / "spool").exists()) == (2, False)
    (tmp_path / "spool").mkdir()
    run = replay("purge", "--yes")
    assert (run.code, run.out, run.err) == (0, "there is nothing to purge\n", "")
    monkeypatch.setattr(
        os, "listdir", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    run = replay("purge", "--yes")
    assert (run.code, run.err.count("\n")) == (2, 1) and "Permission denied" in run.err


@pytest.mark.parametrize("steps", range(1, 10, 2))
def test_a_purge_that_is_killed_leaves_no_half_of_a_part(
    destination: Destination,
    spool_dir: Path,
    fill: Fill,
    replay: Replay,
    run_code: RunCode,
    steps: int,
) -> None:
    """The part is there whole, or is none: what is left of it is removed by the next command."""
    fill(destination)
    (path,) = spool_dir.iterdir()
    code = """
import os, signal, sys
from plumelog_loguru.cli import main
steps = int(sys.argv.pop())
def killing(function):
    def call(*words, **more):
        global steps
        steps -= 1
        if not steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **more)
    return call
for name in ("rename", "unlink", "rmdir"):
    setattr(os, name, killing(getattr(os, name)))
sys.exit(main())
"""
    ended = run_code(code, "purge", "--yes", str(steps))
    assert ended.returncode in (0, -signal.SIGKILL)
    assert (steps > 1) or ended.returncode
    parts = SpoolDirectory(spool_dir, destination).survey()
    assert [part.records for part in parts] == ([6] if path.exists() else [])
    assert path.exists() == (steps == 1)
    assert replay("purge", "--yes").code == 0
    assert list(spool_dir.iterdir()) == []
    shutil.rmtree(spool_dir)
