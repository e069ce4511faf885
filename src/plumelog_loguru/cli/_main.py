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
from ._command import INTERRUPTED, LEFT, USAGE, Call, UsageError, tell
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path can hold bytes that are no text
    try:
        arguments = parse(words)
        code = module_of(arguments.command).run(Call(arguments, settings_of(arguments)))
        sys.stdout.flush()  # what cannot be written is found out here, and not by the interpreter's end
        return code
    except (UsageError, SettingsError, SpoolError) as error:
        return _failed(str(error), USAGE, words)
    except BrokenPipeError:
        # 'head' has seen enough. The rest goes nowhere, or the interpreter would complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return LEFT
    except KeyboardInterrupt:
        return _failed("interrupted; nothing is lost", INTERRUPTED, words)
    except Exception as error:
        # Its text is not shown: nobody knows what stands in it.
        return _failed(f"it broke off by {type(error).__name__}; --debug shows where", LEFT, words)


def _failed(sentence: str, code: int, words: Sequence[str]) -> int:
    if "--debug" in words:
        traceback.print_exc()
    tell(sentence)
    return code
