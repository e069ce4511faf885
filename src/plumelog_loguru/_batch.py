"""A batch of encoded records, and the identity that makes its delivery exactly once.

A *lane* is an ordered sequence of batches of which at most one is in flight. A batch's identity, its lane and
its number in that lane, is given before the first attempt to deliver it and never changes: not over retries,
not in the spool, not in another process. Redis remembers the last number that it applied in each lane, so a
repeated or late request is recognised and does nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum

MAX_BATCH_BYTES = 1 << 20  # what one push, and one row of the spool, holds at most


def new_lane_id() -> str:
    """Draw the id of a new lane: 128 random bits as 32 hexadecimal digits.

    They come from the operating system and never from :mod:`random`, which applications seed: two lanes with
    one id would take each other's batches for already applied.
    """
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class BatchId:
    """The identity of a batch, given once and for ever."""

    lane: str
    seq: int  # counts from 1 in its lane

    def __str__(self) -> str:
        return f"{self.lane}:{self.seq}"

    def child(self, number: int) -> BatchId:
        """The identity of a part, once this one is fenced: who repeats the step repeats the same."""
        return BatchId(f"{self.lane}.{self.seq}", number)


class AttemptedBy(str, Enum):
    """Who may have put a batch into Redis already, and so what may repeat it."""

    NOBODY = "nobody"  # never attempted: not in doubt
    SCRIPT = "script"  # in doubt; only the idempotent push may repeat it
    PLAIN = "plain"  # in doubt; a repetition may double it


@dataclass(frozen=True, slots=True)
class Batch:
    """Records on their way, in the bytes that Redis will hold."""

    id: BatchId
    values: tuple[bytes, ...]  # each one line of JSON
    attempted_by: AttemptedBy = AttemptedBy.NOBODY
    last_attempt_ms: int = 0  # epoch milliseconds, 0 before the first attempt

    @property
    def size_bytes(self) -> int:
        """Bytes of all values together."""
        return sum(map(len, self.values))
