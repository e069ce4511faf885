"""When to try again: arithmetic only.

Nothing here sleeps or sends. The caller asks, acts, and tells what came of it; the clock and the dice are
given, so that a test can write down a whole schedule.
"""

from __future__ import annotations

import os
import random
from enum import Enum

from .._clock import Clock
from ._outcomes import FailureKind

_DOUBLINGS_MAX = 60  # beyond, 2 ** n no longer fits a float's range for any base that makes sense


def new_dice() -> random.Random:
    """Make a generator of one's own, seeded by the operating system.

    Not the module's global one: applications seed that, and a fleet that was seeded alike would retry in
    step.
    """
    return random.Random(os.urandom(16))


def full_jitter_delay(attempt: int, base_seconds: float, cap_seconds: float, dice: random.Random) -> float:
    """Seconds to wait after a failed attempt: evenly spread between 0 and an exponentially growing ceiling.

    Args:
        attempt: number of the attempt that has failed; starts at 1.
        base_seconds: ceiling after the first failure.
        cap_seconds: the ceiling never grows beyond this.
        dice: where the jitter comes from.
    """
    return dice.uniform(0, min(cap_seconds, base_seconds * 2 ** min(attempt - 1, _DOUBLINGS_MAX)))


class BreakerState(Enum):
    """Whether live batches are sent.

    CLOSED ──trip()──> OPEN ──trip()──> OPEN, next probe later
       ^                 │
       └─────reset()─────┘
    """

    CLOSED = "closed"  # batches are sent
    OPEN = "open"  # batches go to the spool; one attempt is made whenever a probe is due


class Breaker:
    """Stops batches from queueing behind a dead server.

    There is no half-open state: the probe is one attempt of the caller's, and while it runs nothing has
    changed.
    """

    def __init__(
        self, *, probe_interval_seconds: float, operator_cap_seconds: float, clock: Clock, dice: random.Random
    ) -> None:
        """Begin closed.

        Args:
            probe_interval_seconds: mean time between probes while the failures are transient.
            operator_cap_seconds: longest time between probes while somebody must cure something.
            clock: monotonic time.
            dice: where the jitter comes from.
        """
        self.state = BreakerState.CLOSED
        self._interval = probe_interval_seconds
        self._operator_cap = operator_cap_seconds
        self._clock = clock
        self._dice = dice
        self._operator_failures = 0  # in a row
        self._probe_at = 0.0

    def __repr__(self) -> str:
        if self.state is BreakerState.CLOSED:
            return "<Breaker CLOSED>"
        return f"<Breaker OPEN, probe in {self.seconds_until_probe():.1f} s>"

    def trip(self, kind: FailureKind) -> None:
        """A batch has exhausted its attempts, or a probe has failed: open, and put the next probe off.

        Probes come at the interval ± 50 %, so that a fleet does not return in one blow. Where an operator is
        needed, they come ever more rarely, each between half its ceiling and the ceiling. A refused batch
        says nothing against the server and changes nothing.
        """
        if kind is FailureKind.REFUSED:
            return
        self.state = BreakerState.OPEN
        if kind is FailureKind.TRANSIENT:
            self._operator_failures = 0
            delay = self._interval * self._dice.uniform(0.5, 1.5)
        else:
            doubled = self._interval * 2 ** min(self._operator_failures, _DOUBLINGS_MAX)
            self._operator_failures += 1
            # Never faster than for a server that merely is away, however low the cap was set.
            delay = max(self._interval, min(self._operator_cap, doubled)) * self._dice.uniform(0.5, 1.0)
        self._probe_at = self._clock.monotonic() + delay

    def reset(self) -> None:
        """The server took something: close."""
        self.state = BreakerState.CLOSED
        self._operator_failures = 0

    def seconds_until_probe(self) -> float:
        """Seconds until an attempt may be made; 0 when one is due, and while closed."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        return max(0.0, self._probe_at - self._clock.monotonic())
