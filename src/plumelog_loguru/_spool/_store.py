"""The rows of one spool, in the order in which they came, in a diskcache directory.

Promises:

- A row is there until it is deleted: diskcache is a cache, but nothing here is ever evicted, expired or
  culled.
- Opening a spool that an enemy wrote runs none of their code: keys are texts and values are bytes, and a
  pickle is passed by without being read (CVE-2025-69872).
- A failed call has changed nothing, and no call waits longer than about a second: ``retry=True`` waits for
  ever.
- Files that were deleted or replaced under us are noticed. SQLite itself goes on writing into the void.

Assumes that one thread makes every call, and that the caller holds the lock of the part in which the store
lies: nobody else writes here. Rows keep SQLite's own order (rowid); their keys carry a counter that rises in
that order and never comes from a clock, and the sizes, so that totals are known without reading a value.

This is the only module that knows diskcache, and imports it late: that also pulls in Django, where Django is
installed.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import stat
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import PlumelogError
from ._files import sync_directory
from ._row import LEVELS, CorruptRow, NewerFormat, Row, decode_row
from ._salvage import Found, is_broken_inside, salvage_entries

if TYPE_CHECKING:
    import diskcache

DATABASE = "cache.db"  # diskcache's name for it
FILES = (DATABASE, DATABASE + "-wal", DATABASE + "-shm")

_TIMEOUT_SECONDS = 1.0
_READ_AHEAD = 100  # keys
_MOST_FOREIGN = 1000  # entries that are not ours, before the whole database is given up

# Pages of a database without rows.
_EMPTY_PAGES = 7
# What the log beside the database takes: it is copied back when it has 256 pages, and is then written anew.
# It is larger where the last row before that was large, by less than that row.
LOG_BYTES = 260 * (4096 + 24)

# Settings live in the database and the next opener's win, so all of them are given at every opening.
_SETTINGS: dict[str, int | str] = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "tag_index": 0,
    "disk_min_file_size": 2**31 - 1,  # values above it would go into files of their own, without any fsync
    "disk_pickle_protocol": 4,  # nothing is pickled
    "sqlite_journal_mode": "wal",
    "sqlite_synchronous": 1,
    "sqlite_auto_vacuum": 1,  # give disk space back as rows are delivered
    "sqlite_mmap_size": 0,  # reading a mapped file that was truncated is SIGBUS
    "sqlite_cache_size": 256,  # pages; the default adds 34 MiB to the process
    "sqlite_wal_autocheckpoint": 256,  # pages, so 1 MiB: the log stays about as large as the largest row
}


class SpoolError(PlumelogError):
    """The disk did not do what was asked; nothing was changed."""


class SpoolFull(SpoolError):
    """There may be no room on the disk."""


class SpoolVanished(SpoolError):
    """The spool's files were deleted or replaced while it was open; what was in them is gone from here."""


class SpoolDamaged(SpoolError):
    """The database is not one that can be read."""


@dataclass(frozen=True, slots=True, order=True)
class RowKey:
    """The place of a row in the order of its part, and what must be known of it without reading it."""

    counter: int
    records: int
    size: int  # bytes, when it was first written
    level: str | None = field(default=None, compare=False)  # see `Row`; None: an earlier version wrote it
    age_ms: int | None = field(default=None, compare=False)  # what the part's clock showed then

    def __str__(self) -> str:
        text = f"{self.counter:016d}.{self.records}.{self.size}"
        if self.level is None or self.age_ms is None:
            return text
        return f"{text}.{LEVELS.index(self.level)}.{self.age_ms}"

    @classmethod
    def parse(cls, text: object) -> RowKey | None:
        """Read what ``str`` wrote; None for anything else."""
        found = _KEY.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            return None
        counter, records, size, level, age_ms = found.groups()
        if level is None:
            return cls(int(counter), int(records), int(size))
        return cls(int(counter), int(records), int(size), LEVELS[int(level)], int(age_ms))


_KEY = re.compile(r"([0-9]{16})\.([0-9]{1,9})\.([0-9]{1,10})(?:\.([0-4])\.([0-9]{1,15}))?")


