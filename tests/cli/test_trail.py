"""A list is read page by page while it moves: every value that stays is seen once, none twice."""

from __future__ import annotations

import random
from collections import deque
from itertools import count

import pytest

from plumelog_loguru.cli._trail import Trail
from tests.scale import scaled


class _List:
    """A list at both ends of which others are busy; the oldest value stands left."""

    def __init__(self, size: int) -> None:
        self._names = count()
        self.values = deque(self._name() for _ in range(size))
        self.gone: set[bytes] = set()
        self.gone_old: set[bytes] = set()
        self.pushed_old: set[bytes] = set()

    def _name(self) -> bytes:
        return b"value %d" % next(self._names)

    def push_new(self, number: int) -> None:
        self.values.extend(self._name() for _ in range(number))

    def push_old(self, number: int) -> None:
        for _ in range(number):
            self.values.appendleft(self._name())
            self.pushed_old.add(self.values[0])

    def pop_old(self, number: int) -> None:
        for _ in range(min(number, len(self.values))):
            self.gone_old.add(self.values.popleft())
        self.gone |= self.gone_old

    def pop_new(self, number: int) -> None:
        for _ in range(min(number, len(self.values))):
            self.gone.add(self.values.pop())

    def page(self, first: int, number: int) -> list[bytes]:
        return list(self.values)[first : first + number]


def _read(trail: Trail, the_list: _List, *between: object) -> list[bytes]:
    seen: list[bytes] = []
    for _ in range(1000):
        seen += trail.found(the_list.page(*trail.wanted()))
        if trail.at_end:
            return seen
        for act in between:
            act()  # type: ignore[operator]
    raise AssertionError("it does not come to an end")


def test_a_list_at_rest_is_read_once() -> None:
    """Nothing moves: every value once, in order."""
    the_list, trail = _List(10_000), Trail()
    assert _read(trail, the_list) == list(the_list.values)
    assert not trail.lost and trail.taken == 0


@pytest.mark.parametrize("size", [0, 1, 2, 99, 100, 101, 500])
def test_small_lists_and_a_second_round(size: int) -> None:
    """What was pushed after the end was reached is given out by the next round, and nothing else."""
    the_list, trail = _List(size), Trail()
    first = _read(trail, the_list)
    assert first == list(the_list.values)
    assert _read(trail, the_list) == []
    the_list.push_new(3)
    assert first + _read(trail, the_list) == list(the_list.values)
    assert not trail.lost


@pytest.mark.parametrize("seed", range(scaled(60, 3000)))
@pytest.mark.parametrize("ends", ["new only", "queue", "stack", "both"])
def test_a_list_that_moves_is_no_gap_and_no_duplicate(seed: int, ends: str) -> None:
    """Whatever comes and goes between two pages: what stays is seen once, what goes at most once."""
    dice = random.Random(seed)
    most = dice.choice([1, 5, 40, 300])
    the_list, trail = _List(dice.choice([50, 3000, 8000])), Trail()
    acts = {
        "new only": [the_list.push_new],
        "queue": [the_list.push_new, the_list.pop_old],
        "stack": [the_list.push_new, the_list.pop_new],
        "both": [the_list.push_new, the_list.pop_old, the_list.pop_new, the_list.push_old],
    }[ends]
    seen = _read(trail, the_list, lambda: dice.choice(acts)(dice.randint(0, most)))
    assert len(seen) == len(set(seen))
    if not trail.lost:
        assert [v for v in the_list.values if v not in the_list.pushed_old] == [
            v for v in seen if v not in the_list.gone
        ]
    overtaken = the_list.gone_old - set(seen) - the_list.pushed_old
    assert not trail.lost or overtaken or len(set(seen) - the_list.gone) < 8, "lost for no reason"


def test_a_reader_who_is_overtaken_says_so() -> None:
    """Where values went faster than they were read, nothing is made up."""
    the_list, trail = _List(20_000), Trail()
    seen = _read(trail, the_list, lambda: the_list.pop_old(4_000))
    assert trail.lost and len(seen) == len(set(seen))


def test_a_list_that_is_replaced_says_so() -> None:
    """Another list under the same name is not taken for the rest of the first."""
    the_list, trail = _List(5_000), Trail()
    trail.found(the_list.page(*trail.wanted()))
    other = _List(0)
    other.values = deque(b"other %d" % n for n in range(5_000))
    assert _read(trail, other) == [] and trail.lost


def test_a_batch_that_is_there_twice_is_given_out_twice() -> None:
    """Values that repeat are given out as often as they are there, also where the list moves."""
    the_list, trail = _List(300), Trail()
    for _ in range(5):
        the_list.values.extend(list(the_list.values)[-100:])
    everything = list(the_list.values)
    seen = _read(trail, the_list, lambda: the_list.pop_old(7))
    assert seen == everything and not trail.lost


def test_a_list_of_one_value_is_counted() -> None:
    """Values that are all alike cannot be told apart, and are counted in a list at rest."""
    the_list, trail = _List(0), Trail()
    the_list.values = deque([b"ping"] * 7_001)
    assert len(_read(trail, the_list)) == 7_001


def test_pages_of_large_values_are_short() -> None:
    """No page asks for more than about two mebibytes, once it is known how large the values are."""
    the_list, trail = _List(0), Trail()
    the_list.values = deque(b"%d" % n + bytes(100_000) for n in range(400))
    asked = []
    while not trail.at_end:
        asked.append(trail.wanted())
        trail.found(the_list.page(*asked[-1]))
    assert max(number for _, number in asked[1:]) <= 30


def test_pages_grow_for_small_values() -> None:
    """A long list of short values takes few questions."""
    the_list, trail = _List(100_000), Trail()
    questions = 0
    while not trail.at_end:
        trail.found(the_list.page(*trail.wanted()))
        questions += 1
    assert questions < 60
