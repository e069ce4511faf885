"""What the scenarios of the disk say that they did, they did; and they leave the disk as it was."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chaos.application_handle import Application
from chaos.faults.disk import Filler, filled, traced
from chaos.faults.spool_files import Damage, parts_held_by
from chaos.stage import Stage, mounted

# Writes a byte to a file whenever it is asked to, and says what came of it.
_WRITER = """
import os, sys
fd = os.open("written", os.O_WRONLY | os.O_CREAT)
print("ready", flush=True)
for _ in sys.stdin:
    try:
        print(os.pwrite(fd, b"x", 0), flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


def stage_in(folder: Path, **more: Any) -> Stage:
    """As much of a stage as a fault needs that starts no program."""
    return cast("Stage", SimpleNamespace(folder=folder, disk=folder, dice=random.Random(1), **more))


@pytest.mark.needs_mount
def test_a_full_disk_takes_not_a_byte_and_is_as_it_was_afterwards(tmp_path: Path) -> None:
    """Also where others give room back meanwhile."""
    with mounted(tmp_path / "disk", "size=1m"):
        (tmp_path / "disk" / "other").write_bytes(bytes(100_000))
        before = os.statvfs(tmp_path / "disk").f_bavail
        with filled(stage_in(tmp_path / "disk")) as filler:
            with pytest.raises(OSError, match="No space left") as refused:
                (tmp_path / "disk" / "mine").write_bytes(b"1")
            assert refused.value.errno == errno.ENOSPC and filler.leaves_nothing
            os.truncate(tmp_path / "disk" / "other", 0)
            assert not filler.leaves_nothing
            assert filler.fill() >= 98_304 and filler.leaves_nothing
            filler.give_back(200_000)
            assert not filler.leaves_nothing
        (tmp_path / "disk" / "mine").unlink()
        assert os.statvfs(tmp_path / "disk").f_bavail >= before
    assert not os.path.ismount(tmp_path / "disk")


@pytest.mark.needs_mount
def test_a_disk_is_gone_also_where_something_went_wrong_on_it(tmp_path: Path) -> None:
    """Even with a file still open."""

    def fail() -> None:
        with mounted(tmp_path / "disk", "size=1m"):
            fillers.append(Filler(tmp_path / "disk"))
            raise ZeroDivisionError

    fillers: list[Filler] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert not os.path.ismount(tmp_path / "disk") and not list((tmp_path / "disk").iterdir())
    with pytest.raises(FileNotFoundError):
        fillers[0].remove()


@pytest.mark.parametrize("flips", [1, 5])
def test_as_many_bits_flip_as_are_said_to(tmp_path: Path, flips: int) -> None:
    """In what was written; and where there is nothing to flip, nothing is said to have flipped."""
    part = tmp_path / "part-1"
    part.mkdir()
    newest = b"\0PLJ" + b"\xff" * 1000
    (part / "journal-1").write_bytes(bytes(1000) + b"\xff" * 1000 + newest)
    (part / "journal-2").write_bytes(b"")
    stage = stage_in(tmp_path, spool_parts=lambda: [part])
    assert Damage("journal-*", flips).flip(stage) == flips
    found = (part / "journal-1").read_bytes()
    assert found[:1000] == bytes(1000) and (part / "journal-2").read_bytes() == b""
    assert sum(8 - byte.bit_count() for byte in found[1000:2000]) == flips and found[2000:] == newest
    assert Damage("no-such-*", flips).flip(stage) == 0


def test_the_first_bit_flips_in_a_record_and_what_is_not_written_has_not_flipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in a record is lost for certain; and the files are read again."""
    part = tmp_path / "part-1"
    (part / "spool").mkdir(parents=True)
    file = part / "spool" / "cache.db"
    sound = b"\xff" * 5000 + b"p0-1-23 " + b"\xff" * 5000
    file.write_bytes(sound)
    stage = stage_in(tmp_path, spool_parts=lambda: [part])
    assert Damage("spool/cache.db*").flip(stage) == 1
    assert file.read_bytes()[5000] != ord("p")
    file.write_bytes(sound)
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: len(content))
    assert Damage("spool/cache.db*", flips=8).flip(stage) == 0


def test_who_holds_a_part_is_seen_from_outside(tmp_path: Path) -> None:
    """By its open files."""
    (tmp_path / "part-7").mkdir()
    me = cast("Application", SimpleNamespace(process=SimpleNamespace(pid=os.getpid())))
    with open(tmp_path / "part-7" / "lock", "w"):
        assert parts_held_by(me) == {"part-7"}
    assert parts_held_by(me) == set()


@pytest.mark.needs_strace
def test_system_calls_fail_while_they_are_traced_and_not_afterwards(tmp_path: Path) -> None:
    """strace is attached when the block begins, and gone when it ends."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=tmp_path))
        return started[-1]

    writer = start([sys.executable, "-c", _WRITER])
    assert writer.stdin is not None and writer.stdout is not None
    write = _asking(writer)
    assert writer.stdout.readline() == "ready\n"
    assert write() == 1
    application = cast("Application", SimpleNamespace(process=writer))
    try:
        with traced(stage_in(tmp_path, start=start), application, "-e", "inject=pwrite64:error=EIO") as log:
            assert write() == errno.EIO
        assert write() == 1
        assert log.read_text().count("(INJECTED)") == 1
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.communicate()


def _asking(process: subprocess.Popen[str]) -> Callable[[], int]:
    def ask() -> int:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    return ask
