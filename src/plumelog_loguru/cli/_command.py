"""What a command is given, what it says, and the codes with which it ends.

Results go to standard output; everything else, a line each, to standard error. What is shown may come from a
file or a list that an enemy of the terminal has written to.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError, Namespace
from dataclasses import dataclass
from datetime import datetime

from .._errors import PlumelogError
from .._settings import PlumelogSettings
from .._spool import SpoolDirectory

DONE, LEFT, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(PlumelogError):
    """The command line cannot be understood, or not be obeyed; the message says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command."""

    arguments: Namespace
    settings: PlumelogSettings

    @property
    def directory(self) -> SpoolDirectory:
        """The spool directory of the settings.

        Raises:
            UsageError: there is none.
        """
        if self.settings.spool_dir is None:
            raise UsageError(
                "there is no home directory in which a spool could lie; name it with --spool-dir"
            )
        return SpoolDirectory(self.settings.spool_dir, self.settings.destination)


def tell(sentence: str) -> None:
    """A word to the operator."""
    print(one_line(f"plumelog-replay: {sentence}"), file=sys.stderr, flush=True)


def show(line: str) -> None:
    """A line of the result."""
    print(one_line(line))


def show_json(facts: object) -> None:
    """The result as one line of JSON."""
    print(json.dumps(facts))  # any text at all: a path can hold bytes that are none


def one_line(text: str) -> str:
    """Without anything that moves a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``1 record``, ``2 batches``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def local_time(epoch_ms: int) -> str:
    """A moment as a clock on this machine's wall shows it."""
    try:
        return datetime.fromtimestamp(epoch_ms / 1000).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # whatever stood in a record
        return f"{epoch_ms} ms"


def positive(text: str) -> int:
    """A count in a flag."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError("must be a whole number from 1")
    return int(text)
