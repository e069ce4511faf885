"""A file comes into the spool whole, byte for byte, or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.servers import RedisServer
from plumelog_loguru._destination import Destination
from plumelog_loguru._settings import PlumelogSettings
from plumelog_loguru._spool import Part, SpoolDirectory
from plumelog_loguru.cli._wire import fault_of

from .conftest import KEY, Replay, RunCode, Start, assert_schema

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "java-records.jsonl"
RECORD: dict[str, Any] = {
    "serverName": "192.0.2.2",
    "appName": "shop",
    "env": "dev",
    "method": "accept(orders.py:42)",
    "content": "hello",
    "logLevel": "INFO",
    "className": "shop.orders",
    "threadName": "MainThread",
    "seq": 1,
    "dateTime": "2026-11-22 00:00:14.873",
    "dtTime": 1795305614873,
    "traceId": None,
    "logType": None,
    "appNameWithEnv": "shop-_-dev",
    "producer": "3f9c2a71b0d4e655",
}


def line_of(**changes: Any) -> bytes:
    """A record as one line, without the end of the line."""
    return orjson.dumps({**RECORD, **changes})


def _twice(first: bytes, key: bytes = b'"content"') -> bytes:
    """A record that has a field more, which a second one of its name hides."""
    return b"{%b:%b,%b" % (key, first, line_of()[1:])


def _file(tmp_path: Path, *lines: bytes) -> str:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def _values(spool_dir: Path) -> list[bytes]:
    """What all parts hold, as bytes, in its order."""
    values: list[bytes] = []
    for path in sorted(spool_dir.glob("part-*")):
        (info,) = (one for one in _directory(spool_dir).survey() if path.name.endswith(one.id))
        assert info.destination is not None
        part = Part.try_take(path, info.destination)
        assert part is not None
        key = part.peek()
        while key is not None:
            values += part.read(key).batch.values
            key = part.peek(key)
        part.close()
    return values


def _directory(spool_dir: Path) -> SpoolDirectory:
    return SpoolDirectory(spool_dir, PlumelogSettings().destination)


def test_records_arrive_in_redis_byte_for_byte(
    server: RedisServer, spool_dir: Path, tmp_path: Path, replay: Replay
) -> None:
    """What is imported is delivered by the next drain, in its order; the words say what to beware of."""
    lines = [line_of(seq=number, content="é\n" * number) for number in range(1, 4)]
    run = replay("import", _file(tmp_path, *lines))
    assert run.code == 0
    assert run.out.startswith("3 records imported for ")
    assert "copy of what is still spooled, its records will be delivered twice" in run.err
    assert replay("drain").code == 0
    assert server.values(KEY) == lines[::-1]
    assert list(spool_dir.iterdir()) == []


def test_java_records_are_records(spool_dir: Path, replay: Replay) -> None:
    """What the Java client writes can be imported."""
    assert replay("import", str(GOLDEN)).code == 0
    assert _values(spool_dir) == GOLDEN.read_bytes().splitlines()


def test_json(spool_dir: Path, tmp_path: Path, replay: Replay) -> None:
    """``--json`` says what there is now, and what is wrong with a file."""
    lines = [line_of(seq=1), line_of(seq=2)]
    run = replay("import", "--json", _file(tmp_path, *lines))
    assert_schema("import", run.json)
    (path,) = spool_dir.iterdir()
    assert run.json == {
        "records": 2,
        "batches": 1,
        "bytes": sum(map(len, lines)),
        "part": path.name.removeprefix("part-"),
        "faulty_lines": 0,
        "faults": [],
    }
    run = replay("import", "--json", _file(tmp_path, lines[0], b"[]"))
    assert_schema("import", run.json)
    assert (run.code, run.json["records"], run.json["part"]) == (1, 0, None)
    assert run.json["faults"] == [{"line": 2, "fault": "is not a JSON object"}]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"", "is empty"),
        (b"{", "is not JSON"),
        (b'{"content":NaN}', "is not JSON"),
        (b'{"content":"\xff"}', "is not JSON"),
        (b"\xef\xbb\xbf" + line_of(), "is not JSON"),
        (b"[" * 5000, "is not JSON"),
        (b'"text"', "is not a JSON object"),
        (line_of() + b"\r", "has a carriage return"),
        (line_of(appName=None), "needs appName, a text"),
        (line_of(content=7), "needs content, a text"),
        (line_of(dtTime="1795305614873"), "needs dtTime, a whole number"),
        (line_of(seq=1.0), "needs seq, a whole number"),
        (line_of(seq=True), "needs seq, a whole number"),
        (line_of(seq=-1), "needs seq, from 0 to"),
        (line_of(dtTime=2**63), "needs dtTime, from 0 to"),
        (line_of(logType=1), "field that is not a text"),
        (line_of(orderId=42), "field that is not a text"),
        (line_of(order={"id": "42"}), "field that is not a text"),
        (line_of(**{"@type": "java.lang.Runtime"}), "begins with @ or $"),
        (line_of(**{"$ref": "$"}), "begins with @ or $"),
        (b"{}", "needs appName, a text"),
        (_twice(b'{"@type":"java.lang.Runtime","$ref":"$"}'), "has a field twice"),
        (_twice(b'"other"'), "has a field twice"),
        (_twice(b'"other"', key=b'"content" '), "has a field twice"),
        (_twice(b'"other"', key=b'"content"\t'), "has a field twice"),
        (_twice(b'"other"', key=b'"cont\\u0065nt"'), "has a field twice"),
        (_twice(b"[" * 1000 + b"]" * 1000), "has a field twice"),
        (_twice(b'{"a":' * 1020 + b"1" + b"}" * 1020), "has a field twice"),
        (_twice(b"9" * 300), "has a field twice"),
        (line_of(content="x" * (1 << 20)), "is longer than record_max_bytes (1048576)"),
    ],
)
def test_what_is_no_record_is_refused_by_its_number(
    spool_dir: Path, tmp_path: Path, replay: Replay, line: bytes, fault: str
) -> None:
    """One line that is no record, and nothing is imported; its number and its fault are told."""
    run = replay("import", _file(tmp_path, line_of(), line, line_of()))
    assert (run.code, run.out) == (1, "")
    told = run.err.splitlines()
    assert told[0].startswith("plumelog-replay: line 2 ") and fault in told[0]
    assert told[1] == "plumelog-replay: nothing is imported: 1 line is no Plumelog record"
    assert list(spool_dir.iterdir()) == []


def test_a_bad_line_behind_rows_takes_them_back(spool_dir: Path, tmp_path: Path, replay: Replay) -> None:
    """Rows that were written before the bad line was met are gone with it; ten faults are listed."""
    large = [line_of(seq=number, content="x" * 600_000) for number in range(4)]
    run = replay("import", _file(tmp_path, *large, *[b"?"] * 12, *large))
    assert run.code == 1
    assert len(run.err.splitlines()) == 11 and run.err.splitlines()[9].endswith("line 14 is not JSON")
    assert "12 lines are no Plumelog record (2 of them are not listed here)" in run.err
    assert list(spool_dir.iterdir()) == []


def test_rows_have_at_most_a_mebibyte(spool_dir: Path, tmp_path: Path, replay: Replay) -> None:
    """A row takes what fits, and no record is divided."""
    lines = [line_of(content="x" * size) for size in (500_000, 500_000, 500_000, 1_000_000, 10)]
    assert replay("import", "--json", _file(tmp_path, *lines)).json["batches"] == 3
    assert _values(spool_dir) == lines


def test_the_last_line_needs_no_end(
    spool_dir: Path, tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard input is a file like any other; an empty one imports nothing."""
    path = tmp_path / "records"
    path.write_bytes(line_of())
    with open(path) as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert replay("import", "-").code == 0
    assert _values(spool_dir) == [line_of()]
    path.write_bytes(b"")
    run = replay("import", str(path))
    assert (run.code, run.err) == (0, "") and run.out.startswith("0 records imported")
    assert len(list(spool_dir.iterdir())) == 1


