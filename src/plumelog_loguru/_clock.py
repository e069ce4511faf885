"""Time, as an object, so that tests and simulations can own it.

Two kinds of time must never be mixed: *monotonic* seconds measure how long something took and survive a clock
that is set back; *epoch milliseconds* are what other processes and people can read.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back while the process lives."""
        ...

    def epoch_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; follows the wall clock, also backwards."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def epoch_ms(self) -> int:
        return time.time_ns() // 1_000_000


SYSTEM_CLOCK = SystemClock()
