"""What is intact in a database that SQLite gives up.

One flipped bit in a page's header makes SQLite refuse the page, or the whole database; one in its log makes
it forget silently what was committed later. The rows need neither: each is found by its key, which stands
before it, and is proven by its own checksum. So the pages are read here without SQLite, and nothing is
believed but that checksum.

A row that was deleted may be found again where the page that says so is the damaged one. That does no harm:
it keeps its identity, and Redis knows that it has it.

The format of pages and log is SQLite's file format 3, which is frozen.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ._lock import SAFE_OPEN
from ._row import CorruptRow, NewerFormat, decode_row

_PAGE = 4096  # bytes; SQLite's default, which diskcache leaves
_LEAF = 0x0D
# How diskcache lays out an entry: the key, two times of eight bytes, the row.
_ENTRY = re.compile(rb"[0-9]{16}\.[0-9.]{3,40}?(?=.{16}PLS1 )", re.DOTALL)
_TIMES_BYTES = 16
_HEADERS = range(13, 24)  # bytes that the types of an entry's columns take
_WAL_HEADER, _FRAME_HEADER = 32, 24
_FRAME = _FRAME_HEADER + _PAGE


@dataclass(frozen=True, slots=True)
class Found:
    """An entry: its key, and its row if that is intact."""

    key: str
    row: bytes | None


def salvage_entries(database: Path, wal: Path) -> Iterator[Found]:
    """Each entry that can be found, once, in the order of the keys."""
    with closing(_Pages(database, wal)) as pages:
        places: dict[str, list[tuple[int, int]]] = {}
        for number in pages.numbers:
            for key, at in _entries(pages.read(number)):
                places.setdefault(key, []).append((number, at))
        for key in sorted(places):
            rows = (pages.row(number, at) for number, at in places[key])
            yield Found(key, next((row for row in rows if row is not None), None))


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
        """A page; empty if there is none."""
        return self._logged.get(number) or os.pread(self._fd, _PAGE, (number - 1) * _PAGE)

    def row(self, number: int, at: int) -> bytes | None:
        """The row behind the key at this place of a page, if it is intact."""
        page = self.read(number)
        for start, payload_bytes in _cell_starts(page, at):
            local = _local_bytes(payload_bytes)
            payload = bytearray(page[start : start + local])
            following = page[start + local : start + local + 4]
            while len(payload) < payload_bytes and len(following) == 4:
                overflow = self.read(int.from_bytes(following, "big"))
                if len(overflow) < _PAGE:
                    break
                payload += overflow[4 : 4 + payload_bytes - len(payload)]
                following = overflow[:4]
            row = bytes(payload[payload.find(b"PLS1 ", at - start) : payload_bytes])
            try:
                decode_row(row)
            except NewerFormat:
                return row
            except CorruptRow:
                continue
            return row
        return None


def _entries(page: bytes) -> Iterator[tuple[str, int]]:
    """Keys in a page, and where they stand. What is deleted is left out if the page can tell."""
    hits = [(found[0].decode(), found.start()) for found in _ENTRY.finditer(page)]
    if not hits:
        return
    cells = _cells(page)
    for key, at in hits:
        # A cell begins some bytes before its key.
        if cells is None or any(at - 48 <= cell < at for cell in cells):
            yield key, at


def _cells(page: bytes) -> set[int] | None:
    """Where a page says that its cells begin; None if it contradicts itself."""
    kind, _, count, content = struct.unpack_from(">BHHH", page)
    if kind != _LEAF or 8 + 2 * count > len(page):
        return None
    cells = set(struct.unpack_from(f">{count}H", page, 8))
    sane = len(cells) == count and all(8 + 2 * count <= cell < _PAGE for cell in cells)
    return cells if sane and (not cells or min(cells) == content) else None


def _cell_starts(page: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Where the payload that has a key at this place may begin, and how long it says that it is."""
    for header in _HEADERS:
        start = at - header
        if start < 2 or page[start] != header:
            continue
        # Before it stand two numbers of 1 to 9 bytes: the payload's length, and the row's number.
        for before in range(max(0, start - 18), start - 1):
            length, after = _varint(page, before)
            _, after = _varint(page, after)
            if after == start and header < length < 2**31:
                yield start, length


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
    with open(os.open(path, os.O_RDONLY | SAFE_OPEN), "rb") as file:
        return file.read()
