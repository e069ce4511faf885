"""A look into a spool from outside: while its owner uses it, or when it can no longer be opened.

Promises that nothing is changed and nothing left behind. Nobody's lock is asked for.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from ._database import (
    DATABASE,
    EMPTY_PAGES,
    check_log,
    decode_leniently,
    is_unfinished,
    refuse_journal,
    refuse_links,
    refuse_lone_log,
)
from ._failures import TIMEOUT_SECONDS, SpoolDamaged, SpoolError, translated
from ._lock import is_held, open_plain
from ._row import HEAD_BYTES, CorruptRow, NewerFormat, Row, RowKey, decode_row
from ._salvage import key_of, salvage_entries

_T = TypeVar("_T")

_NEVER = 1 << 62
_INDEX_HEAD_BYTES = 48  # which stands there twice
_TRIES = 5
_PAUSE_SECONDS = 0.02


def salvage(path: Path) -> Iterator[tuple[RowKey, bytes | None]]:
    """The rows that can be found in a store that cannot be opened, as their keys rise; None: it is damaged.

    Raises:
        OSError: its files cannot be read.
    """
    newest = 0
    entries = ((one, key_of(one.key)) for one in salvage_entries(path / DATABASE, path / f"{DATABASE}-wal"))
    here = next(entries, None)
    while here is not None:
        (one, key), here = here, next(entries, None)
        if one.row is None:
            if key is not None:
                yield key, None
            continue
        before = _NEVER if here is None or here[1] is None or here[0].row is None else here[1].counter
        # The bit that flipped may be one of the key's: then the row comes next behind the one before it.
        if key is None or not (newest < key.counter < before or before <= newest < key.counter):
            key = RowKey(newest + 1, 0, len(one.row))
        with suppress(NewerFormat):
            key = replace(key, records=len(decode_row(one.row).batch.values))
        newest = key.counter
        yield key, one.row


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store holds, seen without touching it."""

    batches: int
    records: int
    bytes: int
    first_ms: int | None = None  # dtTime of the oldest record, epoch milliseconds; None where unknown
    last_ms: int | None = None  # of the newest


def look_into(path: Path) -> StoreFacts:
    """Read what a store holds; changes nothing, also beside its owner.

    Raises:
        SpoolError: it cannot be read.
    """
    return asked(path, _facts)


def _facts(path: Path, connection: sqlite3.Connection | None) -> StoreFacts:
    if connection is None:
        return _facts_without_sqlite(path)
    if not has_rows(connection):
        return StoreFacts(0, 0, 0)
    batches = records = size = 0
    for (text,) in connection.execute(_ALL_KEYS):
        if key := RowKey.parse(text):
            batches, records, size = batches + 1, records + key.records, size + key.size
    first, last = (_decoded(connection.execute(_ONE_ROW.format(order)).fetchone()) for order in _ENDS)
    return StoreFacts(
        batches,
        records,
        size,
        first_ms=first.first_ms or None if first else None,
        last_ms=last.last_ms or None if last else None,
    )


def rows_of(
    path: Path, *, whole: bool = True, is_live: bool = False
) -> Iterator[tuple[RowKey, bytes | None]]:
    """The rows of a store as their keys rise, up to the newest there is now; None: it is damaged.

    Where SQLite gives the database up, what is intact in it is found without. Nothing is kept open or locked
    between two rows: who reads them may take his time.

    Args:
        path: the store; not one that this process has open.
        whole: whether all of a row is wanted, and not only its first bytes.
        is_live: whether an owner may be writing.

    Raises:
        SpoolError: it cannot be read.
    """
    newest = 0
    try:
        for key, row in _rows_by_sqlite(path, whole=whole, is_live=is_live):
            yield key, row
            newest = key.counter
    except SpoolDamaged:
        with _careful(path):
            yield from (found for found in salvage(path) if found[0].counter > newest)
    except SpoolError:
        if os.path.lexists(path):
            raise
        # Its owner has delivered all, and removed it.


def _rows_by_sqlite(path: Path, *, whole: bool, is_live: bool) -> Iterator[tuple[RowKey, bytes | None]]:
    """The same; raises SpoolDamaged where something is not as an owner leaves it."""
    if not is_live:
        with _careful(path):
            check_log(path)  # SQLite would take it for one that ends there
    before: tuple[RowKey, bytes | None] | None = None
    rowid, end = 0, asked(path, _newest_rowid)
    while found := asked(path, partial(_some_rows, after=rowid, end=end, whole=whole)):
        for _, raw, text, value in found:
            key = RowKey.parse(text) if raw == 1 else None
            # A key with a flipped bit is out of order, and is not believed before the next one is seen.
            if key is None or (before is not None and key <= before[0]):
                raise SpoolDamaged(f"the rows of the spool {path} are out of order")
            if before is not None:
                yield before
            before = key, value if isinstance(value, bytes) else None
        rowid = found[-1][0]
    if before is not None:
        yield before


def _newest_rowid(path: Path, connection: sqlite3.Connection | None) -> int:
    if connection is None:
        raise SpoolDamaged(f"the log of the spool {path} has lost its index")
    if not has_rows(connection):
        return 0
    (found,) = connection.execute("SELECT max(rowid) FROM Cache").fetchone()
    return found or 0


