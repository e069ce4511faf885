"""Numbers and what is missing between them, against plain sets."""

from __future__ import annotations

from array import array
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from plumelog_loguru.cli._numbers import HIGHEST, Numbers, copies, gaps, size

small = st.lists(st.integers(0, 40))


def _numbers(found: list[int]) -> Numbers:
    numbers = Numbers()
    for number in found:
        numbers.add(number)
    return numbers


@given(small)
def test_a_number_is_in_it_once(found: list[int]) -> None:
    """Whatever the order, each number is taken once, and stretches that touch are one."""
    numbers, seen = Numbers(), set[int]()
    for number in found:
        assert numbers.add(number) == (number not in seen)
        seen.add(number)
    ranges = list(numbers.ranges())
    assert [n for first, last in ranges for n in range(first, last + 1)] == sorted(seen)
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(ranges))
    assert len(numbers) == len(seen)


@given(small, small, small)
def test_gaps_lie_between_what_is_judged(one: list[int], two: list[int], other: list[int]) -> None:
    """Missing is what is nowhere, between the lowest and the highest number of those judged."""
    judged = {*one, *two}
    between = set(range(min(judged), max(judged) + 1)) if judged else set()
    missing = gaps([_numbers(one), _numbers(two)], _numbers(other))
    assert [n for a, b in missing for n in range(a, b + 1)] == sorted(between - judged - {*other})
    assert size(missing) == len(between - judged - {*other})


@given(small)
def test_copies_are_counted(again: list[int]) -> None:
    """A number that came again n times is there n + 1 times; neighbours that are alike are one line."""
    found = copies(array("q", again))
    assert {n: c for a, b, c in found for n in range(a, b + 1)} == {n: again.count(n) + 1 for n in again}
    assert all((a[1] + 1, a[2]) != (b[0], b[2]) for a, b in pairwise(found))


def test_the_highest_number_has_room() -> None:
    """The largest number that is taken does not overflow."""
    numbers = _numbers([HIGHEST, HIGHEST - 1, 0])
    assert gaps([numbers]) == [(1, HIGHEST - 2)] and len(numbers) == 3
