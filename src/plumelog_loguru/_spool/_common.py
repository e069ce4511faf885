"""What every room of the spool thread is given: whom it speaks to, and the lock for SQLite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ._listener import KeeperListener


@dataclass(frozen=True, slots=True)
class Common:
    """The same for all rooms, for as long as there is a keeper."""

    listener: KeeperListener
    post: Callable[[Callable[[], None]], None]  # runs a callback in the loop thread, in order
    report: Callable[[str, str], None]  # ``report(kind, sentence)`` tells a person
    sqlite_lock: threading.Lock  # held in every call into SQLite

    def tell(self, hear: Callable[..., None], *news: object) -> None:
        """Have this called in the loop thread, with what is so now."""
        self.post(partial(hear, *news))
