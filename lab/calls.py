"""What a program called, and which calls returned: a book that outlives the program, whatever way it ends."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_BEGUN, _RETURNED, _REFUSED, _RAISED = 1, 2, 3, 4


class CallBook:
    """One byte for each call, in a mapped file: nothing is buffered, and a byte is never half-written.

    The program writes it, its judge reads it, and neither asks the library. The file has holes where no call
    was made yet, so room for many calls costs nothing.
    """

    def __init__(self, path: Path, tag: str, threads: int, calls: int) -> None:
        """Map the book, and make it first where it is missing.

        Args:
            path: the file; the same for program and judge.
            tag: what the ids of these calls begin with.
            threads: how many threads call.
            calls: at most so many calls of each thread.
        """
        self.tag = tag
        self.threads = threads
        self.calls = calls
        with open(path, "ab") as file:
            file.truncate(threads * calls)
        with open(path, "r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), threads * calls)

    def id_of(self, thread: int, number: int) -> str:
        """What a call logs."""
        return f"{self.tag}-{thread}-{number}"

    def begin(self, thread: int, number: int) -> None:
        """A call is about to be made."""
        self._bytes[thread * self.calls + number] = _BEGUN

    def returned(self, thread: int, number: int) -> None:
        """It returned: from now on the library owes the record."""
        self._bytes[thread * self.calls + number] = _RETURNED

    def refused(self, thread: int, number: int) -> None:
        """Loguru itself refused it, before the library saw it."""
        self._bytes[thread * self.calls + number] = _REFUSED

    def raised(self, thread: int, number: int) -> None:
        """It ended with an exception, which no call may."""
        self._bytes[thread * self.calls + number] = _RAISED

    @property
    def count(self) -> int:
        """How many calls have returned."""
        return self._bytes[:].count(_RETURNED)

    @property
    def refused_count(self) -> int:
        """How many calls Loguru itself refused."""
        return self._bytes[:].count(_REFUSED)

    @property
    def raised_count(self) -> int:
        """How many calls ended with an exception."""
        return self._bytes[:].count(_RAISED)

    def owed(self) -> list[str]:
        """Ids of the calls that returned, those of a thread in the order of its calls."""
        return list(self._ids(_RETURNED))

    def begun(self) -> list[str]:
        """Ids of the calls that were cut short: their records may be there, once, or not."""
        return list(self._ids(_BEGUN))

    def _ids(self, state: int) -> Iterator[str]:
        for place, found in enumerate(self._bytes[:]):
            if found == state:
                yield self.id_of(*divmod(place, self.calls))
