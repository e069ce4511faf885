"""The command line: each setting is a flag, no password is one, and every mistake is one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.servers import HOST, RedisServer
from plumelog_loguru import PlumelogSettings
from plumelog_loguru._batch import BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter, DeadLetters
from plumelog_loguru.cli import _drain, _status
from plumelog_loguru.cli._flags import parse, settings_of

from .conftest import KEY, Fill, Replay, Run, Start

SECRET = "hunter2-Geheimnis"


def _assert_refused(run: Run, *words: str) -> None:
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("plumelog-replay: ") and run.err.count("\n") == 1
    assert SECRET not in run.err
    for word in words:
        assert word in run.err


@pytest.mark.parametrize("name", sorted(PlumelogSettings.model_fields))
def test_each_setting_is_a_flag(name: str, replay: Replay) -> None:
    """Every setting can be given as a flag, but for passwords; a flag for a URL takes one without."""
    flag = "--" + name.replace("_", "-")
    if name == "redis_password":
        _assert_refused(replay(flag, SECRET), "PLUMELOG_REDIS_PASSWORD")
        _assert_refused(replay(f"{flag}={SECRET}"), "PLUMELOG_REDIS_PASSWORD")
    else:
        assert vars(parse([flag, "x"]))[name] == "x"


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag is read as its variable would be, and wins over it."""
    monkeypatch.setenv("PLUMELOG_REDIS_PORT", "1")
    monkeypatch.setenv("PLUMELOG_APP_NAME", "shop")
    words = ["status", "--redis-port", "2", "--rate", "3", "--extra-fields", "a,b", "--redis-push-side=right"]
    settings = settings_of(parse(words))
    assert (settings.redis_port, settings.app_name, settings.replay_rate) == (2, "shop", 3)
    assert (settings.extra_fields, settings.redis_push_side) == (("a", "b"), "right")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["stauts"], "did you mean status?"),
        (["everything"], "one of drain, status"),
        (["drain", "status"], "a word too many"),
        (["drain", SECRET], "a word too many"),
        (["--json", "status"], "a word too many"),
        (["status", "--limit", "1"], "status has no flag --limit"),
        (["drain", "--redis-passwort", SECRET], "drain has no flag --redis-passwort"),
        (["drain", "--redis", SECRET], "drain has no flag --redis"),
        (["-p", SECRET], "a word too many"),
        (["drain", "--limit", "0"], "--limit"),
        (["drain", "--limit", "many"], "--limit"),
        (["drain", "--limit"], "--limit"),
        (["drain", "--spool-dir", ""], "--spool-dir is empty"),
        (["drain", "--rate", "fast"], "replay_rate"),
        (["drain", "--redis-port", "0"], "redis_port"),
        (["drain", "--redis-url", f"redis://:{SECRET}@host"], "PLUMELOG_REDIS_URL"),
        (["drain", "--redis-url", f"redis://user:{SECRET}@host:1/2"], "PLUMELOG_REDIS_URL"),
        (["drain", f"--redis-url=rediss://user:{SECRET}@host"], "PLUMELOG_REDIS_URL"),
        (["status", "--redis-url", f"unix://:{SECRET}@/run/redis.sock"], "PLUMELOG_REDIS_URL"),
        (["drain", "--redis-url", f"redis://host?password={SECRET}"], "redis_password"),
        (["drain", "--redis-url", f"redis://:{SECRET}/@host"], "redis_url"),
    ],
)
def test_a_mistake_is_one_sentence_without_a_secret(words: list[str], named: str, replay: Replay) -> None:
    """Wrong usage and wrong settings exit with 2, name what is wrong, and never repeat a password."""
    _assert_refused(replay(*words), named)


def test_a_traceback_is_shown_when_asked_for(replay: Replay) -> None:
    """``--debug`` adds where it failed; the sentence stays."""
    run = replay("drain", "--debug", "--redis-port", "0")
    assert run.code == 2
    assert "Traceback" in run.err and run.err.splitlines()[-1].startswith("plumelog-replay: redis_port")


