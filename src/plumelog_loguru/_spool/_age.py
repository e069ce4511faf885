"""How long rows have been in a part.

A part has a clock of its own, in milliseconds. While somebody owns the part it goes with the monotonic clock,
which nobody sets. The wall clock only bridges the time between two owners, and a bridge that is longer than
the oldest row may become is not believed: rather is a row kept for too long than everything thrown away
because somebody set a clock.
"""

from __future__ import annotations

from contextlib import suppress

from .._clock import Clock
from ._files import Mark

_SAVE_EVERY_SECONDS = 60.0


class AgeClock:
    """The clock of one part."""

    def __init__(self, mark: Mark, clock: Clock, *, believed_seconds: float, at_least_ms: int) -> None:
        """Go on where the last owner stopped.

        Args:
            mark: where that is written.
            clock: the clocks of this process.
            believed_seconds: the longest bridge between two owners that is believed.
            at_least_ms: what this clock has shown already, as the newest row knows. Asked only where the mark
                cannot be read: one flipped bit in a row's key must not make all others old.
        """
        self._mark = mark
        self._clock = clock
        # More often where rows may not get old: a bridge begins where the clock was saved last.
        self._save_every = min(_SAVE_EVERY_SECONDS, believed_seconds / 10) or _SAVE_EVERY_SECONDS
        facts = mark.read()
        shown, at_ms = facts.get("age_ms"), facts.get("at_ms")
        start = at_least_ms
        if isinstance(shown, int) and isinstance(at_ms, int):
            bridge = clock.epoch_ms() - at_ms
            start = shown + (bridge if 0 < bridge <= believed_seconds * 1000 else 0)
        self._start_ms = start
        self._started = clock.monotonic()
        self._save_at = 0.0

    def now_ms(self) -> int:
        """What the clock shows; it never goes back."""
        return self._start_ms + int((self._clock.monotonic() - self._started) * 1000)

    def save(self, *, at_once: bool = False) -> None:
        """Write down what it shows, every now and then. Never raises: without that, no bridge is built."""
        now = self._clock.monotonic()
        if at_once or now >= self._save_at:
            self._save_at = now + self._save_every
            with suppress(OSError):
                self._mark.write(age_ms=self.now_ms(), at_ms=self._clock.epoch_ms())
