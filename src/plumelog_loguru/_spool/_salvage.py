"""What is intact in a database that SQLite gives up.

One flipped bit in a page's header makes SQLite refuse the page, or the whole database; one in its log makes
it forget silently what was committed later. The rows need neither: each is found by its key, which stands
before it, and is proven by its own checksum. So the pages are read here without SQLite, and nothing is
believed but that checksum, and the order of the batches in each lane, which stands under it.

A row that was deleted may be found again where the page that says so is the damaged one. That does no harm:
it keeps its identity, and Redis knows that it has it.

The format of pages and log is SQLite's file format 3, which is frozen.
"""

from __future__ import annotations

import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from .._batch import BatchId
from ._lock import SAFE_OPEN, open_plain
from ._row import CorruptRow, NewerFormat, RowKey, decode_row

_PAGE = 4096  # bytes; SQLite's default, which diskcache leaves
_HEADER_BYTES = {0x0D: 8, 0x0A: 8, 0x02: 12}  # of a table's leaves, of an index's leaves and other pages
# How diskcache lays out an entry: the key, two times of eight bytes, the row.
_ROW = re.compile(rb"PLS1 [0-9a-f]{8} ")
_TIMES_BYTES = 16
_KEYS = range(20, 58)  # lengths, in bytes
# In an index: what tells the types (of a key, of 1, of a number), the key, the number of its entry.
_INDEXED = re.compile(rb"\x04.\x09[\x01-\x06\x08\x09](?=[0-9]{16}\.)", re.DOTALL)
_NUMBER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
_TYPES = range(13, 24)  # bytes that the types of an entry's columns take
_WAL_HEADER, _FRAME_HEADER = 32, 24
_FRAME = _FRAME_HEADER + _PAGE
# No spool lives for so many rows. It is far below what a store opens with: there must be room behind it.
_MOST_COUNTER = 10**14


@dataclass(frozen=True, slots=True)
class Found:
    """An entry; they come in the order in which they were written."""

    key: bytes  # as the index has it, if it has it; it may be damaged
    row: bytes | None  # None: it is damaged


@dataclass(frozen=True, slots=True)
class _Cell:
    rowid: int
    key: bytes
    payload_bytes: int
    start: int  # of the payload, in its page
    row_at: int  # in the payload


@dataclass(slots=True)
class _Entry:
    """An entry before it is known where it belongs."""

    key: bytes
    behind: int  # counter of the last key up to here that can be believed
    cell: tuple[int, _Cell] | None = None  # in which page its row is intact, and where
    batch_id: BatchId | None = None


def salvage_entries(database: Path, wal: Path) -> Iterator[Found]:
    """Each entry that can be found, and those of which only the index knows still."""
    with closing(_Pages(database, wal)) as pages:
        places: dict[int, list[tuple[int, _Cell]]] = {}
        indexed: dict[int, bytes] = {}
        for number in pages.numbers:
            page = pages.read(number)
            for found in _cells(page):
                places.setdefault(found.rowid, []).append((number, found))
            indexed.update(_index_of(page))
        entries: list[_Entry] = []
        behind = 0
        for rowid in sorted(places):
            cells = places.pop(rowid)
            intact = {row[1]: cell for cell in reversed(cells) if (row := pages.row(*cell))}
            key = indexed.pop(rowid, cells[0][1].key)
            if not intact:
                entries.append(_Entry(key, behind))
            for batch_id, cell in reversed(intact.items()):
                own = cell[1].key
                if len(intact) > 1:
                    key = own  # the number of one of them is damaged
                known = key_of(key)
                if key == own and known is not None:
                    behind = known.counter
                entries.append(_Entry(key, behind, cell, batch_id))
        for entry in _in_order(entries):
            row = pages.row(*entry.cell) if entry.cell else None
            yield Found(entry.key, row and row[0])
        keys = {entry.key for entry in entries}
        for key in indexed.values():
            if key not in keys:
                yield Found(key, None)


