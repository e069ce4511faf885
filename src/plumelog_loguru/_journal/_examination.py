"""What is wrong in a journal whose owner has ended: each bit that a checksum covers and a frame needs.

It looks deeper than recovery does, which is content with one of two copies, or with a frame whose head is
wrong but for its size. Promises that nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ._format import (
    ATTEMPT_OFFSET,
    CUT_OFFSET,
    HEAD,
    HEADER_BYTES,
    HEADER_COPIES,
    MAGIC,
    SETTLED_OFFSET,
    VALUE_OFFSET,
    JournalDamaged,
    JournalError,
    decode_attempt,
    decode_cut,
    decode_header,
    decode_settled_strictly,
)
from ._recovery import DeadJournal, Place, damage_told, open_journal, read_all

_COPY_BYTES = HEADER_COPIES[1] - HEADER_COPIES[0]
_DECODERS = (decode_cut, decode_attempt, decode_settled_strictly)
_AREAS = ("the identity of", "who attempted", "whether Redis has")
_OFFSETS = (CUT_OFFSET, ATTEMPT_OFFSET, SETTLED_OFFSET, VALUE_OFFSET)


@dataclass(frozen=True, slots=True)
class JournalFlaw:
    """Something in a journal that is not what its owner wrote."""

    byte: int  # in the file
    what: str  # half a sentence
    records: int  # that are lost, or in doubt, as far as that is known


@dataclass(frozen=True, slots=True)
class Examined:
    """What a journal holds, and what is wrong in it."""

    records: int  # that can be recovered
    flaws: tuple[JournalFlaw, ...]


def examine(path: Path) -> Examined:
    """Look at every bit of a journal that matters.

    Raises:
        NewerJournal: a later version wrote it.
        JournalDamaged: nothing in it can be read.
        JournalError: the disk does not let us.
    """
    with damage_told(path):
        descriptor = open_journal(path, os.O_RDONLY)
        journal = _Examiner(path, descriptor)
        try:
            return Examined(journal.records, (*_flaws_of_header(path, descriptor, journal), *journal.flaws()))
        finally:
            journal.close()


def _flaws_of_header(path: Path, descriptor: int, journal: _Examiner) -> Iterator[JournalFlaw]:
    try:
        head = read_all(descriptor, 0, HEADER_BYTES)
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be read ({error.strerror})") from error
    if journal.is_unbegun:
        return
    for at in HEADER_COPIES:
        copy = head[at : at + _COPY_BYTES]
        try:
            decode_header(copy)
        except JournalDamaged:
            if any(copy) or journal.has_frames:  # else its maker died before it came to this
                yield JournalFlaw(at, "one of the two copies of its header is damaged", 0)


class _Examiner(DeadJournal):
    """Keeps what recovery needs no more once it has sorted it."""

    @property
    def is_unbegun(self) -> bool:
        """Whether its maker died before it held anything."""
        return not self._ring

    @property
    def has_frames(self) -> bool:
        return bool(self._places)

    def flaws(self) -> Iterator[JournalFlaw]:
        """All that is wrong behind the header."""
        if self._is_short() and not self.is_unbegun:
            missing = self._capacity - len(self._ring)
            yield JournalFlaw(HEADER_BYTES + len(self._ring), f"{missing} bytes are missing at its end", 0)
        lost = {stretch.position: stretch.records for stretch in self.corrupt}
        in_batch = {start: len(batch.frames) for batch in self._batches.values() for start, _ in batch.runs}
        for place in self._places:
            at = HEADER_BYTES + place.position % self._capacity
            if not place.intact:
                records = lost.get(place.position)
                yield JournalFlaw(
                    at,
                    "a record that Redis has already is damaged"
                    if records is None
                    else "a record is damaged"
                    if records
                    else "the newest record is damaged, or its writer died while it wrote it",
                    records or 0,
                )
                continue
            frame = self._ring[slice(*self._span(place.position, place.upto))]
            magic, _, key, position, _ = HEAD.unpack_from(frame)
            if (magic, key, position) != (MAGIC, self._key, place.position):
                yield JournalFlaw(at, "the head of an intact record is damaged", 0)
            for decode, about, offset in zip(_DECODERS, _AREAS, _OFFSETS, strict=False):
                try:
                    decode(self._key, place.position, frame)
                except ValueError:
                    records = in_batch.get(place.position, 1)
                    yield JournalFlaw(at + offset, f"{about} records is no longer known", records)

    def _sort(self, places: list[Place]) -> None:
        self._places = places
        super()._sort(places)
