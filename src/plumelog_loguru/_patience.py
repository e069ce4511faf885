"""What a failed attempt means for the next: soon again, after a pause, or not before Redis is back.

This is the one layer that retries. A batch that fails for a passing reason is tried again with exponential
backoff and full jitter, ``retry_count`` times. Beyond that, or when what failed is a matter for somebody to
act on, Redis counts as away, and only probes go.

There is no patience while the sink closes, or while the queue has to be relieved: then one failure is enough.
"""

from __future__ import annotations

from random import Random

from ._clock import Clock
from ._delivery import Failed, Failure, FailureKind, full_jitter_delay
from ._dissection import Onward, Step, Suspected
from ._on_the_way import Head, OnTheWay
from ._redis_health import RedisHealth
from ._settings import PlumelogSettings

_DISK_PAUSE_SECONDS = 0.1


class Patience:
    """Judges attempts, and knows whether there is time for more."""

    def __init__(
        self,
        settings: PlumelogSettings,
        *,
        redis: RedisHealth,
        on_the_way: OnTheWay,
        clock: Clock,
        dice: Random,
    ) -> None:
        self.settings = settings
        self.hurry = False  # the sink is closing: what fails once goes to the spool
        self.pressed = False  # the queue had to be relieved while we were busy
        self._redis = redis
        self._on_the_way = on_the_way
        self._clock = clock
        self._dice = dice

    @property
    def is_out(self) -> bool:
        """Whether there is no time for a backoff."""
        return self.hurry or self.pressed

    def lasts(self, head: Head, failure: Failure) -> bool:
        """Whether the head is tried again without much ado; if so, it is known when."""
        if (
            failure.kind is not FailureKind.TRANSIENT
            or head.tries > self.settings.retry_count
            or self.is_out
            or self._redis.is_away
        ):
            return False
        self._redis.note(failure)
        head.not_before = self._clock.monotonic() + self._backoff(head.tries)
        return True

    def judged(self, step: Step, failures: int) -> tuple[int, float]:
        """What a step that settled nothing says of Redis.

        Args:
            step: what came of it.
            failures: how many steps in a row have failed before it.

        Returns:
            how many have failed now, and how long, in seconds, to wait for the next.
        """
        if isinstance(step, Onward):
            self._redis.took_something()
            return 0, 0.0
        if not isinstance(step, (Failed, Suspected)):
            return failures, _DISK_PAUSE_SECONDS
        failure = step.failure
        failures += 1
        lasts = failure.kind is not FailureKind.TRANSIENT or failures > self.settings.retry_count
        if self._redis.is_away or (isinstance(step, Failed) and lasts):
            self.give_up(failure)
            return failures, 0.0
        self._redis.note(failure)
        if failure.kind is FailureKind.REFUSED:
            return failures, 0.0  # the next step is another one
        return failures, self._backoff(step.strikes + 1 if isinstance(step, Suspected) else failures)

    def give_up(self, failure: Failure) -> None:
        """From now on Redis counts as away."""
        keeper = self._on_the_way.keeper
        where = "go to the spool" if keeper.usable else "wait in memory, for there is no spool"
        self._redis.gave_up(failure, records_wait=where)

    def _backoff(self, attempt: int) -> float:
        return full_jitter_delay(
            attempt,
            self.settings.retry_backoff_base_seconds,
            self.settings.retry_backoff_max_seconds,
            self._dice,
        )
