"""The way in: words in, an exit code out.

    0    done, and nothing left to do
    1    done, but something is left or wrong, and it says what
    2    wrong usage or settings
    130  interrupted, with nothing lost

Results go to standard output; everything else, a line each, to standard error.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from .._errors import SettingsError
from .._spool import SpoolError
from ._command import (
    INTERRUPTED,
    LEFT,
    USAGE,
    Call,
    OutputError,
    UsageError,
    flush_output,
    silence,
    tell,
)
from ._commands import module_of
from ._flags import parse, settings_of


def main(words: Sequence[str] | None = None) -> int:
    """Run ``plumelog-replay``.

    Args:
        words: the command line without the program's name; None: this process's own.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if words is None else words
    _replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path can hold bytes that are no text
    try:
        try:
            return _obey(words)
        finally:
            flush_output()  # what cannot be written is found out here, and not by the interpreter's end
    except BrokenPipeError:
        silence(sys.stdout)  # 'head' has seen enough
        return LEFT
    except OutputError as error:
        silence(sys.stdout)
        return _failed(str(error), LEFT, words)
    except (UsageError, SettingsError, SpoolError) as error:
        return _failed(str(error), USAGE, words)
    except KeyboardInterrupt:
        return _failed("interrupted; nothing is lost", INTERRUPTED, words)
    except Exception as error:
        # Its text is not shown: nobody knows what stands in it.
        return _failed(f"it broke off by {type(error).__name__}; --debug shows where", LEFT, words)


def _obey(words: Sequence[str]) -> int:
    arguments = parse(words)
    return module_of(arguments.command).run(Call(arguments, settings_of(arguments)))


def _replace_closed_streams() -> None:
    """Have a stream where the process was started without: one that fails, and of stderr one to nowhere.

    A file that is opened would get the number of the missing one, and what is told be written into it.
    """
    for name, flags, mode in (
        ("stdin", os.O_WRONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, flags), mode, closefd=False))  # noqa: SIM115


def _failed(sentence: str, code: int, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    tell(sentence)
    return code
