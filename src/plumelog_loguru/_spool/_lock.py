"""The lock of a part: held by its owner for as long as the owner lives, whatever way it ends.

It is ``flock`` on a file of its own, which is never mapped (a mapping would keep the lock when the file is
closed) and holds nothing. The kernel releases it when the last descriptor goes: no process number to guess
at, no clock. A fork shares the descriptor, so a child must close its copy and never unlock.

A lock file can be removed, by its holder only. Whoever gets the lock of a file that is no longer at its path
holds nothing: so every taker compares the two, and begins again.

Where there is no ``flock`` (Windows), nothing is locked and nothing must ever be adopted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    LOCKS = False

    def _flock(fd: int) -> bool:
        return False

    def _flock_shared(fd: int) -> bool:
        return False

    def is_used_by_sqlite(path: Path) -> bool:
        """Whether another process has this database open, as far as that can be told."""
        return True

else:
    import fcntl

    LOCKS = True

    def _flock(fd: int) -> bool:
        return _try(fd, fcntl.LOCK_EX)

    def _flock_shared(fd: int) -> bool:
        return _try(fd, fcntl.LOCK_SH)

    def is_used_by_sqlite(path: Path) -> bool:
        """Whether another process has this database open, as far as that can be told."""
        try:
            fd = os.open(path, os.O_RDWR | SAFE_OPEN)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def _try(fd: int, kind: int) -> bool:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError:  # held by another, or a file system that has no locks: neither may be taken
            return False
        return True


# A planted link must not be followed, nor a planted pipe waited for.
SAFE_OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading that somebody may have put another thing in the place of.

    Raises:
        OSError: it is no plain file, or cannot be read.
    """
    file = open(os.open(path, os.O_RDONLY | SAFE_OPEN), "rb")  # noqa: SIM115  # the caller's
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return file


class PartLock:
    """A lock that is held, until it is released."""

    def __init__(self, path: Path, fd: int | None) -> None:
        self.path = path
        self._fd = fd  # None where there are no locks, and after the release

    @classmethod
    def create(cls, path: Path) -> PartLock | None:
        """Make the file and lock it. None: somebody who cleans up was quicker."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | SAFE_OPEN, 0o600)
        try:
            os.chmod(path, 0o600)
            if LOCKS and _flock(fd) and _is_at(path, fd):
                lock, fd = cls(path, fd), -1
                return lock
            return None if LOCKS else cls(path, None)
        finally:
            if fd >= 0:
                os.close(fd)

    @classmethod
    def take(cls, path: Path) -> PartLock | None:
        """Lock a file that is there. None: it is held, gone, or no plain file."""
        while LOCKS:
            try:
                fd = os.open(path, os.O_RDWR | SAFE_OPEN)
            except OSError:
                return None
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode) or not _flock(fd):
                    return None
                if _is_at(path, fd):
                    lock, fd = cls(path, fd), -1
                    return lock
            finally:
                if fd >= 0:
                    os.close(fd)
        return None

    def is_there(self) -> bool:
        """Whether the file is still at its path; True where there are no locks."""
        try:
            return self._fd is None or os.path.samestat(os.lstat(self.path), os.fstat(self._fd))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:  # the disk does not say; a part that is there must not be taken for deleted
            return True

    def release(self) -> None:
        """Let go of the lock; the file stays."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def release_in_child(self) -> None:
        """After a fork: close the child's copy. The lock belongs to the open file: the parent keeps it."""
        with suppress(OSError):
            self.release()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock; True also where that cannot be told.

    A taker that comes at this very moment can find the lock held by this question.
    """
    try:
        fd = os.open(path, os.O_RDONLY | SAFE_OPEN)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not _flock_shared(fd)
    finally:
        os.close(fd)


def locks_work(folder: Path) -> bool:
    """Whether locks tell the held from the free here; tried on a file that is not there before or after.

    Raises:
        OSError: the file cannot be made.
    """
    path = folder / "lock"
    lock = PartLock.create(path)
    try:
        if not LOCKS or lock is None:
            return False
        excludes = is_held(path) and PartLock.take(path) is None
        lock.release()
        return excludes and not is_held(path)
    finally:
        os.unlink(path)


def _is_at(path: Path, fd: int) -> bool:
    try:
        there = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(fd))