def test_a_file_that_cannot_be_read_is_wrong_usage(spool_dir: Path, tmp_path: Path, replay: Replay) -> None:
    """A file that is missing, or a directory, is said to be so in one sentence."""
    for name in ("missing", "cwd"):
        run = replay("import", str(tmp_path / name))
        assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
        assert f"{name} cannot be read (" in run.err
    assert replay("import").code == 2


def test_directories_that_cannot_take_it(tmp_path: Path, replay: Replay) -> None:
    """A missing spool directory is not made: a slip in a name would hide the records."""
    run = replay("import", _file(tmp_path, line_of()))
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "cannot be read (No such file or directory)" in run.err
    assert not (tmp_path / "spool").exists()


def test_what_does_not_fit_is_refused(
    spool_dir: Path, tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the quota nor the free space is broken, and nothing stays of the try."""
    lines = [line_of(seq=number, content="x" * 900_000) for number in range(4)]
    name = _file(tmp_path, *lines)
    for words in (("--spool-max-bytes", "3000000"), ("--spool-min-free-bytes", str(1 << 60))):
        run = replay("import", name, *words)
        assert (run.code, run.out, run.err.count("\n")) == (1, "", 1)
        assert "has no room for it: raise spool_max_bytes" in run.err
        run = replay("import", name, "--json", *words)
        assert_schema("import", run.json)
        assert (run.code, run.json["records"], run.json["part"]) == (1, 0, None)
        with open(name) as file:
            pipe = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        assert pipe.stdout is not None
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe.stdout))
        assert replay("import", "-", *words).code == 1
        pipe.stdout.close()
        pipe.wait()
        assert list(spool_dir.iterdir()) == []


def test_a_disk_that_is_full(
    spool_dir: Path, tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even a directory can be made there is no room either; and nothing stays of the try."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    name = _file(tmp_path, line_of())
    for call in ("mkdir", "rename"):  # at the beginning, and when it is to be seen
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            run = replay("import", name)
        assert (run.code, run.out, run.err.count("\n")) == (1, "", 1)
        assert "No space left on device" in run.err
        assert list(spool_dir.iterdir()) == []


def test_killed_half_way_nothing_is_visible(
    spool_dir: Path, tmp_path: Path, replay: Replay, start: Start
) -> None:
    """What a killed import leaves is nobody's, is delivered by nobody, and is removed by the next command."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = start("import", str(pipe))
    with open(pipe, "wb") as file:
        file.writelines(line_of(seq=number, content="x" * 600_000) + b"\n" for number in range(4))
        file.flush()
        while not list(spool_dir.glob("aside-*/spool/cache.db")):
            assert process.poll() is None
        assert [path.name[:6] for path in spool_dir.iterdir()] == ["aside-"]
        _directory(spool_dir).clear_leftovers()  # it is alive: nobody touches it
        assert len(list(spool_dir.iterdir())) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _directory(spool_dir).survey() == []
    assert replay("drain", "--redis-port", "1").code == 0
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize("step", range(1, 12, 2))
def test_a_living_sink_does_not_see_half_of_it(
    spool_dir: Path, tmp_path: Path, step: int, run_code: RunCode
) -> None:
    """Killed before any of the last steps, there is no part; after the renaming there is all of it."""
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
for name in ("rename", "fsync", "mkdir", "chown", "chmod"):
    setattr(os, name, killing(getattr(os, name)))
sys.exit(main())
"""
    ended = run_code(code, "import", _file(tmp_path, line_of()), str(step))
    assert ended.returncode in (0, -signal.SIGKILL)
    directory = _directory(spool_dir)
    directory.clear_leftovers()
    named = [path.name[:5] for path in spool_dir.iterdir()]
    assert named == ([] if ended.returncode and not named else ["part-"])
    assert _values(spool_dir) == [line_of()] * len(named)


@pytest.mark.needs_root
def test_what_root_imports_belongs_to_the_application() -> None:
    """All files of the part have the owner of the directory, or its application could not deliver them."""
    code = """
import sys
from plumelog_loguru.cli import _owner, main
_owner._files_of_code = lambda: []  # here Python itself may be where only root can read it
sys.exit(main())
"""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o711)
        spool_dir = Path(path, "spool")
        spool_dir.mkdir()
        os.chown(spool_dir, 65534, 65534)
        words = ("import", _file(Path(path), line_of()), "--spool-dir", str(spool_dir))
        ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=30)
        assert ended.returncode == 0, ended.stderr
        found = [*spool_dir.iterdir(), *spool_dir.glob("part-*/**/*")]
        assert len(found) > 4
        assert {(path.stat().st_uid, path.stat().st_mode & 0o077) for path in found} == {(65534, 0)}


def test_without_rights(
    spool_dir: Path, tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that this user may not write is said to be so, with the cure."""
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    run = replay("import", _file(tmp_path, line_of()))
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "cannot be written; set PLUMELOG_SPOOL_DIR to a directory that can be" in run.err
    assert list(spool_dir.iterdir()) == []


def test_beside_a_living_owner_and_others(
    spool_dir: Path, tmp_path: Path, replay: Replay, destination: Destination
) -> None:
    """A live part, a damaged one and one of a newer format are left as they are."""
    living = Part.create(spool_dir, destination)
    for facts in (b"{", b'{"format":99}'):
        other = Part.create(spool_dir, destination)
        (other.path / "part.json").write_bytes(facts)
        other.close()
    before = {path.name for path in spool_dir.iterdir()}
    try:
        assert replay("import", _file(tmp_path, line_of())).code == 0
        assert {path.name for path in spool_dir.iterdir()} > before
        assert sum(info.records for info in _directory(spool_dir).survey()) == 1
    finally:
        living.close()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LINES = st.builds(
    lambda record, extras, option: orjson.dumps({**extras, **record}, option=option),
    st.fixed_dictionaries(
        {
            **{key: TEXTS for key, value in RECORD.items() if type(value) is str and key != "producer"},
            "seq": st.integers(0, 2**63 - 1),
            "dtTime": st.integers(0, 10**15),
            "traceId": st.none() | TEXTS,
            "logType": st.none(),
        }
    ),
    st.dictionaries(st.from_regex(r"[A-Za-z0-9-][\w-]{0,10}", fullmatch=True), TEXTS, max_size=3),
    st.sampled_from([0, orjson.OPT_SORT_KEYS]),
)


@given(lines=st.lists(LINES, max_size=30))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_keeps_its_bytes(
    spool_dir: Path, tmp_path: Path, replay: Replay, lines: list[bytes]
) -> None:
    """Whatever a record says, and however it is written: in, out as a copy, and out for good."""
    assert all(fault_of(line) is None for line in lines)
    name = _file(tmp_path, *lines)
    assert replay("import", name).code == 0
    for words in ((), ("--move",)):
        output = tmp_path / "exported"
        assert replay("export", *words, "--output", str(output)).code == 0
        assert output.read_bytes() == Path(name).read_bytes()
        output.unlink()
    assert list(spool_dir.iterdir()) == []


def test_what_a_sink_wrote_can_be_imported(spool_dir: Path, tmp_path: Path, replay: Replay) -> None:
    """Strange records of a real sink, exported, pass for records, and arrive as they were."""
    code = r"""
from loguru import logger
from plumelog_loguru import DurableRedisSink
logger.remove()
sink = DurableRedisSink(redis_url="redis://localhost:1", batch_size=1000, batch_interval_seconds=60)
logger.add(sink, format="{message}")
strange = {"@type": "x", "$ref": "$", "a.b": {"c": 1}, "_id": float("nan"), "appName": None, "": b"\xff"}
logger.bind(**strange).info(
    "lone \ud800 surrogate, \r\n ends and \u2028 \0"
)
logger.opt(exception=True).error("no exception")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("x" * 100_000)
sink.close(0.1)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)
    first, second = tmp_path / "1", tmp_path / "2"
    assert replay("export", "--from", "any", "--output", str(first)).code == 0
    assert first.read_bytes().count(b"\n") >= 3
    assert replay("purge", "--yes", "--from", "any").code == 0
    assert replay("import", str(first)).code == 0
    assert replay("export", "--output", str(second)).code == 0
    assert first.read_bytes() == second.read_bytes()


def test_text_that_looks_like_fields_is_text(spool_dir: Path, tmp_path: Path, replay: Replay) -> None:
    """What reads like a key in a text, or space around the colons, makes no record a wrong one."""
    lines = [
        line_of(content='say "content":1, "content" : 2'),
        line_of().replace(b'":', b'"\t :'),
        json.dumps({**RECORD, "content": '{"@type":"x","@type":"y"}'}).encode(),
    ]
    assert replay("import", _file(tmp_path, *lines)).code == 0
    assert _values(spool_dir) == lines


def test_an_interrupt_after_the_naming_does_not_make_it_look_failed(spool_dir: Path, tmp_path: Path) -> None:
    """From just before the part has its name on, Ctrl-C changes neither the result nor the exit code."""
    code = """
import os, signal, sys
from plumelog_loguru._spool import NewPart
from plumelog_loguru.cli import _import, main
publish, show = NewPart.publish, _import.show
def interrupted(function):
    def call(*words):
        os.kill(os.getpid(), signal.SIGINT)
        result = function(*words)
        os.kill(os.getpid(), signal.SIGINT)
        return result
    return call
NewPart.publish, _import.show = interrupted(publish), interrupted(show)
code = main()
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""
    words = [sys.executable, "-c", code, "import", _file(tmp_path, line_of())]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, len(_values(spool_dir))) == (0, 1), ended.stderr
    assert ended.stdout.startswith("1 record imported for ") and "interrupted" not in ended.stderr


def test_an_interrupt_before_imports_nothing(
    spool_dir: Path, tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it reads takes all back."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("plumelog_loguru._spool.NewPart.append", interrupt)
    run = replay("import", _file(tmp_path, line_of()))
    assert (run.code, list(spool_dir.iterdir())) == (130, [])


@pytest.mark.parametrize("how", [">&-", "> /dev/full", "--json > /dev/full", "> >(true)"])
def test_an_import_whose_result_nobody_reads_is_done(how: str, spool_dir: Path, tmp_path: Path) -> None:
    """Whoever took it for failed would import it twice: the result goes to standard error, the code is 0."""
    program = f"'{sys.executable}' -m plumelog_loguru.cli import '{_file(tmp_path, line_of())}'"
    ended = subprocess.run(
        ["bash", "-c", f"{program} {how}"], capture_output=True, text=True, timeout=30, check=False
    )
    (part,) = spool_dir.glob("part-*")
    assert f"1 record imported as part {part.name.removeprefix('part-')}\n" in ended.stderr
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
