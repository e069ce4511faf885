"""Passes the sink's events on to the application's hooks.

Promises: a hook runs in a thread of the hooks' own, never in the application's or in ours; one that raises is
disabled and reported once; events that a slow hook cannot take are left out rather than kept without limit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ._facts import Hook, SinkEvent

_QUEUE_EVENTS = 1000


class Hooks:
    """The hooks of one sink."""

    def __init__(self, report: Callable[[str, str], None]) -> None:
        """``report(kind, sentence)`` tells a person that a hook was disabled."""
        self._report = report
        self._hooks: list[Hook] = []
        self._events: queue.SimpleQueue[SinkEvent | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._thread_ids: set[int] = set()  # of every thread of ours that still runs

    def add(self, hook: Hook) -> None:
        """Call ``hook`` with every event from now on."""
        self._hooks.append(hook)

    def tell(self, event: SinkEvent) -> None:
        """Queue an event; called in the loop thread. Never waits for a hook."""
        if not self._hooks or self._events.qsize() >= _QUEUE_EVENTS:
            return
        self._events.put(event)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="plumelog-hooks", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is ending
                self._thread = None

    def rest(self) -> None:
        """The sink has stopped: the thread ends after the queued events; a later one starts it again."""
        if self._thread is not None:
            self._thread = None
            self._events.put(None)

    def in_child(self) -> Hooks:
        """After a fork: the same hooks, with an empty queue and a thread to come."""
        copy = Hooks(self._report)
        copy._hooks = list(self._hooks)
        return copy

    def is_own_thread(self, thread_id: int) -> bool:
        """Whether hooks run in this thread."""
        return thread_id in self._thread_ids

    def _run(self) -> None:
        own_id = threading.get_ident()
        self._thread_ids.add(own_id)
        while (event := self._events.get()) is not None:
            for hook in list(self._hooks):
                try:
                    hook(event)
                except Exception as error:
                    self._hooks.remove(hook)
                    self._report(
                        "hook",
                        f"the hook {hook!r} raised {type(error).__name__} and is not called again: {error}",
                    )
        self._thread_ids.discard(own_id)
