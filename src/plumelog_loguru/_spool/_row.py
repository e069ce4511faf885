r"""One row of the spool is one batch, with what must be known to deliver it exactly once; and its key.

    PLS1 <crc32, 8 hex digits> <header, one line of JSON>\n<value>\n<value>…

The CRC covers everything behind it. It is ours to verify: of single flipped bits in a database, SQLite's own
integrity check finds few. So the format's number stands in the header too, under the CRC, and not in the
magic: a flipped bit must never make a damaged row look like one of a newer version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from zlib import crc32

from .._batch import AttemptedBy, Batch, BatchId
from .._errors import PlumelogError
from .._json import dumps, loads

_T = TypeVar("_T")

FORMAT = 1

HEAD_BYTES = 4096  # more than a header takes

_PREFIX_BYTES = len(b"PLS1 01234567 ")
# Inside a JSON string a quote is always escaped, so neither of these can be met in what a record says.
_DT_TIME = re.compile(rb'"dtTime": ?(\d{1,15})[,}]')
LEVELS = ("", "DEBUG", "INFO", "WARN", "ERROR")  # as they rise; "" is none of Plumelog's
_LEVEL_PATTERNS = tuple(
    (level, re.compile(rb'"logLevel": ?"%s"' % level.encode())) for level in LEVELS[:0:-1]
)


class CorruptRow(PlumelogError):
    """A row is not what was written: only a quarantine is left for it."""


class NewerFormat(PlumelogError):
    """A row is intact, but of a format that this version does not know; it stays where it is."""


@dataclass(frozen=True, slots=True)
class Row:
    """A batch as it was spooled, and what can be known of it without reading its records."""

    batch: Batch
    first_ms: int  # dtTime of the first record, epoch milliseconds; 0 if it has none
    last_ms: int  # dtTime of the last record
    level: str  # the highest of Plumelog's levels among the records, "" if they have none


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


def highest_level(body: bytes) -> str:
    """The highest of Plumelog's levels among the records in this text, "" if they have none."""
    return next((level for level, pattern in _LEVEL_PATTERNS if pattern.search(body)), "")


def encode_row(batch: Batch) -> bytes:
    """Write a batch as a row.

    Raises:
        ValueError: a value contains a newline; it would come back as two.
    """
    values = batch.values
    body = b"\n".join(values)
    if values and body.count(b"\n") != len(values) - 1:
        raise ValueError("a value contains a newline")
    header = dumps(
        {
            "format": FORMAT,
            "lane": batch.id.lane,
            "seq": batch.id.seq,
            "count": len(values),
            "first_ms": dt_time_ms(values[0]) if values else 0,
            "last_ms": dt_time_ms(values[-1]) if values else 0,
            "level": highest_level(body),
            "attempted_by": batch.attempted_by.value,
            "last_attempt_ms": batch.last_attempt_ms,
        }
    )
    return b"PLS1 %08x %b\n%b" % (crc32(body, crc32(header + b"\n")), header, body)


def level_of(row: bytes) -> str:
    """The highest level in a row that ``encode_row`` has just made."""
    level: str = loads(row[_PREFIX_BYTES : row.index(b"\n")])["level"]
    return level


def decode_row(data: bytes) -> Row:
    """Read what ``encode_row`` wrote.

    Raises:
        CorruptRow: it is something else, if only by one bit.
        NewerFormat: it is intact, but written by a newer version.
    """
    if data[:_PREFIX_BYTES] != b"PLS1 %08x " % crc32(memoryview(data)[_PREFIX_BYTES:]):
        raise CorruptRow("a spooled batch does not have the checksum it was written with")
    line, _, body = data[_PREFIX_BYTES:].partition(b"\n")
    row, count = _read_header(line)
    values = tuple(body.split(b"\n")) if count else ()
    if len(values) != count:
        raise CorruptRow("a spooled batch does not hold as many records as it says")
    return replace(row, batch=replace(row.batch, values=values))


def decode_head(data: bytes) -> Row:
    """Read a row without its values, of which the beginning will do: :data:`HEAD_BYTES`. Nothing is checked.

    Raises:
        CorruptRow: it is something else.
        NewerFormat: it was written by a newer version.
    """
    line, end, _ = data[_PREFIX_BYTES:].partition(b"\n")
    if not data.startswith(b"PLS1 ") or not end:
        raise CorruptRow("a spooled batch has no header")
    return _read_header(line)[0]


def _read_header(line: bytes) -> tuple[Row, int]:
    """A row without its values, and how many there are."""
    try:
        header: dict[str, Any] = loads(line)
        if header["format"] > FORMAT:
            raise NewerFormat(f"a spooled batch has format {header['format']}; this version reads {FORMAT}")
        identity = BatchId(_of(str, header["lane"]), _of(int, header["seq"]))
        attempted_by = AttemptedBy(header["attempted_by"])
        batch = Batch(identity, (), attempted_by, _of(int, header["last_attempt_ms"]))
        row = Row(batch, _of(int, header["first_ms"]), _of(int, header["last_ms"]), _of(str, header["level"]))
        return row, _of(int, header["count"])
    except (ValueError, KeyError, TypeError) as error:  # intact and yet wrong: not written by us
        raise CorruptRow(
            f"a spooled batch has an unreadable header ({type(error).__name__}: {error})"
        ) from None


def dt_time_ms(value: bytes) -> int:
    """The time that an encoded record gives, in epoch milliseconds; 0 if it gives none."""
    found = _DT_TIME.search(value)
    return int(found[1]) if found else 0


def _of(kind: type[_T], value: object) -> _T:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value
