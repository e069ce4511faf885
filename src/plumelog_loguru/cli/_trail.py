"""The way through a list that others push to and pop from meanwhile, page by page.

Distances count from the end at which the oldest value is. Each page begins a little before the last value
that is known, and is laid over what is known: so a list that has moved is neither read twice nor passed over.
Values that come and go between two pages at the newest end are not seen, nor what is pushed at the oldest.

Promises: a value that stays in the list is given out once. Where values were taken faster than they could be
looked at, `lost` says so, and nothing more is given out. Pure: it says what to ask for, and is told what was
there.

The place is found by values that are alike, at least eight where the list has them. Only a list that repeats
itself for longer than the pages overlap, and moves by just that length, could deceive it.
"""

from __future__ import annotations

from collections.abc import Sequence

_PAGE_VALUES_MAX = 2000
_PAGE_VALUES_FIRST = 100
_PAGE_VALUES_MIN = 16
_PAGE_BYTES = 2 << 20  # about as much is asked for at a time
_REMEMBERED = 20_000  # values by which a place is found again
_SURE = 8  # as many in a row are no chance
_CANDIDATES = 200


class Trail:
    """Where a reader is."""

    def __init__(self) -> None:
        self.lost = False
        """Whether the place could not be found again; what follows is not known."""
        self.taken = 0
        """Values that were seen, and taken out while the list was read; not all of those need show."""
        self.at_end = False
        """Whether the last page ended where the list did."""
        self._page = _PAGE_VALUES_FIRST
        self._known: list[int] = []  # the values looked at last, oldest first
        self._behind = 0  # the distance behind the last of them
        self._overlap = 0  # with which the next page is asked for
        self._asked = (0, 0)

    def wanted(self) -> tuple[int, int]:
        """The distance and the number of values to ask for next."""
        overlap = min(self._overlap, self._behind)
        self._asked = self._behind - overlap, overlap + self._page
        return self._asked

    def found(self, page: Sequence[bytes]) -> Sequence[bytes]:
        """Be told what was there, oldest first; gives out what was not known."""
        first, count = self._asked
        marks = [hash(value) for value in page]
        self.at_end = False
        begin, place, alike = self._place(marks, first)
        if place < 0:
            self._widen(first)
            return ()
        known = self._known
        # The oldest were taken, and all else came nearer.
        self.taken += max(0, place - self._expected(first))
        new = page[begin + alike :]
        self.at_end = len(page) < count
        if new or self.at_end:
            self.taken += len(known) - place - alike
            known[place + alike :] = marks[begin + alike :]
        self._behind = first + begin + len(known) - place
        del known[:-_REMEMBERED]
        self._adapt(page)
        return new

    def _expected(self, distance: int) -> int:
        """Where in what is known the value at a distance was."""
        return len(self._known) - (self._behind - distance)

    def _place(self, marks: list[int], first: int) -> tuple[int, int, int]:
        """From where on a page is what is known from where on, and for how long; below 0: nowhere."""
        known, expected = self._known, self._expected(first)
        if not known or (expected >= 0 and marks[: len(known) - expected] == known[expected:] != []):
            return 0, expected, len(known) - expected
        sure = min(_SURE, len(known))
        best, best_length = -1, 0
        for place in _nearest(known, marks[0], expected) if marks else ():
            length = _alike(known, place, marks)
            if length > best_length:
                best, best_length = place, length
            if length >= sure and place + length == len(
                known
            ):  # one that repeats itself is found farther off
                break
        # At the very end of the list there may be fewer than would make it sure.
        if best_length >= sure or (best_length and not first):
            return 0, best, best_length
        # More was pushed at the oldest end than is known.
        places = {mark: place for place, mark in reversed(list(enumerate(known)))}
        for begin, mark in enumerate(marks):
            place = places.get(mark, -1)
            if place >= 0 and (length := _alike(known, place, marks[begin:])) >= sure:
                return begin, place, length
        return 0, -1, 0

    def _widen(self, first: int) -> None:
        """Go back farther for the next page; where that is not possible, the place is lost."""
        if first and self._behind - first < _REMEMBERED:
            self._overlap = max(_SURE, 8 * (self._behind - first))
        else:
            self.lost = self.at_end = True

    def _adapt(self, page: Sequence[bytes]) -> None:
        if page:
            fitting = _PAGE_BYTES * len(page) // max(1, sum(map(len, page)))
            self._page = max(_PAGE_VALUES_MIN, min(_PAGE_VALUES_MAX, fitting, 4 * self._page))
        self._overlap = max(_SURE, self._page // 4)


def _nearest(known: list[int], mark: int, expected: int) -> list[int]:
    """The places of a value, those first that are nearest to where it was expected."""
    places = [place for place, one in enumerate(known) if one == mark]
    return sorted(places, key=lambda place: abs(place - expected))[:_CANDIDATES]


def _alike(known: list[int], place: int, marks: list[int]) -> int:
    """How many values from the place on are those of the page."""
    most = min(len(known) - place, len(marks))
    if known[place : place + most] == marks[:most]:
        return most
    return next(n for n in range(most) if known[place + n] != marks[n])
