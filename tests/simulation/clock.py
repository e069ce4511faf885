"""Virtual time, and an asyncio loop that runs on it: nothing waits, and nothing depends on the machine.

The loop is driven by hand, one turn at a time, so that code which blocks its thread (`time.sleep` in a
caller, `Future.result` in `close`) can be simulated by turning the loop until what it waits for has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

EPOCH_MS = 1_700_000_000_000


class VirtualClock:
    """The library's `Clock`, and all that it uses of the `time` module."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleep: Callable[[float], None]  # given by the world: what a thread that sleeps lets happen

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return EPOCH_MS + int(self.now * 1000)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without sockets, in which waiting takes no time."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._clock_resolution = 1e-9
        self._selector = self  # its `select` is where a loop waits

    def time(self) -> float:
        return self._clock.now

    def turn(self) -> None:
        """Run what is ready; if nothing is, let time pass until something is."""
        self._run_once()  # type: ignore[attr-defined]

    def select(self, seconds: float | None) -> list[Any]:
        assert seconds is not None, "nothing will ever happen in this world any more"
        self._clock.now += seconds
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