def key_of(found: bytes) -> RowKey | None:
    """The key in these bytes; None: there is none, or one that no row comes to."""
    key = RowKey.parse(found.decode("ascii", "replace"))
    return key if key is not None and key.counter <= _MOST_COUNTER else None


def _in_order(entries: list[_Entry]) -> list[_Entry]:
    """Entries that come by their numbers, as their keys rise, and those of a lane as it numbers its batches.

    SQLite's numbers say little: behind the highest there is it draws them by lot. A key with a flipped bit
    says little as well. A batch's identity stands under the row's own checksum; and Redis takes what comes
    behind a later batch of its lane for applied.
    """
    entries = sorted(entries, key=lambda entry: entry.behind)
    lanes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, entry in enumerate(entries):
        if entry.batch_id is not None:
            lanes[entry.batch_id.lane].append((entry.batch_id.seq, place))
    ordered = list(entries)
    for turns in lanes.values():
        for (_, turn), place in zip(sorted(turns), sorted(place for _, place in turns), strict=True):
            ordered[place] = entries[turn]
    return ordered


def is_broken_inside(wal: Path) -> bool:
    """Whether a log has a bad frame before a good one, or at its very end.

    SQLite would take the first bad frame for the end of the log, as it is after a crash. A crash leaves bad
    frames only where nothing intact follows and older frames lie behind, or the file ends within one.
    """
    try:
        data = _read(wal)
    except OSError:
        return False
    frames, rest = divmod(len(data) - _WAL_HEADER, _FRAME)
    if frames <= 0:
        return False
    order = "<" if data[:4] == b"\x37\x7f\x06\x82" else ">"
    if _checksum(order, (0, 0), data[:24]) != _two(data, 24):
        return True
    salts, seed, first_bad = data[16:24], _two(data, 24), None
    for number in range(frames):
        at = _WAL_HEADER + number * _FRAME
        good = data[at + 8 : at + 16] == salts and _two(data, at + 16) == _checksum(
            order, seed, data[at : at + 8], data[at + _FRAME_HEADER : at + _FRAME]
        )
        if good and first_bad is not None:
            return True
        if not good and first_bad is None:
            first_bad = number
        seed = _two(data, at + 16)
    at = _WAL_HEADER + (frames - 1) * _FRAME
    return first_bad == frames - 1 and not rest and data[at + 8 : at + 16] == salts


