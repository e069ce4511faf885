"""A signal within one event loop, to be waited for with a time limit.

Not ``wait_for`` around an :class:`asyncio.Event`: before Python 3.12 that swallows a cancellation which meets
the event, and a task that was told to end went on for ever.
"""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes whoever waits now, or the next one to wait."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        """Wake everybody who waits; if nobody does, the next one does not wait."""
        self._is_set = not self._waiters
        for waiter in self._waiters:
            _end(waiter)

    def clear(self) -> None:
        """Forget that it was set while nobody waited."""
        self._is_set = False

    async def wait(self, seconds: float | None) -> None:
        """Wait for the signal, at most ``seconds``; None waits without a limit."""
        if self._is_set:
            self._is_set = False
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None if seconds is None else loop.call_later(max(0.0, seconds), _end, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
