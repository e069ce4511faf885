r"""The journal's file, byte by byte: a header, and a ring of frames.

    file    4096 bytes of header, then `capacity` bytes of ring
    header  twice, at 0 and at 2048: 64 fixed bytes, 20 bytes with the tail; each copy alone is enough
    frame   [head][cut][attempt][settled][value], contiguous, never across the end of the ring

A *position* only grows and is never used twice in one journal; ``position % capacity`` is the place in the
ring. Where a frame does not fit before the end of a lap, and where a journal that was emptied begins anew,
the next frame stands at the start of the next lap; nothing marks this.

Every checksum begins with ``position ^ key``, the journal's key and the place where the frame stands, so
that nothing that an earlier lap left, and nothing that a record contains, passes for a frame of this one.
zlib takes the lower 32 bits of it; the capacity is odd, so that these differ from lap to lap.

A *run* is a stretch of frames without a gap. A batch's identity (its cut) and its end (settled) are written
once for a run, into its first frame; zeros there say that it has not been cut, or not been settled.
The identity has a checksum of its own: it stands for ever, whatever happens while an attempt is noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from .._batch import AttemptedBy, BatchId
from .._errors import PlumelogError

FORMAT = 1

HEADER_BYTES = 4096
HEADER_COPIES = (0, 2048)
TAIL_OFFSET = 64  # in each copy
LEAST_CAPACITY, MOST_CAPACITY = (1 << 12) - 1, 1 << 30

# No value begins with a zero byte, or contains one: they are JSON.
MAGIC = b"\0PLJ"

_HEADER = Struct("<8sIIQ16s20x")  # magic, format, key, capacity, recovery lane
_HEADER_MAGIC = b"\0PLJRNL\n"
_TAIL = Struct("<Q8x")
_CRC = Struct("<I")

HEAD = Struct("<4sIIQI")  # magic, size of the frame, key, position, checksum of the value
_CUT = Struct("<16sQQI")  # lane, seq, end of the run, place of its first record in the batch
_ATTEMPT = Struct("<QB")  # epoch milliseconds, by whom
_SETTLED = Struct("<Q")  # end of the run

CUT_OFFSET = HEAD.size
ATTEMPT_OFFSET = CUT_OFFSET + _CUT.size + _CRC.size
SETTLED_OFFSET = ATTEMPT_OFFSET + _ATTEMPT.size + _CRC.size
VALUE_OFFSET = SETTLED_OFFSET + _SETTLED.size + _CRC.size
NEW_FRAME = Struct(f"{HEAD.format}{VALUE_OFFSET - HEAD.size}x")  # neither cut nor settled

_MOST = 1 << 62
# All that stands above a tail is below the end of the numbers that a frame has room for.
_MOST_TAIL = 1 << 61
# Redis tells the numbers in a lane from one another up to 2**53, and recovery counts on from the highest.
_MOST_SEQ = 1 << 52

_ATTEMPTED_BY = (AttemptedBy.NOBODY, AttemptedBy.SCRIPT, AttemptedBy.PLAIN)
_DOUBTFUL = 0x80


class JournalError(PlumelogError):
    """A journal cannot be made, written or read; the message says why in one sentence."""


class JournalDamaged(JournalError):
    """Nothing can be read from a journal: only a quarantine is left for the file."""


class NewerJournal(JournalError):
    """A journal is intact, but of a format that this version does not know; it stays as it is."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of frames without a gap, of one journal."""

    key: int  # of the journal
    start: int  # position of the first frame
    upto: int  # position behind the last
    index: int  # place of the first record in its batch


def value_of(item: bytes) -> bytes:
    """The record in a frame; a record that never went through a journal is itself."""
    return item[VALUE_OFFSET:] if item[:4] == MAGIC else item


def key_of(item: bytes) -> int | None:
    """The key of the journal that a frame is in; None: it is a record without a frame."""
    if item[:4] != MAGIC:
        return None
    key: int = HEAD.unpack_from(item)[2]
    return key


def runs_of(items: Sequence[bytes]) -> list[Run]:
    """The runs of a batch. Records without a frame are in none, and count where a run begins."""
    runs: list[Run] = []
    key = start = upto = index = -1
    unpack = HEAD.unpack_from
    for number, item in enumerate(items):
        if item[:4] != MAGIC:
            continue
        _, size, of, position, _ = unpack(item)
        if position != upto or of != key:
            if index >= 0:
                runs.append(Run(key, start, upto, index))
            key, start, index = of, position, number
        upto = position + size
    if index >= 0:
        runs.append(Run(key, start, upto, index))
    return runs


def of_one_journal(items: Sequence[bytes]) -> int:
    """How many records, from the first on, are in the same journal, or all in none.

    A batch must not hold others: a crash, or the end of a process, leaves in a journal only what is there.
    """
    first = key_of(items[0]) if items else None
    return next((number for number, item in enumerate(items) if key_of(item) != first), len(items))


# ---------------------------------------------------------------- the parts of a frame


