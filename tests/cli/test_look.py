"""``list``, ``show`` and ``export`` give what is spooled, byte for byte, and change nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from lab.proxy import FaultProxy
from lab.servers import HOST
from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import Journal
from plumelog_loguru._spool import Part, SpoolDirectory

from .conftest import KEY, Fill, Replay, RunCode, Start, assert_schema, batch_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

DESTINATION = Destination("localhost:6379", 0, KEY, "left")
ELSEWHERE = Destination("redis-b:6379", 0, KEY, "left")

# Bytes that any change of encoding, line ends or order would show in.
VALUES = [
    b'{"dtTime":1000,"content":"\xe4\xb8\xad\xe6\x96\x87","logLevel":"INFO"}',
    b'{"dtTime":2000,"content":"a\\nb\\u0000 \x7f","logLevel":"ERROR"}',
    b'{"dtTime":3000,"content":" spaces  ","logLevel":"WARN"}',
    b'{"dtTime":4000,"content":"\xc2\x9b2J","logLevel":"INFO"}',
]


def _picture(path: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(file.relative_to(path)): (
            file.lstat().st_mode,
            file.lstat().st_mtime_ns,
            file.read_bytes() if file.is_file() else b"",
        )
        for file in [path, *path.rglob("*")]
    }


@pytest.fixture
def filled(spool_dir: Path) -> Part:
    """A part of an ended process: two rows, of which the first was attempted, and a journal."""
    part = Part.create(spool_dir, DESTINATION)
    part.append(Batch(BatchId(new_lane_id(), 1), tuple(VALUES[:2]), AttemptedBy.SCRIPT, 5))
    part.append(batch_of(VALUES[2]))
    part.close()
    journal = Journal.create(part.path / "journal-1", 1 << 16)
    journal.append(VALUES[3])
    journal.close()
    return part


def _damage(part: Part, value: bytes) -> None:
    database = part.path / "spool" / "cache.db"
    data = bytearray(database.read_bytes())
    data[data.index(value) + 3] ^= 1
    database.write_bytes(data)


# ---------------------------------------------------------------- list


def test_list_shows_a_line_for_each_batch(filled: Part, spool_dir: Path, replay: Replay) -> None:
    """Each batch is a line with its id, owner, sizes, oldest time, level, and who may have delivered it."""
    before = _picture(spool_dir)
    run = replay("list")
    assert (run.code, run.err) == (0, "")
    head, first, second, third, total = run.out.splitlines()
    assert head.split()[:3] == ["BATCH", "OWNER", "RECORDS"]
    assert first.split()[:3] == [f"{filled.id}.1", "dead", "2"] and first.split()[-2:] == ["ERROR", "script"]
    assert second.split()[0] == f"{filled.id}.2" and second.split()[-2:] == ["WARN", "nobody"]
    assert third.split()[0] == f"{filled.id}.journal-1.1" and third.split()[-2:] == ["INFO", "nobody"]
    assert total.startswith("4 records in 3 batches, ")
    assert _picture(spool_dir) == before


def test_list_as_json_says_the_same(filled: Part, replay: Replay) -> None:
    """One line of JSON holds all batches, and is what its schema says."""
    run = replay("list", "--json")
    assert (run.code, run.err, run.out.count("\n")) == (0, "", 1)
    assert_schema("list", run.json)
    first, second, third = run.json["batches"]
    assert first == {
        "id": f"{filled.id}.1",
        "part": filled.id,
        "owner": "dead",
        "destination": str(DESTINATION),
        "records": 2,
        "bytes": first["bytes"],
        "oldest": 1000,
        "newest": 2000,
        "level": "ERROR",
        "attempted": "script",
        "problem": None,
    }
    assert run.json["records"] == 4
    assert run.json["bytes"] == first["bytes"] + second["bytes"] + third["bytes"]


def test_list_is_oldest_first_over_all_parts(spool_dir: Path, replay: Replay) -> None:
    """Parts that were filled side by side are shown side by side, each in its own order."""
    parts = [Part.create(spool_dir, destination) for destination in (DESTINATION, ELSEWHERE)]
    for number in range(6):
        parts[number % 2].append(batch_of(b'{"dtTime":%d}' % (number + 1)))
    for part in parts:
        part.close()
    assert [one["oldest"] for one in replay("list", "--json").json["batches"]] == [1, 2, 3, 4, 5, 6]
    run = replay("list", "--json", "--from", str(ELSEWHERE))
    assert (run.code, run.err, [one["oldest"] for one in run.json["batches"]]) == (0, "", [2, 4, 6])
    assert "no part is meant for" in replay("list", "--from", "nowhere").err


def test_an_empty_spool_has_no_batches(spool_dir: Path, replay: Replay) -> None:
    """Nothing is listed and nothing exported, and that is no fault."""
    run = replay("list")
    assert (run.code, run.out, run.err) == (0, "0 records in 0 batches, 0 bytes\n", "")
    assert replay("list", "--json").json == {"batches": [], "records": 0, "bytes": 0}
    run = replay("export")
    assert (run.code, run.out) == (0, "")
    run = replay("show", "0123456789abcdef.1")
    assert (run.code, run.out) == (1, "") and "no batch 0123456789abcdef.1" in run.err


@pytest.mark.parametrize("words", [("list",), ("show", "a.1"), ("export",)])
def test_a_missing_directory_is_wrong_usage(words: tuple[str, ...], tmp_path: Path, replay: Replay) -> None:
    """A directory that is not there is said to be missing, and is not made."""
    run = replay(*words, "--spool-dir", str(tmp_path / "missing"))
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "missing").exists()


@pytest.mark.needs_root
@pytest.mark.parametrize("words", [["list"], ["show", "a.1"], ["export"], ["status"]])
@pytest.mark.parametrize("what", ["directory", "part"])
def test_who_has_no_rights_is_told(
    words: list[str],
    what: str,
    filled: Part,
    spool_dir: Path,
    run_code: RunCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A directory that may not be read is wrong usage; a part in it is a fault. The cure is named."""
    for path in [spool_dir, *spool_dir.parents]:
        if path.stat().st_uid == 0 and path.is_relative_to(Path("/tmp")) and path != Path("/tmp"):
            path.chmod(0o755)
    (spool_dir if what == "directory" else filled.path).chmod(0o700)
    code = (
        "import os, sys; from plumelog_loguru.cli import main; os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )
    monkeypatch.setenv("PLUMELOG_REDIS_HOST", "localhost")
    run = run_code(code, *words)
    assert run.returncode == (2 if what == "directory" else 1), run
    assert "run the command as the user whose application writes there" in run.stderr
    assert "Traceback" not in run.stderr


def test_what_is_damaged_is_shown_as_such(filled: Part, replay: Replay) -> None:
    """A damaged batch is in the list with what is wrong with it; all commands say so, and give the rest."""
    _damage(filled, VALUES[0])
    run = replay("list", "--json")
    assert_schema("list", run.json)
    damaged = run.json["batches"][0]
    assert (run.code, damaged["attempted"], damaged["records"]) == (1, None, 2) and damaged["problem"]
    assert "1 batch with 2 records cannot be read" in run.err
    run = replay("show", damaged["id"])
    assert (run.code, run.out) == (1, "") and "cannot be shown" in run.err
    run = replay("export")
    assert run.code == 1 and "2 records" in run.err
    assert run.out.encode() == VALUES[2] + b"\n" + VALUES[3] + b"\n"


def test_a_database_of_garbage_is_told(filled: Part, replay: Replay) -> None:
    """Where nothing can be read, the journal is shown all the same, and the exit code is 1."""
    (filled.path / "spool" / "cache.db").write_bytes(b"garbage" * 5000)
    runs = [replay(command) for command in ("list", "export")]
    for run in runs:
        assert run.code == 1 and "could not be read: file is not a database" in run.err
    assert runs[1].out.encode() == VALUES[3] + b"\n"


def test_a_part_of_a_newer_version_is_told(filled: Part, replay: Replay) -> None:
    """What a newer version wrote is left alone and said so; the exit code is 1."""
    facts = b'{"format":99}'
    (filled.path / "part.json").write_bytes(b"%b %08x\n" % (facts, crc32(facts)) * 2)
    for words in (("list",), ("export",), ("export", "--from", "any")):
        run = replay(*words)
        assert run.code == 1 and "newer" in run.err, run


def test_a_live_sink_is_looked_at_without_a_trace(server_port: int, spool_dir: Path, replay: Replay) -> None:
    """Beside a sink that has spooled, everything it spooled is seen, and none of its files is changed."""
    code = """
import sys
from loguru import logger
from plumelog_loguru import DurableRedisSink
sink = DurableRedisSink()
logger.remove()
logger.add(sink, format="{message}")
for number in range(50):
    logger.info(f"live-{number}")
sink.drain(10)
print(sink.stats().spooled, flush=True)
sys.stdin.readline()
"""
    environ = {
        **os.environ,
        "PLUMELOG_REDIS_URL": f"redis://{HOST}:{server_port}",
        "PLUMELOG_RETRY_COUNT": "0",
        "PLUMELOG_DIAGNOSTICS": "none",
        "PLUMELOG_RETRY_BACKOFF_BASE_SECONDS": "60",
        "PLUMELOG_RETRY_BACKOFF_MAX_SECONDS": "60",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "50\n"
        before = _picture(spool_dir)
        listed = replay("list", "--json", "--from", "any")
        shown = [replay("show", one["id"]).out for one in listed.json["batches"]]
        exported = replay("export", "--from", "any")
        status = replay("status", "--json")
        assert _picture(spool_dir) == before
    finally:
        process.kill()
        process.communicate()
    assert (listed.code, exported.code, listed.json["records"]) == (0, 0, 50)
    assert status.json["records"] == 50
    assert "".join(shown) == exported.out
    assert [json.loads(line)["content"] for line in exported.out.splitlines()] == [
        f"live-{number}" for number in range(50)
    ]


@pytest.fixture
def server_port(redis_server: object) -> object:
    """A port on which connections are refused."""
    with FaultProxy(redis_server.port) as proxy:  # type: ignore[attr-defined]
        proxy.refuse()
        yield proxy.port


# ---------------------------------------------------------------- show


def test_show_prints_the_exact_bytes(filled: Part, start: Start) -> None:
    """What a pipe gets is each record in its bytes, a line each, of all batches that are named."""
    process = start("show", f"{filled.id}.1", f"{filled.id}.journal-1.1")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.encode() == b"".join(value + b"\n" for value in (*VALUES[:2], VALUES[3]))


def test_show_as_json(filled: Part, replay: Replay) -> None:
    """One line of JSON holds the records as texts."""
    run = replay("show", "--json", f"{filled.id}.1", f"{filled.id}.99")
    assert_schema("show", run.json)
    assert (run.code, run.out.count("\n")) == (1, 1)
    assert run.json == {
        "batches": [
            {"id": f"{filled.id}.1", "records": [value.decode() for value in VALUES[:2]], "problem": None}
        ]
    }
    assert f"no batch {filled.id}.99" in run.err


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_terminal_is_not_steered(command: str, filled: Part) -> None:
    """On a terminal a record's control characters are shown, and not sent."""
    import pty

    reader, terminal = pty.openpty()
    words = [command, f"{filled.id}.journal-1.1"] if command == "show" else [command]
    words += ["--redis-url", "redis://localhost:6379"]
    subprocess.run(
        [sys.executable, "-m", "plumelog_loguru.cli", *words],
        stdout=terminal,
        stderr=subprocess.PIPE,
        check=True,
        timeout=30,
    )
    os.close(terminal)
    shown = os.read(reader, 10_000)
    os.close(reader)
    assert b"\\x9b2J" in shown and b"\xc2\x9b" not in shown and b"\x1b" not in shown


@pytest.mark.parametrize("command", ["list", "export", "show"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(command: str, spool_dir: Path) -> None:
    """A closed pipe, as of 'head', is no reason for a word."""
    part = Part.create(spool_dir, DESTINATION)
    for number in range(2000):
        part.append(batch_of(b'{"n":%d,"x":"%s"}' % (number, b"x" * 200)))
    part.close()
    words = [command, *([f"{part.id}.{number}" for number in range(1, 1000)] if command == "show" else [])]
    process = subprocess.Popen(
        [sys.executable, "-m", "plumelog_loguru.cli", *words, "--redis-url", "redis://localhost:6379"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1
    process.stderr.close()


# ---------------------------------------------------------------- export


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The destination of these tests; no server is needed to look."""
    monkeypatch.setenv("PLUMELOG_REDIS_URL", "redis://localhost:6379")


def test_export_copies_the_exact_bytes(filled: Part, spool_dir: Path, start: Start) -> None:
    """Rows and a dead owner's journal come out in their bytes, and the spool stays as it is."""
    before = _picture(spool_dir)
    process = start("export")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "plumelog-replay: 4 records in 3 batches exported\n")
    assert out.encode() == b"".join(value + b"\n" for value in VALUES)
    assert _picture(spool_dir) == before


def test_export_makes_a_file_that_only_its_owner_can_read(
    filled: Part, tmp_path: Path, replay: Replay
) -> None:
    """The file holds the exact bytes, has narrow rights, and nothing else is left beside it."""
    file = tmp_path / "out" / "spooled.jsonl"
    file.parent.mkdir()
    run = replay("export", "--output", str(file), "--json")
    assert_schema("export", run.json)
    assert (run.code, run.err, run.json) == (0, "", {"batches": 3, "records": 4, "output": str(file)})
    assert file.read_bytes() == b"".join(value + b"\n" for value in VALUES)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_export_writes_nothing_over(filled: Part, tmp_path: Path, replay: Replay) -> None:
    """A file that is there, or a link, is refused and stays as it is."""
    for name in ("file", "link"):
        path = tmp_path / name
        if name == "file":
            path.write_bytes(b"precious")
        else:
            path.symlink_to(tmp_path / "nowhere")
        run = replay("export", "--output", str(path))
        assert (run.code, run.out) == (2, "") and "nothing is written over" in run.err
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_export_makes_no_file_in_the_spool(
    filled: Part, spool_dir: Path, tmp_path: Path, replay: Replay
) -> None:
    """Not in the spool directory, not below it, and not by way of a link to it."""
    (tmp_path / "link").symlink_to(spool_dir)
    before = _picture(spool_dir)
    for path in (
        spool_dir / "x",
        filled.path / "x",
        tmp_path / "link" / "x",
        spool_dir / ".." / "spool" / "x",
    ):
        run = replay("export", "--output", str(path))
        assert run.code == 2 and "would lie in the spool directory" in run.err
    assert _picture(spool_dir) == before


@pytest.mark.parametrize("path", ["missing/file", "/dev/full/x"])
def test_a_file_that_cannot_be_made_is_wrong_usage(path: str, filled: Part, replay: Replay) -> None:
    """It is said why."""
    run = replay("export", "--output", path)
    assert (run.code, run.out) == (2, "") and "cannot be made" in run.err


def test_a_file_that_cannot_be_written_is_not_left_behind(filled: Part, tmp_path: Path) -> None:
    """A full disk, and a file that may not become so large, are told in one sentence; nothing is left."""
    file = tmp_path / "out" / "file"
    file.parent.mkdir()
    code = (
        "import resource, sys; from plumelog_loguru.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "export", "--output", str(file)]
    limited = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (limited.returncode, limited.stdout) == (1, "")
    assert limited.stderr == f"plumelog-replay: {file} cannot be written (File too large); no file is made\n"
    assert list(file.parent.iterdir()) == []
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "plumelog_loguru.cli", "export"]
        filled_up = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert filled_up.returncode == 1
    assert "standard output cannot be written (No space left on device)" in filled_up.stderr
    assert filled_up.stderr.count("\n") == 1


def test_export_to_standard_output_takes_no_json(filled: Part, replay: Replay) -> None:
    """The records are there already."""
    run = replay("export", "--json")
    assert (run.code, run.out) == (2, "") and "--output" in run.err


def test_export_leaves_other_destinations_out_and_says_so(filled: Part, fill: Fill, replay: Replay) -> None:
    """The configured list's records are exported; '--from' takes others, or all."""
    fill(ELSEWHERE)
    run = replay("export")
    assert (run.code, run.out.count("\n")) == (0, 4)
    assert f"6 records for {ELSEWHERE} left out; --from any takes all" in run.err
    assert replay("export", "--from", str(ELSEWHERE)).out.count("\n") == 6
    run = replay("export", "--from", "any")
    assert run.out.count("\n") == 10 and "left out" not in run.err


def test_the_survey_and_the_list_agree(filled: Part, spool_dir: Path, replay: Replay) -> None:
    """What 'status' counts is what 'list' shows."""
    status = replay("status", "--json", "--redis-url", "redis://127.0.0.1:1").json
    listed = replay("list", "--json").json
    assert (status["records"], status["bytes"]) == (listed["records"], listed["bytes"])
    assert SpoolDirectory(spool_dir, DESTINATION).survey()[0].records == 4
