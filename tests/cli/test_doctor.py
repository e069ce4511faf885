"""``doctor`` gives a verdict on each thing that can be wrong, changes nothing, and tells no password."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.servers import RedisServer
from plumelog_loguru._batch import BatchId
from plumelog_loguru._clock import SystemClock
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import Journal, JournalError
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part, SpoolDirectory
from plumelog_loguru.cli import _examine_directory, _examine_server

from .conftest import KEY, Fill, Replay, Run, Start, assert_schema, batch_of
from .test_drain import _files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

PASSWORD = "hunter2-is-secret"


@pytest.fixture
def keeping(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A server that keeps what it takes, to be reconfigured; the environment names it."""
    monkeypatch.setenv("PLUMELOG_REDIS_URL", own_server.url)
    return own_server


def _examined(replay: Replay, *words: str) -> tuple[Run, dict[str, list[dict[str, Any]]]]:
    """The run, and its findings by their subjects."""
    run = replay("doctor", "--json", *words)
    assert_schema("doctor", run.json)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in run.json["findings"]:
        found.setdefault(finding["subject"], []).append(finding)
        assert finding["verdict"] in ("ok", "unknown") or finding["cure"], finding
    return run, found


def _worst(found: dict[str, list[dict[str, Any]]], subject: str) -> str:
    verdicts = [finding["verdict"] for finding in found[subject]]
    return max(verdicts, key=["ok", "unknown", "warn", "fail"].index)


def test_where_all_is_well_it_says_so(keeping: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Every verdict is ok, and neither the directory nor the list is changed."""
    keeping.cli("RPUSH", KEY, "a", "b")
    before = _files(spool_dir)
    run, found = _examined(replay)
    assert (run.code, run.err, run.json["ok"]) == (0, "", True)
    assert {finding["verdict"] for finding in run.json["findings"]} == {"ok"}
    assert set(found) >= {
        *("settings", "delivery", "directory", "rights", "file system", "locks", "journal", "room", "parts"),
        *("server", "version", "role", "memory", "persistence", "list", "scripts", "writing", "clock"),
    }
    assert "holds 2 values" in found["list"][0]["what"]
    assert _files(spool_dir) == before
    assert keeping.values(KEY) == [b"a", b"b"]
    (lane,) = set(keeping.cli("KEYS", "*")) - {KEY.encode()}
    assert 0 < keeping.cli("PTTL", lane) <= 60_000
    assert "ok       persistence  appendonly" in replay("doctor").out


# ------------------------------------------------------------------------------------------------ settings


def test_an_unknown_variable_is_told_with_the_nearest(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped variable has no effect, which is worth an exit code; its value is not shown."""
    monkeypatch.setenv("PLUMELOG_REDIS_PASSWORT", PASSWORD)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "settings")) == (1, "warn")
    assert found["settings"][0]["what"] == "PLUMELOG_REDIS_PASSWORT has no effect"
    assert found["settings"][0]["cure"] == "did you mean PLUMELOG_REDIS_PASSWORD?"
    assert PASSWORD not in run.out + run.err


# ----------------------------------------------------------------------------------------------- directory


def test_a_directory_that_is_missing_is_2_and_the_rest_is_examined(
    keeping: RedisServer, tmp_path: Path, replay: Replay
) -> None:
    """It is not made; Redis is looked at all the same."""
    run, found = _examined(replay)
    assert (run.code, _worst(found, "directory"), _worst(found, "server")) == (2, "fail", "ok")
    assert not (tmp_path / "spool").exists()


_AS_NOBODY = """
import os, sys
from plumelog_loguru.cli import main
import plumelog_loguru.cli._doctor, redis.asyncio, plumelog_loguru._spool
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Any]:
    """Runs the command as a user without rights."""
    above = [path for path in (tmp_path, *tmp_path.parents) if path.stat().st_uid == os.geteuid()]
    modes = [(path, path.stat().st_mode) for path in above if path != Path("/")]
    for path, mode in modes:
        path.chmod(mode | 0o755)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, *words], capture_output=True, text=True, check=False
        )

    yield run
    for path, mode in modes:
        path.chmod(mode)


@pytest.mark.needs_root
def test_a_directory_of_another_user_is_told(keeping: RedisServer, spool_dir: Path, as_nobody: Any) -> None:
    """One that may not be read is 2; one that may not be written is a fault."""
    run = as_nobody("doctor")
    assert run.returncode == 2 and "fail     directory" in run.stdout and "cannot be read" in run.stdout
    spool_dir.chmod(0o755)
    run = as_nobody("doctor")
    assert run.returncode == 1 and "fail     rights" in run.stdout and "cannot be written" in run.stdout


@pytest.mark.needs_root
def test_root_says_that_it_cannot_tell_the_rights_of_others(
    keeping: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """Root may write everywhere: what the application may do is unknown; nothing of root's is left behind."""
    os.chown(spool_dir, 65534, 65534)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "rights")) == (0, "unknown")
    assert list(spool_dir.iterdir()) == []


def test_a_directory_that_everybody_may_write_is_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """Anybody could remove a part."""
    spool_dir.chmod(0o777)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "rights")) == (1, "warn")