@dataclass(frozen=True, slots=True)
class Cut:
    """The identity that a run of frames was given."""

    batch_id: BatchId
    upto: int
    index: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who has begun to deliver a run, and when."""

    attempted_by: AttemptedBy
    at_ms: int
    doubtful: bool = False  # its earlier identity was lost


def encode_cut(key: int, position: int, cut: Cut) -> bytes:
    """The cut area of a run's first frame."""
    lane = bytes.fromhex(cut.batch_id.lane)
    return _sealed(key, position, _CUT.pack(lane, cut.batch_id.seq, cut.upto, cut.index))


def encode_attempt(key: int, position: int, attempt: Attempt) -> bytes:
    """The attempt area of a run's first frame; stands directly behind the cut area."""
    by = _ATTEMPTED_BY.index(attempt.attempted_by) | (_DOUBTFUL if attempt.doubtful else 0)
    return _sealed(key, position, _ATTEMPT.pack(attempt.at_ms, by))


def encode_settled(key: int, position: int, upto: int) -> bytes:
    """The settled area of a run's first frame."""
    return _sealed(key, position, _SETTLED.pack(upto))


def decode_cut(key: int, position: int, frame: bytes) -> Cut | None:
    """Read the cut area of a frame, None: it is not cut.

    Raises:
        ValueError: it is damaged.
    """
    area = _unsealed(key, position, frame[CUT_OFFSET:ATTEMPT_OFFSET])
    if area is None:
        return None
    lane, seq, upto, index = _CUT.unpack(area)
    if not 0 < seq < _MOST_SEQ or not position < upto < _MOST:
        raise ValueError("numbers that no cut has")
    return Cut(BatchId(lane.hex(), seq), upto, index)


def decode_attempt(key: int, position: int, frame: bytes) -> Attempt | None:
    """Read the attempt area of a frame that is cut, None: it has none.

    Raises:
        ValueError: it is damaged.
    """
    area = _unsealed(key, position, frame[ATTEMPT_OFFSET:SETTLED_OFFSET])
    if area is None:
        return None
    at_ms, by = _ATTEMPT.unpack(area)
    known = by & ~_DOUBTFUL
    # What nobody knows has to be taken for the worst.
    attempted_by = _ATTEMPTED_BY[known] if known < len(_ATTEMPTED_BY) else AttemptedBy.PLAIN
    return Attempt(attempted_by, at_ms, bool(by & _DOUBTFUL))


def decode_settled(key: int, position: int, frame: bytes) -> int:
    """Up to which position a frame is settled; 0: it is not, or nobody can tell."""
    try:
        return decode_settled_strictly(key, position, frame)
    except ValueError:
        return 0


def decode_settled_strictly(key: int, position: int, frame: bytes) -> int:
    """Up to which position a frame is settled; 0: it is not.

    Raises:
        ValueError: it is damaged.
    """
    area = _unsealed(key, position, frame[SETTLED_OFFSET:VALUE_OFFSET])
    upto: int = _SETTLED.unpack(area)[0] if area else 0
    return upto


def _sealed(key: int, position: int, area: bytes) -> bytes:
    return area + _CRC.pack(crc32(area, position ^ key))


def _unsealed(key: int, position: int, sealed: bytes) -> bytes | None:
    area = sealed[: -_CRC.size]
    if sealed == _sealed(key, position, area):
        return area
    if sealed.count(0) == len(sealed):
        return None
    raise ValueError("a damaged area")


# ---------------------------------------------------------------- the header


@dataclass(frozen=True, slots=True)
class Header:
    """What a journal says of itself, once and for ever."""

    key: int
    capacity: int  # bytes of the ring
    recovery_lane: str  # of the batches that recovery makes of what nobody had cut


def encode_header(header: Header) -> bytes:
    """The fixed part of the header, as it stands at each of its places."""
    lane = bytes.fromhex(header.recovery_lane)
    fixed = _HEADER.pack(_HEADER_MAGIC, FORMAT, header.key, header.capacity, lane)
    return fixed + _CRC.pack(crc32(fixed))


def encode_tail(key: int, tail: int) -> bytes:
    """The moving part of the header: the position below which everything is settled."""
    return _sealed(key, 0, _TAIL.pack(tail))


def decode_header(data: bytes) -> tuple[Header, int]:
    """Read the header, and the tail.

    Raises:
        NewerJournal: it is intact, but of a later format.
        JournalDamaged: neither copy is intact.
    """
    header: Header | None = None
    tails: list[int] = []
    for at in HEADER_COPIES:
        fixed = data[at : at + _HEADER.size]
        if len(fixed) == _HEADER.size and data[at + _HEADER.size :][: _CRC.size] == _CRC.pack(crc32(fixed)):
            magic, number, key, capacity, lane = _HEADER.unpack(fixed)
            if magic == _HEADER_MAGIC and number > FORMAT:
                raise NewerJournal(f"it has format {number}; this version reads {FORMAT}")
            if magic == _HEADER_MAGIC and LEAST_CAPACITY <= capacity <= MOST_CAPACITY:
                header = header or Header(key, capacity, lane.hex())
    if header is not None:
        for at in HEADER_COPIES:
            moving = data[at + TAIL_OFFSET :][: _TAIL.size + _CRC.size]
            try:
                area = _unsealed(header.key, 0, moving)
            except ValueError:
                continue
            if area and (tail := _TAIL.unpack(area)[0]) < _MOST_TAIL:
                tails.append(tail)
    if header is None or not tails:
        raise JournalDamaged("its header is damaged")
    return header, max(tails)
