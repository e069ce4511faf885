"""A record as the bytes that Redis will hold.

One line of UTF-8 JSON, at most so many bytes, for any record at all. A newline inside a value would break the
server's bulk request, and with it the records of other applications; JSON escapes them all.
"""

from __future__ import annotations

import dataclasses

from .._json import dumps
from ._model import STANDARD_KEYS, LogRecord
from ._text import cut, text_of

_NEVER_MARKED = frozenset({"logLevel", "dateTime"})  # the server reads them; any other text is only shown
_SHORT = 64  # characters; values up to this length are cut only when nothing else helps


def encode(record: LogRecord, max_bytes: int) -> bytes:
    """The record as one line of JSON.

    Args:
        record: Any record; what cannot be written as it is, is written as text.
        max_bytes: The most that the line may have; at least 1,024. The longest values are cut to meet it,
            each with a mark that says by how many characters.
    """
    try:
        line = dumps(record.to_dict())
    except Exception:  # a lone surrogate, an integer of more than 64 bits, extras that are no mapping
        line = dumps(_written_out(record, max_bytes))
    if len(line) > max_bytes:
        line = _shortened(_written_out(record, max_bytes), max_bytes)
    # A compact copy: orjson's own result keeps a buffer many times the size of most records, for as long as
    # the record waits in memory.
    return line[:-1] + b"}"


def _written_out(record: LogRecord, limit: int) -> dict[str, object]:
    """The record's wire mapping, with every value that JSON cannot hold replaced by its text."""
    try:
        wire = record.to_dict()
    except Exception:
        wire = dataclasses.replace(record, extras={}).to_dict()
    return {_well_formed(text_of(key, limit)): _writable(value, limit) for key, value in wire.items()}


def _writable(value: object, limit: int) -> object:
    if value is None or (type(value) is int and value.bit_length() < 64):
        return value
    # An exact string is left whole here, so that the mark of a later cut counts all that is missing.
    return _well_formed(value if type(value) is str else text_of(value, limit))


def _well_formed(text: str) -> str:
    r"""The text with each lone surrogate written as its escape, ``\udc80``: UTF-8 has no bytes for it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shortened(wire: dict[str, object], max_bytes: int) -> bytes:
    """The line with its longest values cut until it fits; then with fewer extras; then with marks alone."""
    extras = [key for key in wire if key not in STANDARD_KEYS]
    all_extras = len(extras)
    # This runs in a log call, and each look at thousands of extras takes a tenth of a second: where cutting
    # cannot help, it is not tried in steps.
    limit = max(len(value) for value in wire.values() if type(value) is str)
    if len(_cut_line(wire, _SHORT)) > max_bytes:
        limit = _SHORT
    while True:
        line = _cut_line(wire, limit)
        if len(line) <= max_bytes or limit == 0:
            return line
        if limit > _SHORT:
            limit = max(min(limit * max_bytes // len(line), limit * 3 // 4), _SHORT)
        elif extras:
            # The producer is the first of them, and so the last to go.
            kept = len(extras) // 2
            for key in extras[kept:]:
                del wire[key]
            del extras[kept:]
            wire["extrasCut"] = str(all_extras - kept)
        else:
            limit = 0


def _cut_line(wire: dict[str, object], limit: int) -> bytes:
    return dumps({key: _shorter(key, value, limit) for key, value in wire.items()})


def _shorter(key: str, value: object, limit: int) -> object:
    if type(value) is not str or (key in _NEVER_MARKED and len(value) <= _SHORT):
        return value
    return cut(value, limit)
