"""What the dead had in memory is brought into rows, a step at a time, while the living go on.

Promises that what a step has brought to light is told once, and that a disk that does not let us is asked
again later, with nothing lost.

Everything here runs in the spool thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ._common import Common
from ._failures import SpoolDamaged, SpoolError, SpoolVanished
from ._holder import PartHolder
from ._part import Part
from ._reader import SpoolReader
from ._recovery import Recovered

_AGAIN_SECONDS = 5.0


class Recoverer:
    """Takes the steps of our recoveries, the oldest first."""

    def __init__(
        self,
        holder: PartHolder,
        reader: SpoolReader,
        common: Common,
        *,
        tell_broken: Callable[[Part, SpoolVanished | SpoolDamaged], object],
    ) -> None:
        """``tell_broken`` is told of a part that can no longer be used."""
        self._holder = holder
        self._reader = reader
        self._common = common
        self._listener = common.listener
        self._tell_broken = tell_broken
        self._not_before = 0.0  # monotonic seconds

    @property
    def due_at(self) -> float | None:
        """When there is a step to take, in monotonic seconds; None: there is none."""
        return self._not_before if self._holder.recoveries and self._holder.own is not None else None

    def step(self) -> None:
        """Take one step if it is due, and no more: live records come first."""
        if self.due_at is None or time.monotonic() < self.due_at:
            return
        recovery = self._holder.recoveries[0]
        part = recovery.part
        try:
            with self._common.sqlite_lock:
                found = recovery.step() if recovery else None
        except (SpoolVanished, SpoolDamaged) as error:
            self._tell_broken(part, error)
            return
        except SpoolError as error:
            self._common.report("spool-failing", f"{error}; it is tried again")
            self._not_before = time.monotonic() + _AGAIN_SECONDS
            return
        if found is not None:
            self._tell(part, found)
        if not recovery:
            self._holder.recoveries.popleft()
            self._reader.let_go_if_done()

    def _tell(self, part: Part, found: Recovered) -> None:
        if found.note:
            self._common.report("spool-found", found.note)
        self._holder.measure()
        self._common.tell(self._listener.on_recovered, part.id, found.records, found.possibly_doubled)
        if found.corrupt:
            self._common.report(
                "spool-corrupt", f"{found.corrupt} damaged records of a journal were put into quarantine"
            )
            self._common.tell(self._listener.on_spool_loss, part.id, found.corrupt, "corrupt", 0, 0)
