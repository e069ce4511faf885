"""What a command is given, what it says, and the codes with which it ends.

Results go to standard output; everything else, a line each, to standard error. What is shown may come from a
file or a list that an enemy of the terminal has written to.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO

from .._errors import PlumelogError
from .._settings import PlumelogSettings
from .._spool import SpoolDirectory

DONE, LEFT, USAGE, INTERRUPTED = 0, 1, 2, 130


class UsageError(PlumelogError):
    """The command line cannot be understood, or not be obeyed; the message says why, in one sentence."""


class OutputError(PlumelogError):
    """Standard output takes no more; the message says why, in one sentence."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written ({error.strerror})")


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
    try:
        print(one_line(f"plumelog-replay: {sentence}"), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)  # nobody can be told, and the work goes on


def show(line: str) -> None:
    """A line of the result."""
    put(one_line(line) + "\n")


def show_json(facts: object) -> None:
    """The result as one line of JSON."""
    put(json.dumps(facts) + "\n")  # any text at all: a path can hold bytes that are none


def put(text: str) -> None:
    """Text as it is, to standard output.

    Raises:
        BrokenPipeError: who reads it has had enough.
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error) from error


def flush_output() -> None:
    """Have all written that was shown; raises as `put`."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error) from error


def silence(stream: IO[str]) -> None:
    """Send what is written from now on nowhere, or the interpreter would complain of the rest at its end."""
    with suppress(OSError, ValueError):  # a test's has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


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
