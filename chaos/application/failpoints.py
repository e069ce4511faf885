"""Places in the library where a program kills itself: before this call of it, or after.

The one module of the suite that looks inside. It changes nothing of what the library does until the moment at
which it does nothing any more. A place that is no longer there is an error, so that none goes stale.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

# What each is called: the module, the method, and on which side of a call of it.
POINTS: dict[str, tuple[str, str, str]] = {
    "append: not yet in the journal": ("_journal._journal", "Journal.append", "before"),
    "append: in the journal, not yet in the queue": ("_journal._journal", "Journal.append", "after"),
    "cut: the batch has no name in the journal": ("_journal._journal", "Journal.cut", "before"),
    "cut: the batch has its name, and was not sent": ("_journal._journal", "Journal.cut", "after"),
    "settle: delivered, and the journal does not say so": ("_journal._journal", "Journal.settle", "before"),
    "settle: settled, and the room not given back": ("_journal._journal", "Journal.settle", "after"),
    "advance: the room is about to be given back": ("_journal._journal", "Journal.advance", "before"),
    "send: nothing sent": ("_delivery._sender", "Sender.send", "before"),
    "send: answered, and not booked": ("_delivery._sender", "Sender.send", "after"),
    "book: about to count what was delivered": ("_ledger", "Ledger.delivered", "before"),
    "book: counted, and still on the way": ("_on_the_way", "OnTheWay.settled", "before"),
    "spool: about to write a row": ("_spool._store", "Store.put", "before"),
    "spool: a row written, and not known": ("_spool._store", "Store.put", "after"),
    "spool: a row written, and still in the journal": ("_spool._writer", "SpoolWriter._book", "before"),
    "mark: about to be written": ("_spool._attempts", "Attempts.note", "before"),
    "mark: written, and the row not sent": ("_spool._attempts", "Attempts.note", "after"),
    "replay: a row delivered, and not booked": ("_replayer", "Replayer._book", "before"),
    "delete: a row delivered, and about to go": ("_spool._store", "Store.delete", "before"),
    "delete: a row gone, and not known": ("_spool._store", "Store.delete", "after"),
    "recover: about to bring a batch in": ("_spool._part", "Part.append", "before"),
    "recover: a batch in a row, and still in the journal": ("_spool._part", "Part.append", "after"),
    "recover: a part taken over": ("_spool._holder", "PartHolder.begin_journal", "before"),
    "recover: a journal done with": ("_journal._recovery", "DeadJournal.remove", "before"),
    "recover: a journal gone": ("_journal._recovery", "DeadJournal.remove", "after"),
}


def die_at(point: str, passes: int, note: Path) -> None:
    """Kill this process when it passes a point for so many times; the note, with the point's name, stays."""
    module, method, when = POINTS[point]
    owner_name, name = method.split(".")
    owner = getattr(import_module(f"plumelog_loguru.{module}"), owner_name)
    passing = functools.partial(_pass, itertools.count(1), passes, point, note)
    setattr(owner, name, _mortal(getattr(owner, name), passing, when))


def _pass(numbers: itertools.count[int], passes: int, point: str, note: Path) -> None:
    if next(numbers) == passes:
        _die(point, note)


def _die(point: str, note: Path) -> NoReturn:
    note.write_text(point)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody outlives SIGKILL")


def _mortal(method: Callable[..., Any], passing: Callable[[], None], when: str) -> Callable[..., Any]:
    """The method, with a last moment before or after it."""

    @functools.wraps(method)
    def plain(*args: Any, **options: Any) -> Any:
        if when == "before":
            passing()
        result = method(*args, **options)
        if when == "after":
            passing()
        return result

    @functools.wraps(method)
    async def awaited(*args: Any, **options: Any) -> Any:
        if when == "before":
            passing()
        result = await method(*args, **options)
        if when == "after":
            passing()
        return result

    return awaited if inspect.iscoroutinefunction(method) else plain
