"""Schedules, written down whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumelog_loguru._delivery._backoff import Breaker, BreakerState, full_jitter_delay, new_dice
from plumelog_loguru._delivery._outcomes import FailureKind


class LoadedDice(random.Random):
    """Always falls on the same fraction of the range."""

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self._fraction = fraction

    def random(self) -> float:
        return self._fraction


class HandClock:
    """Time that moves when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return int(self.now * 1000)


def breaker(fraction: float, clock: HandClock, *, cap: float = 30.0) -> Breaker:
    dice = LoadedDice(fraction)
    return Breaker(probe_interval_seconds=1.0, operator_cap_seconds=cap, clock=clock, dice=dice)


def test_the_whole_schedule_of_ceilings() -> None:
    """The ceiling doubles from the base to the cap and stays there."""
    delays = [full_jitter_delay(attempt, 0.5, 30.0, LoadedDice(1.0)) for attempt in range(1, 10)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_jitter_is_full() -> None:
    """A delay is spread from nothing to the ceiling."""
    delays = [full_jitter_delay(3, 0.5, 30.0, LoadedDice(fraction)) for fraction in (0.0, 0.25, 0.5, 1.0)]
    assert delays == [0.0, 0.5, 1.0, 2.0]


@given(
    attempt=st.integers(1, 10**9),
    base=st.floats(1e-6, 1e6),
    cap=st.floats(1e-6, 1e6),
    fraction=st.floats(0, 1),
)
def test_no_delay_leaves_its_bounds(attempt: int, base: float, cap: float, fraction: float) -> None:
    """Whatever the numbers, a delay is between 0 and the cap, and nothing overflows."""
    assert 0 <= full_jitter_delay(attempt, base, cap, LoadedDice(fraction)) <= cap


def test_the_dice_are_ones_own() -> None:
    """Seeding the global generator, as applications do, does not bring two processes into step."""
    random.seed(1)
    first = new_dice().random()
    random.seed(1)
    assert new_dice().random() != first


@pytest.mark.parametrize(("fraction", "delay"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
def test_transient_probes_come_at_the_interval(fraction: float, delay: float) -> None:
    """While the server is merely away, probes come at the interval ± 50 %, the hundredth like the first."""
    open_breaker = breaker(fraction, HandClock())
    for _ in range(100):
        open_breaker.trip(FailureKind.TRANSIENT)
        assert open_breaker.seconds_until_probe() == delay


@pytest.mark.parametrize(
    ("fraction", "delays"),
    [(1.0, [1, 2, 4, 8, 16, 30, 30]), (0.0, [0.5, 1, 2, 4, 8, 15, 15])],
)
def test_operator_probes_become_rare(fraction: float, delays: list[float]) -> None:
    """Where somebody must cure something, probes back off to the cap, each in its ceiling's upper half."""
    open_breaker = breaker(fraction, HandClock())
    seen = []
    for _ in delays:
        open_breaker.trip(FailureKind.OPERATOR)
        seen.append(open_breaker.seconds_until_probe())
    assert seen == delays


def test_the_back_off_of_operator_errors_starts_anew() -> None:
    """A success, and a failure of another kind, end the row."""
    open_breaker = breaker(1.0, HandClock())
    for ending in (open_breaker.reset, lambda: open_breaker.trip(FailureKind.TRANSIENT)):
        for _ in range(5):
            open_breaker.trip(FailureKind.OPERATOR)
        ending()
        open_breaker.trip(FailureKind.OPERATOR)
        assert open_breaker.seconds_until_probe() == 1.0


def test_a_low_cap_does_not_hurry_the_probes() -> None:
    """A cap below the interval never makes operator probes faster than transient ones."""
    open_breaker = breaker(1.0, HandClock(), cap=0.1)
    open_breaker.trip(FailureKind.OPERATOR)
    assert open_breaker.seconds_until_probe() == 1.0


def test_its_life() -> None:
    """Closed, opened by a failure, due when its time has come, closed by a success; and its repr says so."""
    clock = HandClock()
    one = breaker(0.5, clock)
    assert (one.state, one.seconds_until_probe(), repr(one)) == (BreakerState.CLOSED, 0.0, "<Breaker CLOSED>")
    one.trip(FailureKind.TRANSIENT)
    assert (one.state, repr(one)) == (BreakerState.OPEN, "<Breaker OPEN, probe in 1.0 s>")
    clock.now += 2.0
    assert (one.state, one.seconds_until_probe()) == (BreakerState.OPEN, 0.0)
    one.reset()
    assert one.state is BreakerState.CLOSED


def test_a_refused_batch_opens_nothing() -> None:
    """That one batch is too large says nothing against the server."""
    one = breaker(0.5, HandClock())
    one.trip(FailureKind.REFUSED)
    assert one.state is BreakerState.CLOSED
