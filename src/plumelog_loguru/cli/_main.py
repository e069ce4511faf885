"""The way in: words in, an exit code out.

    0    done, and nothing left to do
    1    done, but something is left or wrong, and it says what
    2    wrong usage or settings
    130  interrupted, with nothing lost

Results go to standard output; everything else, a line each, to standard error.
"""

from __future__ import annotations

import io
import json
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Sequence

from .._errors import SettingsError
from .._settings import PlumelogSettings
from .._spool import SpoolDirectory, SpoolError
from ._drain import drain
from ._flags import UsageError, parse, settings_of
from ._status import look

DONE, LEFT, USAGE, INTERRUPTED = 0, 1, 2, 130

_PROGRESS_SECONDS = 1.0


def main(words: Sequence[str] | None = None) -> int:
    """Run ``plumelog-replay``.

    Args:
        words: the command line without the program's name; None: this process's own.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if words is None else words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path can hold bytes that are no text
    try:
        arguments = parse(words)
        settings = settings_of(arguments)
        return _COMMANDS[arguments.command](arguments, settings, _directory(settings))
    except (UsageError, SettingsError, SpoolError) as error:
        return _failed(str(error), USAGE, words)
    except KeyboardInterrupt:
        return _failed("interrupted; nothing is lost", INTERRUPTED, words)
    except Exception as error:
        # Its text is not shown: nobody knows what stands in it.
        return _failed(f"it broke off by {type(error).__name__}; --debug shows where", LEFT, words)


def _drain(arguments: Namespace, settings: PlumelogSettings, directory: SpoolDirectory) -> int:
    outcome = drain(
        settings,
        directory,
        limit=arguments.limit,
        dry_run=arguments.dry_run,
        tell=_tell,
        progress=_on_terminal(_tell),
    )
    if arguments.json:
        print(json.dumps(outcome.to_json()))
    elif arguments.dry_run:
        print(f"{outcome.remaining} records would be delivered to {directory.destination}")
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
        print(f"{outcome.delivered} records delivered in {outcome.seconds:.1f} s{known}{living}")
    if outcome.remaining and not arguments.dry_run:
        _tell(f"{outcome.remaining} records remain in {directory.path}")
    if outcome.interrupted:
        _tell("interrupted; nothing is lost")
        return INTERRUPTED
    return LEFT if outcome.remaining or outcome.wrong else DONE


def _status(arguments: Namespace, settings: PlumelogSettings, directory: SpoolDirectory) -> int:
    status = look(settings, directory, _tell)
    if arguments.json:
        print(json.dumps(status.to_json()))
    else:
        for line in status.lines():
            print(_one_line(line))
    faults = list(status.faults())
    for fault in faults:
        _tell(fault)
    return LEFT if faults else DONE


_COMMANDS: dict[str, Callable[[Namespace, PlumelogSettings, SpoolDirectory], int]] = {
    "drain": _drain,
    "status": _status,
}


def _directory(settings: PlumelogSettings) -> SpoolDirectory:
    if settings.spool_dir is None:
        raise UsageError("there is no home directory in which a spool could lie; name it with --spool-dir")
    return SpoolDirectory(settings.spool_dir, settings.destination)


def _tell(sentence: str) -> None:
    print(_one_line(f"plumelog-replay: {sentence}"), file=sys.stderr, flush=True)


def _failed(sentence: str, code: int, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    _tell(sentence)
    return code


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


def _one_line(text: str) -> str:
    # What stands in a spool may have been written by an enemy of the terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
