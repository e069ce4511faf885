"""What can go wrong with a spool: the errors, and the one table of what an error of SQLite's means.

Promises that whatever SQLite, diskcache or the disk raise becomes one of these errors, and that no error is
taken for damage that may pass by itself: a damaged spool is put aside.
"""

from __future__ import annotations

import errno
import re
import shutil
import sqlite3
from pathlib import Path

from .._errors import PlumelogError
from ._files import LOG_BYTES

TIMEOUT_SECONDS = 1.0  # that a call waits for another program

# A quota of the disk that is exhausted is an input/output error to SQLite.
_NO_ROOM = re.compile("disk is full|disk I/O error")
NO_ROOM_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

# What SQLite calls operational is often the state of the disk or of another program, and else a database that
# no diskcache made.
_PASSING = re.compile(
    "locked|busy|full|disk I/O|unable to open|read-?only|memory|interrupted|cannot start a trans"
)


class SpoolError(PlumelogError):
    """The disk did not do what was asked; nothing was changed."""


class SpoolFull(SpoolError):
    """There may be no room on the disk."""


class SpoolVanished(SpoolError):
    """The spool's files were deleted or replaced while it was open; what was in them is gone from here."""


class SpoolDamaged(SpoolError):
    """The database is not one that can be read."""


def translated(
    error: Exception, path: Path, doing: str, *, timed_out: type[Exception], opening: bool = False
) -> SpoolError:
    """The error of ours that stands for a foreign one.

    Args:
        error: what was raised.
        path: where the spool lies.
        doing: what it could not be, as "written".
        timed_out: what diskcache raises where it waited in vain.
        opening: whether the spool was about to be opened.
    """
    if isinstance(error, timed_out):
        return (SpoolFull if _disk_is_short(path) else SpoolError)(
            f"the spool {path} could not be {doing}: no transaction could begin within "
            f"{TIMEOUT_SECONDS:g} s (it is locked by another program, read-only, or on a full disk)"
        )
    text = f"the spool {path} could not be {doing}: {error}"
    if _NO_ROOM.search(str(error)) or (isinstance(error, OSError) and error.errno in NO_ROOM_ERRNOS):
        return SpoolFull(text)
    if isinstance(error, sqlite3.OperationalError):
        return (SpoolError if _PASSING.search(str(error)) else SpoolDamaged)(text)
    if isinstance(error, UnicodeError):  # Python could not even read SQLite's message
        return SpoolDamaged(text)
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError):
        return SpoolDamaged(text)
    if opening and not isinstance(error, (OSError, MemoryError)):
        return SpoolDamaged(f"{text} ({type(error).__name__})")  # settings that no diskcache wrote
    return SpoolError(text)


def _disk_is_short(path: Path) -> bool:
    try:
        return shutil.disk_usage(path).free < 2 * LOG_BYTES
    except OSError:
        return False


def first_cause(error: Exception) -> Exception:
    """What SQLite said first.

    Where it ends a transaction by itself, as it does when the disk fills while a large row is written,
    diskcache wants to roll it back once more, and is told that there is none. That is no damage.
    """
    while "no transaction is active" in str(error) and isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error