def _some_rows(
    path: Path, connection: sqlite3.Connection | None, *, after: int, end: int, whole: bool
) -> list[tuple[int, object, object, object]]:
    if connection is None:
        raise SpoolDamaged(f"the log of the spool {path} has lost its index")
    if not end:
        return []
    rows: list[tuple[int, object, object, object]] = []
    size = 0
    for row in connection.execute(_ROWS[whole], (after, end, _ROWS_AT_ONCE)):
        rows.append(row)
        size += len(row[3]) if isinstance(row[3], bytes) else 0
        if size > _BYTES_AT_ONCE:
            break
    return rows


_ENDS = ("ASC", "DESC")
_ALL_KEYS = "SELECT key FROM Cache WHERE raw = 1 AND typeof(key) = 'text' ORDER BY rowid"
_ONE_ROW = "SELECT value FROM Cache WHERE raw = 1 ORDER BY rowid {} LIMIT 1"

_ROWS_AT_ONCE, _BYTES_AT_ONCE = 1000, 1 << 20
_ROW = (
    "SELECT rowid, raw, key, {} FROM Cache NOT INDEXED WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
)
_ROWS = {True: _ROW.format("value"), False: _ROW.format(f"substr(value, 1, {HEAD_BYTES})")}


def asked(path: Path, question: Callable[[Path, sqlite3.Connection | None], _T]) -> _T:
    """An answer by a connection that changes nothing; by none where SQLite has none.

    Without a log nobody has the database open, and what SQLite would make to go with one must not be left
    behind: the file is taken as it is. With a log, that would show an old state. Then its index must be
    there, and is only read; of what a dead owner left SQLite makes one in memory.
    """
    for tries_left in reversed(range(_TRIES)):
        before = _state(path)
        try:
            with _careful(path), _connected(path, before) as connection:
                answer = question(path, connection)
            if before.is_shared or _state(path) == before:
                return answer
        except SpoolError:
            # An owner that begins, or ends, has the files in all kinds of states.
            if not tries_left or (not before.is_shared and _state(path) == before):
                raise
        time.sleep(_PAUSE_SECONDS)
    raise SpoolError(f"the spool {path} cannot be read: it changes too fast")


@contextmanager
def _connected(path: Path, state: _State) -> Iterator[sqlite3.Connection | None]:
    refuse_links(path)
    if is_unfinished(path):
        uri = "file::memory:"
    else:
        refuse_journal(path)
        refuse_lone_log(path)
        if state.log_bytes and not state.has_index:
            yield None
            return
        mode = "readonly_shm=1" if state.is_shared else "immutable=1"
        uri = f"{(path / DATABASE).absolute().as_uri()}?mode=ro&{mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT_SECONDS)) as connection:
        connection.text_factory = decode_leniently
        yield connection


@dataclass(frozen=True, slots=True)
class _State:
    """What tells the files of a database from a later state of them."""

    database: tuple[int, int, int] | None  # which file, its bytes, and when it was written
    log_bytes: int | None  # None: there is none
    has_index: bool  # the log

    @property
    def is_shared(self) -> bool:
        """Whether somebody may be writing, and SQLite keeps what he writes from what is read."""
        return self.log_bytes is not None and self.has_index


def _state(path: Path) -> _State:
    database = log_bytes = None
    with suppress(FileNotFoundError):
        found = os.lstat(path / DATABASE)
        database = found.st_ino, found.st_size, found.st_mtime_ns
    with suppress(FileNotFoundError):
        log_bytes = os.lstat(path / f"{DATABASE}-wal").st_size
    return _State(database, log_bytes, _has_index(path))


def _has_index(path: Path) -> bool:
    """Whether the log's index is there, and says what is in the log.

    An owner that dies between beginning a log anew and its first commit leaves one that does not: SQLite,
    which may not write here, would wait a minute for somebody to put it right.
    """
    index = path / f"{DATABASE}-shm"
    with suppress(OSError):
        if not os.lstat(index).st_size:  # it would be given other rights
            return False
        if is_held(path.with_name("lock")):
            return True  # by us, perhaps: to close a file in which SQLite has locks would give them up
        with open_plain(index) as file, open_plain(path / f"{DATABASE}-wal") as log:
            first, second = file.read(_INDEX_HEAD_BYTES), file.read(_INDEX_HEAD_BYTES)
            return first == second and first[32:40] == log.read(24)[16:]  # the salts of the log
    return False


def has_rows(connection: sqlite3.Connection) -> bool:
    """Whether there is the table of the rows. Its maker may be about to make it, or have died before."""
    found = connection.execute("SELECT type FROM sqlite_master WHERE name = 'Cache'").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if found != ("table",) and (found or pages > EMPTY_PAGES):
        raise SpoolDamaged("there is no table of rows in a spool")
    return found is not None


@contextmanager
def _careful(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeError) as error:
        raise translated(error, path, "read", timed_out=TimeoutError) from error


def _facts_without_sqlite(path: Path) -> StoreFacts:
    facts = StoreFacts(0, 0, 0)
    for key, data in salvage(path):
        row = _decoded((data,))
        facts = StoreFacts(
            batches=facts.batches + 1,
            records=facts.records + key.records,
            bytes=facts.bytes + key.size,
            first_ms=facts.first_ms or (row.first_ms if row else None) or None,
            last_ms=(row.last_ms if row else None) or facts.last_ms,
        )
    return facts


def _decoded(found: tuple[object] | None) -> Row | None:
    if found is None or not isinstance(found[0], bytes):
        return None
    try:
        return decode_row(found[0])
    except (CorruptRow, NewerFormat):
        return None
