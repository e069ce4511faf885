"""What a disk does while Redis is away: it is full, takes no writing, is slow, or has errors.

A full disk is a real one, a small tmpfs. What cannot be had without hardware, strace says in the kernel's
place: it answers the system calls of the running program.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chaos.application_handle import Application
from chaos.stage import KEY, Stage, StageError, wait_until

_BLOCK = bytes(1 << 16)
_NEXT_WRITE_SECONDS = 5.0  # a program that has found its disk bad does not try it all the time
_WRITES = "pwrite64,fsync,fdatasync"  # of the program's, these are the spool's alone


class Filler:
    """Somebody else's file, which takes what is free of a disk."""

    def __init__(self, disk: Path) -> None:
        """Lie on this disk."""
        self._disk = disk
        self._fd = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)

    def fill(self) -> int:
        """Take every byte that is free now; gives how many there were."""
        taken = 0
        while True:
            try:
                taken += os.write(self._fd, _BLOCK)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return taken

    def give_back(self, size_bytes: int) -> None:
        """Let others have so many bytes again."""
        os.truncate(self._fd, self.size_bytes - size_bytes)

    @property
    def size_bytes(self) -> int:
        """What it takes."""
        return os.fstat(self._fd).st_size

    @property
    def leaves_nothing(self) -> bool:
        """Whether the disk has no free block."""
        return os.statvfs(self._disk).f_bavail == 0

    def remove(self) -> None:
        """Give it all back."""
        os.close(self._fd)
        os.unlink(self._disk / "filler")


@contextlib.contextmanager
def filled(stage: Stage) -> Iterator[Filler]:
    """Have the stage's disk full."""
    filler = Filler(stage.disk)
    try:
        filler.fill()
        yield filler
    finally:
        filler.remove()


def stay_full(stage: Stage, filler: Filler, seconds: float) -> None:
    """Let whoever fills the disk take what is given back, for so long."""
    full = 0
    for _ in stage.ticks(seconds):
        filler.fill()
        full += filler.leaves_nothing
    stage.saw("a file on the disk meets ENOSPC, and no block is free", full)


def wait_for(application: Application, what: str, records: int) -> None:
    """Wait until a program says so many of its records to be there; that only steers, and proves nothing."""

    def is_so() -> bool:
        samples = application.samples()
        return bool(samples) and samples[-1][what] >= records

    wait_until(is_so, f"{records} records are {what}")


def wait_for_rows(application: Application, records: int = 100) -> None:
    """Wait until so many records are spooled."""
    wait_for(application, "spooled", records)


@dataclass(frozen=True)
class FullDisk:
    """Redis is away, and the disk of the spool is full to the last byte."""

    rows_first: bool = False  # some records are spooled before the disk is full
    longer: bool = False  # Redis comes back while the disk is still full, and all that waits is delivered

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be full for so long."""
        application = stage.application
        with contextlib.ExitStack() as disk:
            with stage.proxy.down():
                if self.rows_first:
                    wait_for_rows(application)
                filler = disk.enter_context(filled(stage))
                stay_full(stage, filler, seconds)
                if not self.longer:
                    disk.close()
            if self.longer:
                wait_until(
                    lambda: not filler.fill() and not application.spooled(), "it drains on a full disk"
                )
                stage.saw("the disk is still full when all is delivered", filler.leaves_nothing)


@dataclass(frozen=True)
class LeftOnFullDisk:
    """A program is killed with records in its spool, and the disk fills: all is delivered there."""

    successor: bool = False  # another program delivers it; else `plumelog-replay`
    greedy: bool = False  # whoever fills the disk takes what is given back, too, so that not all can be done

    def strike(self, stage: Stage, seconds: float) -> None:
        """Kill it, fill the disk, and have everything delivered."""
        with contextlib.ExitStack() as disk:
            with stage.proxy.down():
                wait_for_rows(stage.application, 300)
                stage.application.kill()
                filler = disk.enter_context(filled(stage))
                stay_full(stage, filler, seconds)
            if self.successor:
                heir = stage.start_application()
                if self.greedy:
                    stay_full(stage, filler, seconds)
                    return
                wait_for(heir, "adopted", 1)
                wait_until(lambda: not heir.spooled(), "it drains on a full disk")
            else:
                drained = stage.run_replay("drain", "--json")
                if drained.returncode:
                    raise StageError(f"plumelog-replay drain: exit {drained.returncode}, {drained.stdout}")
            stage.saw("the file is still there when all is delivered", filler.size_bytes > 0)


@dataclass(frozen=True)
class FullFromTheStart:
    """A program starts on a full disk while Redis is away."""

    what: Literal["blocks", "inodes"] = "blocks"

    def strike(self, stage: Stage, seconds: float) -> None:
        """Start it, and have the disk full for so long."""
        with contextlib.ExitStack() as disk, stage.proxy.down():
            if self.what == "blocks":
                filler = disk.enter_context(filled(stage))
                stage.start_application()
                stay_full(stage, filler, seconds)
            else:
                disk.callback(_remove, _take_inodes(stage))
                stage.start_application()
                stage.saw("no file can be made: ENOSPC, and no inode is free", _no_inode_is_free(stage))
                list(stage.ticks(seconds))


@dataclass(frozen=True)
class NoInodes:
    """Redis is away, and the disk has room, but none for another file."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have none left for so long."""
        with stage.proxy.down():
            taken = _take_inodes(stage)
            try:
                list(stage.ticks(seconds))
                stage.saw("no file can be made: ENOSPC, and no inode is free", _no_inode_is_free(stage))
            finally:
                _remove(taken)


