"""What we know of Redis, and who is told when that changes.

A breaker with words: it opens when a batch or a probe has failed for good, says so to hooks and on stderr,
and closes with the first thing that Redis takes.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from ._clock import Clock
from ._delivery import Breaker, BreakerState, Failure, FailureKind
from ._facts import EventKind, RedisState


class Tell(Protocol):
    """Passes an event on to the hooks."""

    def __call__(self, kind: EventKind, *, records: int = 0, reason: str = "", detail: str = "") -> None: ...


class RedisHealth:
    """Whether Redis takes records, as far as the last attempt tells."""

    def __init__(
        self,
        *,
        probe_interval_seconds: float,
        operator_cap_seconds: float,
        clock: Clock,
        dice: Random,
        tell: Tell,
        report: Callable[[str, str], None],
    ) -> None:
        """The intervals are those of :class:`Breaker`; ``report(kind, sentence)`` tells a person."""
        self._breaker = Breaker(
            probe_interval_seconds=probe_interval_seconds,
            operator_cap_seconds=operator_cap_seconds,
            clock=clock,
            dice=dice,
        )
        self._tell = tell
        self._report = report
        self._contacted = False
        self._last_kind = FailureKind.TRANSIENT
        self.last_error: str | None = None
        self.may_have_forgotten = False
        """It is there again after a failure: it may be another server, or lack what it had."""
        self._failed = False

    def __repr__(self) -> str:
        return f"<RedisHealth {self.state}, {self._breaker}>"

    @property
    def state(self) -> RedisState:
        """One word for the statistics; nothing is claimed before the first contact."""
        if self._contacted and not self.is_away:
            return "up"
        return "refusing" if self._last_kind is not FailureKind.TRANSIENT else "down"

    @property
    def is_away(self) -> bool:
        """Whether live batches are kept from Redis: only probes go."""
        return self._breaker.state is BreakerState.OPEN

    def seconds_until_probe(self) -> float:
        """Seconds until an attempt may be made; 0.0 when one is due."""
        return self._breaker.seconds_until_probe()

    def note(self, failure: Failure) -> None:
        """An attempt failed; it may be repeated."""
        self._failed = True
        self.last_error = failure.detail or failure.code

    def took_something(self) -> None:
        """Redis took a batch, or a probe."""
        was_up = self.state == "up"
        if self._failed:
            self._failed, self.may_have_forgotten = False, True
        self._breaker.reset()
        self._contacted = True
        if not was_up:
            self._tell("up")

    def gave_up(self, failure: Failure, *, records_wait: str) -> None:
        """Attempts have failed for good; ``records_wait`` says where records go meanwhile."""
        self.note(failure)
        was_away = self.is_away
        self._last_kind = failure.kind
        # A batch that is refused for itself must not be attempted in a tight loop either.
        self._breaker.trip(FailureKind.OPERATOR if failure.kind is FailureKind.REFUSED else failure.kind)
        if not was_away:
            self._tell("down", reason=failure.code, detail=failure.detail)
        if failure.kind is FailureKind.OPERATOR:
            self._report(
                f"refused-{failure.code}", f"Redis refuses records, and somebody must act: {failure.detail}"
            )
        else:
            self._report("down", f"Redis does not take records ({failure.detail}); they {records_wait}")
