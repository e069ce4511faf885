"""What is done about a part whose files are gone or damaged.

Promises:

- What is intact is kept, under the same keys and in the same order; what is not is counted, once.
- A disk that damages one spool after the other is not written to for ever: within a minute there is one
  salvage, and then the spool is put aside as a whole.

Everything here runs in the spool thread.
"""

from __future__ import annotations

import time

from ._common import Common
from ._failures import SpoolDamaged, SpoolError, SpoolVanished
from ._holder import PartHolder
from ._part import Part
from ._reader import SpoolReader

_SALVAGE_AGAIN_SECONDS = 60.0


class Repair:
    """Goes on with what is left, and says what is lost."""

    def __init__(self, holder: PartHolder, reader: SpoolReader, common: Common) -> None:
        self._holder = holder
        self._reader = reader
        self._common = common
        self._listener = common.listener
        self._salvage_at: dict[str, float] = {}  # by part: monotonic seconds, and not before

    def begin_anew(self, part: Part, error: SpoolError) -> bool:
        """The part's files are gone or damaged: say so, count what is lost, and go on with new ones.

        Returns:
            Whether what is intact in the old ones is in the new ones, under the same keys.
        """
        if isinstance(error, SpoolDamaged) and self._salvage(part, error):
            return True
        vanished = isinstance(error, SpoolVanished)
        self._common.report("spool-lost", f"{error}; a new spool is begun")
        self._reader.forget(part)
        self._common.tell(self._listener.on_part_lost, part.id, "spool_lost" if vanished else "corrupt")
        gone = not part.is_there()
        if not gone and self._put_aside(part):
            waiting = sum(recovery.waiting for recovery in self._holder.recoveries if recovery.part is part)
            self._common.tell(self._listener.on_recovered, part.id, waiting, 0)
        elif gone or part is self._holder.adopted:
            self._holder.lose(part)
        else:
            with self._common.sqlite_lock:
                part.close_database()  # it stays ours: its journal holds what is in memory
            self._holder.own = None
        self._holder.measure()
        return False

    def _salvage(self, part: Part, error: SpoolDamaged) -> bool:
        """Go on with what is intact in a damaged spool, under the same keys; whether that was possible."""
        now = time.monotonic()
        if now < self._salvage_at.get(part.id, 0.0):
            return False  # it is the disk that damages them, and it would do so again
        self._salvage_at[part.id] = now + _SALVAGE_AGAIN_SECONDS
        try:
            with self._common.sqlite_lock:
                lost = part.go_on_with_intact(str(error))
                part.take_damaged_records()  # told of here
                # Rows in hand are delivered from there.
                in_hand = self._reader.in_hand(part)
                lost -= sum(key.records for key in in_hand if not part.has(key))
        except (SpoolError, OSError):
            return False
        self._common.report(
            "spool-damaged", f"{error}; what is intact in it is kept, and {max(0, lost)} records are lost"
        )
        if lost > 0:
            self._common.tell(self._listener.on_spool_loss, part.id, lost, "corrupt", 0, 0)
        elif lost < 0:
            self._common.tell(self._listener.on_spool_opened, part.id, -lost)
        self._holder.measure()
        return True

    def _put_aside(self, part: Part) -> bool:
        try:
            with self._common.sqlite_lock:
                part.start_anew()
        except (SpoolError, OSError) as error:
            self._common.report("spool-failing", str(error))
            return False
        return True
