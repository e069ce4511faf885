"""The files of one spool's database: made, and looked over, before SQLite may touch them.

Promises:

- What is made can be read by its owner only, from the first moment on.
- No link is followed: it could lead to somebody else's files.
- A log that SQLite would silently cut short is found.
- SQLite finds no journal to play back: that would run what an enemy planted, and delete the file it names.
- Nothing that SQLite runs by itself, as a trigger, is in the database, but what diskcache made.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ._failures import TIMEOUT_SECONDS, SpoolDamaged, SpoolError
from ._files import sync_directory
from ._salvage import is_broken_inside

DATABASE = "cache.db"  # diskcache's name for it
FILES = (DATABASE, DATABASE + "-wal", DATABASE + "-shm")
SQLITE_JOURNAL = DATABASE + "-journal"  # of SQLite's, while it makes the database; never once there is a log
_PAGE_BYTES = 4096
EMPTY_PAGES = 7  # of a database without rows


@dataclass(frozen=True, slots=True)
class Schema:
    """What is in a database besides rows."""

    definitions: frozenset[tuple[object, ...]]
    settings: frozenset[object]  # their names

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> Schema:
        """What is in this one."""
        definitions = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = {name for kind, name, _, _ in definitions if kind == "table"}
        settings = connection.execute("SELECT key FROM Settings").fetchall() if "Settings" in tables else []
        return cls(frozenset(definitions), frozenset(name for (name,) in settings))


def decode_leniently(text: bytes) -> str:
    """A key with a flipped bit may be no UTF-8; it must not end the walk over all the others."""
    return text.decode("utf-8", "replace")


def identity(path: Path) -> tuple[int, int] | None:
    """Which file the database is; None: there is none.

    Raises:
        OSError: the disk does not say; a file that is there must not be taken for deleted.
    """
    try:
        found = os.lstat(path / DATABASE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def prepare_files(path: Path, *, fsync: bool) -> None:
    """Make the directory and the empty database with narrow rights; SQLite gives its other files the same."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    refuse_links(path)
    refuse_journal(path)
    os.chmod(path, 0o700)
    with suppress(FileExistsError):
        os.close(os.open(path / DATABASE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if fsync:  # also what a process made that died before it came to this
        sync_directory(path)
        sync_directory(path.parent)
    for name in FILES:
        with suppress(FileNotFoundError):
            os.chmod(path / name, 0o600)


def check_log(path: Path) -> None:
    """SQLite takes a damaged log for one that ends there, and forgets what follows without a word."""
    log = path / f"{DATABASE}-wal"
    if is_broken_inside(log):
        raise SpoolDamaged(f"the log of the spool {path} is damaged")
    refuse_lone_log(path)


def refuse_lone_log(path: Path) -> None:
    """SQLite deletes the log of a database that is empty, even if it is only asked to read."""
    with suppress(FileNotFoundError):
        # It takes a single byte for none.
        if os.lstat(path / f"{DATABASE}-wal").st_size and os.lstat(path / DATABASE).st_size <= 1:
            raise SpoolDamaged(f"the database of the spool {path} is gone, and its log is there")


def refuse_links(path: Path) -> None:
    """A link could make us read, write or delete somebody else's files."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise SpoolError(f"the spool {path} is no directory; a symbolic link is refused")
    for name in FILES:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path / name).st_mode):
                raise SpoolError(f"{path / name} is no regular file; a symbolic link is refused")


def refuse_journal(path: Path) -> None:
    """SQLite would play it back, and delete the file that it names."""
    if os.path.lexists(path / SQLITE_JOURNAL):
        raise SpoolDamaged(f"the spool {path} holds a journal of SQLite's, which no owner leaves there")


def strangers_in(path: Path) -> list[str]:
    """Names in a spool's directory that no owner leaves there.

    What the maker of a database leaves that died before the first row is removed.
    """
    refuse_links(path)
    names = sorted(set(os.listdir(path)).difference(FILES))
    if names == [SQLITE_JOURNAL] and is_unfinished(path):
        for name in (DATABASE, SQLITE_JOURNAL):
            (path / name).unlink(missing_ok=True)
        return []
    return names


def is_unfinished(path: Path) -> bool:
    """Whether a database has a journal, no log and no room for a row: its maker is at it, or died."""
    try:
        if not stat.S_ISREG(os.lstat(path / SQLITE_JOURNAL).st_mode) or os.path.lexists(
            path / f"{DATABASE}-wal"
        ):
            return False
        return os.lstat(path / DATABASE).st_size <= _PAGE_BYTES
    except FileNotFoundError:
        return os.path.lexists(path / SQLITE_JOURNAL) and not os.path.lexists(path / DATABASE)


def check_writable(path: Path, known: Schema) -> None:
    """Find out in a second whether the database can be written: diskcache would try for a minute.

    And whether nothing is in it that diskcache did not make: triggers run when a row is written, and settings
    are given to SQLite.
    """
    with closing(
        sqlite3.connect(path / DATABASE, timeout=TIMEOUT_SECONDS, isolation_level=None)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        found = Schema.read(connection)
    if not (found.definitions <= known.definitions and found.settings <= known.settings):
        raise SpoolDamaged(f"the database of the spool {path} holds what no owner puts there")
