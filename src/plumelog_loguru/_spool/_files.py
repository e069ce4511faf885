"""What lies beside the rows of a part, and what all of it takes of the disk.

ballast   room that is given up when a full disk does not even let rows be deleted
marks     a few facts each, written in place, so that no full disk can stop it
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from .._json import dumps, loads
from ._lock import SAFE_OPEN

_MARK_BYTES = 256

# What the log beside the database takes: it is copied back when it has 256 pages, and is then written anew.
# It is larger where the last row before that was large, by less than that row.
LOG_BYTES = 260 * (4096 + 24)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a disk."""

    rows: int = 0
    fixed: int = 0  # all else: it is there whether many rows wait or few
    to_come: int = 0  # of both, what is reckoned with and not yet taken

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.rows + other.rows, self.fixed + other.fixed, self.to_come + other.to_come)


def footprint_of(path: Path) -> Footprint:
    """What a part takes, or a single file, seen from outside."""
    rows = fixed = 0
    with suppress(OSError):
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            return Footprint(fixed=found.st_size)
    for name, size in _sizes(path):
        if name == "spool/cache.db":
            rows += size
        else:
            fixed += size
    return Footprint(rows, fixed)


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Names below the directory and their sizes; what goes away meanwhile takes nothing."""
    todo = [""]
    while todo:
        folder = todo.pop()
        with suppress(OSError), os.scandir(path / folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(f"{folder}{entry.name}/")
                    else:
                        yield folder + entry.name, entry.stat(follow_symlinks=False).st_size


class Ballast:
    """A file that holds room, to be given up where deleting needs some: SQLite writes before it deletes."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes

    @property
    def missing_bytes(self) -> int:
        """What it has not got of its size: all or nothing."""
        return 0 if not self.size_bytes or self._there() >= self.size_bytes else self.size_bytes

    def _there(self) -> int:
        try:
            return os.lstat(self._path).st_size
        except OSError:
            return 0

    def make(self) -> None:
        """Take the room, unless it is held already.

        Raises:
            OSError: there is none; nothing is left of the try.
        """
        if not self.missing_bytes:
            return
        self.release()
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_OPEN, 0o600)
        try:
            os.fchmod(fd, 0o600)
            _fill(fd, self.size_bytes)
        except BaseException:
            self.release()
            raise
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Give the room back; whether there was any."""
        with suppress(OSError):
            self._path.unlink()
            return True
        return False


def _fill(fd: int, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size_bytes)
        return
    block = bytes(1 << 16)
    for begin in range(0, size_bytes, len(block)):
        os.write(fd, block[: size_bytes - begin])


class Mark:
    """A few facts in a small file, under a checksum. It is always written over in place."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """What was written last; nothing where that cannot be told."""
        try:
            with _opened(self._path, os.O_RDONLY) as fd:
                checksum, _, text = os.read(fd, _MARK_BYTES).partition(b" ")
            facts = loads(text) if checksum == b"%08x" % crc32(text) else None
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def write(self, **facts: int | str) -> None:
        """Keep these facts.

        Raises:
            OSError: that is not possible.
        """
        text = dumps(facts).ljust(_MARK_BYTES - 10) + b"\n"
        with _opened(self._path, os.O_WRONLY | os.O_CREAT) as fd:
            os.write(fd, b"%08x %b" % (crc32(text), text))

    def remove(self) -> None:
        """Take it away; no harm is done if it is gone."""
        with suppress(OSError):
            self._path.unlink()


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | SAFE_OPEN, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        if flags & os.O_CREAT:
            os.fchmod(fd, 0o600)
        yield fd
    finally:
        os.close(fd)


def is_plain_file(path: Path) -> bool:
    """Whether a file is there, and no link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def sync_directory(path: Path) -> None:
    """Have the names in a directory survive a power cut.

    Raises:
        OSError: the disk does not say so.
    """
    with suppress(PermissionError):  # Windows opens no directories
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_new(path: Path, data: bytes, *, fsync: bool = False) -> None:
    """Make a file with this content, which only its owner can read.

    Raises:
        OSError: it is there already, or that is not possible.
    """
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_OPEN, 0o600), "wb") as file:
        os.chmod(path, 0o600)
        file.write(data)
        if fsync:
            file.flush()
            os.fsync(file.fileno())