def test_what_nobody_foresaw_is_one_sentence_too(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error is named by its kind only, as nobody knows what its text repeats."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(_drain, "Drainer", fail)
    run = replay("drain")
    assert (run.code, run.out) == (1, "")
    assert run.err == "plumelog-replay: it broke off by RuntimeError; --debug shows where\n"


def test_an_interrupt_before_the_work_is_one_sentence(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at any moment ends it with 130."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_status, "look", interrupt)
    run = replay("status")
    assert (run.code, run.err) == (130, "plumelog-replay: interrupted; nothing is lost\n")


def test_no_home_is_said(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home is told to name the directory."""
    monkeypatch.delenv("PLUMELOG_SPOOL_DIR")
    monkeypatch.setattr("plumelog_loguru._settings.default_spool_dir", lambda app_name, env: None)
    _assert_refused(replay("status"), "--spool-dir")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["drain", "--help"], ["status", "-h"]])
def test_help_is_shown(words: list[str], replay: Replay, capsys: pytest.CaptureFixture[str]) -> None:
    """Help names the commands, and each command's flags."""
    with pytest.raises(SystemExit) as ended:
        replay(*words)
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert ("--spool-dir PATH" if len(words) > 1 else "deliver what ended processes left") in out


@pytest.mark.parametrize("password", [SECRET, "wrong-" + SECRET])
def test_no_password_is_ever_printed(
    password: str, spool_dir: Path, fill: Fill, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right or wrong, a password stands in no output and in no file, even with a traceback."""
    with RedisServer(appendonly="no", password=SECRET) as server:
        monkeypatch.setenv("PLUMELOG_REDIS_URL", f"redis://:{password}@{HOST}:{server.port}")
        fill(Destination(f"{HOST}:{server.port}", 0, KEY, "left"))
        for words in (["status"], ["status", "--json"], ["drain", "--debug"], ["drain", "--json"]):
            out, err = start(*words).communicate(timeout=30)
            assert SECRET not in out + err
        assert (server.cli("LLEN", KEY) == 6) == (password == SECRET)
    for path in spool_dir.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_the_exit_code_is_that_of_the_process(spool_dir: Path, start: Start) -> None:
    """``python -m plumelog_loguru.cli`` exits as `main` says."""
    process: subprocess.Popen[str] = start("stauts")
    process.communicate(timeout=30)
    assert process.returncode == 2


@pytest.mark.parametrize("flag", ["--redis-host", "--redis-port", "--redis-db"])
def test_an_address_that_would_not_be_heeded_is_refused(
    flag: str, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a server is not sent to the one in the environment without a word."""
    monkeypatch.setenv("PLUMELOG_REDIS_URL", f"redis://:{SECRET}@host")
    _assert_refused(replay("status", flag, "1"), flag, "PLUMELOG_REDIS_URL")
    assert settings_of(parse(["status", flag, "1", "--redis-url", "redis://other"])).redis_url is not None


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("status > /dev/full", "standard output cannot be written (No space left on device)"),
        ("list --json > /dev/full", "standard output cannot be written (No space left on device)"),
        ("--help > /dev/full", "standard output cannot be written (No space left on device)"),
        ("dead-letters export > /dev/full", "standard output cannot be written (No space left on device)"),
        ("status >&-", "standard output cannot be written (Bad file descriptor)"),
        ("export >&-", "standard output cannot be written (Bad file descriptor)"),
        ("import - <&-", "the file cannot be read (Bad file descriptor)"),
    ],
)
def test_a_stream_that_fails_or_is_closed_is_said(
    words: str,
    said: str,
    unbuffered: str,
    spool_dir: Path,
    destination: Destination,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No traceback, and no error that must be guessed at: one sentence, and an exit code that tells."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    fill(destination, batches=20, records=20)
    letters = DeadLetters(spool_dir)
    letters.write(DeadLetter(BatchId(new_lane_id(), 1), b"x" * 100_000, destination, "too large", 1))
    ended = _shell(words)
    assert ended.returncode == (2 if words.startswith("import") else 1)
    assert ended.stderr.splitlines()[-1] == f"plumelog-replay: {said}"
    assert "broke off" not in ended.stderr and "Traceback" not in ended.stderr


def test_without_standard_error_all_is_done(spool_dir: Path, destination: Destination, fill: Fill) -> None:
    """Words that cannot be told go nowhere: not to standard output, and the work goes on."""
    fill(Destination("redis-b:6379", 0, KEY, "left"))
    for closed in ("2>&-", "2> /dev/full"):
        ended = _shell(f"list {closed}")
        assert (ended.returncode, ended.stderr, "plumelog-replay:" in ended.stdout) == (0, "", False)
    assert _shell("stauts 2>&-").returncode == 2
    assert _shell("status <&- >&- 2>&-").returncode == 1


def _shell(words: str) -> subprocess.CompletedProcess[str]:
    line = f"'{sys.executable}' -m plumelog_loguru.cli {words}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30)
