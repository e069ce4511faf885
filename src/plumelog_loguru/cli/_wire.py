"""Whether a line is a record that a Plumelog server takes.

One wrong record spoils others: the server sends what it fetched together on together. So what did not come
from a sink of ours is looked at before it is let in.
"""

from __future__ import annotations

import json

from .._json import loads

_TYPES: dict[str, type] = {
    **dict.fromkeys(
        (
            "appName",
            "env",
            "serverName",
            "logLevel",
            "className",
            "method",
            "threadName",
            "content",
            "dateTime",
        ),
        str,
    ),
    **dict.fromkeys(("dtTime", "seq"), int),
}
_NAMES = {str: "a text", int: "a whole number"}
_MAY_BE_NULL = frozenset(("traceId", "logType"))
_SPECIAL = ("@", "$")  # the server's parser obeys @type and $ref, and then refuses all it fetched together


def fault_of(line: bytes) -> str | None:
    """What is wrong with a line, as the rest of a sentence about it; None: it is a record."""
    if b"\r" in line:
        return "has a carriage return; its lines must end as on Unix"
    try:
        record = loads(line)
    except ValueError:
        return "is not JSON" if line.strip() else "is empty"
    if type(record) is not dict:
        return "is not a JSON object"
    for key, kind in _TYPES.items():
        if type(record.get(key)) is not kind:
            return f"needs {key}, {_NAMES[kind]}"
        if kind is int and not 0 <= record[key] < 1 << 63:
            return f"needs {key}, from 0 to 2**63 - 1"
    if len(record) > len(_TYPES):
        for key, value in record.items():
            if key.startswith(_SPECIAL):
                return "has a field of which the name begins with @ or $"
            if type(value) is not str and key not in _TYPES and not (value is None and key in _MAY_BE_NULL):
                return "has one more field that is not a text"
    return "has a field twice" if _has_a_field_twice(line, len(record)) else None


def _has_a_field_twice(line: bytes, fields: int) -> bool:
    """Whether a key stands twice, and so something in the line that nobody has looked at yet."""
    # Each key ends in these two, also within a field that a second one hides, if no space is between.
    if line.count(b'":') == fields and not any(space in line for space in (b" :", b"\t:")):
        return False
    try:
        json.loads(line.decode(), object_pairs_hook=_refuse_twice)
    except (ValueError, RecursionError):  # what is too deep can only be hidden
        return True
    return False


def _refuse_twice(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise ValueError