def test_locks_that_do_not_work_are_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that two can take is none."""
    monkeypatch.setattr("plumelog_loguru._spool._lock._flock", lambda fd: True)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "locks")) == (1, "warn")


def test_a_network_file_system_is_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nothing is taken over."""
    monkeypatch.setattr(_examine_directory, "read_mountinfo", lambda: f"1 1 0:1 / {spool_dir} rw - nfs4 x rw")
    run, found = _examined(replay)
    assert (run.code, _worst(found, "file system")) == (1, "warn")


def test_a_journal_that_is_not_possible_is_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, kill -9 loses what is in memory; where none is wanted, that is no fault."""

    def refuse(*_: object, **__: object) -> Journal:
        raise JournalError("this system cannot reserve room")

    monkeypatch.setattr(Journal, "create", refuse)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "journal")) == (1, "warn")
    assert _examined(replay, "--durability", "memory")[0].code == 0
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "used", "verdict"),
    [
        (2 << 30, 0, "ok"),
        (10 << 20, 0, "fail"),
        (500 << 20, 0, "warn"),
        (500 << 20, 700 << 20, "ok"),
        (9 << 30, 1000 << 20, "warn"),
    ],
)
def test_room_is_held_against_the_limits(
    keeping: RedisServer,
    spool_dir: Path,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    used: int,
    verdict: str,
) -> None:
    """Too little for anything is a fault; less than the spool may grow, or a full spool, a warning."""
    monkeypatch.setattr(SpoolDirectory, "free_bytes", lambda _: free)
    monkeypatch.setattr(SpoolDirectory, "disk_bytes", lambda _: used)
    assert _worst(_examined(replay)[1], "room") == verdict


def test_what_lies_in_the_directory_is_told(
    keeping: RedisServer, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Parts for another list are no fault, and are told with the command; damage and letters are."""
    fill(Destination("redis-b:6379", 0, KEY, "left"))
    run, found = _examined(replay)
    assert (run.code, _worst(found, "parts")) == (0, "ok")
    assert "drain --from 'redis-b:6379/0 cli_list (left)'" in str(found["parts"])
    broken = Part.create(spool_dir, Destination("a:1", 0, KEY, "left"))
    broken.append(batch_of(b"{}"))
    broken.close()
    (broken.path / "part.json").write_bytes(b"{")
    (broken.path / "quarantine").mkdir()
    (broken.path / "quarantine" / "1.row").touch()
    letter = DeadLetter(BatchId("a", 1), b"{}", Destination("a:1", 0, KEY, "left"), "too large", 0)
    DeadLetters(spool_dir).write(letter)
    run, found = _examined(replay)
    assert run.code == 1
    assert (_worst(found, "parts"), _worst(found, "quarantine"), _worst(found, "letters")) == ("warn",) * 3


