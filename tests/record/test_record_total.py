"""Any record in, one line of valid JSON out: whatever an application logs, only the bad part is lost."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from plumelog_loguru import _json
from plumelog_loguru._record import FieldExtractor, LogRecord, encode
from plumelog_loguru._record._model import STANDARD_KEYS
from plumelog_loguru._record._text import cut, text_of
from plumelog_loguru._settings import PlumelogSettings

MIB = 2**20


def checked(line: bytes, max_bytes: int = MIB) -> dict[str, Any]:
    """The line's record, after all that must be true of any line."""
    assert b"\n" not in line
    assert len(line) <= max_bytes
    record = json.loads(line.decode("utf-8"))
    assert record.keys() >= STANDARD_KEYS
    for key, value in record.items():
        if key in {"seq", "dtTime"}:
            assert type(value) is int
        elif key == "logType":
            assert value is None
        else:
            assert type(value) is str or key == "traceId"
    return record


class Raises:
    """Raises whatever it is told to, from everything that may be called to show it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def fail(self, *_: object) -> Any:
        raise self.error

    __str__ = __repr__ = __format__ = __bool__ = __hash__ = __eq__ = fail


class LyingStr(str):
    """A string that is one in name only."""

    def fail(self, *_: object, **__: object) -> Any:
        raise RuntimeError("hostile")

    __str__ = __repr__ = __format__ = __len__ = __getitem__ = __iter__ = __eq__ = __hash__ = fail
    encode = replace = fail


class RaisingDict(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("hostile")

    __iter__ = keys = items


class RaisingError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("hostile")


class Pretender:
    __class__ = dict  # type: ignore[assignment]


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def cycle() -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    value["self"] = value
    return value


def doubling(levels: int) -> list[Any]:
    """A small object whose text would have 2**levels parts."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def chain(length: int) -> BaseException:
    error = ValueError("first")
    for number in range(length):
        later = ValueError(number)
        later.__context__ = error
        error = later
    return error


def unchain(error: BaseException | None) -> None:
    """Take a long chain apart: freeing it whole overflows the stack of some interpreters."""
    while error is not None:
        error.__context__, error = None, error.__context__


@pytest.mark.parametrize(
    ("make", "expected"),  # made in the test: pytest itself compares and prints what it is given
    [
        (lambda: Raises(RuntimeError()), "<unreadable: RuntimeError>"),
        (lambda: Raises(RecursionError()), "<unreadable: RecursionError>"),
        (lambda: Raises(MemoryError()), "<unreadable: MemoryError>"),
        (lambda: [1, Raises(RuntimeError())], '[1, "<unreadable: RuntimeError>"]'),
        (lambda: RaisingDict(a=1), "<unreadable: RuntimeError>"),
        (lambda: Pretender(), "<unreadable: AttributeError>"),
        (lambda: LyingStr("text"), "text"),
        (lambda: [LyingStr("text")], '["text"]'),
        (lambda: "a\udc80b", r"a\udc80b"),
        (lambda: 2**64, str(2**64)),
        (lambda: -(2**63) - 1, str(-(2**63) - 1)),
        (lambda: {1: 2**80}, f'{{"1": "{2**80}"}}'),
        (lambda: float("-inf"), "-Infinity"),
        (lambda: cycle(), None),
        (lambda: deep(5000), None),
        (lambda: doubling(60), None),
        (lambda: list(range(1_000_000)), None),
        (lambda: {n: str(n) for n in range(100_000)}, None),
    ],
)
def test_hostile_extras(extractor, records, make: Callable[[], Any], expected: str | None) -> None:
    """A value that cannot be shown is replaced where it stands; its neighbours are not."""
    logger.bind(before=1, bad=make(), after=2).info("hello")
    record = checked(encode(extractor().extract(records[0]), MIB))
    assert (record["content"], record["before"], record["after"]) == ("hello", "1", "2")
    assert len(record["bad"]) <= 65536
    assert expected is None or record["bad"] == expected


