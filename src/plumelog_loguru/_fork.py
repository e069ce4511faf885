"""What a fork does to our sinks.

The parent keeps what it accepted. The child starts empty: with new ids, a new part of the spool, and threads
that start at its first record. It never touches what belongs to the parent, and keeps it referenced for ever:
a Redis connection that is collected in the child would unregister itself from the epoll instance that both
share, and the parent's next command would time out.
"""

from __future__ import annotations

import os
import time
import weakref
from threading import Lock
from typing import Protocol

_SQLITE_WAIT_SECONDS = 1.0


class Forkable(Protocol):
    """Something that must know of forks."""

    def sqlite_lock(self) -> Lock | None:
        """The lock under which it calls SQLite."""

    def start_empty(self, *, sqlite_is_safe: bool) -> object:
        """In the child: begin anew. Returns what must stay referenced for ever."""


_everyone: weakref.WeakSet[Forkable] = weakref.WeakSet()
_taken: list[Lock] = []
_all_taken = True
_parents_things: list[object] = []


def remember(one: Forkable) -> None:
    """Tell this object of every fork, as long as it lives."""
    _everyone.add(one)


def _before() -> None:
    # A child that is forked while SQLite holds its allocator's mutex hangs in any SQLite call, the
    # application's own too. So the fork waits until no thread of ours is inside SQLite; but not for a disk
    # that hangs.
    global _all_taken
    _all_taken = True
    deadline = time.monotonic() + _SQLITE_WAIT_SECONDS
    for one in list(_everyone):
        lock = one.sqlite_lock()
        if lock is None:
            continue
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _taken.append(lock)
        else:
            _all_taken = False


def _after_in_parent() -> None:
    while _taken:
        _taken.pop().release()


def _after_in_child() -> None:
    _taken.clear()  # the locks belong to the parent's pipelines, which the child does not use
    for one in list(_everyone):
        _parents_things.append(one.start_empty(sqlite_is_safe=_all_taken))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
