"""The journal in use, and earlier ones whose frames are still on their way.

A frame names its journal by a key, so that each run finds its own. Records that never went through a journal
pass by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from .._batch import AttemptedBy, BatchId
from ._format import HEAD, MAGIC, JournalError, Run, key_of
from ._journal import Journal


class Journals:
    """All journals of one owner that may have something left to settle."""

    def __init__(self) -> None:
        self.current: Journal | None = None
        self._retired: Journal | None = None  # was the current one until the end began
        self._by_key: dict[int, Journal] = {}
        self._known: set[int] = set()
        self._looked: dict[int, tuple[int, int]] = {}  # tail and head, when `is_stuck` was last asked
        self._fetched: dict[int, set[int]] = {}  # by key of a journal that is gone: what `strays` found
        self._waited: dict[int, int] = {}  # where the tail has not moved since: the head as it was then

    def use(self, journal: Journal | None) -> None:
        """Let this one be current, or none; callers keep out meanwhile. Earlier ones stay until clear."""
        self._retired = None
        if journal is not None:
            self._by_key[journal.key] = journal
            self._known.add(journal.key)
        self.current = journal

    def cut(self, runs: Sequence[Run], batch_id: BatchId, attempted_by: AttemptedBy, at_ms: int) -> None:
        """Write down which batch these frames are, each in its journal.

        Never raises: where a disk fails, records that are delivered and may come twice after a crash are
        better than records that wait.
        """
        for journal, own in self._sorted(runs):
            with suppress(JournalError):
                journal.cut(own, batch_id, attempted_by, at_ms)

    def settle(self, runs: Sequence[Run]) -> None:
        """Write down that these frames are needed no more, each in its journal. Never raises."""
        for journal, own in self._sorted(runs):
            journal.settle(own)

    def advance(self) -> list[Journal]:
        """Give room back; returns the earlier journals that are clear now, for the caller to remove."""
        clear: list[Journal] = []
        for journal in list(self._by_key.values()):
            journal.advance()
            if journal.is_clear and journal is not self.current:
                del self._by_key[journal.key]
                self._remember_fetched(journal)
                clear.append(journal)
        return clear

    def strays(self, in_flight: Iterable[Run], *, everything: bool = False) -> list[bytes]:
        """Find the frames of all journals that are nowhere else.

        Those behind the newest that is on its way count from the second time on that `is_stuck` finds them:
        where records are rare and soon delivered, nothing may ever be on its way when somebody looks.

        Args:
            in_flight: the runs of everything that is on its way.
            everything: no caller can come any more: look behind the newest of them too.
        """
        in_flight = list(in_flight)
        found: list[bytes] = []
        for journal in list(self._by_key.values()):
            newest = max((run.upto for run in in_flight if run.key == journal.key), default=0)
            upto = max(newest, self._waited.get(journal.key, 0))
            if everything or journal is not self.current:
                upto = journal.head
            found += journal.strays(in_flight, upto=upto)
        return found

    def knows(self, key: int) -> bool:
        """Whether a journal is one of this start's: of a copy of it everything is in memory, or settled."""
        return key in self._known

    @property
    def all_former_are_clear(self) -> bool:
        """Whether nothing is on its way but what the current journal holds."""
        return all(one.is_clear for one in self._by_key.values() if one is not self.current)

    @property
    def half_full(self) -> bool:
        """Whether what waits long in the current journal has to go elsewhere."""
        return self.current is not None and self.current.half_full

    @property
    def any_fetched(self) -> bool:
        """Whether ``strays`` has ever found a frame."""
        return bool(self._fetched) or any(journal.fetched for journal in list(self._by_key.values()))

    def is_stuck(self) -> bool:
        """Whether the tail of a journal stands where it stood when this was last asked."""
        before = self._looked
        self._looked = {
            one.key: (one.tail, one.head) for one in list(self._by_key.values()) if not one.is_clear
        }
        self._waited = {
            key: before[key][1]
            for key, (tail, _) in self._looked.items()
            if key in before and before[key][0] == tail
        }
        return bool(self._waited)

    def retire(self) -> None:
        """The end: nothing more goes into the current journal, and what it holds is found with `holds`."""
        if self.current is not None:
            self._retired, self.current = self.current, None
            self._retired.retire()

    def holds(self, items: Sequence[bytes]) -> bool:
        """Whether all of these records are in the current journal."""
        current = self.current or self._retired
        return current is not None and all(key_of(item) == current.key for item in items)

    def holds_runs(self, runs: Sequence[Run]) -> bool:
        """Whether there are any runs, and all of them are in the current journal."""
        current = self.current or self._retired
        return current is not None and bool(runs) and all(run.key == current.key for run in runs)

    def was_fetched(self, item: bytes) -> bool:
        """Whether ``strays`` has given this frame out already, before its own caller came with it."""
        if item[:4] != MAGIC:
            return False
        _, _, key, position, _ = HEAD.unpack_from(item)
        journal = self._by_key.get(key)
        return position in (self._fetched.get(key, ()) if journal is None else journal.fetched)

    def _remember_fetched(self, journal: Journal) -> None:
        """A caller may be held up for longer than its journal is in use."""
        if journal.fetched:
            self._fetched[journal.key] = journal.fetched

    def close(self) -> None:
        """Let go of all files. One that is clear is removed; what another holds is for its next owner."""
        self.current = self._retired = None
        self._known.clear()
        while self._by_key:
            journal = self._by_key.popitem()[1]
            self._remember_fetched(journal)
            journal.advance()
            if journal.is_clear:
                journal.remove()
            else:
                journal.close()

    def forget_in_child(self) -> None:
        """Let go of the parent's files after a fork, without a write to them."""
        self.current = None
        while self._by_key:
            self._by_key.popitem()[1].forget_in_child()

    def _sorted(self, runs: Sequence[Run]) -> list[tuple[Journal, list[Run]]]:
        found: dict[int, list[Run]] = {}
        for run in runs:
            found.setdefault(run.key, []).append(run)
        return [(self._by_key[key], own) for key, own in found.items() if key in self._by_key]
