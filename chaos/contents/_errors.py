"""Exceptions to log: long chains of them, deep ones, groups, and ones that cannot be shown."""

from __future__ import annotations

import builtins
import random
from collections.abc import Callable

from ._record import Call, Content, Record, problem_of_signed, signed
from ._texts import MAX_CHARS, long_text


class _CannotBeShown(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__


def _raised(error: BaseException, depth: int = 1) -> BaseException:
    """The error, raised so many frames deep."""
    try:
        if depth > 1:
            _raise(error, depth - 1)
        raise error
    except BaseException as caught:
        return caught


def _raise(error: BaseException, depth: int) -> None:
    if depth:
        _raise(error, depth - 1)
    raise error


def _chain(length: int) -> BaseException:
    error = _raised(ValueError("the first"))
    for number in range(length):
        following = ValueError(f"number {number}")
        following.__cause__ = error
        error = _raised(following)
    return error


def _circle() -> BaseException:
    one, two = _raised(ValueError("one")), _raised(ValueError("two"))
    one.__context__, two.__context__ = two, one
    return one


def _group() -> BaseException:
    kind = getattr(builtins, "ExceptionGroup", None)  # since 3.11
    errors = [_raised(ValueError(f"member {number}")) for number in range(30)]
    return errors[0] if kind is None else _raised(kind("a group", errors))


def _with_notes() -> BaseException:
    error = _raised(ValueError("with notes"))
    error.__notes__ = ["a note\nof two lines", 7, "\ud800"]  # type: ignore[attr-defined]
    return error


# A chain of a thousand is not among them: on that one Loguru's own formatter fails, before any sink is asked.
_ERRORS: dict[str, Callable[[], BaseException | bool]] = {
    "ValueError": lambda: _raised(ValueError("plain")),
    "KeyError": lambda: KeyError("never raised"),
    "RecursionError": lambda: _raised(RecursionError("deep"), depth=60),
    "ValueError:": lambda: _chain(20),
    "ValueError: one": _circle,
    "ValueError: member": _group,
    "ValueError: with notes": _with_notes,
    "_CannotBeShown": lambda: _raised(_CannotBeShown()),
    "LookupError": lambda: _raised(LookupError(long_text(1_000_000))),
    "UnicodeError": lambda: _raised(UnicodeError("\ud800\x00\r\n\u2028" * 50)),
    "SyntaxError": lambda: _raised(SyntaxError("odd", ("\x00", -1, 10**9, "\ud800"))),
    "SystemExit": lambda: _raised(SystemExit(3)),
    "": lambda: True,  # exception=True where there is none
}


def _failing(record_id: str, dice: random.Random) -> Call:
    name = dice.choice(sorted(_ERRORS))
    return Call(signed(record_id, name), error=_ERRORS[name]())


def _problem_of_failing(record: Record) -> str | None:
    message, _, traceback = record["content"].partition("\n")
    if problem := problem_of_signed({"content": message}):
        return problem
    name = message.split(" ", 2)[2]
    if name not in traceback or len(record["content"]) > MAX_CHARS or ("Error" in name and not traceback):
        return f"of {name} it shows {traceback[:200]!r}…{traceback[-200:]!r}"
    return None


ERRORS = {"errors": Content(_failing, _problem_of_failing)}
