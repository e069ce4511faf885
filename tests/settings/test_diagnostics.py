"""The one line on stderr."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumelog_loguru import _diagnostics
from plumelog_loguru._diagnostics import Diagnostics, say


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return int(self.now * 1000)


def test_one_line_with_our_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A remark is one line on stderr that begins with the library's name; stdout stays untouched."""
    say("spool", "the disk is full")
    assert capsys.readouterr() == ("", "plumelog-loguru: the disk is full\n")


def test_once_a_minute_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """A kind is heard once a minute, holds no other kind back, and its next line counts the unheard."""
    clock = FakeClock()
    diagnostics = Diagnostics(clock)
    for second in (0, 1, 59.9):
        clock.now = second
        diagnostics.say("down", f"down at {second}")
        diagnostics.say("full", "full")
    clock.now = 60
    diagnostics.say("down", "still down")
    clock.now = 120
    diagnostics.say("down", "down again")
    assert capsys.readouterr().err.splitlines() == [
        "plumelog-loguru: down at 0",
        "plumelog-loguru: full",
        "plumelog-loguru: still down (2 more of this kind since the last line)",
        "plumelog-loguru: down again",
    ]


def test_threads_are_heard_once_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Of many threads at the same moment one is heard, and the rest are counted to the last."""
    clock = FakeClock()
    diagnostics = Diagnostics(clock)
    start = threading.Barrier(8)

    def speak() -> None:
        start.wait(timeout=10)
        for _ in range(50):
            diagnostics.say("down", "down")

    threads = [threading.Thread(target=speak) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    clock.now = 61
    diagnostics.say("down", "down")
    lines = capsys.readouterr().err
    assert len(lines.splitlines()) == 2
    assert sum(int(more) for more in re.findall(r"\((\d+) more", lines)) == 399


@pytest.mark.parametrize("value", ["none", "NONE", " none "])
def test_silence(value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """PLUMELOG_DIAGNOSTICS=none silences every line."""
    monkeypatch.setenv("PLUMELOG_DIAGNOSTICS", value)
    say("spool", "the disk is full")
    assert capsys.readouterr().err == ""


class RaisingStream(io.StringIO):
    """A stderr that the application replaced by something that fails."""

    def write(self, text: str, /) -> int:
        raise RuntimeError(text)


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [None, RaisingStream(), closed_stream(), object()])
def test_no_stderr_is_no_error(stderr: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr that is missing, closed, foreign or failing costs the line, never an exception."""
    monkeypatch.setattr(sys, "stderr", stderr)
    say("spool", "the disk is full")


def test_speaking_while_speaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr whose write speaks again, of the same kind, neither recurses nor waits."""
    lines: list[str] = []

    class Echo(io.StringIO):
        def write(self, text: str, /) -> int:
            lines.append(text)
            say("spool", "again")
            return len(text)

    monkeypatch.setattr(sys, "stderr", Echo())
    say("spool", "the disk is full")
    assert lines == ["plumelog-loguru: the disk is full\n"]


@given(st.text(alphabet=st.characters()))
def test_always_one_printable_line(sentence: str) -> None:
    """Whatever the sentence holds, terminal escapes and lone surrogates too, it is one printable line."""
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        Diagnostics().say("any", sentence)
    line = stream.getvalue()
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.encode().decode() == line


def test_reset_forgets(capsys: pytest.CaptureFixture[str]) -> None:
    """After a reset every kind may speak at once."""
    say("spool", "first")
    _diagnostics.reset_for_tests()
    say("spool", "second")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_speaks_where_warnings_are_errors() -> None:
    """Under -W error a remark is still a line, and the process ends well."""
    code = "from plumelog_loguru._diagnostics import say; say('kind', 'a remark')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(_diagnostics.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == "plumelog-loguru: a remark\n"
