"""What the loop thread hears of the spool.

Promises that everything is told in the loop thread, in the order in which it came about, and once.
"""

from __future__ import annotations

from typing import Protocol

from ._writer import Block, WriterListener


class KeeperListener(WriterListener, Protocol):
    """What the loop thread is told, always in the loop thread."""

    def on_spool_opened(self, part_id: str, adopted: int) -> None:
        """A part of the spool is ours now, with this many records of a process that has ended.

        Once it is ours: so many more were found in it, or, below zero, are nobody's again.
        """

    def on_recovered(self, part_id: str, records: int, possibly_doubled: int) -> None:
        """Something of what an owner had in memory when it died is in the part's rows now.

        ``records``: more of it, or less, than the part was said to hold.
        """

    def on_returned(self, returned: list[Block]) -> None:
        """What was offered is not written: all of it that is not on disk."""

    def on_spool_unusable(self, reason: str, returned: list[Block]) -> None:
        """There is no spool; these blocks come back to memory."""

    def on_spool_loss(self, part_id: str, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        """Records that were in the spool are gone; their ``dtTime`` is within this span, 0 where unknown."""

    def on_part_lost(self, part_id: str, reason: str) -> None:
        """Whatever the part held is gone from here, but for a row that was handed out."""
