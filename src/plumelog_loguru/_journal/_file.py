"""The file under a living journal, and how it is written: through a mapping, or with plain writes.

A page of a mapping that the disk has no room for kills the process that touches it, and that is the
application. So the whole file is given its room before it is mapped, and it is mapped only on file systems
that write a block again where it was; where a block that is written again needs new room, or where nobody can
tell, the file is written with ``pwrite``, which fails with an error, and read from a copy in memory.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

from .._mounts import file_system_in, read_mountinfo
from ._format import JournalError

_IN_PLACE = frozenset(("ext2", "ext3", "ext4", "tmpfs", "xfs"))


class PlainFile:
    """Writes with ``pwrite``."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def write(self, at: int, data: bytes) -> None:
        """Write at a place of the file.

        Raises:
            JournalError: it could not be written whole.
        """
        try:
            written = os.pwrite(self._descriptor, data, at)
        except OSError as error:
            raise JournalError(f"the journal {self._path} cannot be written ({error.strerror})") from error
        if written != len(data):
            raise JournalError(f"the journal {self._path} cannot be written (no room)")

    def close(self) -> None:
        """Close the file; a later write fails, and meets no other file under its number."""
        descriptor, self._descriptor = self._descriptor, -1
        with suppress(OSError):
            os.close(descriptor)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path; None: there is none.

    Raises:
        OSError: the disk does not say.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def make_file(path: Path, size: int, mapped: bool | None) -> tuple[mmap.mmap, PlainFile | None]:
    """Make a file of zeros, for this user alone.

    Args:
        path: where; nothing may be there, no symbolic link either.
        size: bytes, all of which the disk has room for afterwards.
        mapped: None leaves the choice to the file system.

    Returns:
        The mapping; or a copy in memory, and what writes the file beside it.

    Raises:
        JournalError: it cannot be made; nothing is left behind.
    """
    # Neither macOS nor Windows has it.
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        raise JournalError(f"the journal {path} cannot be made: this system cannot reserve room on a disk")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be made ({error.strerror})") from error
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        allocate(descriptor, 0, size)
        if mapped is None:
            mapped = file_system_in(read_mountinfo(), os.path.realpath(path)) in _IN_PLACE
        if not mapped:
            return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE), PlainFile(path, descriptor)
        ring = mmap.mmap(descriptor, size)
    except BaseException as error:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(path)
        if isinstance(error, (OSError, ValueError)):
            reason = getattr(error, "strerror", None) or error
            raise JournalError(f"the journal {path} cannot be made ({reason})") from error
        raise
    os.close(descriptor)  # the mapping keeps one of its own
    return ring, None