@pytest.mark.parametrize(
    ("part", "make", "key"),
    [
        ("message", lambda: LyingStr("text"), "content"),
        ("message", lambda: Raises(RuntimeError()), "content"),
        ("message", lambda: "a\udc80", "content"),
        ("message", lambda: None, "content"),
        ("exception", lambda: 7, "content"),
        ("exception", lambda: (ValueError, Raises(RuntimeError()), None), "content"),
        ("level", lambda: None, "logLevel"),
        ("level", lambda: SimpleNamespace(no="x"), "logLevel"),
        ("function", lambda: Raises(RuntimeError()), "method"),
        ("function", lambda: "f\ud800", "method"),
        ("file", lambda: None, "method"),
        ("line", lambda: Raises(RuntimeError()), "method"),
        ("name", lambda: Raises(RuntimeError()), "className"),
        ("name", lambda: LyingStr("text"), "className"),
        ("name", lambda: 7, "className"),
        ("thread", lambda: None, "threadName"),
        ("thread", lambda: SimpleNamespace(name=2**70), "threadName"),
        ("time", lambda: None, "dateTime"),
        ("extra", lambda: None, "extra"),
        ("extra", lambda: 7, "extra"),
        ("extra", lambda: RaisingDict(a=1), "extra"),
    ],
)
def test_one_bad_part(extractor, records, part: str, make: Callable[[], Any], key: str) -> None:
    """Only the key that comes from the bad part differs, also where the part is missing altogether."""
    logger.info("hello")
    good = checked(encode(extractor().extract(records[0]), MIB))
    bad = {**records[0], part: make()}
    missing = {name: part_value for name, part_value in records[0].items() if name != part}
    for record in (bad, missing):
        line = checked(encode(extractor().extract(record), MIB))
        differing = {name for name in line.keys() | good.keys() if line.get(name) != good.get(name)}
        assert differing <= ({key, "dtTime"} if key == "dateTime" else {key})


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass_and_leave_no_gap(extractor, records, error: type[BaseException]) -> None:
    """What ends the program is not swallowed, and takes no number."""
    logger.info("hello")
    fields = extractor()
    with pytest.raises(error):
        fields.extract({**records[0], "extra": {"bad": Raises(error())}})
    assert fields.extract(records[0]).seq == 1


def test_long_chain_of_exceptions(extractor, records) -> None:
    """Ten thousand chained exceptions are not all formatted; the last one is shown."""
    error = chain(10_000)
    logger.info("hello")  # without it: Loguru's own formatter gives up at a thousand
    content = extractor().extract({**records[0], "exception": (ValueError, error, None)}).content
    unchain(error)
    assert content.startswith("hello\nTraceback (cut: more than ")
    assert content.endswith("ValueError: 9999")


def test_exception_that_is_its_own_context(extractor, records) -> None:
    """Exceptions that point at each other are each shown once."""
    first, second = ValueError("one"), ValueError("two")
    first.__context__, second.__context__ = second, first
    logger.opt(exception=first).info("hello")
    assert extractor().extract(records[0]).content.count("ValueError: two") == 1


def test_deep_recursion(extractor, records) -> None:
    """The traceback of an endless recursion is shown as Python shows it."""

    def endless() -> None:
        endless()

    try:
        endless()
    except RecursionError:
        logger.exception("hello")
    content = extractor().extract(records[0]).content
    assert "Previous line repeated" in content
    assert "RecursionError" in content.splitlines()[-1]


