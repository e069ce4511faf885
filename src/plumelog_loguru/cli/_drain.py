"""``drain``: deliver what ended processes left."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable

from ._command import DONE, INTERRUPTED, LEFT, Call, counted, positive, show, show_json, tell
from ._drainer import drain

_PROGRESS_SECONDS = 1.0


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="stop once N records are delivered; a batch is never divided",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say how many records would be delivered")


def run(call: Call) -> int:
    """Drain, and say what came of it."""
    arguments, directory = call.arguments, call.directory
    outcome = drain(
        call.settings,
        directory,
        limit=arguments.limit,
        dry_run=arguments.dry_run,
        tell=tell,
        progress=_on_terminal(tell),
    )
    if arguments.json:
        show_json(outcome.to_json())
    elif arguments.dry_run:
        show(f"{counted(outcome.remaining, 'record')} would be delivered to {directory.destination}")
    else:
        known = (
            f"; {outcome.already_applied} of the batches were in Redis already"
            if outcome.already_applied
            else ""
        )
        living = (
            f"; {outcome.living} records are with living processes, which deliver them themselves"
            if outcome.living
            else ""
        )
        show(f"{counted(outcome.delivered, 'record')} delivered in {outcome.seconds:.1f} s{known}{living}")
    if outcome.remaining and not arguments.dry_run:
        tell(f"{outcome.remaining} records remain in {directory.path}")
    if outcome.interrupted:
        tell("interrupted; nothing is lost")
        return INTERRUPTED
    return LEFT if outcome.remaining or outcome.wrong else DONE


def _on_terminal(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Tell at most once a second, and only where somebody is watching."""
    if not sys.stderr.isatty():
        return lambda _sentence: None
    last = time.monotonic()

    def now_and_then(sentence: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            last = time.monotonic()
            tell(sentence)

    return now_and_then
