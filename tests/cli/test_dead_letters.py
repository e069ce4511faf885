"""What Redis refused is shown, sent once more, printed or deleted, as an operator decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer
from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part

from .conftest import KEY, Replay, RunCode, assert_schema

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such rights on Windows")

Leave = Callable[..., list[DeadLetter]]


@pytest.fixture
def letters(spool_dir: Path) -> DeadLetters:
    return DeadLetters(spool_dir)


@pytest.fixture
def leave(letters: DeadLetters, destination: Destination) -> Leave:
    """Leaves letters, oldest first."""

    def leave(count: int = 3, **changes: object) -> list[DeadLetter]:
        left = []
        for number in range(count):
            letter = DeadLetter(
                BatchId(new_lane_id(), 1),
                b'{"content":"%d"}' % number,
                destination,
                "invalid bulk length",
                1_795_305_614_000 + number,
            )
            left.append(replace(letter, **changes))  # type: ignore[arg-type]
            letters.write(left[-1])
            name = next(name for name in letters.names() if letters.read(name) == left[-1])
            os.utime(letters.path / name, (number, number))
        return left

    return leave


def _files(path: Path) -> set[tuple[str, int, int, bytes]]:
    files = [(file, file.lstat()) for file in path.iterdir()]
    return {(file.name, seen.st_mtime_ns, seen.st_mode, file.read_bytes()) for file, seen in files}


def test_list_shows_them_and_changes_nothing(
    spool_dir: Path, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """Each letter is a line, oldest first; that there are some is no fault."""
    left = leave()
    before = _files(letters.path)
    run = replay("dead-letters", "list")
    assert (run.code, run.err) == (0, "")
    lines = run.out.splitlines()
    assert [line.split()[0] for line in lines] == letters.names()
    assert all(line.endswith(f"15 bytes for {left[0].destination}: invalid bulk length") for line in lines)
    run = replay("dead-letters", "list", "--json")
    assert_schema("dead-letters", run.json)
    assert [one["at"] for one in run.json["letters"]] == [one.at_ms for one in left]
    one = letters.names()[1]
    assert [seen["name"] for seen in replay("dead-letters", "list", one, "--json").json["letters"]] == [one]
    assert _files(letters.path) == before


def test_none_is_no_fault(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Without letters every deed is done at once, and nothing is made."""
    for words in (("list",), ("retry", "--all"), ("drop", "--all", "--yes")):
        run = replay("dead-letters", *words)
        assert (run.code, run.out, run.err) == (0, "there are no dead letters\n", "")
    assert (replay("dead-letters", "export").out, list(spool_dir.iterdir())) == ("", [])


def test_a_missing_directory_is_wrong_usage(tmp_path: Path, replay: Replay) -> None:
    """Letters are not looked for where there is no spool."""
    for words in (("list",), ("retry", "--all"), ("export",), ("drop", "--all", "--yes")):
        run = replay("dead-letters", *words)
        assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
        assert "cannot be read (No such file or directory)" in run.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("retry",), "name the letters to retry, or say --all"),
        (("drop",), "name the letters to drop, or say --all"),
        (("list", "0" * 32), "there is no dead letter 000"),
        (("drop", "../../etc/passwd", "--all"), "not both"),
        (("drop", "../../etc/passwd"), "there is no dead letter ../../etc/passwd"),
        (("export", "--json"), "name a file with --output"),
        (("burn",), "must be one of 'list', 'retry', 'export', 'drop'"),
        ((), "required: list|retry|export|drop\n"),
    ],
)
def test_wrong_usage_is_one_sentence(
    leave: Leave, letters: DeadLetters, replay: Replay, words: tuple[str, ...], complaint: str
) -> None:
    """What cannot be obeyed is told, with what can be, and nothing is done."""
    leave()
    run = replay("dead-letters", *words)
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert complaint in run.err
    assert len(letters.names()) == 3


