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

import os
import sqlite3
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import PlumelogError
from ._database import (
    EMPTY_PAGES,
    Schema,
    check_log,
    check_writable,
    decode_leniently,
    identity,
    prepare_files,
)
from ._failures import (
    TIMEOUT_SECONDS,
    SpoolDamaged,
    SpoolError,
    SpoolVanished,
    first_cause,
    translated,
)
from ._row import CorruptRow, RowKey

if TYPE_CHECKING:
    import diskcache

_READ_AHEAD = 100  # keys
_LONG_LOG_PAGES = 2048  # 8 MiB
# What nobody comes to by writing rows. There is room behind them: all that an owner adds can be read, too.
MOST_COUNTER = 10**15
MOST_ROWID = 1 << 62
_MOST_FOREIGN = 1000  # entries that are not ours, before the whole database is given up

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

        def remove(self, file_path: Any) -> None:
            """Our rows name no file; one that does would have somebody else's deleted with it."""

    class SpoolCache(diskcache.Cache):
        def __init__(self, directory: str, **settings: int | str) -> None:
            try:
                super().__init__(directory, timeout=TIMEOUT_SECONDS, disk=BytesDisk, **settings)
            except BaseException:
                self.close()  # or a connection is left to the garbage collector
                raise

    return SpoolCache, diskcache.Timeout


@cache
def schema_of_diskcache() -> Schema:
    """What diskcache makes in a database, asked of itself."""
    import diskcache

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:

        class InMemory(diskcache.Cache):
            @property
            def _con(self) -> sqlite3.Connection:
                return connection

        settings: dict[str, Any] = {**_SETTINGS}
        InMemory(os.sep, **settings)  # any directory that is there; nothing is written
        return Schema.read(connection)


_MODE_RAW = 1
_NEWEST_KEY = "SELECT key FROM Cache WHERE raw = 1 ORDER BY rowid DESC LIMIT 1"


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
            prepare_files(path, fsync=fsync)
            check_log(path)
            self._identity = identity(path)
            check_writable(path, schema_of_diskcache())
            settings = _SETTINGS | {"sqlite_synchronous": 2} if fsync else _SETTINGS
            self._cache = open_cache(str(path), **settings)
            # Held here as well: diskcache keeps it in a thread-local, and a fork clears those of other
            # threads in the child, which would close it there.
            self._connection = self._cache._con
            self._connection.text_factory = decode_leniently
            wrong = [name for name, value in settings.items() if getattr(self._cache, name) != value]
            if wrong:
                raise SpoolDamaged(f"the spool {path} does not keep its settings ({', '.join(wrong)})")
            self._page_bytes = self._pragma("page_size")
            self.empty_bytes = EMPTY_PAGES * self._page_bytes
            self._count()
            self._check_numbers()
            if len(self._cache) != self.batches + self.foreign:
                raise SpoolDamaged(f"the spool {path} does not hold as many rows as it says")
        except BaseException as error:
            self.close()
            if isinstance(error, PlumelogError) or not isinstance(error, Exception):
                raise
            raise self._translated(first_cause(error), "opened", opening=True) from error

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

    def delete_passed(self, key: RowKey) -> None:
        """Delete a row that was passed by from the files, too."""
        with self._careful("written") as spool:
            spool.delete(str(key))

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

    def let_log_grow(self) -> None:
        """For whoever deletes all there is: SQLite waits for the disk when the log is full. Never raises."""
        with suppress(SpoolError), self._careful("written"):
            self._pragma(f"wal_autocheckpoint={_LONG_LOG_PAGES}")

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

    def _check_numbers(self) -> None:
        """Two rows with one number would be taken for one another; and there must be room behind the last."""
        last = 0
        for (rowid,) in self._connection.execute("SELECT rowid FROM Cache NOT INDEXED ORDER BY rowid"):
            if not last < rowid <= MOST_ROWID:
                raise SpoolDamaged(f"the rows of the spool {self.path} have numbers that no owner gave them")
            last = rowid
        if self._newest > MOST_COUNTER:
            raise SpoolDamaged(f"the keys of the spool {self.path} are none that an owner gave its rows")

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
            error = first_cause(raised)
            self._walk = None
            with suppress(sqlite3.Error):
                # diskcache leaves a transaction open when its COMMIT fails, as on a full disk, and could
                # begin none afterwards.
                self._connection.rollback()
            self._check_still_ours()
            raise self._translated(error, doing) from error
        self._check_still_ours()

    def _check_still_ours(self) -> None:
        try:
            found = identity(self.path)
        except OSError:  # a directory that lets nobody in, say: the open file is as good as it was
            return
        if found != self._identity:
            raise SpoolVanished(f"the spool {self.path} was deleted or replaced while it was in use")

    def _translated(self, error: Exception, doing: str, *, opening: bool = False) -> SpoolError:
        return translated(error, self.path, doing, timed_out=self._timed_out, opening=opening)
