"""When does a batch go? A pure decision on counts, bytes and time, free of I/O.

``batch_size`` is a trigger, not a limit: with one batch in flight, what has queued meanwhile goes in one
push, up to a mebibyte, so that a distant Redis still takes more than the application can log. And where
records pour in, a push follows the last one after a few milliseconds, not at once: a push costs the loop
thread as much as hundreds of records do, and takes the interpreter away from those who log.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._batch import MAX_BATCH_BYTES

LINGER_SECONDS = 0.005  # between two batches, so that hundreds of records share the cost of one


@dataclass(slots=True)
class Batcher:
    """Decides whether the queue's content is due, and if not, when it will be."""

    batch_size: int  # records
    interval_seconds: float
    _waiting_since: float | None = None  # monotonic seconds at which the queue was first seen not empty
    _last_cut_at: float = float("-inf")

    def seconds_until_due(self, *, depth: int, size_bytes: int, now: float, flush: bool) -> float | None:
        """How long the queue's content may still wait.

        Args:
            depth: records in the queue.
            size_bytes: bytes in the queue.
            now: monotonic seconds.
            flush: somebody waits for whatever there is.

        Returns:
            Seconds; 0.0 when a batch goes now, None when there is nothing.
        """
        if depth == 0:
            self._waiting_since = None
            return None
        if self._waiting_since is None:
            self._waiting_since = now
        if flush or size_bytes >= MAX_BATCH_BYTES:
            return 0.0
        if depth >= self.batch_size:
            return max(0.0, self._last_cut_at + LINGER_SECONDS - now)
        return max(0.0, self._waiting_since + self.interval_seconds - now)

    def cut(self, now: float) -> None:
        """A batch was taken: what is left, or comes next, begins to wait anew."""
        self._waiting_since = None
        self._last_cut_at = now
