"""Which calls reached a sink, in a program where sinks come and go.

Loguru passes a record to the sinks that it has at that moment, and says nobody of them. A call that no sink
was given is not owed, and a call that one was given, and came back from, is.
"""

from __future__ import annotations

import threading
from typing import Any

from loguru import logger


class Door:
    """Stands in for Loguru's logger where a sink is added, and before that sink when it is called."""

    def __init__(self) -> None:
        """Nobody has passed it."""
        self._passed = threading.local()

    def add(self, sink: Any, **options: Any) -> int:
        """Add the sink to Loguru, behind this door."""
        handler_id: int = logger.add(_Behind(self, sink), **options)
        return handler_id

    def close(self) -> None:
        """The calling thread has passed nothing yet."""
        self._passed.yes = self._passed.in_vain = False

    def open(self) -> None:
        """A sink has taken what the calling thread logs."""
        self._passed.yes = True

    def fail(self) -> None:
        """A sink has raised an exception instead."""
        self._passed.in_vain = True

    @property
    def was_passed_in_vain(self) -> bool:
        """Whether a sink raised an exception at what the calling thread has just logged."""
        return bool(self._passed.in_vain)

    @property
    def was_passed(self) -> bool:
        """Whether what the calling thread has just logged was taken."""
        return bool(self._passed.yes)


class _Behind:
    """A sink as Loguru wants one; all that it calls goes on to the real one."""

    encoding = "utf8"

    def __init__(self, door: Door, sink: Any) -> None:
        self._door = door
        self._sink = sink

    def write(self, message: str) -> None:
        try:
            self._sink.write(message)
        except Exception:
            self._door.fail()
            raise
        self._door.open()

    def stop(self) -> None:
        self._sink.stop()

    async def complete(self) -> None:
        await self._sink.complete()
