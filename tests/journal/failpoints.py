"""Ends a process, or what stands for one, at a chosen write of a journal, or in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from plumelog_loguru._journal import DeadJournal, Journal


class Killed(BaseException):
    """The process has ended, as far as this test goes."""


def _die() -> NoReturn:
    raise Killed


class FailPoint:
    """Counts a journal's writes to its file; at the chosen one it writes a part of the bytes and dies.

    Args:
        at_write: which write is the last, counted from 0.
        share: how much of it still gets into the file, from 0 to 1.
        die: what dying is; in a process of its own, its real death.
    """

    def __init__(self, at_write: int, share: float, die: Callable[[], NoReturn] = _die) -> None:
        self.left = at_write
        self.share = share
        self.die = die

    def watch(self, journal: Journal | DeadJournal) -> None:
        """Come between a journal and its file."""
        if journal._file is not None:
            journal._file = _File(self, journal._file)  # type: ignore[assignment]
        else:
            journal._ring = _Mapping(self, journal._ring)  # type: ignore[assignment]

    def write(self, do: Callable[[int], None], size: int) -> None:
        if self.left == 0:
            do(int(size * self.share))
            self.die()
        self.left -= 1
        do(size)


class _Mapping:
    def __init__(self, fail_point: FailPoint, ring: Any) -> None:
        self._fail_point, self._mapping = fail_point, ring

    def __setitem__(self, place: slice, data: bytes) -> None:
        def do(size: int) -> None:
            self._mapping[place.start : place.start + size] = data[:size]

        self._fail_point.write(do, len(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapping, name)

    def __getitem__(self, place: slice) -> bytes:
        return bytes(self._mapping[place])

    def __len__(self) -> int:
        return len(self._mapping)


class _File:
    def __init__(self, fail_point: FailPoint, file: Any) -> None:
        self._fail_point, self._file = fail_point, file

    def write(self, at: int, data: bytes) -> None:
        self._fail_point.write(lambda size: self._file.write(at, data[:size]), len(data))

    def close(self) -> None:
        self._file.close()