@cache
def import_diskcache() -> tuple[Callable[..., diskcache.Cache], type[Exception]]:
    """Import diskcache; returns what opens a directory with it, and the error that tells of a time-out.

    What opens it takes the directory and settings.
    """
    import diskcache

    class BytesDisk(diskcache.Disk):
        def put(self, key: Any) -> tuple[Any, bool]:
            if type(key) is not str:
                raise TypeError("a key of the spool is a text")
            return key, True

        def get(self, key: Any, raw: Any) -> Any:
            # None stands for a key that is not ours: raising would end the walk over all the others.
            return key if raw == 1 and type(key) is str else None

        def store(self, value: Any, read: Any, key: Any = None) -> tuple[int, int, str | None, Any]:
            if type(value) is not bytes or read:
                raise TypeError("a value of the spool is bytes")
            return super().store(value, False, key)

        def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:
            if mode != _MODE_RAW or type(value) is not bytes:
                raise CorruptRow("a row of the spool holds something else than bytes")
            return value

    class SpoolCache(diskcache.Cache):
        def __init__(self, directory: str, **settings: int | str) -> None:
            try:
                super().__init__(directory, timeout=_TIMEOUT_SECONDS, disk=BytesDisk, **settings)
            except BaseException:
                self.close()  # or a connection is left to the garbage collector
                raise

    return SpoolCache, diskcache.Timeout


_MODE_RAW = 1
_NEVER = 1 << 62


