"""The oracle finds each kind of harm, and nothing where there is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.oracle import MalformedValueError, Record, check, decode_value, read_list
from lab.servers import RedisServer


def record(content: str, thread: str = "MainThread", producer: str = "p") -> Record:
    """As much of a record as the oracle looks at."""
    return {"content": content, "threadName": thread, "producer": producer}


def test_a_list_is_read_in_its_own_order_and_left_as_it_is(redis_server: RedisServer) -> None:
    """Reading consumes nothing."""
    for content in "abc":
        redis_server.cli("LPUSH", "plume_log_list", json.dumps(record(content)))
    for _ in range(2):
        assert [found["content"] for found in read_list(redis_server)] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (b'{"a":\n1}', "more than one line"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": ', "Expecting value"),
        (b"[1]", "not an object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
    ],
)
def test_a_value_that_would_harm_the_server_is_an_error(value: bytes, complaint: str) -> None:
    """Every way in which one value can spoil the bulk of the others is named."""
    with pytest.raises(MalformedValueError, match=f"value 7: .*{complaint}"):
        decode_value(value, 7)


def test_all_there_once_in_order_is_a_clean_verdict() -> None:
    """By default the list was pushed on the left, so its newest value stands first."""
    verdict = check(["a", "b", "c"], [record("c"), record("b"), record("a")])
    assert verdict.exactly_once
    assert verdict.in_order


def test_lost_doubled_and_unknown_records_are_named() -> None:
    """Each harm has its own place in the verdict, and the summary shows all of them."""
    found = [record(content) for content in ("a", "x", "c", "a", "a")]
    verdict = check(["a", "b", "c", "d"], found, push_side="right")
    assert verdict.lost == ("b", "d")
    assert verdict.doubled == {"a": 3}
    assert verdict.unknown == ("x",)
    assert not verdict.exactly_once
    assert str(verdict) == "2 lost (b, d), 1 doubled (a), 1 unknown (x), 0 out of order"


def test_order_is_judged_within_each_thread_of_each_producer() -> None:
    """Threads may overtake each other; a thread may not overtake itself."""
    found = [
        record("b1", "B"),
        record("a1", "A"),
        record("a3", "A"),
        record("a2", "A"),
        record("m2", producer="other"),
        record("m1"),
    ]
    verdict = check(["a1", "a2", "a3", "b1", "m1", "m2"], found, push_side="right")
    assert verdict.exactly_once
    assert verdict.out_of_order_by_thread == {"p/A": 1}
    assert not verdict.in_order


def test_a_list_that_was_pushed_on_the_left_is_judged_from_its_right_end() -> None:
    """The same values are in order for one push side and not for the other."""
    found = [record("a"), record("b")]
    assert check(["a", "b"], found, push_side="right").in_order
    assert check(["a", "b"], found, push_side="left").out_of_order_by_thread == {"p/MainThread": 1}


def test_a_record_may_carry_its_id_elsewhere() -> None:
    """The test says where."""
    assert check(["7"], [{"orderId": "7"}], identify=lambda found: str(found["orderId"])).exactly_once


def test_expected_ids_must_tell_records_apart() -> None:
    """An id that stands for two records would hide a loss."""
    with pytest.raises(ValueError, match="not unique"):
        check(["a", "a"], [])


@given(
    expected=st.lists(st.text(max_size=3), unique=True, max_size=8),
    found=st.lists(st.text(max_size=3), max_size=12),
)
def test_every_record_is_accounted_for(expected: list[str], found: list[str]) -> None:
    """Whatever is in the list: what was expected and what was found add up."""
    verdict = check(expected, [record(content) for content in found])
    there = [content for content in expected if content in found]
    assert len(expected) == len(verdict.lost) + len(there)
    assert len(found) == len(there) + len(verdict.unknown) + sum(
        times - 1 for times in verdict.doubled.values()
    )
