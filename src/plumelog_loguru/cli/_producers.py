"""Which numbers of which producer were seen, where, and how often. Pure.

``producer`` and ``seq`` together name a record. Numbers are missing where they lie between the first and the
last that were seen of a producer and were seen nowhere. What a living process has spooled closes a gap and
makes none: what came before it may still be in that process's memory.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .._json import loads
from ._numbers import HIGHEST, Numbers, Range, copies, gaps, size


class NotARecord(Exception):
    """A value is no JSON object."""


@dataclass(slots=True)
class Producer:
    """What was seen of one."""

    app: str
    env: str
    listed: Numbers = field(default_factory=Numbers)
    again: array[int] = field(default_factory=lambda: array("q"))  # once for each copy beyond the first
    left: Numbers = field(default_factory=Numbers)  # in the spool, by processes that have ended
    kept: Numbers = field(default_factory=Numbers)  # in the spool, by living ones, or as dead letters
    markers: dict[int, tuple[str, int]] = field(default_factory=dict)  # by number: why, and how many

    @property
    def span(self) -> Range:
        """The first and the last number that were seen anywhere."""
        all_of_it = [found for seen in (self.listed, self.left, self.kept) for found in seen.ranges()]
        return min(first for first, _ in all_of_it), max(last for _, last in all_of_it)

    @property
    def losses(self) -> dict[str, int]:
        """Records that the producer itself said were lost, by reason."""
        said: Counter[str] = Counter()
        for reason, records in self.markers.values():
            said[reason] += records
        return dict(said)

    @property
    def spooled(self) -> int:
        """How many of its records wait in the spool, or are dead letters."""
        return len(self.left) + len(self.kept)

    def gaps(self) -> list[Range]:
        """Numbers that are missing."""
        return gaps([self.listed, self.left], self.kept)

    @property
    def missing(self) -> int:
        """How many numbers are missing."""
        return size(self.gaps())

    def to_json(self, name: str) -> dict[str, object]:
        """What ``--json`` prints of it."""
        first, last = self.span
        return {
            "producer": name,
            "app": self.app,
            "env": self.env,
            "first": first,
            "last": last,
            "records": len(self.listed) + len(self.again),
            "spooled": self.spooled,
            "missing": self.missing,
            "gaps": [{"first": first, "last": last} for first, last in self.gaps()],
            "duplicates": [
                {"first": first, "last": last, "copies": number} for first, last, number in copies(self.again)
            ],
            "losses": self.losses,
        }


class Producers:
    """All that were seen, by their names."""

    def __init__(self, field_name: str) -> None:
        """``field_name``: under which key of a record its producer stands."""
        self.anonymous = 0
        """Listed records that have no producer, or no number."""
        self._field = field_name
        self._by_name: dict[str, Producer] = {}

    def __iter__(self) -> Iterator[tuple[str, Producer]]:
        """By application and environment, in the order in which they were seen."""
        return iter(sorted(self._by_name.items(), key=lambda item: (item[1].app, item[1].env)))

    def __len__(self) -> int:
        return len(self._by_name)

    def listed(self, value: bytes) -> None:
        """A value stands in the list.

        Raises:
            NotARecord: it is no JSON object.
        """
        found = self._read(value)
        if found is None:
            self.anonymous += 1
            return
        producer, seq, record = found
        if not producer.listed.add(seq):
            producer.again.append(seq)
        elif "lostReason" in record:
            reason, records = record["lostReason"], record.get("lostRecords")
            if isinstance(reason, str) and isinstance(records, str) and records.isdecimal():
                producer.markers[seq] = reason, int(records[:18])

    def spooled(self, value: bytes, *, of_the_living: bool) -> None:
        """A value stands in the spool.

        Raises:
            NotARecord: it is no JSON object.
        """
        found = self._read(value)
        if found is not None:
            producer, seq, _ = found
            (producer.kept if of_the_living else producer.left).add(seq)

    def _read(self, value: bytes) -> tuple[Producer, int, dict[str, Any]] | None:
        try:
            record = loads(value)
        except ValueError:
            raise NotARecord from None
        if not isinstance(record, dict):
            raise NotARecord
        name, seq = record.get(self._field), record.get("seq")
        if type(name) is not str or type(seq) is not int or not 0 <= seq <= HIGHEST:
            return None
        producer = self._by_name.get(name)
        if producer is None:
            producer = Producer(str(record.get("appName", "")), str(record.get("env", "")))
            self._by_name[name] = producer
        return producer, seq, record