class Store:
    """Rows on disk: append, walk, read, delete."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        """Open the store in this directory, or make it.

        Args:
            path: the directory.
            fsync: a call that writes returns once it is on the disk itself.

        Raises:
            SpoolDamaged: there is something that is no readable database of ours.
            SpoolError: it cannot be opened now.
        """
        self.path = path
        self.batches = 0
        self.records = 0
        self.bytes = 0  # of all rows, as they were first written
        self.bytes_by_level: Counter[str | None] = Counter()
        self.age_ms = 0  # of the newest row whose key tells it
        self.foreign = 0  # entries that we did not write or cannot reach: never touched
        self._newest = 0  # counter
        self._unwritten: set[RowKey] = set()  # keys that were given, whose rows are not known to be there
        self._ahead: list[RowKey] = []  # the oldest rows there are, in order, as far as they have been read
        self._read_up_to = 0  # counter
        self._walk: Iterator[RowKey] | None = None
        self._check_each = False
        self._cache: diskcache.Cache | None = None
        open_cache, self._timed_out = import_diskcache()
        try:
            _prepare_files(path, fsync=fsync)
            _check_log(path)
            self._identity = _identity(path)
            _check_writable(path)
            settings = _SETTINGS | {"sqlite_synchronous": 2} if fsync else _SETTINGS
            self._cache = open_cache(str(path), **settings)
            # Held here as well: diskcache keeps it in a thread-local, and a fork clears those of other
            # threads in the child, which would close it there.
            self._connection = self._cache._con
            # A key with a flipped bit may be no UTF-8; it must not end the walk over all the others.
            self._connection.text_factory = _decode_leniently
            wrong = [name for name, value in settings.items() if getattr(self._cache, name) != value]
            if wrong:
                raise SpoolDamaged(f"the spool {path} does not keep its settings ({', '.join(wrong)})")
            self._page_bytes = self._pragma("page_size")
            self.empty_bytes = _EMPTY_PAGES * self._page_bytes
            self._count()
            if len(self._cache) != self.batches + self.foreign:
                raise SpoolDamaged(f"the spool {path} does not hold as many rows as it says")
        except BaseException as error:
            self.close()
            if isinstance(error, PlumelogError) or not isinstance(error, Exception):
                raise
            raise self._translated(_first_cause(error), "opened", opening=True) from error

    def bytes_on_disk(self) -> int:
        """What the rows take in the database, in bytes: whole pages, also of rows that were passed by.

        Raises:
            SpoolError: that cannot be told now.
        """
        with self._careful("read"):
            pages = self._pragma("page_count")
        return max(self.bytes, pages * self._page_bytes - self.empty_bytes)

    # ---------------------------------------------------------------- writing

    def append(self, row: bytes, records: int) -> RowKey:
        """Add a row behind all others."""
        key = self.new_key(records, len(row))
        self.put(key, row)
        return key

    def new_key(self, records: int, size: int, level: str | None = None, age_ms: int | None = None) -> RowKey:
        """The place behind all others, for a row of this size in bytes; it is given once."""
        self._newest += 1
        key = RowKey(self._newest, records, size, level, age_ms)
        self._unwritten.add(key)
        return key

    def put(self, key: RowKey, row: bytes) -> None:
        """Write a row in its place; what is there is replaced, be it by a write that was said to fail."""
        with self._careful("written") as spool:
            spool.set(str(key), row)
        self._written(key)

    def restore(self, key: RowKey, row: bytes) -> None:
        """Write a row under the key that it had in another store; keys come as they rise."""
        self._newest = key.counter
        self._unwritten.add(key)
        self.put(key, row)

    @property
    def newest_given(self) -> int:
        """The counter that was given last."""
        return self._newest

    def continue_after(self, counter: int) -> None:
        """Give no key up to this counter: others may know them."""
        self._newest = max(self._newest, counter)

    def find(self, key: RowKey) -> bool:
        """Whether a row is there, after a write that failed: some are done all the same."""
        with self._careful("read") as spool:
            found = str(key) in spool
        if found:
            self._written(key)
        return found

    def awaits_row_before(self, key: RowKey) -> bool:
        """Whether an older key was given, whose row is not known to be there."""
        return any(unwritten < key for unwritten in self._unwritten)

    def _written(self, key: RowKey) -> None:
        if key not in self._unwritten:
            return
        self._unwritten.remove(key)
        self._add(key)
        if key.counter <= self._read_up_to and key not in self._ahead:
            insort(self._ahead, key)  # it was looked for before it was there

    def delete(self, key: RowKey) -> None:
        """Delete a row; no harm is done if it is gone."""
        with self._careful("written") as spool:
            deleted = spool.delete(str(key))
        if key.counter > self._read_up_to:
            self._walk = None  # diskcache reads keys in pages: it may have read this one already
        self._forget(key, counted=deleted)

    def pass_by(self, key: RowKey) -> None:
        """Take a row that was peeked at for gone, though its files keep it until the next opening."""
        self._forget(key, counted=False)

    def _forget(self, key: RowKey, *, counted: bool) -> None:
        place = bisect_left(self._ahead, key)
        if place < len(self._ahead) and self._ahead[place] == key:
            del self._ahead[place]
            counted = True
        if key in self._unwritten:
            self._unwritten.remove(key)
        elif counted:
            self._add(key, -1)

    def shrink_log(self) -> None:
        """Give back what the log takes of the disk, as far as that is possible now. Never raises."""
        with suppress(SpoolError), self._careful("written"):
            self._pragma("wal_checkpoint(TRUNCATE)")

    # ---------------------------------------------------------------- reading

    def peek(self, after: RowKey | None = None) -> RowKey | None:
        """The oldest row, or the oldest behind ``after`` (which may be gone already)."""
        while True:
            place = 0 if after is None else bisect_right(self._ahead, after)
            if place < len(self._ahead):
                return self._ahead[place]
            if not self._read_ahead():
                return None

    def newest(self) -> RowKey | None:
        """The row behind all others."""
        with self._careful("read"):
            found = self._connection.execute(_NEWEST_KEY).fetchone()
        return RowKey.parse(found[0]) if found else None

    def read(self, key: RowKey) -> bytes:
        """The text of a row.

        Raises:
            CorruptRow: it is something else than a text.
            SpoolDamaged: it cannot be found or read, though its key is there.
        """
        with self._careful("read") as spool:
            row: bytes | None = spool.get(str(key))
        if row is None:
            raise SpoolDamaged(f"row {key} of the spool {self.path} cannot be found")
        return row

    def close(self) -> None:
        """Close the files. Never raises; the totals stay readable."""
        spool, self._cache, self._walk = self._cache, None, None
        if spool is not None:
            with suppress(sqlite3.Error):
                spool.close()

    # ---------------------------------------------------------------- inside

    def _add(self, key: RowKey, sign: int = 1) -> None:
        self.batches += sign
        self.records += sign * key.records
        self.bytes += sign * key.size
        self.bytes_by_level[key.level] += sign * key.size

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _count(self) -> None:
        """Add up what is there."""
        for self._check_each in (False, True):
            self.batches = self.records = self.bytes = 0
            self.bytes_by_level.clear()
            try:
                for key in self._keys():
                    self._newest = key.counter
                    self._add(key)
                    self.age_ms = key.age_ms or self.age_ms
                return
            except SpoolDamaged:
                # A flipped bit in a key is the likely reason. Then the index does not know that key: look up
                # each.
                if self._check_each:
                    raise

    def _keys(self) -> Iterator[RowKey]:
        """All keys as they rise. In a damaged database SQLite can walk in a circle; this never does."""
        spool = self._cache
        assert spool is not None
        newest, foreign = 0, 0
        for text in spool:  # by rowid; iterkeys() is quadratic
            key = RowKey.parse(text)
            if key is None or (self._check_each and text not in spool):
                foreign += 1
                if foreign > _MOST_FOREIGN:
                    raise SpoolDamaged(f"the spool {self.path} is full of entries that are not ours")
                continue
            if key.counter <= newest:
                raise SpoolDamaged(f"the rows of the spool {self.path} are out of order")
            newest = key.counter
            yield key
        self.foreign = foreign

    def _read_ahead(self) -> bool:
        """Read some more keys into ``_ahead``. False: it reaches to the newest row."""
        while self._read_up_to < self._newest:
            with self._careful("read"):
                fresh = self._walk is None
                if self._walk is None:
                    # All older rows that are still there are in `_ahead`: passing them costs little.
                    self._walk = (key for key in self._keys() if key.counter > self._read_up_to)
                keys = list(islice(self._walk, _READ_AHEAD))
            if len(keys) < _READ_AHEAD:
                self._walk = None  # it ends at what was the newest row when it began
            if keys:
                self._ahead += keys
                self._read_up_to = keys[-1].counter
                return True
            if fresh:
                self._read_up_to = self._newest
        return False

    @contextmanager
    def _careful(self, doing: str) -> Iterator[diskcache.Cache]:
        """Make a call on the cache: foreign errors become ours, a failed call leaves nothing half-done."""
        if self._cache is None:
            raise SpoolError(f"the spool {self.path} is closed")
        try:
            yield self._cache
        except (self._timed_out, sqlite3.Error, OSError, UnicodeError) as raised:
            error = _first_cause(raised)
            self._walk = None
            with suppress(sqlite3.Error):
                # diskcache leaves a transaction open when its COMMIT fails, as on a full disk, and could
                # begin none afterwards.
                self._connection.rollback()
            self._check_still_ours()
            raise self._translated(error, doing) from error
        self._check_still_ours()

    def _check_still_ours(self) -> None:
        if _identity(self.path) != self._identity:
            raise SpoolVanished(f"the spool {self.path} was deleted or replaced while it was in use")

    def _translated(self, error: Exception, doing: str, *, opening: bool = False) -> SpoolError:
        if isinstance(error, self._timed_out):
            return (SpoolFull if self._disk_is_short() else SpoolError)(
                f"the spool {self.path} could not be {doing}: no transaction could begin within "
                f"{_TIMEOUT_SECONDS:g} s (it is locked by another program, read-only, or on a full disk)"
            )
        text = f"the spool {self.path} could not be {doing}: {error}"
        if _NO_ROOM.search(str(error)) or (isinstance(error, OSError) and error.errno in _NO_ROOM_ERRNOS):
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

    def _disk_is_short(self) -> bool:
        try:
            return shutil.disk_usage(self.path).free < 2 * LOG_BYTES
        except OSError:
            return False


# A quota of the disk that is exhausted is an input/output error to SQLite.
_NO_ROOM = re.compile("disk is full|disk I/O error")
_NO_ROOM_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

# What SQLite calls operational is often the state of the disk or of another program, and else a database that
# no diskcache made.
_PASSING = re.compile(
    "locked|busy|full|disk I/O|unable to open|read-?only|memory|interrupted|cannot start a trans"
)


def _first_cause(error: Exception) -> Exception:
    """What SQLite said first.

    Where it ends a transaction by itself, as it does when the disk fills while a large row is written,
    diskcache wants to roll it back once more, and is told that there is none. That is no damage.
    """
    while "no transaction is active" in str(error) and isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error


def _decode_leniently(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path / DATABASE)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _prepare_files(path: Path, *, fsync: bool) -> None:
    """Make the directory and the empty database with narrow rights; SQLite gives its other files the same."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    refuse_links(path)
    os.chmod(path, 0o700)
    with suppress(FileExistsError):
        os.close(os.open(path / DATABASE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if fsync:  # also what a process made that died before it came to this
        sync_directory(path)
        sync_directory(path.parent)
    for name in FILES:
        with suppress(FileNotFoundError):
            os.chmod(path / name, 0o600)


def _check_log(path: Path) -> None:
    """SQLite takes a damaged log for one that ends there, and forgets what follows without a word."""
    log = path / f"{DATABASE}-wal"
    if is_broken_inside(log):
        raise SpoolDamaged(f"the log of the spool {path} is damaged")
    with suppress(FileNotFoundError):
        if os.lstat(log).st_size and not os.lstat(path / DATABASE).st_size:
            raise SpoolDamaged(f"the database of the spool {path} is gone, and its log is there")


def refuse_links(path: Path) -> None:
    """A link could make us read, write or delete somebody else's files."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise SpoolError(f"the spool {path} is no directory; a symbolic link is refused")
    for name in FILES:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(path / name).st_mode):
                raise SpoolError(f"{path / name} is no regular file; a symbolic link is refused")


def _check_writable(path: Path) -> None:
    """Find out in a second whether the database can be written: diskcache would try for a minute."""
    with closing(
        sqlite3.connect(path / DATABASE, timeout=_TIMEOUT_SECONDS, isolation_level=None)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


# ---------------------------------------------------------------- a look from outside


def salvage(path: Path) -> Iterator[tuple[RowKey, bytes | None]]:
    """The rows that can be found in a store that cannot be opened, as their keys rise; None: it is damaged.

    Raises:
        OSError: its files cannot be read.
    """
    newest = 0
    entries = ((one, _key_of(one)) for one in salvage_entries(path / DATABASE, path / f"{DATABASE}-wal"))
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


def _key_of(found: Found) -> RowKey | None:
    return RowKey.parse(found.key.decode("ascii", "replace"))


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
    database = path / DATABASE
    wal = path / (DATABASE + "-wal")
    try:
        refuse_links(path)
        # Without a log nobody has it open, and SQLite need not make the files that go with one: it could not
        # on a read-only disk, and elsewhere would leave them behind. With a log, `immutable` would show an
        # old state.
        mode = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
        with closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?{mode}", uri=True, timeout=_TIMEOUT_SECONDS)
        ) as connection:
            connection.text_factory = _decode_leniently
            keys = [key for (text,) in connection.execute(_ALL_KEYS) if (key := RowKey.parse(text))]
            first, last = (
                _decoded(connection.execute(_ONE_ROW.format(order)).fetchone()) for order in ("ASC", "DESC")
            )
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(f"the spool {path} cannot be read: {error}") from error
    return StoreFacts(
        batches=len(keys),
        records=sum(key.records for key in keys),
        bytes=sum(key.size for key in keys),
        first_ms=first.first_ms or None if first else None,
        last_ms=last.last_ms or None if last else None,
    )


_NEWEST_KEY = "SELECT key FROM Cache WHERE raw = 1 ORDER BY rowid DESC LIMIT 1"
_ALL_KEYS = "SELECT key FROM Cache WHERE raw = 1 AND typeof(key) = 'text' ORDER BY rowid"
_ONE_ROW = "SELECT value FROM Cache WHERE raw = 1 ORDER BY rowid {} LIMIT 1"


def _decoded(found: tuple[object] | None) -> Row | None:
    if found is None or not isinstance(found[0], bytes):
        return None
    try:
        return decode_row(found[0])
    except (CorruptRow, NewerFormat):
        return None
