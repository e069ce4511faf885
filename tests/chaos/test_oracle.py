"""The oracle sees each kind of harm, and nothing where there is none."""

from __future__ import annotations

import json
import random
import threading
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
    standard = {"threadName": "t", "order": 7}
    return json.dumps({"content": signed(record_id, payload, 7, "t"), **standard, **fields}).encode()


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


def test_fields_that_must_agree_do(book: CallBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two records of a producer have a number in common, and all are of one host."""
    monkeypatch.setattr(oracle, "problem_of_standard_fields", lambda *_: None)

    def changed(**fields: object) -> tuple[str, ...]:
        first = value("p0-0-0", producer="me", seq=1, serverName="here")
        given: dict[str, Any] = {"producer": "me", "seq": 2, "serverName": "here", **fields}
        second = value("p0-0-1", **given)
        return oracle.judge([book], [first, first, second], "plain", (0, 1)).changed

    assert changed() == changed(producer="you", seq=1) == ()
    assert changed(seq=1) == ("p0-0-1 has the number of p0-0-0",)
    assert changed(serverName="there") == ("they come from ['here', 'there']",)


def test_a_loss_that_the_stream_speaks_of_is_no_record_from_nowhere(book: CallBook) -> None:
    """It is counted for what it says; whatever only looks like one is."""
    found = judge(book, marker(7), value("p0-0-0"), value("p0-0-1"))
    assert (found.marked, found.marked_lost, found.unknown) == ({"queue_full": 7}, 7, ())
    for change in ({"className": "shop"}, {"lostRecords": "8"}, {"lostReason": "expired"}):
        assert judge(book, marker(7, **change), value("p0-0-0")).unknown == ("7",)
    assert judge(book, marker(7), marker(7, seq=2)).copies == 0
    assert judge(book, marker(7), marker(7)).copies == 1


def marker(records: int, **changes: object) -> bytes:
    """A record that says what is lost."""
    content = f"{records} records lost, queue_full, from 2026-01-01 to 2026-01-02"
    said = {"className": "plumelog_loguru", "lostReason": "queue_full", "lostRecords": str(records)}
    return json.dumps({"content": content, "producer": "me", "seq": 1, **said, **changes}).encode()


@pytest.mark.parametrize(
    ("marked", "dropped", "complaint"),
    [
        (1, {"queue_full": 1}, None),
        (0, {"closed": 1}, None),
        (3, {"queue_full": 1}, "the stream says that 3 records are lost, and 2 are"),
        (3, {"queue_full": 3}, "3 records are said to be dropped, and 2 are lost"),
        (0, {"queue_full": 1}, "dropped is {'queue_full': 1}, and the stream says {}"),
        (1, {"queue_full": 2}, "dropped is {'queue_full': 2}, and the stream says {'queue_full': 1}"),
    ],
)
def test_what_is_said_of_losses_is_held_against_them(
    book: CallBook, marked: int, dropped: dict[str, int], complaint: str | None
) -> None:
    """One record is lost, and one that was cut short may be."""
    found = judge(book, value("p0-0-0"), *([marker(marked)] if marked else []))
    shown = [sample(), sample(dropped=dropped)]
    words = oracle.false_words(found, [shown], ended_well=True)
    assert words == [] if complaint is None else complaint in words
    if marked < 2 > sum(dropped.values()):
        assert oracle.false_words(found, [shown], ended_well=False) == []
        forgetful = sample(dropped=dropped, server_lost=1)
        assert oracle.false_words(found, [[forgetful]], ended_well=True) == []


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


def test_how_fast_a_backlog_was_replayed_is_measured_once_all_is_well() -> None:
    """In the list itself, beside what is logged meanwhile; without what waits in memory."""
    steps = range(30)
    timeline = {
        "faults": [(0.0, 0.5)],
        "seconds": [0.1 * step for step in steps],
        "logged": [5000 + 60 * step for step in steps],
        "delivered": [90 * step if step != 20 else None for step in steps],
        "spooled": [1 if step < 25 else 0 for step in steps],
        "in_memory": [7 for _ in steps],
    }
    assert oracle.replayed_per_second(timeline) == pytest.approx(300)
    assert oracle.replayed_per_second({**timeline, "faults": [(0.0, 9.0)]}) == 0.0
    at_once = [0] * 8 + [5000 + 60 * step for step in range(8, 30)]
    spooled = [1] * 8 + [0] * 22
    fastest = oracle.replayed_per_second({**timeline, "delivered": at_once, "spooled": spooled})
    assert fastest > 5000


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
    fields = {"threadName": threading.current_thread().name, **call.extras}
    assert CONTENTS["plain"].problem({"content": call.message, **fields}) is None
    assert CONTENTS["message only"].problem({"content": call.message}) is not None


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
