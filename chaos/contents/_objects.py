"""Objects as extras that misbehave when somebody looks at them, or that are changed after the call."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from loguru import logger

from ._record import Call, Content, Record, problem_of_signed, signed
from ._texts import MAX_CHARS, is_cut_from, long_text

_UNREADABLE = re.compile(r"<unreadable: \w+>")


class _Oddity(NamedTuple):
    """An object made from a number, and whether a text shows it as well as it can be shown."""

    make: Callable[[int], object]
    is_well: Callable[[str, int], bool]


class _Raises:
    def __str__(self) -> str:
        raise ZeroDivisionError(str(id(self)))

    __repr__ = __str__


class _ShowsNumber:
    def __str__(self) -> str:
        return cast("str", 7)

    __repr__ = __str__


class _ShowsTooMuch:
    def __repr__(self) -> str:
        return long_text(3_000_000)


class _ShowsItself:
    def __str__(self) -> str:
        return f"<{self}>"


class _Liar:
    @property
    def __class__(self) -> Any:
        return dict

    @__class__.setter
    def __class__(self, kind: Any) -> None: ...


class _LyingText(str):
    __slots__ = ()

    def __len__(self) -> int:
        return 3

    def __str__(self) -> str:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = str.__hash__
    __repr__ = __str__


class _LyingNumber(int):
    def __str__(self) -> str:
        raise ZeroDivisionError

    def bit_length(self) -> int:
        return 10**9

    __repr__ = __str__


class _LyingDict(dict[str, int]):
    def items(self) -> Any:
        raise ZeroDivisionError


class _Untouchable:
    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError


class _Logs:
    """Whoever shows it logs a record, which Loguru refuses: it is in the middle of one."""

    def __str__(self) -> str:
        logger.info("from inside of a call")
        return "it was logged"


class _ChangesItsHome:
    """Whoever shows it finds the list in which it stands changed."""

    def __init__(self, home: list[object]) -> None:
        self.home = home

    def __str__(self) -> str:
        self.home.clear()
        return "changed"


def _ring(number: int) -> list[object]:
    ring: list[object] = [number]
    ring.append(ring)
    return ring


def _ring_of_dicts(number: int) -> dict[str, object]:
    one: dict[str, object] = {"number": number}
    one["two"] = {"one": one}
    return one


def _deep(number: int) -> list[object]:
    nest: list[object] = [number]
    for _ in range(5_000):
        nest = [nest]
    return nest


def _changing(number: int) -> list[object]:
    home: list[object] = [number]
    home += [_ChangesItsHome(home), number]
    return home


def _unreadable(text: str, number: int) -> bool:
    return _UNREADABLE.fullmatch(text) is not None


def _bounded(text: str, number: int) -> bool:
    return 0 < len(text) <= MAX_CHARS


ODDITIES: dict[str, _Oddity] = {
    "ring": _Oddity(_ring, lambda text, n: text.startswith(f"[{n}, [{n}, [") and "..." in text),
    "ringOfDicts": _Oddity(
        _ring_of_dicts, lambda text, n: text.startswith(f'{{"number": {n}, "two": {{"one": ')
    ),
    "deep": _Oddity(_deep, lambda text, _: text.startswith("[[[[[[[[") and "..." in text and len(text) < 500),
    "raises": _Oddity(lambda _: _Raises(), lambda text, _: text == "<unreadable: ZeroDivisionError>"),
    "raisesInside": _Oddity(
        lambda n: [n, _Raises(), n], lambda text, n: text == f'[{n}, "<unreadable: ZeroDivisionError>", {n}]'
    ),
    "raisesAsKey": _Oddity(
        lambda n: {_Raises(): n}, lambda text, n: text.endswith(f'ZeroDivisionError>": {n}}}')
    ),
    "showsNumber": _Oddity(lambda _: _ShowsNumber(), lambda text, _: text == "<unreadable: TypeError>"),
    "showsTooMuch": _Oddity(
        lambda _: _ShowsTooMuch(), lambda text, _: is_cut_from(text, long_text(3_000_000))
    ),
    "showsItself": _Oddity(lambda _: _ShowsItself(), lambda text, _: text == "<unreadable: RecursionError>"),
    "liar": _Oddity(lambda _: _Liar(), _unreadable),
    "lyingText": _Oddity(lambda n: _LyingText(f"text {n}"), lambda text, n: text == f"text {n}"),
    "lyingNumber": _Oddity(_LyingNumber, lambda text, n: text == str(n)),
    "lyingDict": _Oddity(lambda n: _LyingDict(n=n), _unreadable),
    "untouchable": _Oddity(lambda _: _Untouchable(), _bounded),
    "logs": _Oddity(lambda _: _Logs(), lambda text, _: text == "<unreadable: RuntimeError>"),
    "changesItsHome": _Oddity(_changing, lambda text, n: text == f'[{n}, "changed", {n}]'),
    "hugeNumber": _Oddity(lambda _: 7 << 50_000, _bounded),
    "notANumber": _Oddity(lambda _: float("nan"), lambda text, _: text == "NaN"),
    "bytes": _Oddity(lambda n: b"\xff%d" % n, lambda text, n: text == f"b'\\xff{n}'"),
    "lock": _Oddity(lambda _: threading.Lock(), lambda text, _: "lock" in text),
    "endless": _Oddity(lambda _: range(10**15), lambda text, _: text == f"range(0, {10**15})"),
    "millions": _Oddity(
        lambda n: range(n) and [n] * 300_000, lambda text, n: text.startswith("[") and _bounded(text, n)
    ),
}


def _odd(record_id: str, dice: random.Random) -> Call:
    number = dice.randrange(1, 10**6)
    names = dice.sample(sorted(ODDITIES), 4)
    return Call(
        signed(record_id, f"{number} {','.join(names)}"),
        {name: ODDITIES[name].make(number) for name in names},
    )


def _problem_of_odd(record: Record) -> str | None:
    if problem := problem_of_signed(record):
        return problem
    _, _, number, names = record["content"].split(" ")
    for name in names.split(","):
        text = record.get(name)
        if not isinstance(text, str) or not ODDITIES[name].is_well(text, int(number)):
            return f"{name} of {number} shows as {str(text)[:200]!r}"
    return None


class _Stateful:
    def __init__(self, state: str) -> None:
        self.state = state

    def __str__(self) -> str:
        return self.state


def _mutable(record_id: str, dice: random.Random) -> Call:
    number = dice.randrange(10**6)
    plain: list[object] = [number]
    nested: dict[str, Any] = {"inner": {"list": [number]}}
    raw = bytearray(b"%d" % number)
    stateful = _Stateful(f"state {number}")
    extras = {"plain": plain, "nested": nested, "raw": raw, "stateful": stateful}

    def change() -> None:
        plain.append("later")
        nested["inner"]["list"].clear()
        nested["later"] = True
        raw[:] = b"later"
        stateful.state = "later"

    return Call(f"{record_id} {number}", extras, afterwards=change)


def _problem_of_mutable(record: Record) -> str | None:
    number = int(record["content"].split(" ")[1])
    expected = {
        "plain": json.dumps([number]),
        "nested": json.dumps({"inner": {"list": [number]}}),
        "raw": str(bytearray(b"%d" % number)),
        "stateful": f"state {number}",
    }
    for name, text in expected.items():
        if record[name] != text:
            return f"{name} is {record[name]!r}, and was {text!r} at the call"
    return None


OBJECTS = {
    "odd objects": Content(_odd, _problem_of_odd),
    "changed afterwards": Content(_mutable, _problem_of_mutable),
}
