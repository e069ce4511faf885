"""A block on its way to the disk, and what the loop thread hears of the spool.

Promises that everything is told in the loop thread, in the order in which it came about, and once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .._batch import Batch
from .._journal import Run


@dataclass(eq=False, slots=True)
class Block:
    """Records on their way to the disk: with an identity if they were attempted, else without."""

    values: Sequence[bytes]  # as they were in the queue; with an identity, as Redis will hold them
    batch: Batch | None = None
    runs: Sequence[Run] = ()  # where the batch's records are in the journal
    written: int = 0  # how many of the values are in rows already
    since: int = 0  # where it stands in the order in which records left the queue; given by who offers it
    counted: bool = False  # among what is pending
    taken: bool = False  # by the spool thread, which takes a block once however often it is offered

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.values))


class KeeperListener(Protocol):
    """What the loop thread is told, always in the loop thread."""

    def on_stored(self, part_id: str, block: Block, records: int, done: bool) -> None:
        """Records of the block are on disk; ``done`` when all of them are."""

    def on_refused(
        self, part_id: str, block: Block, records: int, done: bool, first_ms: int, last_ms: int
    ) -> None:
        """The spool is full, and its policy refuses these records of the block; ``done``: it was the last.

        Their ``dtTime`` is within the span, 0 where unknown.
        """

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
