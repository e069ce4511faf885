"""Files that outlive their processes, byte by byte, and what the library calls on them.

A process may die before a write, after it, or in the middle of it, when half of the bytes are there. Writes
through a mapping cannot fail, plain ones can.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from plumelog_loguru._batch import AttemptedBy, BatchId
from plumelog_loguru._journal import Journal, JournalError, Run
from plumelog_loguru._journal._file import PlainFile
from plumelog_loguru._spool import SpoolError

if TYPE_CHECKING:
    from .world import Process, World

SPOOL_DIR = Path("/simulated")


class SimulatedOs:
    """Stands for the `os` module where the library looks into a part."""

    O_RDONLY, O_RDWR, O_NOFOLLOW, O_NONBLOCK, O_CLOEXEC = (
        os.O_RDONLY,
        os.O_RDWR,
        os.O_NOFOLLOW,
        os.O_NONBLOCK,
        os.O_CLOEXEC,
    )

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[int, bytearray] = {}
        self._opened = 2
        self.plain_writes_are_sure = False
        self.urandom = world.dice.randbytes
        self.path = SimpleNamespace(lexists=self._exists)

    def _exists(self, path: Path) -> bool:
        return self._world.disk.part_at(path.parent) is not None and path.name in self.listdir(path.parent)

    def listdir(self, path: Path) -> list[str]:
        files = self._world.disk.part_at(path)
        if files is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return ["lock", "part.json", *files.journals, *files.marks, *["spool"] * files.has_database]

    def lstat(self, path: Path) -> SimpleNamespace:
        journal = self._journals_beside(path).get(path.name)
        if journal is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return SimpleNamespace(st_dev=1, st_ino=id(journal))

    def _journals_beside(self, path: Path) -> dict[str, bytearray]:
        files = self._world.disk.part_at(path.parent)
        return {} if files is None else files.journals

    def open(self, path: Path, flags: int) -> int:
        self._may_fail_to_read()
        data = self._journals_beside(path).get(path.name)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return self.descriptor_of(data)

    def descriptor_of(self, data: bytearray) -> int:
        self._opened += 1
        self._open[self._opened] = data
        return self._opened

    def fstat(self, descriptor: int) -> Any:
        return SimpleNamespace(st_mode=stat.S_IFREG, st_size=len(self._open[descriptor]))

    def pread(self, descriptor: int, size: int, at: int) -> bytes:
        return bytes(self._open[descriptor][at : at + size])

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        if not self.plain_writes_are_sure and self._world.disk.draws_failure():
            if self._world.dice.random() >= self._world.disk.done_though_failed:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[: len(data) // 2]
        overwrite(self._open[descriptor], at, data)
        return len(data)

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def unlink(self, path: Path) -> None:
        process = current_process()
        process.may_die("before it", "removed a journal")
        if self._journals_beside(path).pop(path.name, None) is not None:
            self._world.tell(f"{process} removed {path.parent.name[-4:]}/{path.name}")
        process.may_die("after it", "removed a journal")

    def _may_fail_to_read(self) -> None:
        try:
            self._world.disk.check_read()
        except SpoolError as error:
            raise OSError(errno.EIO, "Input/output error") from error


def current_process() -> Process:
    """The process whose code runs."""
    from .world import PROCESS

    return PROCESS.get()


def overwrite(file: bytearray, at: int, data: bytes) -> None:
    """Write into a file, unless the process dies before that is done."""
    process = current_process()
    last = process.draws_last_write()
    if last is None:
        file[at : at + len(data)] = data
        return
    written = int(len(data) * last)
    file[at : at + written] = data[:written]
    process.world.torn += 0 < written < len(data)
    process.die(f"with {written} of {len(data)} bytes written at {at} of a journal")


class Memory:
    """A mapping: of a file, or of nothing."""

    def __init__(self, data: bytearray, *, file: bool = False) -> None:
        self._data: bytearray | None = data
        self._is_file = file

    def __setitem__(self, place: slice, data: bytes) -> None:
        assert self._data is not None, "written after it was closed"
        if self._is_file:
            overwrite(self._data, place.start, data)
        else:
            self._data[place] = data

    def __getitem__(self, place: slice) -> bytes:
        assert self._data is not None, "read after it was closed"
        return bytes(self._data[place])

    def __len__(self) -> int:
        assert self._data is not None
        return len(self._data)

    def close(self) -> None:
        self._data = None


SIMULATED_MMAP = SimpleNamespace(mmap=lambda _, size, flags: Memory(bytearray(size)), MAP_PRIVATE=0)


def make_simulated_file(path: Path, size: int, mapped: bool | None) -> tuple[Memory, PlainFile | None]:
    """Stands for the library's `make_file`."""
    process = current_process()
    world = process.world
    process.may_die("before it", "made a journal")
    files = world.disk.part_at(path.parent)
    if files is None or world.disk.draws_failure():
        raise JournalError("it cannot be made")
    assert path.name not in files.journals
    data = files.journals[path.name] = bytearray(size)
    world.tell(f"{process} made {path.parent.name[-4:]}/{path.name}")
    process.may_die("after it", "made a journal")
    if world.disk.mapped:
        return Memory(data, file=True), None
    return Memory(bytearray(size)), PlainFile(path, world.os.descriptor_of(data))


class SimulatedJournal(Journal):
    """The real journal; the thread that appends to it may be interrupted, before and after.

    Where a cut cannot be written the library delivers all the same, and a crash may then double what it
    delivered. So this does not happen here.
    """

    __slots__ = ()

    def append(self, value: bytes) -> bytes | None:  # type: ignore[override]
        process = current_process()
        process.may_be_interrupted("before it wrote to the journal")
        frame = super().append(value)
        if frame is not None:
            process.may_be_interrupted("between journal and queue")
        return frame

    def cut(self, runs: Sequence[Run], batch_id: BatchId, attempted_by: AttemptedBy, at_ms: int) -> None:
        simulated_os = current_process().world.os
        simulated_os.plain_writes_are_sure = True
        try:
            super().cut(runs, batch_id, attempted_by, at_ms)
        finally:
            simulated_os.plain_writes_are_sure = False


class SimulatedMark:
    """Stands for the library's `Mark`."""

    def __init__(self, marks: dict[str, dict[str, int | str]], name: str) -> None:
        self._marks = marks
        self._name = name

    def read(self) -> dict[str, int | str]:
        return self._marks.get(self._name, {})

    def write(self, **facts: int | str) -> None:
        process = current_process()
        try:
            process.world.disk.write(
                process, f"noted {self._name}", lambda: self._marks.__setitem__(self._name, facts)
            )
        except SpoolError as error:
            raise OSError(errno.ENOSPC, "No space left on device") from error

    def remove(self) -> None:
        self._marks.pop(self._name, None)