def test_retry_delivers_once_and_removes(
    server: RedisServer, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """What Redis takes now is in the list once, byte for byte, and its letter is gone."""
    left = leave()
    run = replay("dead-letters", "retry", "--all", "--json")
    assert_schema("dead-letters", run.json)
    assert (run.code, run.err) == (0, "")
    assert [one["result"] for one in run.json["letters"]] == ["delivered"] * 3
    assert server.values(KEY) == [one.value for one in reversed(left)]
    assert letters.names() == []
    for one in left:
        letters.write(one)  # as if the last had been killed before it could remove them
    run = replay("dead-letters", "retry", "--all")
    assert run.code == 0 and run.out.count("already delivered  ") == 3
    assert (server.cli("LLEN", KEY), letters.names()) == (3, [])


def test_retry_takes_letters_by_name(
    server: RedisServer, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """Only those that are named are sent, each once; the suffix need not be typed."""
    leave()
    first, second, third = letters.names()
    run = replay("dead-letters", "retry", first, third.removesuffix(".letter"), third)
    assert (run.code, run.out.count("delivered")) == (0, 2)
    assert letters.names() == [second]


def test_what_is_refused_again_stays(
    own_server: RedisServer, spool_dir: Path, letters: DeadLetters, replay: Replay
) -> None:
    """A record that is still too large stays as it is, holds up no other, and makes the exit code 1."""
    own_server.cli("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    destination = Destination(f"{HOST}:{own_server.port}", 0, KEY, "left")
    large = b'{"content":"%s"}' % (b"x" * 1_100_000)
    for number, value in enumerate((large, b'{"content":"small"}')):
        letters.write(DeadLetter(BatchId(new_lane_id(), 1), value, destination, "too large", number))
    words = ("dead-letters", "retry", "--all", "--json", "--redis-url", own_server.url)
    for _ in range(2):
        run = replay(*words)
        assert run.code == 1
        by_bytes = {one["bytes"]: one["result"] for one in run.json["letters"]}
        assert by_bytes[len(large)] == "refused"
        assert "again (" in run.err and "1 letter remains in" in run.err
        assert [letters.read(name).value for name in letters.names()] == [large]
    assert own_server.values(KEY) == [b'{"content":"small"}']
    own_server.cli("CONFIG", "SET", "proto-max-bulk-len", "512mb")
    assert replay(*words).code == 0
    assert own_server.values(KEY) == [large, b'{"content":"small"}']


def test_a_lost_reply_doubles_nothing(
    server: RedisServer, proxy: FaultProxy, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """A letter in doubt is repeated under the same identity, in the same run and in the next."""
    leave(1, destination=Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    words = ("dead-letters", "retry", "--all", "--redis-url", f"redis://{HOST}:{proxy.port}")
    fault = proxy.drop_replies(times=1, after=b"\r\nEVAL\r\n")
    run = replay(*words, "--retry-count", "0")
    assert (fault.count, run.code, len(letters.names())) == (1, 1, 1)
    assert replay(*words).out.startswith("already delivered  ")
    assert (server.cli("LLEN", KEY), letters.names()) == (1, [])


def test_a_redis_that_is_away_refuses_nothing(leave: Leave, letters: DeadLetters, replay: Replay) -> None:
    """It is said once that Redis is away, and all letters stay untried."""
    leave(destination=Destination("localhost:1", 0, KEY, "left"))
    run = replay("dead-letters", "retry", "--all", "--json", "--redis-url", "redis://localhost:1")
    assert run.code == 1
    assert [one["result"] for one in run.json["letters"]] == ["untried"] * 3
    assert run.err.count("does not take records") == 1 and "3 letters remain in" in run.err
    assert len(letters.names()) == 3


def test_letters_for_another_list_stay(
    server: RedisServer, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """They are told of, and are a fault only where they were named."""
    leave(2, destination=Destination("redis-b:6379", 0, KEY, "left"))
    leave(1)
    run = replay("dead-letters", "retry", "--all")
    assert run.code == 0
    assert "2 letters stay: meant for redis-b:6379/0 cli_list (left); retry with the settings" in run.err
    assert (server.cli("LLEN", KEY), len(letters.names())) == (1, 2)
    assert replay("dead-letters", "retry", letters.names()[0]).code == 1


def test_damaged_letters_are_shown_and_stop_nothing(
    server: RedisServer, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """A flipped bit, garbage and an empty file are told by name; the others are sent; they can be dropped."""
    leave(4)
    damaged = letters.names()[:3]
    flipped = bytearray((letters.path / damaged[0]).read_bytes())
    flipped[-1] ^= 1
    (letters.path / damaged[0]).write_bytes(flipped)
    (letters.path / damaged[1]).write_bytes(b"\x1b[2J\xff")
    (letters.path / damaged[2]).write_bytes(b"")
    for words in (("list",), ("export",), ("retry", "--all")):
        run = replay("dead-letters", *words)
        assert run.code == 1
        assert all(f"{name} cannot be read: " in run.err for name in damaged)
    assert sorted(letters.names()) == sorted(damaged)
    run = replay("dead-letters", "list", "--json")
    assert_schema("dead-letters", run.json)
    assert [one["at"] for one in run.json["letters"]] == [None] * 3
    assert replay("dead-letters", "drop", *damaged).code == 0
    assert letters.names() == []


def test_export_prints_exact_bytes_and_keeps_the_letters(
    letters: DeadLetters, leave: Leave, tmp_path: Path, replay: Replay
) -> None:
    """Records come as lines, oldest first, whatever bytes they have."""
    left = [*leave(2), *leave(1, value=b'{"content":"\xff\x1b"}', at_ms=0)]
    ended = subprocess.run(
        [sys.executable, "-m", "plumelog_loguru.cli", "dead-letters", "export"],
        capture_output=True,
        timeout=30,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert sorted(ended.stdout.split(b"\n")) == sorted([b"", *(one.value for one in left)])
    output = tmp_path / "records"
    run = replay("dead-letters", "export", "--output", str(output), "--json")
    assert_schema("dead-letters", run.json)
    assert [one["result"] for one in run.json["letters"]] == ["exported"] * 3
    assert output.read_bytes() == ended.stdout
    assert len(letters.names()) == 3


def test_drop_needs_a_name_or_a_yes(letters: DeadLetters, leave: Leave, replay: Replay) -> None:
    """All are dropped only with a word more; without it, what would go is shown."""
    leave()
    run = replay("dead-letters", "drop", "--all")
    assert (run.code, len(run.out.splitlines())) == (2, 3)
    assert "nothing is dropped; with --yes, 3 records would be gone for good" in run.err
    assert replay("dead-letters", "drop", letters.names()[0]).code == 0
    assert len(letters.names()) == 2
    run = replay("dead-letters", "drop", "--all", "--yes", "--json")
    assert_schema("dead-letters", run.json)
    assert (run.code, letters.names()) == (0, [])


def test_a_retry_that_is_killed_at_any_step_loses_and_doubles_nothing(
    server: RedisServer, letters: DeadLetters, leave: Leave, replay: Replay, run_code: RunCode
) -> None:
    """Killed before or after an attempt or a removal, the next retry ends what it began."""
    left = leave(4)
    code = """
import os, signal, sys
from plumelog_loguru._delivery import Sender
from plumelog_loguru._spool import DeadLetters
from plumelog_loguru.cli import main
steps = int(sys.argv.pop())
def step():
    global steps
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)
send, remove = Sender.send, DeadLetters.remove
async def counted_send(self, batch):
    step()
    outcome = await send(self, batch)
    step()
    return outcome
def counted_remove(self, name):
    remove(self, name)
    step()
Sender.send, DeadLetters.remove = counted_send, counted_remove
sys.exit(main())
"""
    killed = 0
    for steps in (1, 2, 3, 5):
        ended = run_code(code, "dead-letters", "retry", "--all", str(steps))
        killed += ended.returncode == -signal.SIGKILL
    assert killed == 4
    assert replay("dead-letters", "retry", "--all").code == 0
    assert sorted(server.values(KEY)) == sorted(one.value for one in left)


def test_an_owner_that_had_not_forgotten_the_record_finds_it_done(
    server: RedisServer, destination: Destination, spool_dir: Path, letters: DeadLetters, replay: Replay
) -> None:
    """A row whose record is a letter already is not delivered beside the letter, nor once more after it."""
    batch = Batch(BatchId(new_lane_id(), 1), (b'{"content":"a"}',), AttemptedBy.SCRIPT, 1)
    server.cli("SET", f"{{{KEY}}}:lane:{batch.id.lane}", "1 1")  # fenced
    letters.write(DeadLetter(batch.id, batch.values[0], destination, "too large", 1))
    for words in (("drain",), ("dead-letters", "retry", "--all"), ("drain",)):
        part = Part.create(spool_dir, destination)
        part.append(batch)
        part.close()
        replay(*words)
    replay("drain")
    assert server.values(KEY) == list(batch.values)
    assert letters.names() == []


def test_a_record_that_was_given_up_once_more_has_one_letter(
    server: RedisServer, destination: Destination, letters: DeadLetters, replay: Replay
) -> None:
    """Where the identity of the retry is fenced, the later letter is the record's, or there is none."""
    first = DeadLetter(BatchId(new_lane_id(), 1), b'{"content":"a"}', destination, "too large", 1)
    second = replace(first, id=first.id.child(1))
    server.cli("SET", f"{{{KEY}}}:lane:{second.id.lane}", "1 1")  # fenced
    letters.write(first)
    letters.write(second)
    replay("dead-letters", "retry", "--all")
    replay("dead-letters", "retry", "--all")
    assert (server.values(KEY), letters.names()) == ([first.value], [])
    letters.write(replace(first, id=BatchId(new_lane_id(), 1)))


def test_plain_pushes_count_what_may_be_doubled(
    server: RedisServer, proxy: FaultProxy, leave: Leave, replay: Replay
) -> None:
    """Without lanes a repetition after a lost reply may double, and that is said."""
    leave(1, destination=Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    proxy.drop_replies(times=1, after=b"LPUSH")
    words = ("--delivery", "at_least_once", "--redis-url", f"redis://{HOST}:{proxy.port}")
    run = replay("dead-letters", "retry", "--all", *words)
    assert run.code == 0
    assert "1 record may be in Redis twice" in run.err
    assert server.cli("LLEN", KEY) == 2


def test_a_letter_of_a_newer_version_stays(
    server: RedisServer,
    letters: DeadLetters,
    leave: Leave,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told of, and neither sent nor removed."""
    monkeypatch.setattr("plumelog_loguru._spool._dead_letters.FORMAT", 2)
    leave(1)
    monkeypatch.setattr("plumelog_loguru._spool._dead_letters.FORMAT", 1)
    for words in (("list",), ("export",), ("retry", "--all")):
        run = replay("dead-letters", *words)
        assert run.code == 1 and "has format 2; this version reads 1" in run.err
    assert (server.cli("LLEN", KEY), len(letters.names())) == (0, 1)


def test_without_rights(leave: Leave, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that this user may not look for are told of in one sentence."""
    leave(1)
    monkeypatch.setattr(
        os, "scandir", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    for words in (("list",), ("retry", "--all"), ("export",), ("drop", "--all", "--yes")):
        run = replay("dead-letters", *words)
        assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
        assert "cannot be read" in run.err and "Permission denied" in run.err


def test_names_and_flags_stand_in_any_order(server: RedisServer, leave: Leave, replay: Replay) -> None:
    """A flag between the deed and the names, or between names, takes nothing from them."""
    leave()
    names = [one["name"] for one in replay("dead-letters", "list", "--json").json["letters"]]
    for words in (("list", "--json", *names), ("list", names[0], "--json", *names[1:]), ("--json", "list")):
        assert [one["name"] for one in replay("dead-letters", *words).json["letters"]] == names
    run = replay("dead-letters", "retry", "--all", "--limit", names[0])
    assert run.code == 2 and "has no flag --limit" in run.err


@pytest.mark.parametrize("forbidden", [True, False])
def test_a_plain_retry_in_doubt_is_told_and_counted_later(
    own_server: RedisServer, letters: DeadLetters, replay: Replay, forbidden: bool
) -> None:
    """Whether scripts are forbidden or not wanted: the letter says that Redis may have its record."""
    if forbidden:
        own_server.cli("ACL", "SETUSER", "default", "-@scripting")
    with FaultProxy(own_server.port) as proxy:
        destination = Destination(f"{HOST}:{proxy.port}", 0, KEY, "left")
        letters.write(DeadLetter(BatchId(new_lane_id(), 1), b'{"content":"a"}', destination, "too large", 1))
        words = ["dead-letters", "retry", "--all", "--redis-url", f"redis://{HOST}:{proxy.port}"]
        words += ["--retry-count", "0", *([] if forbidden else ["--delivery", "at_least_once"])]
        proxy.drop_replies(times=1, after=b"LPUSH")
        run = replay(*words, "--json")
        assert_schema("dead-letters", run.json)
        doubt = "may be in Redis already, and another retry may double it"
        assert run.code == 1 and doubt in run.err and doubt in run.json["letters"][0]["problem"]
        assert "it may be in Redis already" in replay("dead-letters", "list").out
        run = replay(*words)
        assert run.code == 0 and "1 record may be in Redis twice" in run.err
    assert (own_server.cli("LLEN", KEY), letters.names()) == (2, [])


def test_a_plain_retry_that_is_killed_leaves_its_doubt_in_the_letter(
    server: RedisServer, letters: DeadLetters, leave: Leave, replay: Replay
) -> None:
    """The doubt is on the disk before the first push, so a later retry counts what it may double."""
    leave(1)
    code = """
import os, signal, sys
from plumelog_loguru._spool import DeadLetters
from plumelog_loguru.cli import main
DeadLetters.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(main())
"""
    words = ("dead-letters", "retry", "--all", "--delivery", "at_least_once")
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    run = replay("dead-letters", "retry", "--all")
    assert run.code == 0 and "1 record may be in Redis twice" in run.err
    assert (server.cli("LLEN", KEY), letters.names()) == (2, [])


def test_a_plain_retry_that_is_surely_refused_leaves_no_doubt(
    own_server: RedisServer, letters: DeadLetters, replay: Replay
) -> None:
    """Redis said no: the letter is as it was, and nothing is counted when it takes it later."""
    destination = Destination(f"{HOST}:{own_server.port}", 0, KEY, "left")
    letter = DeadLetter(BatchId(new_lane_id(), 1), b"x", destination, "too large", 1)
    letters.write(letter)
    own_server.cli("CONFIG", "SET", "maxmemory", "1")
    words = ["dead-letters", "retry", "--all", "--delivery", "at_least_once", "--redis-url", own_server.url]
    run = replay(*words)
    assert run.code == 1 and "may be in Redis" not in run.err
    assert letters.read(letters.names()[0]) == letter
    own_server.cli("CONFIG", "SET", "maxmemory", "0")
    run = replay(*words)
    assert (run.code, run.err) == (0, "")
