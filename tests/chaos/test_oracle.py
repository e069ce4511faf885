"""The oracle sees each kind of harm, and nothing where there is none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos import oracle
from chaos.contents import CONTENTS, signed
from chaos.latencies import Latencies, quantile_us
from lab.calls import CallBook


@pytest.fixture
def book(tmp_path: Path) -> CallBook:
    """Four calls of one thread: two returned, one was refused by Loguru, one was cut short."""
    book = CallBook(tmp_path / "calls", "p0", threads=1, calls=10)
    for number in range(4):
        book.begin(0, number)
    book.returned(0, 0)
    book.returned(0, 1)
    book.refused(0, 2)
    return book


def value(record_id: str, payload: str = "x", **fields: object) -> bytes:
    """What lies in the list."""
    return json.dumps({"content": signed(record_id, payload), "threadName": "t", **fields}).encode()


def judge(book: CallBook, *values: bytes) -> oracle.Judgement:
    """As the newest value stands first."""
    return oracle.judge([book], values[::-1], "plain")


def test_what_returned_is_owed_and_nothing_else(book: CallBook) -> None:
    """A refused call owes nothing; one that was cut short may be there or not."""
    for values in (["p0-0-0", "p0-0-1"], ["p0-0-0", "p0-0-1", "p0-0-3"]):
        found = judge(book, *map(value, values))
        assert (found.owed, found.delivered, found.refused, found.raised) == (2, 2, 1, 0)
        assert not (found.lost or found.doubled or found.unknown or found.changed or found.out_of_order)


def test_each_harm_is_seen(book: CallBook) -> None:
    """Lost, doubled, from nowhere, changed, broken, out of order."""
    assert judge(book, value("p0-0-0")).lost == ("p0-0-1",)
    assert judge(book, *map(value, ["p0-0-0", "p0-0-1", "p0-0-0", "p0-0-0"])).doubled == ("p0-0-0",)
    assert judge(book, *map(value, ["p0-0-0", "p0-0-0", "p0-0-0"])).copies == 2
    assert judge(book, value("p0-0-0"), value("p0-0-9")).unknown == ("p0-0-9",)
    assert judge(book, value("p0-0-1"), value("p0-0-0")).out_of_order == 1
    spoiled = value("p0-0-0", "abc").replace(b"abc", b"abd")
    assert "digest" in judge(book, spoiled).changed[0]
    assert "not an object" in judge(book, b"[]").changed[0]


def test_a_loss_that_the_stream_speaks_of_is_no_record_from_nowhere(book: CallBook) -> None:
    """It is counted for what it says."""
    marker = {"content": "7 records lost, queue_full, from 2026-01-01 to 2026-01-02", "threadName": "t"}
    found = judge(book, json.dumps(marker).encode(), value("p0-0-0"), value("p0-0-1"))
    assert (found.marked_lost, found.unknown) == (7, ())


def sample(at: float = 0.0, **changes: Any) -> dict[str, Any]:
    """What a program writes of itself."""
    facts = {"accepted": 5, "adopted": 0, "delivered": 5, "in_memory": 0, "spooled": 0, "dead_lettered": 0}
    state = {"redis_state": "up", "retries": 0, "server_lost": 0, "dropped": {}}
    repeats = {"already_applied": 0, "possibly_doubled": 0}
    return {"at": at, "rss_bytes": 1 << 26, "threads": 9, "fds": 20, **facts, **state, **repeats, **changes}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"delivered": 4}, "equation is wrong by 1"),
        ({"dropped": {"queue_full": 1}}, "equation is wrong by -1"),
        ({"rss_bytes": 1 << 29}, "memory has grown"),
        ({"threads": 90}, "90 threads"),
        ({"fds": 900}, "900 fds"),
    ],
)
def test_a_bound_that_was_broken_once_is_told(changes: dict[str, Any], complaint: str) -> None:
    """One sample among many is enough."""
    assert oracle.broken_bounds([sample(), sample(), sample()]) == []
    (told,) = oracle.broken_bounds([sample(), sample(**changes), sample()])
    assert complaint in told


def test_what_was_felt_is_felt_while_the_fault_was_in_force() -> None:
    """What was so before and after does not count."""
    shown = [
        sample(1.0, retries=3),
        sample(5.0, retries=3),
        sample(9.0, redis_state="down", spooled=4, retries=4),
    ]
    assert oracle.felt(shown, 4.0, 6.0) == {"nothing"}
    assert oracle.felt(shown, 8.0, 10.0) == {"nothing", "down", "spooled", "retried", "failed"}


def test_what_is_reported_lost_is_what_was_said_last() -> None:
    """Whatever was dropped, and what the server forgot."""
    shown = [sample(), sample(dropped={"corrupt": 2, "spool_lost": 1}, server_lost=4)]
    assert oracle.reported_lost(shown) == 7
    assert oracle.reported_lost([]) == oracle.reported_lost([{"at": 1.0}]) == 0


def test_a_secret_is_found_wherever_it_was_written(tmp_path: Path) -> None:
    """In any file of the folder, but for those where it belongs."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "server").mkdir()
    (tmp_path / "spool" / "part.json").write_bytes(b"\0\xffpw-123\0")
    (tmp_path / "server" / "acl").write_text("pw-123")
    (tmp_path / "harmless").write_text("pw-12")
    found = oracle.files_with("pw-123", tmp_path, besides=[tmp_path / "server"])
    assert [path.name for path in found] == ["part.json"]


@given(st.integers(0, 10**9))
def test_every_kind_of_record_is_in_order_when_nothing_happened_to_it(seed: int) -> None:
    """What the judge expects is what the program logs."""
    dice = random.Random(seed)
    call = CONTENTS["plain"].make("p0-0-7", dice)
    assert CONTENTS["plain"].problem({"content": call.message}) is None


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=60))
def test_a_quantile_is_never_too_small_and_at_most_an_eighth_too_large(
    tmp_path_factory: pytest.TempPathFactory, durations_ns: list[int]
) -> None:
    """Of all threads together, over any durations."""
    latencies = Latencies(tmp_path_factory.mktemp("latencies") / "file", threads=2)
    for number, duration_ns in enumerate(durations_ns):
        latencies.add(number % 2, duration_ns)
    longest_us = max(durations_ns) / 1000
    assert longest_us <= quantile_us([latencies], 1.0) <= longest_us * 1.13 + 0.02
