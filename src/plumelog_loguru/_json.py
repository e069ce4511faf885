"""JSON by orjson, also in a process whose memory may end.

orjson does not check every allocation: where one fails, it ends the process by a segmentation fault, and with
it the application, which may live through a `MemoryError`. So where memory has a limit, some is asked for and
given back first, for Python says no in its own way.

Where there is none, as nearly everywhere, that costs nothing. Cgroups set no such limit: they kill.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import orjson

_SPARE_BYTES = 4 << 20  # more than a record of the default size takes while it is encoded
_NO_OVERCOMMIT = "2"


def dumps(value: object) -> bytes:
    """The value as one line of JSON.

    Raises:
        TypeError: JSON has no word for it.
        MemoryError: there is no memory for it.
    """
    if _memory_can_end():
        bytes(_SPARE_BYTES)
    return orjson.dumps(value)


def loads(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none.
        MemoryError: there is no memory for it.
    """
    if _memory_can_end():
        bytes(_SPARE_BYTES)
    return orjson.loads(text)


def encoder() -> Callable[[object], bytes]:
    """`dumps` for a caller to whom a tenth of a microsecond matters, by the limits of this moment."""
    _memory_can_end.cache_clear()
    return dumps if _memory_can_end() else orjson.dumps


@cache
def _memory_can_end() -> bool:
    return _is_limited() or _is_committed()


def _is_limited() -> bool:
    try:
        import resource
    except ImportError:  # Windows
        return False
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def _is_committed() -> bool:
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text().strip() == _NO_OVERCOMMIT
    except OSError:  # not Linux
        return False
