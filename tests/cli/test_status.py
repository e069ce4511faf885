"""``status`` says what is there, and changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lab.servers import RedisServer
from plumelog_loguru._batch import BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import Journal
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part, SpoolDirectory

from .conftest import KEY, Fill, Replay, batch_of
from .test_drain import _files

unix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")
pytestmark = unix

JSON_KEYS = [
    "spool_dir",
    "batches",
    "records",
    "bytes",
    "oldest",
    "newest",
    "parts",
    "dead_letters",
    "quarantined",
]


def test_an_empty_spool_and_a_healthy_redis(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Nothing spooled is all zeros and nulls, and the length of the list is read."""
    server.cli("RPUSH", KEY, "a", "b")
    run = replay("status", "--json")
    assert (run.code, run.err) == (0, "")
    assert list(run.json) == [*JSON_KEYS, "redis"]
    assert run.json == {
        "spool_dir": str(spool_dir),
        "batches": 0,
        "records": 0,
        "bytes": 0,
        "oldest": None,
        "newest": None,
        "parts": [],
        "dead_letters": 0,
        "quarantined": 0,
        "redis": {"healthy": True, "error": None, "list_length": 2},
    }


def test_parts_of_the_living_and_the_dead(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Each part is shown with its owner, destination and records, whatever is spooled; the exit code is 0."""
    fill(Destination("redis-b:6379", 0, KEY, "left"))
    part = Part.create(spool_dir, destination)
    try:
        part.append(batch_of(b'{"dtTime":1000}', b'{"dtTime":2000}'))
        before = _files(spool_dir)
        run = replay("status", "--json")
        assert (run.code, run.err) == (0, "")
        facts = run.json
        assert sorted((p["owner"], p["destination"], p["records"]) for p in facts["parts"]) == [
            ("dead", "redis-b:6379/0 cli_list (left)", 6),
            ("live", f"{destination.server}/0 cli_list (left)", 2),
        ]
        assert (facts["batches"], facts["records"]) == (4, 8)
        assert (facts["oldest"], facts["newest"]) == (1000, 1795305614000)
        text = replay("status").out
        assert "8 records in 4 batches" in text and "owner live  2 records" in text
        assert {name: data for name, data in _files(spool_dir).items() if not name.endswith("-shm")} == {
            name: data for name, data in before.items() if not name.endswith("-shm")
        }
    finally:
        part.close()


def test_what_an_ended_process_had_in_memory_is_in_no_batch(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Records in a dead owner's journal are told apart from those in batches."""
    part = Part.create(spool_dir, destination)
    part.close()
    journal = Journal.create(part.path / "journal-1", 1 << 16)
    journal.append(b"{}")
    journal.close()
    assert "waiting     1 record that ended processes had in memory; 2 bytes" in replay("status").out
    fill(destination, batches=1, records=1)
    out = replay("status").out
    assert "waiting     1 record in 1 batch, 1 record that ended processes had in memory; " in out


def test_quarantine_is_counted_and_wrong(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Files in quarantine are counted, told, and make the exit code 1."""
    fill(destination)
    (path,) = spool_dir.iterdir()
    (path / "quarantine").mkdir()
    (path / "quarantine" / "1.row").touch()
    run = replay("status", "--json")
    assert (run.code, run.json["quarantined"]) == (1, 1)
    assert "1 file in quarantine" in run.err


def test_a_part_that_cannot_be_read_is_told(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """A part of which the destination cannot be read is shown as such, and the rest is shown too."""
    fill(destination)
    broken = Part.create(spool_dir, destination)
    broken.close()
    (broken.path / "part.json").write_bytes(b"{")
    run = replay("status", "--json")
    assert (run.code, run.json["records"]) == (1, 6)
    assert [p["destination"] for p in run.json["parts"] if p["id"] == broken.id] == [None]
    assert "part.json cannot be read, so nobody knows which list it is for" in run.err


def test_a_part_without_its_lock_is_told(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Nobody can take over what has no lock file: that is said with the cure, and the cure works."""
    fill(destination)
    (lock,) = spool_dir.glob("part-*/lock")
    lock.unlink()
    for command in ("status", "drain"):
        run = replay(command)
        assert run.code == 1 and "without the file 'lock' in it: make an empty one" in run.err
    lock.touch()
    assert replay("drain", "--json").json["delivered"] == 6


@pytest.mark.parametrize("command", ["status", "drain"])
def test_a_part_of_another_user_is_told(
    server: RedisServer,
    destination: Destination,
    spool_dir: Path,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    """What may not be read is no empty spool: it is named, with the cure, and the exit code is 1."""
    part = Part.create(spool_dir, destination)
    part.close()
    list_it = os.listdir

    def refuse(path: str | Path) -> list[str]:
        if Path(path) == part.path:
            raise PermissionError(13, "Permission denied")
        return list_it(path)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(SpoolDirectory, "take_free", lambda *_, **__: None)
    run = replay(command)
    assert run.code == 1
    assert f"the part {part.path} cannot be read (Permission denied); run the command as the user" in run.err


def test_an_unreachable_redis_is_told(spool_dir: Path, replay: Replay) -> None:
    """Redis's absence is an error of one sentence, a null length, and the exit code 1."""
    run = replay("status", "--json", "--redis-host", "127.0.0.1", "--redis-port", "1")
    redis = run.json["redis"]
    assert (run.code, redis["healthy"], redis["list_length"]) == (1, False, None)
    assert redis["error"] and redis["error"] in run.err
    assert run.err.count("\n") == 1


def test_a_key_that_is_no_list_is_not_healthy(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Healthy means that records would be taken, and not that the server answers."""
    server.cli("SET", KEY, "not a list")
    run = replay("status", "--json")
    assert (run.code, run.json["redis"]["healthy"]) == (1, False)
    assert "WRONGTYPE" in run.json["redis"]["error"]


def test_a_missing_directory_is_wrong_usage(tmp_path: Path, replay: Replay) -> None:
    """A directory that is not there ends the command with 2 and one sentence, and is not made."""
    run = replay("status", "--json", "--spool-dir", str(tmp_path / "missing"))
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "missing").exists()


def test_what_a_hostile_part_says_cannot_steer_the_terminal(
    server: RedisServer, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Control characters of a destination are shown, not sent."""
    fill(Destination("evil\x1b[2J:1", 0, "key\nfaked line", "left"))
    out = replay("status").out + replay("drain", "--dry-run").err
    assert "\x1b" not in out and "\nfaked" not in out
    assert "evil\\x1b[2J:1" in out


def test_times_that_no_clock_shows_are_shown_as_numbers(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """Whatever number stands in a record as its time, the status is shown."""
    part = Part.create(spool_dir, destination)
    part.append(batch_of(b'{"dtTime":999999999999999}'))
    part.close()
    run = replay("status")
    assert (run.code, run.err) == (0, "")
    assert "999999999999999 ms" in run.out


def test_a_link_in_the_place_of_the_letters(
    server: RedisServer, destination: Destination, tmp_path: Path, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """All else is shown, the link is not followed, and that is told."""
    fill(destination)
    elsewhere = DeadLetters(tmp_path / "other")
    (tmp_path / "other").mkdir()
    elsewhere.write(DeadLetter(BatchId(new_lane_id(), 1), b"{}", destination, "too large", 1))
    (spool_dir / "dead-letters").symlink_to(elsewhere.path)
    run = replay("status", "--json")
    assert (run.code, run.json["records"], run.json["dead_letters"]) == (1, 6, 0)
    assert "it is no directory; a symbolic link is refused" in run.err
    run = replay("status")
    assert "letters     cannot be read" in run.out
    run = replay("purge", "--yes")
    assert (run.code, run.out.splitlines()[-1]) == (1, "6 records purged")
    assert "a symbolic link is refused" in run.err
    for command in ("audit", "doctor"):
        run = replay(command)
        assert run.code == 1 and "a symbolic link is refused" in run.out + run.err
    for words in (["list"], ["export"], ["drop", "--all", "--yes"]):
        run = replay("dead-letters", *words)
        assert (run.code, run.out) == (2, "") and "a symbolic link is refused" in run.err
    assert len(elsewhere.names()) == 1
