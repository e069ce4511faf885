"""``drain``: deliver what ended processes left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from argparse import ArgumentParser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .._clock import SYSTEM_CLOCK
from .._delivery import import_redis
from .._spool import PartInfo, SpoolError
from ._command import DONE, INTERRUPTED, LEFT, Call, UsageError, counted, positive, show, show_json, tell
from ._drainer import Drainer, Order
from ._owner import act_as_owner
from ._progress import shown
from ._selection import Selection, add_from_flag

_LOOK_AGAIN_SECONDS = 0.5


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="stop once N records are delivered; a batch is never divided",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many records would be delivered")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="where nothing is left, wait for what other processes leave; an outage of Redis is waited out, "
        "a directory that is not there yet too, and SIGTERM ends it within a second, with exit code 0",
    )
    add_from_flag(parser, "also deliver what is meant for DEST, or for any other list, to the configured one")
    parser.epilog = (
        "It takes only what belongs to no living process, so it may run beside applications and beside "
        "other drains, and be killed at any moment: what is not deleted is repeated under its identity, and "
        "Redis takes no batch twice. --rate 0 is as fast as Redis takes it. With --from, what may have "
        "reached its old list already cannot be recognised in the new one, and counts as possibly doubled. "
        "Example: plumelog-replay drain --rate 5000 --limit 100000"
    )


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain came to, in records unless said otherwise."""

    delivered: int
    already_applied: int  # batches
    dead_lettered: int
    remaining: int  # of the destinations that were asked for, or of one that cannot be told, and nobody's
    elsewhere: int  # of other destinations, and nobody's
    seconds: float

    def to_json(self) -> dict[str, int | float]:
        """What ``--json`` prints."""
        return {
            "delivered": self.delivered,
            "already_applied": self.already_applied,
            "dead_lettered": self.dead_lettered,
            "remaining": self.remaining,
            "elsewhere": self.elsewhere,
            "seconds": round(self.seconds, 3),
        }


def run(call: Call) -> int:
    """Drain, and say what came of it."""
    arguments, directory = call.arguments, call.directory
    if arguments.follow and arguments.dry_run:
        raise UsageError("--follow and --dry-run cannot be had together")
    if arguments.follow:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(DONE))  # until the drain itself heeds it
        _wait_for(directory.path)
    started = SYSTEM_CLOCK.monotonic()
    order = Order(Selection.of(call), arguments.limit, arguments.follow)
    parts = directory.survey()
    if slip := order.selection.complaint(parts):
        if not order.selection.is_destination:
            raise UsageError(slip)
        tell(slip)
    waiting = {part.id: part.records for part in parts if order.is_left(part)}
    with shown() as progress:
        drainer = Drainer(call.settings, directory, order, waiting=waiting, tell=tell, progress=progress)
        if not arguments.dry_run:
            act_as_owner(directory.path)
            directory.open()
            directory.clear_leftovers()
            import_redis()
            with suppress(asyncio.CancelledError):  # interrupted twice
                asyncio.run(drainer.run())
            drainer.tell_notes()
            try:
                parts = directory.survey()
            except SpoolError as error:  # somebody has deleted it
                parts = []
                drainer.complain(f"what is left cannot be told: {error}")
    for part in parts:
        if part.problem is not None and (part.owner == "dead" or part.forbidden):
            drainer.complain(part.problem)
    elsewhere = _tell_elsewhere(parts, order)
    ledger = drainer.ledger
    outcome = Drained(
        delivered=ledger.settled.delivered,
        already_applied=ledger.already_applied,
        dead_lettered=ledger.settled.dead_lettered,
        remaining=sum(part.records for part in parts if order.is_left(part)),
        elsewhere=elsewhere,
        seconds=SYSTEM_CLOCK.monotonic() - started,
    )
    if arguments.json:
        show_json(outcome.to_json())
    elif arguments.dry_run:
        show(f"{counted(outcome.remaining, 'record')} would be delivered to {directory.destination}")
    else:
        _show(outcome, living=_records_of_the_living(parts, order))
    if outcome.remaining and not arguments.dry_run:
        tell(f"{counted(outcome.remaining, 'record remains', 'records remain')} in {directory.path}")
    if drainer.signalled is not None:
        if order.follow and drainer.signalled is signal.SIGTERM:
            return DONE
        tell("interrupted; nothing is lost")
        return INTERRUPTED
    return LEFT if outcome.remaining or drainer.wrong else DONE


def _wait_for(path: Path) -> None:
    """A sidecar starts before the application, whose sink makes the directory."""
    told = False
    while True:
        try:
            os.stat(path)
            return
        except FileNotFoundError:
            if not told:
                tell(
                    f"the spool directory {path} is not there yet; waiting for the application that makes it"
                )
            told = True
            time.sleep(_LOOK_AGAIN_SECONDS)
        except OSError:
            return  # which the look into it tells


def _show(outcome: Drained, *, living: int) -> None:
    known = (
        f"; {counted(outcome.already_applied, 'batch', 'batches')} of it Redis had already"
        if outcome.already_applied
        else ""
    )
    records = counted(living, "record is", "records are")
    others = f"; {records} with living processes, which deliver them themselves" if living else ""
    show(f"{counted(outcome.delivered, 'record')} delivered in {outcome.seconds:.1f} s{known}{others}")


def _tell_elsewhere(parts: list[PartInfo], order: Order) -> int:
    """Tell what is meant for other destinations, and nobody's; how many records that is."""
    waiting: dict[str, int] = {}
    for part in parts:
        if part.owner == "dead" and part.records and not order.is_left(part):
            waiting[str(part.destination)] = waiting.get(str(part.destination), 0) + part.records
    for destination, records in waiting.items():
        tell(
            f"{counted(records, 'record is', 'records are')} meant for {destination}; drain them with the "
            f"settings of that destination, or to this one with --from '{destination}'"
        )
    return sum(waiting.values())


def _records_of_the_living(parts: list[PartInfo], order: Order) -> int:
    mine = order.selection.configured
    return sum(part.records for part in parts if part.owner == "live" and part.destination == mine)
