"""How far a drain has come is shown to those who watch, and to nobody else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.servers import RedisServer
from plumelog_loguru._destination import Destination
from plumelog_loguru.cli import _progress
from plumelog_loguru.cli._progress import Lines

from .conftest import Fill

OnTerminal = Callable[..., "tuple[int, str, str]"]

# rich is there, or not, whatever is installed.
_DRAIN = """
import sys
if sys.argv.pop() == "without":
    sys.modules["rich"] = None
from plumelog_loguru.cli import main
sys.exit(main())
"""


@pytest.fixture
def on_terminal() -> OnTerminal:
    """Runs a drain whose standard error is a terminal: its exit code, its output, and what the screen got."""

    def run(rich: str, *words: str) -> tuple[int, str, str]:
        pty = pytest.importorskip("pty")
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", _DRAIN, "drain", *words, rich],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        screen = b""
        try:
            while data := _read(ours):
                screen += data
        finally:
            os.close(ours)
            out, _ = process.communicate(timeout=30)
        return process.returncode, out, screen.decode()

    return run


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # Linux's way of saying that the other side is closed
        return b""


@pytest.fixture
def slow(server: RedisServer, destination: Destination, fill: Fill) -> tuple[str, ...]:
    """A spool that takes more than a second with these flags."""
    fill(destination, batches=25, records=20)
    return ("--rate", "350")


def test_a_bar_is_drawn_where_rich_is(slow: tuple[str, ...], on_terminal: OnTerminal) -> None:
    """It shows the records, the rate and the time left, and is gone when the drain has ended."""
    pytest.importorskip("rich")
    code, out, screen = on_terminal("with", *slow)
    assert code == 0 and out.startswith("500 records delivered in ")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen)
    assert "of 500 records" in plain and re.search(r"\d/s", plain) and re.search(r"0:00:0\d left", plain)
    assert screen.rstrip("\r\n").endswith("\x1b[2K"), "the bar's line was not erased"


def test_what_is_told_meanwhile_stands_above_the_bar(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, on_terminal: OnTerminal
) -> None:
    """A sentence is a line of its own, also while there is a bar."""
    pytest.importorskip("rich")
    fill(destination)
    server.cli("SET", destination.list_key, "not a list")
    code, _, screen = on_terminal("with")
    assert code == 1
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).replace("\r", "\n").splitlines()
    assert any(line.startswith("plumelog-replay: Redis at 127.0.0.1:") for line in lines), lines


def test_lines_are_told_where_rich_is_not(slow: tuple[str, ...], on_terminal: OnTerminal) -> None:
    """A line each second, with the records, the rate and the time left."""
    code, out, screen = on_terminal("without", *slow)
    assert code == 0 and out.startswith("500 records delivered in ")
    line = r"plumelog-replay: \d+ of 500 records delivered, \d+ a second, \d+ s left"
    told = screen.splitlines()
    assert 1 <= len(told) <= 3 and all(re.fullmatch(line, one) for one in told), told


def test_nothing_is_shown_where_nobody_watches(slow: tuple[str, ...]) -> None:
    """Without a terminal standard error stays empty."""
    words = [sys.executable, "-m", "plumelog_loguru.cli", "drain", "--limit", "480", *slow]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [done.stderr.strip()] and "20 records remain in" in done.stderr


def test_a_line_comes_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it hears of it; and the rate is that of all that time."""
    told: list[str] = []
    now = 0.0
    monkeypatch.setattr(_progress, "tell", told.append)
    monkeypatch.setattr("time.monotonic", lambda: now)
    lines = Lines()
    for moment, delivered in ((0.0, 0), (0.9, 10), (1.0, 1000), (1.9, 2000), (2.1, 2100)):
        now = moment
        lines(delivered, 10_000)
    assert told == [
        "1,000 of 10,000 records delivered, 1,000 a second, 9 s left",
        "2,100 of 10,000 records delivered, 1,000 a second, 8 s left",
    ]
