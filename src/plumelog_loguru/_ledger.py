"""The accounts: every record that came in is in exactly one place, and every loss has a reason.

    accepted + adopted == delivered + in_memory + spooled + dead_lettered + sum(dropped.values())

Only the loop thread writes here, and it publishes each change as one new tuple. A reader takes the tuple
first and asks the queue how many records came in afterwards; what is not settled by then is in memory. So no
reader needs a lock, and the equation holds at every moment, also while records fly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Settled:
    """What has become of records, one consistent picture."""

    adopted: int = 0
    delivered: int = 0
    dead_lettered: int = 0
    spooled_by_part: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def spooled(self) -> int:
        """Records on disk, in all parts of the spool that are ours."""
        return sum(self.spooled_by_part.values())


class Ledger:
    """Books each record's fate. One writer: the loop thread."""

    def __init__(self) -> None:
        self.settled = Settled()
        # Counts that are no part of the equation.
        self.already_applied = 0  # batches
        self.possibly_doubled = 0
        self.server_lost = 0
        self.retries = 0  # batches

    def adopted(self, part_id: str, records: int) -> None:
        """A part of a process that has ended came to us."""
        now = self.settled
        self.settled = replace(
            now,
            adopted=now.adopted + records,
            spooled_by_part=_changed(now.spooled_by_part, part_id, records),
        )

    def delivered(self, records: int) -> None:
        """Redis acknowledged records that were in memory."""
        now = self.settled
        self.settled = replace(now, delivered=now.delivered + records)

    def spooled(self, part_id: str, records: int) -> None:
        """Records went from memory to the disk."""
        now = self.settled
        self.settled = replace(now, spooled_by_part=_changed(now.spooled_by_part, part_id, records))

    def replayed(self, part_id: str, records: int) -> None:
        """Redis acknowledged records that were on the disk."""
        now = self.settled
        self.settled = replace(
            now,
            delivered=now.delivered + records,
            spooled_by_part=_changed(now.spooled_by_part, part_id, -records),
        )

    def dead_lettered(self, records: int, part_id: str | None) -> None:
        """Redis refuses records that were in this part, or (None) in memory; each is a letter now."""
        now = self.settled
        spooled = now.spooled_by_part
        if part_id is not None:
            spooled = _changed(spooled, part_id, -records)
        self.settled = replace(now, dead_lettered=now.dead_lettered + records, spooled_by_part=spooled)

    def dropped(self, records: int, reason: str) -> None:
        """Records that were in memory are lost."""
        now = self.settled
        self.settled = replace(now, dropped=_changed(now.dropped, reason, records))

    def released(self) -> None:
        """The spool is nobody's now; this sink again, or another process, will adopt what it holds."""
        now = self.settled
        self.settled = replace(now, adopted=now.adopted - now.spooled, spooled_by_part={})

    def spool_lost(self, part_id: str, records: int, reason: str) -> None:
        """Records that were on the disk are lost."""
        now = self.settled
        self.settled = replace(
            now,
            spooled_by_part=_changed(now.spooled_by_part, part_id, -records),
            dropped=_changed(now.dropped, reason, records),
        )


def _changed(counts: Mapping[str, int], key: str, by: int) -> dict[str, int]:
    changed = {**counts, key: counts.get(key, 0) + by}
    if not changed[key]:
        del changed[key]
    return changed
