"""A signal that is waited for with a time limit, and loses neither itself nor a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from plumelog_loguru._runtime._signal import Signal


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run in a loop of the test's own, for at most ten seconds."""

    async def limited() -> None:
        await asyncio.wait_for(main, 10)

    asyncio.run(limited())


async def _steps(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_signal_wakes_everybody_who_waits() -> None:
    """All that wait go on, and the signal is used up by them."""

    async def main() -> None:
        signal = Signal()
        waiting = [asyncio.ensure_future(signal.wait(None)) for _ in range(3)]
        await _steps()
        signal.set()
        await asyncio.gather(*waiting)
        late = asyncio.ensure_future(signal.wait(None))
        await _steps()
        assert not late.done()
        signal.set()
        await late

    run(main())


def test_a_signal_that_nobody_awaits_is_kept_for_one() -> None:
    """The next to wait does not wait; the one after it does."""

    async def main() -> None:
        signal = Signal()
        signal.set()
        signal.set()
        await signal.wait(None)
        second = asyncio.ensure_future(signal.wait(None))
        await _steps()
        assert not second.done()
        second.cancel()

    run(main())


def test_a_cleared_signal_is_forgotten() -> None:
    """After `clear` the next one waits."""

    async def main() -> None:
        signal = Signal()
        signal.set()
        signal.clear()
        waiting = asyncio.ensure_future(signal.wait(None))
        await _steps()
        assert not waiting.done()
        waiting.cancel()

    run(main())


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01])
def test_a_wait_ends_at_its_limit(seconds: float) -> None:
    """A wait with a limit returns without a signal, also with a limit that has passed."""

    async def main() -> None:
        await Signal().wait(seconds)

    run(main())


@pytest.mark.parametrize("cancel_first", [False, True])
@pytest.mark.parametrize("seconds", [None, 30.0])
def test_no_cancellation_is_swallowed(seconds: float | None, cancel_first: bool) -> None:
    """A cancellation that meets the signal in the same step of the loop ends the task all the same."""

    async def main() -> None:
        signal = Signal()
        turns = 0

        async def work() -> None:
            nonlocal turns
            while True:
                turns += 1
                await signal.wait(seconds)

        task = asyncio.ensure_future(work())
        await _steps()
        if cancel_first:
            task.cancel()
            signal.set()
        else:
            signal.set()
            task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()
        assert turns == 1

    run(main())


def test_a_cancellation_that_meets_the_limit_is_not_swallowed() -> None:
    """The timer fires in the step in which the task is told to end: it ends."""

    async def main() -> None:
        task = asyncio.ensure_future(_wait_for_ever(Signal(), 0.0))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # it waits now, and its timer is due
        loop.call_later(0.0, task.cancel)
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()

    run(main())


async def _wait_for_ever(signal: Signal, seconds: float) -> None:
    while True:
        await signal.wait(seconds)


def test_nothing_is_left_behind() -> None:
    """Neither a limit nor a cancelled wait leaves a waiter or a timer in the loop."""

    async def main() -> None:
        signal = Signal()
        await signal.wait(0.0)
        task = asyncio.ensure_future(signal.wait(1000.0))
        await _steps()
        task.cancel()
        await asyncio.wait([task])
        signal.set()  # nobody waits: so it is kept
        await signal.wait(None)

    run(main())
