"""Sets of whole numbers that nearly follow each other: which are there, and which are missing between.

A stretch takes sixteen bytes however many numbers are in it, so a million records in order take no more than
ten do. Pure.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby

Range = tuple[int, int]  # the first and the last, both included

HIGHEST = 2**63 - 2  # what an array holds, with room for the next


class Numbers:
    """Numbers from 0 to `HIGHEST`, each once."""

    def __init__(self) -> None:
        self._firsts = array("q")
        self._lasts = array("q")

    def add(self, number: int) -> bool:
        """Put a number in; False: it was there."""
        firsts, lasts = self._firsts, self._lasts
        after = bisect_right(firsts, number)  # the stretch that begins behind the number
        begins_next = after < len(firsts) and firsts[after] == number + 1
        if after and number <= lasts[after - 1] + 1:
            if number <= lasts[after - 1]:
                return False
            if begins_next:
                lasts[after - 1] = lasts.pop(after)
                del firsts[after]
            else:
                lasts[after - 1] = number
        elif begins_next:
            firsts[after] = number
        else:
            firsts.insert(after, number)
            lasts.insert(after, number)
        return True

    def ranges(self) -> Iterator[Range]:
        """What is in it, as it rises."""
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)


def gaps(judged: list[Numbers], *others: Numbers) -> list[Range]:
    """What is missing between the lowest and the highest of those judged, and is in no other either."""
    last = max((found[1] for numbers in judged for found in numbers.ranges()), default=-1)
    behind = min((found[0] for numbers in judged for found in numbers.ranges()), default=0)
    missing = []
    for begin, end in sorted(found for numbers in (*judged, *others) for found in numbers.ranges()):
        if begin > last:
            break
        if begin > behind:
            missing.append((behind, begin - 1))
        behind = max(behind, end + 1)
    return missing


def size(ranges: list[Range]) -> int:
    """How many numbers they are."""
    return sum(last - first + 1 for first, last in ranges)


def copies(again: array[int]) -> list[tuple[int, int, int]]:
    """Of numbers that came again, once for each time: first, last, and how often each is there in all."""
    found: list[tuple[int, int, int]] = []
    for number, times in groupby(sorted(again)):
        count = 1 + sum(1 for _ in times)
        if found and found[-1][1:] == (number - 1, count):
            found[-1] = (found[-1][0], number, count)
        else:
            found.append((number, number, count))
    return found