class _Pages:
    """The pages of a database, those of its log before those of the file."""

    def __init__(self, database: Path, wal: Path) -> None:
        self._fd = os.open(database, os.O_RDONLY | SAFE_OPEN)
        self._logged: dict[int, bytes] = {}
        with suppress(OSError):
            self._read_log(_read(wal))
        in_file = range(1, os.fstat(self._fd).st_size // _PAGE + 1)
        self.numbers = sorted({*in_file, *self._logged})

    def close(self) -> None:
        os.close(self._fd)

    def _read_log(self, data: bytes) -> None:
        salts = data[16:24]
        if len(data) > _WAL_HEADER and _checksum("<", (0, 0), data[:24]) != _two(data, 24):
            salts = data[_WAL_HEADER + 8 : _WAL_HEADER + 16]  # the header is damaged: as the first frame says
        waiting: dict[int, bytes] = {}
        for at in range(_WAL_HEADER, len(data) - _FRAME + 1, _FRAME):
            number, pages_after_commit = _two(data, at)
            if data[at + 8 : at + 16] != salts:
                continue
            waiting[number] = data[at + _FRAME_HEADER : at + _FRAME]
            if pages_after_commit:
                self._logged.update(waiting)
                waiting.clear()

    def read(self, number: int) -> bytes:
        """A page; empty if there is none, or if the disk cannot read it."""
        if number in self._logged:
            return self._logged[number]
        try:
            return os.pread(self._fd, _PAGE, (number - 1) * _PAGE)
        except OSError:
            return b""

    def row(self, number: int, cell: _Cell) -> tuple[bytes, BatchId | None] | None:
        """The row of a cell of this page, and whose it is if that is known; None: it is damaged."""
        page = self.read(number)
        local = _local_bytes(cell.payload_bytes)
        payload = bytearray(page[cell.start : cell.start + local])
        following = page[cell.start + local : cell.start + local + 4]
        while len(payload) < cell.payload_bytes and len(following) == 4:
            overflow = self.read(int.from_bytes(following, "big"))
            if len(overflow) < _PAGE:
                break
            payload += overflow[4 : 4 + cell.payload_bytes - len(payload)]
            following = overflow[:4]
        row = bytes(payload[cell.row_at :])
        try:
            return row, decode_row(row).batch.id
        except NewerFormat:
            return row, None
        except CorruptRow:
            return None


def _cells(page: bytes) -> Iterator[_Cell]:
    """The entries in a page. What is deleted is left out if the page can tell."""
    for found in _ROW.finditer(page):
        key_end = found.start() - _TIMES_BYTES
        for key_bytes in _KEYS:
            for types_bytes in _TYPES:
                start = key_end - key_bytes - types_bytes
                # The payload begins with the length of what tells the types; the second is that of the key.
                if start < 2 or page[start] != types_bytes or page[start + 2] != 13 + 2 * key_bytes:
                    continue
                for before in range(max(0, start - 18), start - 1):
                    payload_bytes, at = _varint(page, before)
                    rowid, at = _varint(page, at)
                    if at == start and key_bytes < payload_bytes < 2**31 and _is_cell(page, before, 0):
                        key = page[key_end - key_bytes : key_end]
                        yield _Cell(rowid, key, payload_bytes, start, found.start() - start)


def _index_of(page: bytes) -> Iterator[tuple[int, bytes]]:
    """The entries that a page of the index names, by their numbers."""
    for found in _INDEXED.finditer(page) if page[:1] in (b"\x0a", b"\x02") else ():
        types, at = found[0], found.end()
        end = at + (types[1] - 13) // 2
        rowid = int.from_bytes(page[end : end + _NUMBER_BYTES[types[3]]], "big") or types[3] - 8
        if _is_cell(page, found.start(), 8):
            yield rowid, page[at:end]


def _is_cell(page: bytes, at: int, before: int) -> bool:
    """Whether a cell begins here, or up to so many bytes before; also where the page contradicts itself."""
    header = _HEADER_BYTES.get(page[0], 0)
    count, content = struct.unpack_from(">HH", page, 3)
    end = header + 2 * count
    if not header or end > _PAGE:
        return True
    cells = struct.unpack_from(f">{count}H", page, header)
    if len(set(cells)) < count or not all(end <= cell < _PAGE for cell in cells):
        return True
    return min(cells, default=content) != content or any(at - before <= cell <= at for cell in cells)


def _varint(page: bytes, at: int) -> tuple[int, int]:
    value = 0
    for number in range(9):
        byte = page[at + number] if at + number < len(page) else 0
        if number == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + number + 1
    raise AssertionError


def _local_bytes(payload_bytes: int) -> int:
    """How much of a payload stands in the leaf page itself; the rest is in a chain of other pages."""
    most, least = _PAGE - 35, (_PAGE - 12) * 32 // 255 - 23
    if payload_bytes <= most:
        return payload_bytes
    local = least + (payload_bytes - least) % (_PAGE - 4)
    return local if local <= most else least


def _checksum(order: str, seed: tuple[int, int], *parts: bytes) -> tuple[int, int]:
    first, second = seed
    for part in parts:
        for one, two in struct.iter_unpack(order + "II", part):
            first = (first + one + second) & 0xFFFFFFFF
            second = (second + two + first) & 0xFFFFFFFF
    return first, second


def _two(data: bytes, at: int) -> tuple[int, int]:
    one, two = struct.unpack_from(">II", data, at)
    return one, two


def _read(path: Path) -> bytes:
    with open_plain(path) as file:
        return file.read()
