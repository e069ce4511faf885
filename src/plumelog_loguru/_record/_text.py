"""Text of anything, whatever it is and however it behaves.

What an application hands to its logger may be circular, a million elements long, 5,000 levels deep, or raise
from its ``__str__``. Nothing here raises because of it, and the work is bounded by the length of the text
that is wanted: a container is copied only as far as its text can show. (Not by time: a ``__str__`` that never
returns does so wherever it is called.) KeyboardInterrupt and SystemExit do pass: they are not about the
value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

_MARK_ROOM = 32  # characters; no mark is longer
_MAX_DEPTH = 32


def cut(text: str, limit: int, *, tail: int = 0) -> str:
    """At most ``limit`` characters of a text, the mark that says how many are missing included.

    Args:
        text: An exact ``str``: a subclass may lie about its length.
        limit: In characters. Below the length of the mark, the mark alone remains.
        tail: How many of the kept characters are taken from the end: the end of a traceback names the error.
    """
    if len(text) <= limit:
        return text
    kept = max(limit - _MARK_ROOM, 0)
    tail = min(tail, kept)
    return f"{text[: kept - tail]}...[{len(text) - kept} characters cut]{text[len(text) - tail :]}"


def placeholder(error: BaseException) -> str:
    """What stands where a part could not be read."""
    return f"<unreadable: {type(error).__name__}>"


def text_of(value: object, limit: int) -> str:
    """At most ``limit`` characters that show a value.

    A string shows itself. All else is spelled as JSON spells it (``true``, ``null``, ``[1, "a"]``), so that
    it reads the same whether it stands alone or inside something; what JSON does not know is shown by
    ``str()``.
    """
    if type(value) is int and value.bit_length() <= 64:  # what most extras are that are no strings
        return cut(str(value), limit)
    plain = _Copy(limit).of(value)
    try:
        text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    except Exception as error:  # an object that claims another class than its own
        text = placeholder(error)
    return cut(text, limit)


class _Copy:
    """A copy of a value in plain JSON types, not much larger than ``room`` characters can show."""

    __slots__ = ("room",)

    def __init__(self, room: int) -> None:
        self.room = room

    def of(self, value: object, depth: int = 0) -> object:
        """The copy; never raises, and never descends into what there is no more room to show."""
        self.room -= 1
        if self.room < 0 or depth > _MAX_DEPTH:
            return "..."
        try:
            if value is None or isinstance(value, (bool, float)):
                return value
            if isinstance(value, int) and int.bit_length(value) <= 64:
                return value
            if isinstance(value, dict):
                return self._of_dict(value, depth)
            if isinstance(value, (list, tuple, set, frozenset)):
                return self._of_items(value, depth)
            text = _plain_text(value)
        except Exception as error:  # user code ran: anything is possible
            return placeholder(error)
        if depth:
            text = cut(text, max(self.room, 0))
            self.room -= len(text)
        return text

    # Containers are first copied in one C call, for another thread may be changing them just now.

    def _of_dict(self, value: dict[object, object], depth: int) -> dict[str, object]:
        copied: dict[str, object] = {}
        for name, item in list(islice(value.items(), self.room // 7 + 2)):  # the shortest is '"": 7, '
            key = text_of(name, max(self.room, 0))
            self.room -= len(key)
            copied[key] = self.of(item, depth + 1)
            if self.room < 0:
                break
        return copied

    def _of_items(self, value: Iterable[object], depth: int) -> list[object]:
        copied: list[object] = []
        for item in list(islice(value, self.room // 3 + 2)):  # the shortest is "7, "
            copied.append(self.of(item, depth + 1))
            if self.room < 0:
                break
        return copied


def _plain_text(value: object) -> str:
    """An exact ``str``, past anything that a subclass redefines."""
    if isinstance(value, str):
        return str.__str__(value)
    # Under -bb, str() of bytes is an error.
    return str.__str__(repr(value) if isinstance(value, (bytes, bytearray)) else str(value))
