"""``completion``: the script by which bash or zsh completes commands, flags and files.

It is made of the parser itself, so it knows every flag. Needs shtab, of the extra ``cli``.
"""

from __future__ import annotations

from argparse import ArgumentParser, _SubParsersAction

from ._command import DONE, Call, UsageError, put, show_json
from ._flags import parser_of

_FILES = ("FILE", "PATH")


def add_flags(parser: ArgumentParser) -> None:
    """The command's own words."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell that is to complete")
    parser.epilog = (
        "For bash: plumelog-replay completion bash > "
        "~/.local/share/bash-completion/completions/plumelog-replay. "
        "For zsh: the same into a file _plumelog-replay in a directory of $fpath."
    )


def run(call: Call) -> int:
    """Print the script."""
    try:
        import shtab
    except ImportError:
        raise UsageError(
            "completion needs the package shtab; install it with: pip install 'plumelog-loguru[cli]'"
        ) from None
    parser = parser_of()
    _mark_files(parser, shtab.FILE)
    script = shtab.complete(parser, shell=call.arguments.shell)
    if call.arguments.json:
        show_json({"shell": call.arguments.shell, "script": script})
    else:
        put(script + "\n")
    return DONE


def _mark_files(parser: ArgumentParser, how: object) -> None:
    """Let values that are files be completed as such."""
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            for command in action.choices.values():
                _mark_files(command, how)
        elif action.metavar in _FILES:
            action.complete = how  # type: ignore[attr-defined]  # what shtab looks for
