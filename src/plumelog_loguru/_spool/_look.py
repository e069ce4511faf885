"""A look into a spool from outside: while its owner uses it, or when it can no longer be opened.

Promises that nothing is changed and nothing left behind. Nobody's lock is asked for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ._database import DATABASE, decode_leniently, refuse_journal, refuse_links
from ._failures import TIMEOUT_SECONDS, SpoolError
from ._row import CorruptRow, NewerFormat, Row, RowKey, decode_row
from ._salvage import key_of, salvage_entries

_NEVER = 1 << 62


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
    database = path / DATABASE
    wal = path / (DATABASE + "-wal")
    try:
        refuse_links(path)
        refuse_journal(path)
        # Without a log nobody has it open, and SQLite need not make the files that go with one: it could not
        # on a read-only disk, and elsewhere would leave them behind. With a log, `immutable` would show an
        # old state.
        mode = "mode=ro" if wal.exists() and wal.stat().st_size else "mode=ro&immutable=1"
        with closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?{mode}", uri=True, timeout=TIMEOUT_SECONDS)
        ) as connection:
            connection.text_factory = decode_leniently
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


_ALL_KEYS = "SELECT key FROM Cache WHERE raw = 1 AND typeof(key) = 'text' ORDER BY rowid"
_ONE_ROW = "SELECT value FROM Cache WHERE raw = 1 ORDER BY rowid {} LIMIT 1"


def _decoded(found: tuple[object] | None) -> Row | None:
    if found is None or not isinstance(found[0], bytes):
        return None
    try:
        return decode_row(found[0])
    except (CorruptRow, NewerFormat):
        return None