def test_exception_whose_str_raises(extractor, records) -> None:
    """An exception that cannot be shown still has its name and its traceback."""
    try:
        raise RaisingError
    except RaisingError:
        logger.exception("hello")
    content = extractor().extract(records[0]).content
    assert "raise RaisingError" in content
    assert "RaisingError" in content.splitlines()[-1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_wide_exception_group(extractor, records) -> None:
    """A group of very many members is not formatted member by member."""
    group = builtins.ExceptionGroup("many", [ValueError(n) for n in range(50_000)])  # type: ignore[attr-defined]
    logger.opt(exception=group).info("hello")
    assert "ExceptionGroup: many" in extractor().extract(records[0]).content


# --- size ---------------------------------------------------------------------------------------------------


def blank(**changes: Any) -> LogRecord:
    known: dict[str, Any] = {
        "server_name": "192.0.2.2", "app_name": "shop", "env": "prod", "method": "f(a.py:1)",
        "content": "hello", "log_level": "INFO", "class_name": "shop", "thread_name": "main", "seq": 1,
        "date_time": "2026-11-22 00:00:14.873", "dt_time": 1795305614873,
    }  # fmt: skip
    return LogRecord(**(known | changes))


def test_longest_values_are_cut_first() -> None:
    """Short values stay whole, long ones share the room, and the line comes close to its limit."""
    record = blank(content="c" * 9000, extras={"producer": "p" * 16, "long": "l" * 9000, "short": "s" * 50})
    line = encode(record, 10_000)
    sent = checked(line, 10_000)
    assert len(line) > 7_000
    assert (sent["short"], sent["producer"], sent["method"]) == ("s" * 50, "p" * 16, "f(a.py:1)")
    for value in (sent["content"], sent["long"]):
        kept = value.index("...[")
        assert value.endswith(f"...[{9000 - kept} characters cut]")


def test_too_many_extras() -> None:
    """Where cutting values is not enough, the last extras go, and their number is told."""
    record = blank(extras={"producer": "p" * 16} | {f"field{n}": "v" * 30 for n in range(1000)})
    sent = checked(encode(record, 4096), 4096)
    assert sent["producer"] == "p" * 16
    assert sent["content"] == "hello"
    assert len(sent.keys() - STANDARD_KEYS) - 1 + int(sent["extrasCut"]) == 1001


def test_too_many_extras_are_found_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of short extras are not cut in vain, step by step, while a log call waits."""
    lines: list[bytes] = []

    def dumps(value: object) -> bytes:
        lines.append(_json.dumps(value))
        return lines[-1]

    monkeypatch.setattr("plumelog_loguru._record._encode.dumps", dumps)
    many = {f"field{n}": f"value {n}" for n in range(40_000)}
    sent = checked(encode(blank(content="c" * 60_000, extras={"producer": "p" * 16} | many), MIB))
    assert int(sent["extrasCut"]) == 20_001
    assert len(lines) <= 4


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.text(st.characters(), max_size=3)
            | st.sampled_from(["\x00" * 3000, "世" * 3000, "\udc80" * 400])
            for name in ("server_name", "app_name", "env", "method", "content", "class_name", "thread_name")
        },
    ),
    st.dictionaries(st.text(max_size=200), st.text(max_size=200), max_size=30),
)
def test_never_more_than_the_limit(changes: dict[str, str], extras: dict[str, str]) -> None:
    """The smallest limit that may be set is kept by any record."""
    checked(encode(blank(**changes, extras=extras), 1024), 1024)


@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda: 7, lambda: {1: "2"}, lambda: {"a": 2**70}, lambda: {"a": object()}, RaisingDict],
)
def test_record_with_broken_extras(make: Callable[[], Any]) -> None:
    """A record that was made by hand, and made wrong, is sent all the same."""
    assert checked(encode(blank(extras=make()), MIB))["content"] == "hello"


MEASURE = """
import resource
from plumelog_loguru._record import LogRecord, encode
record = LogRecord("s", "shop", "prod", "m", "hello", "INFO", "c", "t", 1, "2026-11-22 00:00:14.873", 1)
kept = [encode(record, 2**20)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept += [encode(record, 2**20) for _ in range(20_000)]
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / sum(map(len, kept)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_encoded_bytes_are_compact() -> None:
    """Twenty thousand waiting lines take little more than their bytes; orjson's own take 30 times it."""
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.5


# --- anything -----------------------------------------------------------------------------------------------

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(st.characters())
    | st.datetimes() | st.builds(Raises, st.sampled_from([ValueError(), RecursionError(), MemoryError()]))
    | st.builds(LyingStr, st.text()) | st.builds(object) | st.builds(cycle) | st.builds(Pretender)
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)
names = st.text(st.characters(), max_size=200) | st.sampled_from(
    [*sorted(STANDARD_KEYS), "traceId", "a.b", "a_b"]
)
errors = st.tuples(st.just(ValueError), st.builds(ValueError, values), st.none())
parts = {
    "time": values,
    "level": values | st.builds(SimpleNamespace, no=values),
    "message": values,
    "exception": values | st.tuples(values, values, values) | errors,
    "extra": values | st.dictionaries(names, values) | st.builds(RaisingDict),
    "function": values,
    "file": values | st.builds(SimpleNamespace, name=values),
    "line": values,
    "name": values,
    "module": values,
    "thread": values | st.builds(SimpleNamespace, name=values),
}  # fmt: skip


@given(
    st.fixed_dictionaries({}, optional=parts),
    st.sampled_from([1024, 5000, MIB]),
    st.sampled_from([1, 100, 65536]),
)
def test_any_record_becomes_one_line(record: dict[str, Any], max_bytes: int, max_chars: int) -> None:
    """Whatever stands in a record, a valid line comes out, and the next number is taken."""
    fields = FieldExtractor(PlumelogSettings(max_content_chars=max(max_chars, 1)), producer="p")
    sent = checked(encode(fields.extract(record), max_bytes), max_bytes)
    assert sent["seq"] == fields.last_seq == 1


usual = st.fixed_dictionaries({
    "time": st.datetimes(timezones=st.just(timezone.utc)),
    "level": st.builds(SimpleNamespace, no=st.integers(0, 60)),
    "message": st.text(st.characters(), max_size=200) | values,
    "exception": st.none() | errors,
    "extra": st.dictionaries(names, values, max_size=3),
    "function": st.text(), "file": st.builds(SimpleNamespace, name=st.text()), "line": st.integers(1, 9999),
    "name": st.none() | st.text(), "module": st.text(), "thread": st.builds(SimpleNamespace, name=st.text()),
})  # fmt: skip


@given(usual, st.sampled_from([1024, MIB]), st.sampled_from(["shop", "sh\udc80p"]))
def test_the_short_way_says_the_same(record: dict[str, Any], max_bytes: int, app_name: str) -> None:
    """A line made in one pass differs from one made of a LogRecord in the order of its keys at most."""
    settings = PlumelogSettings.model_construct(
        **(PlumelogSettings(max_content_chars=100).__dict__ | {"app_name": app_name})
    )
    short, long = (FieldExtractor(settings, producer="3f9c2a71b0d4e655") for _ in range(2))
    line = short.line(record, max_bytes)
    assert json.loads(line) == json.loads(encode(long.extract(record), max_bytes))
    assert len(line) <= max_bytes
    assert b"\n" not in line
    assert short.last_seq == long.last_seq == 1


@given(st.text(), st.integers(0, 200), st.integers(0, 200))
def test_cut_says_how_much_is_missing(text: str, limit: int, tail: int) -> None:
    """What is cut is counted, what is kept stands at both ends, and the limit holds when the mark fits."""
    shown = cut(text, limit, tail=tail)
    if len(text) <= limit:
        assert shown == text
    else:
        assert len(shown) <= max(limit, 32)
        number = int(shown.rpartition("...[")[2].split()[0])
        assert len(shown) - len(f"...[{number} characters cut]") == len(text) - number


@given(
    st.one_of(
        st.integers(0, 130).map(lambda n: [7] * n),
        st.integers(0, 60).map(lambda n: [[7] * n] * 2),
        st.integers(0, 40).map(lambda n: {"k" * k: 7 for k in range(n)}),
        st.integers(0, 40).map(lambda n: [{"": 7}] * n),
    ),
    st.integers(64, 300),
)
def test_a_container_that_fits_is_whole(value: Any, limit: int) -> None:
    """What has room is shown in full; what has none is marked as cut, however short its elements are."""
    whole = json.dumps(value)
    assert (
        text_of(value, limit) == whole if len(whole) <= limit else "characters cut]" in text_of(value, limit)
    )


@given(values, st.integers(0, 300))
def test_text_of_anything(value: Any, limit: int) -> None:
    """Text of any value, never much longer than asked for."""
    assert len(text_of(value, limit)) <= max(limit, 32)
