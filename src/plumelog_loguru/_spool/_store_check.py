"""What is wrong in the rows of a part: each file, each page that SQLite knows of, each row.

Promises that nothing is changed, and that what is found wrong is what an owner would find, or more: it judges
by what opening the store asks for, by SQLite's own check of all pages, and by the checksum of every row.

Beside a living owner only its rows are judged: it is at its files all the time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ._database import DATABASE, FILES, SQLITE_JOURNAL, Schema, is_unfinished
from ._failures import SpoolDamaged
from ._files import is_plain_file
from ._lock import open_plain
from ._look import asked, has_rows, rows_of, salvage
from ._row import CorruptRow, NewerFormat, RowKey, decode_row
from ._salvage import is_broken_inside
from ._store import MOST_COUNTER, MOST_ROWID, schema_of_diskcache

_WAL, _SHM = f"{DATABASE}-wal", f"{DATABASE}-shm"
_MOST_FLAWS = 1000  # of one store
_WAL_HEADER, _FRAME = 32, 24 + 4096
# The index of a log: version, a change counter, flags, frames, pages, two checksums, the log's salt, its own
# checksum; twice; then how many of the frames are in the database already.
_INDEX = struct.Struct("=I4xI4xI4x8x8s8x")
_INDEX_VERSION = 3007000
_BACKFILLED = struct.Struct("=I")

_ROWS = "SELECT rowid, raw, key, mode, expire_time, value FROM Cache NOT INDEXED ORDER BY rowid"
_MODE_RAW = 1


@dataclass(frozen=True, slots=True)
class StoreFlaw:
    """Something in a store that no owner leaves there."""

    path: Path
    what: str  # half a sentence
    place: str | None = None  # which row
    records: int = 0  # that are lost, as far as that is known
    spoils_all: bool = False  # SQLite cannot be trusted with the database
    is_newer: bool = False  # no damage: a later version wrote it
    is_stranger: bool = False  # it is none of the files of a store


@dataclass(slots=True)
class CheckedStore:
    """What is in a store, and what is wrong."""

    flaws: list[StoreFlaw]
    batches: int = 0  # that are intact
    records: int = 0


def check_store(path: Path, *, held_rows: bool, is_live: bool = False) -> CheckedStore:
    """Check the store in this directory.

    Args:
        path: the directory.
        held_rows: whether its part says that rows were in it.
        is_live: whether an owner has it open.

    Raises:
        SpoolError: it cannot be read now.
    """
    checked = CheckedStore([])
    if is_live:
        _check_live_rows(path, checked)
        return checked
    checked.flaws += _flaws_of_files(path, held_rows=held_rows)
    if any(flaw.spoils_all or flaw.is_stranger for flaw in checked.flaws):
        _count_salvaged(path, checked)
    elif _size(path / DATABASE) > 1:
        try:
            asked(path, partial(_check_pages_and_rows, checked, held_rows))
        except SpoolDamaged as error:
            checked.flaws.append(StoreFlaw(path / DATABASE, str(error), spoils_all=True))
            _count_salvaged(path, checked)
    return checked


# ---------------------------------------------------------------- files


def _flaws_of_files(path: Path, *, held_rows: bool) -> Iterator[StoreFlaw]:
    names = set(os.listdir(path))
    for name in sorted(names):
        if name not in FILES and not (names == {*FILES[:1], SQLITE_JOURNAL} and is_unfinished(path)):
            yield StoreFlaw(path / name, "it was not written by us", is_stranger=True)
        elif not is_plain_file(path / name):
            yield StoreFlaw(path / name, "it is no plain file", is_stranger=True)
    log, database = (_size(path / name) for name in (_WAL, DATABASE))
    if is_broken_inside(path / _WAL):
        yield StoreFlaw(path / _WAL, "the log is damaged in the midst of it", spoils_all=True)
    elif database <= 1 and (held_rows or log or _SHM in names):
        yield StoreFlaw(path / DATABASE, "the database is gone, and rows were in it", spoils_all=True)
    yield from _flaws_of_index(path)


def _flaws_of_index(path: Path) -> Iterator[StoreFlaw]:
    """The index of a log knows how long it was; SQLite makes it anew and does not ask."""
    try:
        with open_plain(path / _SHM) as file:
            index = file.read(2 * _INDEX.size + _BACKFILLED.size)
    except OSError:
        return
    if not index.strip(b"\0"):
        return
    one, other = index[: _INDEX.size], index[_INDEX.size : 2 * _INDEX.size]
    if len(index) < 2 * _INDEX.size + _BACKFILLED.size or one != other or not _is_sealed(one):
        yield StoreFlaw(path / _SHM, "the index of the log is damaged; SQLite makes it anew")
        return
    _, _, frames, salt = _INDEX.unpack(one)
    (in_database,) = _BACKFILLED.unpack_from(index, 2 * _INDEX.size)
    there = _frames_of(path / _WAL, salt)
    if in_database < frames and there < frames:
        yield StoreFlaw(
            path / _WAL,
            f"it ends early: the last {frames - there} of {frames} pages that were written are gone",
            spoils_all=True,
        )


def _is_sealed(header: bytes) -> bool:
    """Whether the index's checksum is right; it goes by the machine's own byte order."""
    first = second = 0
    words = struct.unpack("=12I", header)
    for one, two in zip(words[:10:2], words[1:10:2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return (first, second) == words[10:] and words[0] == _INDEX_VERSION


def _frames_of(log: Path, salt: bytes) -> int:
    """How many frames with this salt a log begins with."""
    frames = 0
    with suppress(OSError), open_plain(log) as file:
        size = os.fstat(file.fileno()).st_size
        for at in range(_WAL_HEADER, size - _FRAME + 1, _FRAME):
            file.seek(at + 8)
            if file.read(8) != salt:
                break
            frames += 1
    return frames


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


# ---------------------------------------------------------------- pages and rows


def _check_pages_and_rows(
    checked: CheckedStore, held_rows: bool, path: Path, connection: sqlite3.Connection | None
) -> None:
    """An answer to `asked`; it may ask again, so it counts anew."""
    fresh = CheckedStore([])
    if connection is None:
        _check_copy(path, fresh, held_rows)
    else:
        _check_database(path, connection, fresh, held_rows)
    if any(flaw.spoils_all for flaw in fresh.flaws):
        _count_salvaged(path, fresh)
    checked.flaws += fresh.flaws
    checked.batches, checked.records = fresh.batches, fresh.records


def _check_copy(path: Path, checked: CheckedStore, held_rows: bool) -> None:
    """A log without an index: SQLite can only read it where it may make one."""
    size = _size(path / DATABASE) + _size(path / _WAL)
    with tempfile.TemporaryDirectory(prefix="plumelog-replay-") as folder:
        if shutil.disk_usage(folder).free < 2 * size:
            _count_salvaged(path, checked)
            return
        for name in (DATABASE, _WAL):
            with open_plain(path / name) as file, open(Path(folder) / name, "wb") as copy:
                shutil.copyfileobj(file, copy)
        with closing(sqlite3.connect(Path(folder) / DATABASE)) as connection:
            _check_database(path, connection, checked, held_rows)


def _check_database(
    path: Path, connection: sqlite3.Connection, checked: CheckedStore, held_rows: bool
) -> None:
    def spoilt(what: str, place: str | None = None) -> None:
        checked.flaws.append(StoreFlaw(path / DATABASE, what, place, spoils_all=True))

    connection.execute("PRAGMA trusted_schema = off")
    if not has_rows(connection):
        if held_rows:
            spoilt("the table of the rows is gone")
        return
    found, known = Schema.read(connection), schema_of_diskcache()
    if not (found.definitions <= known.definitions and found.settings <= known.settings):
        spoilt("it holds what no owner puts there")
        return
    (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        spoilt(f"SQLite finds a page damaged ({said.splitlines()[-1]})")
    entries = 0
    last_rowid = newest = 0
    for rowid, raw, text, mode, expires, value in connection.execute(_ROWS):
        entries += 1
        key = RowKey.parse(text) if raw == 1 else None
        place = f"row {rowid}" if key is None else f"row {key}"
        if len(checked.flaws) >= _MOST_FLAWS:
            spoilt("and there is more")
            return
        if key is None:
            spoilt("an entry was not written by us", place)
            continue
        if not last_rowid < rowid <= MOST_ROWID or not newest < key.counter <= MOST_COUNTER or expires:
            spoilt("an entry is not as an owner writes it", place)
        last_rowid, newest = rowid, max(newest, key.counter)
        _check_row(path, key, value if mode == _MODE_RAW else None, checked)
    (said,) = connection.execute("SELECT value FROM Settings WHERE key = 'count'").fetchone() or (None,)
    if said != entries:
        spoilt(f"it holds {entries} rows and says that there are {said}")


def _check_row(path: Path, key: RowKey, value: object, checked: CheckedStore) -> None:
    try:
        row = decode_row(value) if isinstance(value, bytes) else None
    except NewerFormat as error:
        checked.flaws.append(StoreFlaw(path / DATABASE, str(error), f"row {key}", is_newer=True))
        return
    except CorruptRow:
        row = None
    if row is None:
        checked.flaws.append(StoreFlaw(path / DATABASE, "the batch is damaged", f"row {key}", key.records))
        return
    if len(row.batch.values) != key.records:
        checked.flaws.append(
            StoreFlaw(path / DATABASE, "the key of the batch is damaged", f"row {key}", spoils_all=True)
        )
    checked.batches += 1
    checked.records += len(row.batch.values)


def _check_live_rows(path: Path, checked: CheckedStore) -> None:
    for key, value in rows_of(path, is_live=True):
        _check_row(path, key, value, checked)


def _count_salvaged(path: Path, checked: CheckedStore) -> None:
    """What can be found without SQLite."""
    checked.batches = checked.records = 0
    known = {flaw.place for flaw in checked.flaws}
    with suppress(OSError):
        for key, value in salvage(path):
            if value is not None or f"row {key}" not in known:
                _check_row(path, key, value, checked)
