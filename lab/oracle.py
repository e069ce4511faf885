"""What became of the records: lost, doubled, unknown, out of order.

The oracle knows nothing of the library. It reads the list byte for byte, and compares it with what the test
itself wrote down, so that no mistake of the library can hide in its own bookkeeping.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab.servers import RedisServer

Record = dict[str, Any]


class MalformedValueError(AssertionError):
    """A value that no Plumelog server could take: not one JSON object on one line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the oracle found; `str` of it says so in a line that fits an assertion."""

    lost: tuple[str, ...]  # expected, and not in the list; in the order expected
    doubled: dict[str, int]  # in the list more than once: how often
    unknown: tuple[str, ...]  # in the list, and not expected; in the order found
    out_of_order_by_thread: dict[str, int]  # "producer/thread": how many records were overtaken

    @property
    def exactly_once(self) -> bool:
        """Every expected record is there once, and nothing else is."""
        return not (self.lost or self.doubled or self.unknown)

    @property
    def in_order(self) -> bool:
        """No thread's record overtook an earlier one of the same thread."""
        return not self.out_of_order_by_thread

    def __str__(self) -> str:
        parts = [
            f"{len(self.lost)} lost {_some(self.lost)}",
            f"{len(self.doubled)} doubled {_some(tuple(self.doubled))}",
            f"{len(self.unknown)} unknown {_some(self.unknown)}",
            f"{sum(self.out_of_order_by_thread.values())} out of order",
        ]
        return ", ".join(parts)


def read_list(server: RedisServer, key: str = "plume_log_list") -> list[Record]:
    """Read and decode a whole list without changing it, from its left end to its right.

    Raises:
        MalformedValueError: a value is not one JSON object on one line; the message says which.
    """
    return [decode_value(value, place) for place, value in enumerate(server.values(key))]


def decode_value(value: bytes, place: int = 0) -> Record:
    """Decode one value as strictly as the server needs it: UTF-8, one line, one object, no NaN."""
    try:
        if b"\n" in value or b"\r" in value:
            raise ValueError("more than one line")
        record = json.loads(value.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise MalformedValueError(f"value {place}: {error}: {value[:200]!r}") from error
    return record


def content_of(record: Record) -> str:
    """What names a record where nothing else is said: its content, so the test logs its ids as messages."""
    content: str = record["content"]
    return content


def check(
    expected_ids: Sequence[str],
    records: Sequence[Record],
    *,
    identify: Callable[[Record], str] = content_of,
    push_side: Literal["left", "right"] = "left",
) -> Verdict:
    """Compare what was logged with what is in the list.

    Args:
        expected_ids: the id of every record logged, each once; those of one thread in the order of its calls.
        records: what `read_list` returned.
        identify: how a record says its id.
        push_side: where new values come in. A list that is pushed on the left is read from its right end.

    Order is judged within each thread of each producer, by the first occurrence of each record.
    """
    position = {record_id: index for index, record_id in enumerate(expected_ids)}
    if len(position) < len(expected_ids):
        raise ValueError("the expected ids are not unique")
    found: Counter[str] = Counter()
    furthest: dict[str, int] = {}
    overtaken: Counter[str] = Counter()
    for record in reversed(records) if push_side == "left" else records:
        record_id = identify(record)
        found[record_id] += 1
        if found[record_id] > 1 or record_id not in position:
            continue
        thread = f"{record.get('producer', '')}/{record.get('threadName', '')}"
        if position[record_id] < furthest.get(thread, -1):
            overtaken[thread] += 1
        furthest[thread] = max(position[record_id], furthest.get(thread, -1))
    return Verdict(
        lost=tuple(record_id for record_id in expected_ids if record_id not in found),
        doubled={record_id: times for record_id, times in found.items() if times > 1},
        unknown=tuple(record_id for record_id in found if record_id not in position),
        out_of_order_by_thread=dict(overtaken),
    )


def _some(ids: Sequence[str]) -> str:
    return f"({', '.join(ids[:5])}{', …' if len(ids) > 5 else ''})" if ids else ""


def _object(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice")
    return record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
