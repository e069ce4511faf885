"""The parts that are ours: the one that we write to, and one that an ended process left.

Promises:

- A part that is locked is known here before anything else is done with it: a child that is forked at that
  moment must close its copy of the lock.
- Whose journals are recovered is known before a new one is begun beside them.

Everything but ``claim``, ``release`` and ``release_in_child`` is called by the spool thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from pathlib import Path

from .._batch import BatchId
from .._destination import Destination
from .._journal import Journal, JournalError, Journals
from ._common import Common
from ._directory import SpoolDirectory
from ._failures import SpoolError
from ._part import Part, PartOptions
from ._recovery import Recovery
from ._row import RowKey

# In one part: from the first number on a new journal is small, from the second on there is none.
_MANY_JOURNALS, _MOST_JOURNALS = 8, 64
_SMALL_BYTES = 1 << 20


class PartHolder:
    """Claims our own part, adopts others, and lets go of both."""

    def __init__(
        self,
        spool_dir: Path | None,
        destination: Destination,
        common: Common,
        *,
        options: PartOptions,
        journal_bytes: int,
        journals: Journals,
    ) -> None:
        self._spool_dir = spool_dir
        self._destination = destination
        self._common = common
        self._options = options
        self._journal_bytes = journal_bytes
        self._journals = journals
        self.journal_degraded = False  # there should be a journal, and there is none
        self.row_bytes = 0  # for other threads
        self.directory: SpoolDirectory | None = None
        self.claimed: Part | None = None  # ours, from `claim` to `release`: our journal is in it
        self.own: Part | None = None  # the same as a rule, while its database is open
        self._lost: list[Part] = []  # were ours, and are no longer in their place
        self.adopted: Part | None = None
        self.recoveries: deque[Recovery] = deque()
        self.adopt_at = 0.0
        self._let_go: set[str] = set()  # parts of this round of adoption that hold nothing to deliver

    # ---------------------------------------------------------------- claiming and releasing

    def claim(self) -> None:
        """Take over or make a part, and begin a journal in it. Opens no database.

        Raises:
            SpoolError, OSError: neither is possible.
        """
        spool_dir = self._spool_dir
        if spool_dir is None:
            raise SpoolError(
                "there is no home directory to keep a spool in; "
                "set PLUMELOG_SPOOL_DIR to a directory that can be written"
            )
        with self._common.sqlite_lock:
            directory = SpoolDirectory(spool_dir, self._destination, self._options)
            directory.open()
            # Known here, under the lock: a child that is forked at this moment must close its copy of it.
            part = self.claimed = directory.take_or_create(opened=False)
        self.directory = directory
        self.recoveries.append(Recovery(part, is_ours=self._journals.knows))
        self.begin_journal(part)

    def open_own(self) -> Part:
        """Open the database of our own part; where that cannot be opened, another part takes our rows.

        The claimed one stays ours all the same: its journal holds what is in memory.

        Raises:
            SpoolError: no rows can be written.
        """
        claimed, directory = self.claimed, self.directory
        assert claimed is not None and directory is not None
        with self._common.sqlite_lock:
            try:
                claimed.open()
                self.own = claimed
            except SpoolError as error:
                self.own = directory.take_or_create(exclude={claimed.id})
                self.own.identities.each_in_a_lane_of_its_own = True
                self._common.report(f"spool-part {claimed.id}", f"{error}; rows go to another part")
        if self.own is not claimed:
            self.forget_recovery(claimed)
            self.recoveries.append(Recovery(self.own, is_ours=self._journals.knows))
        return self.own

    def begin_journal(self, part: Part) -> None:
        """Have the records in memory survive this process, from now on."""
        capacity = self._journal_bytes
        if not capacity:
            return
        try:
            # Processes that live for a moment leave theirs faster than anybody recovers them.
            waiting = len(part.journals())
            if waiting >= _MOST_JOURNALS:
                raise JournalError(f"{waiting} journals wait for recovery in {part.path}")
            if waiting >= _MANY_JOURNALS:
                capacity = min(capacity, _SMALL_BYTES)
            self._journals.use(Journal.create(part.new_journal_path(), capacity))
        except (JournalError, OSError) as error:
            self._journals.use(None)
            self.journal_degraded = True
            self._common.report(
                "journal", f"no journal: {error}; what is in memory does not survive the death of the process"
            )
        else:
            self.journal_degraded = False

    def release(self) -> None:
        """Let go of our own part. What its journal still holds is for the next owner."""
        part, self.claimed = self.claimed, None
        self._journals.close()
        if part is not None:
            part.remove()  # or close it, if anything is left in it
        while self._lost:
            self._lost.pop().close()

    def release_in_child(self) -> None:
        """After a fork, in the child: close the locks' descriptors, unlock nothing that the parent holds."""
        for part in (self.claimed, self.own, self.adopted, *self._lost):
            if part is not None:
                part.release_lock_in_child()

    # ---------------------------------------------------------------- losing

    def journal_is_there(self) -> bool:
        """Whether the file that records go to is still in its place."""
        current = self._journals.current
        return current is None or current.is_there()

    def lose(self, part: Part) -> None:
        """A part is no longer in its place.

        Our own stays locked until nothing that is in its journal is in memory: it may come back, and would be
        taken for a dead process's.
        """
        self.forget_recovery(part)
        with self._common.sqlite_lock:
            if part is not self.claimed:
                part.close()
            else:
                part.close_database()
                self._lost.append(part)
        if part is self.adopted:
            self.adopted = None
        if part is self.own:
            self.own = None
        if part is self.claimed:
            self.claimed = self.own
            self._journals.use(None)
            self.journal_degraded = bool(self._journal_bytes)

    def let_go_of_lost(self) -> None:
        """Let go of the parts that were lost, once that harms nobody."""
        if self._journals.all_former_are_clear:
            while self._lost:
                self._lost.pop().close()

    # ---------------------------------------------------------------- adopting

    def adopt(self, exclude: Collection[str]) -> Part | None:
        """Take a part that nobody owns, if there is one; ``exclude`` holds ids to leave alone."""
        if self.own is None or self.adopted is not None or self.directory is None:
            return None
        with self._common.sqlite_lock:
            ours = {self.own.id, *([self.claimed.id] if self.claimed is not None else ())}
            self.adopted = self.directory.take_free(exclude={*ours, *self._let_go, *exclude})
        if self.adopted is None:
            self._let_go.clear()
            return None
        self.recoveries.append(Recovery(self.adopted, is_ours=self._journals.knows))
        return self.adopted

    def let_go_of_adopted(self) -> None:
        """Remove the adopted part, or leave it to others if anything is left in it."""
        part, self.adopted = self.adopted, None
        if part is not None:
            with self._common.sqlite_lock:
                removed = part.remove()
            if not removed:  # something is in quarantine: it must not be taken again and again, before others
                self._let_go.add(part.id)
            self.adopt_at = time.monotonic()  # there may be another one
            self.measure()

    def close(self) -> None:
        """Leave the adopted part to others, and let go of the database of our own."""
        while self.recoveries:
            self.recoveries.pop().close()
        with self._common.sqlite_lock:
            if self.adopted is not None:
                self.adopted.remove()  # or close it, if anything is left in it
            if self.own is not None:
                self.own.close_database() if self.own is self.claimed else self.own.remove()
        self.own = self.adopted = None

    # ---------------------------------------------------------------- what is ours

    def parts(self) -> list[Part]:
        """What is ours and open, in the order in which it is delivered."""
        return [part for part in (self.adopted, self.own) if part is not None]

    def measure(self) -> None:
        """Have `row_bytes` say what is so now."""
        self.row_bytes = sum(part.row_bytes for part in (self.own, self.adopted) if part is not None)

    # ---------------------------------------------------------------- recoveries

    def recovers(self, part: Part) -> bool:
        """Whether anything of this part may still be in a journal of the dead."""
        return any(one.part is part for one in self.recoveries)

    def is_recovering(self, batch_id: BatchId) -> bool:
        """Whether this batch may be in a row already, and yet was not told of."""
        return any(one.is_writing(batch_id) for one in self.recoveries)

    def is_recovered_to(self, part: Part, key: RowKey) -> bool:
        """The same, of the row in this place."""
        return any(one.is_at(part, key) for one in self.recoveries)

    def forget_recovery(self, part: Part) -> None:
        """Recover nothing more of this part."""
        for recovery in [one for one in self.recoveries if one.part is part]:
            recovery.close()
            self.recoveries.remove(recovery)