def test_beside_a_living_part(keeping: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """What a living process is doing is no fault, and its files stay as they are."""
    part = Part.create(spool_dir, Destination(f"127.0.0.1:{keeping.port}", 0, KEY, "left"))
    part.append(batch_of(b"{}"))
    before = _files(spool_dir)
    run, found = _examined(replay)
    assert (run.code, found["parts"][0]["what"]) == (0, "1, of which 1 of living processes; 1 record")
    assert _files(spool_dir).keys() == before.keys()
    part.close()


# -------------------------------------------------------------------------------------------------- server


def test_a_server_that_is_away_is_told(spool_dir: Path, replay: Replay) -> None:
    """One line, with the cure, and no others that would say the same."""
    run, found = _examined(replay, "--redis-url", "redis://127.0.0.1:1/0")
    assert (run.code, _worst(found, "server")) == (1, "fail")
    assert "PLUMELOG_REDIS_URL" in found["server"][0]["cure"]
    assert "scripts" not in found


@pytest.mark.parametrize("words", [(), ("--debug",), ("--json",)])
def test_a_wrong_password_is_told_and_not_shown(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Neither the right one nor the wrong one stands in any output."""
    with RedisServer(password="right-" + PASSWORD, appendonly="no") as server:
        monkeypatch.setenv("PLUMELOG_REDIS_HOST", "127.0.0.1")
        monkeypatch.setenv("PLUMELOG_REDIS_PORT", str(server.port))
        for password in ("wrong-" + PASSWORD, None, "right-" + PASSWORD):
            if password is None:
                monkeypatch.delenv("PLUMELOG_REDIS_PASSWORD")
            else:
                monkeypatch.setenv("PLUMELOG_REDIS_PASSWORD", password)
            run = replay("doctor", *words)
            assert run.code == 1
            assert PASSWORD not in run.out + run.err
            assert ("PLUMELOG_REDIS_PASSWORD" in run.out) == (password != "right-" + PASSWORD)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}, "fail"),
        ({"maxmemory-policy": "allkeys-lru"}, "warn"),
        ({"maxmemory-policy": "volatile-ttl", "maxmemory": "100mb"}, "warn"),
        ({"maxmemory": "100mb"}, "ok"),
        ({"maxmemory": "1mb"}, "warn"),
    ],
)
def test_what_a_full_server_does_is_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay, options: dict[str, str], verdict: str
) -> None:
    """Anything but noeviction can lose the list without a word; one that is full takes nothing."""
    for name, value in options.items():
        keeping.cli("CONFIG", "SET", name, value)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "memory")) == (int(verdict != "ok"), verdict)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"appendonly": "no", "save": ""}, "warn"),
        ({"appendonly": "no", "save": "3600 1"}, "warn"),
        ({"appendfsync": "no"}, "warn"),
        ({"appendfsync": "everysec"}, "ok"),
    ],
)
def test_what_outlives_the_server_is_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay, options: dict[str, str], verdict: str
) -> None:
    """Without an append-only file, what came last is lost with the server."""
    for name, value in options.items():
        keeping.cli("CONFIG", "SET", name, value)
    assert _worst(_examined(replay)[1], "persistence") == verdict


def test_a_replica_is_told(
    keeping: RedisServer,
    server: RedisServer,
    spool_dir: Path,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes no writes; its primary is named."""
    keeping.cli("REPLICAOF", "127.0.0.1", server.port)
    monkeypatch.setenv("PLUMELOG_REDIS_URL", keeping.url)
    run, found = _examined(replay)
    assert (run.code, _worst(found, "role"), _worst(found, "writing")) == (1, "fail", "fail")
    assert f"127.0.0.1:{server.port}" in found["role"][0]["cure"]


def test_a_key_of_another_type_is_told(keeping: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Nothing can be pushed onto it."""
    keeping.cli("SET", KEY, "no list")
    run, found = _examined(replay)
    assert (run.code, _worst(found, "list"), _worst(found, "scripts")) == (1, "fail", "fail")


class _Late(SystemClock):
    def epoch_ms(self) -> int:
        return super().epoch_ms() - 90_000


def test_a_clock_that_differs_is_told(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of the future are hidden, and those of several machines out of order."""
    monkeypatch.setattr(_examine_server, "SYSTEM_CLOCK", _Late())
    run, found = _examined(replay)
    assert (run.code, _worst(found, "clock")) == (1, "warn")
    assert "ahead of" in found["clock"][0]["what"]


def _user(server: RedisServer, monkeypatch: pytest.MonkeyPatch, *rules: str) -> None:
    server.cli("ACL", "SETUSER", "app", "reset", "on", f">{PASSWORD}", *rules)
    monkeypatch.setenv("PLUMELOG_REDIS_USERNAME", "app")
    monkeypatch.setenv("PLUMELOG_REDIS_PASSWORD", PASSWORD)


_ENOUGH = ("+eval", "+evalsha", "+get", "+set", "+llen", "+lpush", "+ltrim", "+select")
_KEYS = (f"~{KEY}", f"~{{{KEY}}}:lane:*")


def test_what_the_user_may_not_ask_is_unknown(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with just the rights that a sink needs is told nothing wrong."""
    _user(keeping, monkeypatch, *_KEYS, *_ENOUGH)
    run, found = _examined(replay)
    assert run.code == 0, run.out
    for subject in ("version", "role", "memory", "persistence", "list", "writing", "clock", "replicas"):
        assert _worst(found, subject) == "unknown", found[subject]
    assert _worst(found, "scripts") == "ok"
    assert PASSWORD not in run.out + run.err


def test_rights_that_are_missing_are_told_with_the_rule(
    keeping: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts that are forbidden, lanes that are out of reach, a list that may not be pushed onto."""
    _user(keeping, monkeypatch, *_KEYS, "+@all", "-@scripting")
    run, found = _examined(replay)
    assert (run.code, _worst(found, "scripts"), _worst(found, "writing")) == (1, "warn", "ok")
    assert "+eval" in found["scripts"][0]["cure"]
    assert _examined(replay, "--delivery", "at_least_once")[0].code == 0
    _user(keeping, monkeypatch, f"~{KEY}", "+@all")
    run, found = _examined(replay)
    assert (run.code, _worst(found, "scripts")) == (1, "fail")
    assert f"~{{{KEY}}}:lane:*" in found["scripts"][0]["cure"]
    _user(keeping, monkeypatch, *_KEYS, "+@all", "-lpush")
    run, found = _examined(replay)
    assert (run.code, _worst(found, "writing")) == (1, "fail")
    assert "+lpush" in found["writing"][0]["cure"]
    assert keeping.cli("EXISTS", KEY) == 0


def test_a_server_that_hangs_does_not_hang_the_doctor(
    keeping: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """It waits for one answer, and not for each."""
    keeping.freeze()
    try:
        run, found = _examined(replay, "--socket-timeout-seconds", "0.2", "--connect-timeout-seconds", "0.2")
    finally:
        keeping.thaw()
    assert (run.code, _worst(found, "server"), "clock" in found) == (1, "fail", False)


def test_as_a_program_it_warns_of_nothing_of_its_own(
    keeping: RedisServer, spool_dir: Path, start: Start
) -> None:
    """No connection is left open and no coroutine is forgotten."""
    process = start("doctor")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, ""), out