def _take_inodes(stage: Stage) -> list[Path]:
    taken: list[Path] = []
    while True:
        path = stage.disk / f"file-{len(taken)}"
        try:
            path.touch(exist_ok=False)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return taken
        taken.append(path)


def _no_inode_is_free(stage: Stage) -> bool:
    return os.statvfs(stage.disk).f_ffree == 0


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


@dataclass(frozen=True)
class LittleRoom:
    """Redis is away, and others have left the disk this much room."""

    free_bytes: int

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have no more for so long."""
        with stage.proxy.down():
            wait_for_rows(stage.application)
            with filled(stage) as filler:
                filler.give_back(self.free_bytes)
                free = [_free_bytes(stage.disk) for _ in stage.ticks(seconds)]
            stage.saw(f"at most {self.free_bytes} bytes are free", sum(b <= self.free_bytes for b in free))


def _free_bytes(disk: Path) -> int:
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


@dataclass(frozen=True)
class ReadOnly:
    """A program starts on a disk that is read-only, while Redis is away; later it can be written."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be read-only for so long."""
        with stage.proxy.down():
            _remount(stage, "ro")
            try:
                stage.start_application()
                list(stage.ticks(seconds))
                stage.saw("a file cannot be made: EROFS", _errno_of_a_file(stage.disk) == errno.EROFS)
            finally:
                _remount(stage, "rw")


def _remount(stage: Stage, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(stage.disk)], check=True)


def _errno_of_a_file(folder: Path) -> int:
    try:
        (folder / "tried").touch()
    except OSError as error:
        return error.errno or 0
    (folder / "tried").unlink()
    return 0


@dataclass(frozen=True)
class SystemCalls:
    """Redis is away, and the kernel treats the program's writes and syncs as strace's injection says."""

    injection: str  # as strace has it: "error=EIO", "delay_enter=100000"
    seen: str = "INJECTED"  # what strace then writes into its log
    calls: str = _WRITES
    longer: bool = False  # Redis comes back before the disk, and a fresh record must arrive meanwhile

    def strike(self, stage: Stage, seconds: float) -> None:
        """Treat them so for so long."""
        words = ("-e", f"trace={self.calls}", "-e", f"inject={self.calls}:{self.injection}")

        def seen() -> int:
            return log.read_text().count(f"({self.seen})")

        with contextlib.ExitStack() as disk:
            with stage.proxy.down():
                wait_for_rows(stage.application)
                log = disk.enter_context(traced(stage, stage.application, *words))
                list(stage.ticks(seconds))
                if not self.longer:
                    disk.close()
            if self.longer:
                before, fresh = seen(), stage.application.mark().encode()
                wait_until(
                    lambda: any(fresh in value for value in stage.server.values(KEY)), "a record arrives"
                )
                any(seen() > before for _ in stage.ticks(_NEXT_WRITE_SECONDS))
                stage.saw(f"strace, with Redis back: {self.injection}", seen() - before)
        stage.saw(f"strace: {self.injection}", seen())


@contextlib.contextmanager
def traced(stage: Stage, application: Application, *options: str) -> Iterator[Path]:
    """Have strace attached to all threads of a program; gives the path of its log."""
    log = stage.folder / "strace"
    tasks = Path(f"/proc/{application.process.pid}/task")
    tracer = stage.start(
        ["strace", "-f", "-qq", "-p", str(application.process.pid), "-o", str(log), *options]
    )
    wait_until(
        lambda: tracer.poll() is not None or all(_is_traced(task) for task in tasks.iterdir()), "attached"
    )
    try:
        yield log
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)


def _is_traced(task: Path) -> bool:
    return re.search(r"^TracerPid:\t[1-9]", (task / "status").read_text(), re.MULTILINE) is not None
