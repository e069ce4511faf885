"""When does a batch go? A pure decision on counts, bytes and time, free of I/O.

``batch_size`` is a trigger, not a limit: with one batch in flight, what has queued meanwhile goes in one
push, up to a mebibyte, so that a distant Redis still takes more than the application can log.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._batch import MAX_BATCH_BYTES


@dataclass(slots=True)
class Batcher:
    """Decides whether the queue's content is due, and if not, when it will be."""

    batch_size: int  # records
    interval_seconds: float
    _waiting_since: float | None = None  # monotonic seconds at which the queue was first seen not empty

    def due(self, *, depth: int, size_bytes: int, now: float, flush: bool) -> bool:
        """Whether a batch goes now. ``now`` is monotonic seconds; ``flush`` asks for whatever there is."""
        if depth == 0:
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = now
        return (
            flush
            or depth >= self.batch_size
            or size_bytes >= MAX_BATCH_BYTES
            or now - self._waiting_since >= self.interval_seconds
        )

    def due_at(self) -> float | None:
        """The monotonic time at which what waits becomes too old to wait; None if nothing waits."""
        return None if self._waiting_since is None else self._waiting_since + self.interval_seconds

    def cut(self) -> None:
        """A batch was taken: what is left, or comes next, begins to wait anew."""
        self._waiting_since = None
