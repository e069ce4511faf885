"""The commands by their names, and in which module each is.

A command's module is imported when the command is run: to look at a spool should not wait for what a drain
needs. It has ``add_flags(parser)`` and ``run(call)``, which returns the exit code.
"""

from __future__ import annotations

from argparse import ArgumentParser
from importlib import import_module
from typing import Protocol, cast

from ._command import Call

COMMANDS = {
    "drain": "deliver what ended processes left for the configured destination, exactly once",
    "status": "say what is spooled, by whom, how old, and whether Redis takes records",
    "completion": "print the script by which bash or zsh completes this program's command line",
}


class CommandModule(Protocol):
    """What the module of a command has."""

    def add_flags(self, parser: ArgumentParser) -> None:
        """Add the command's own flags and words."""
        ...

    def run(self, call: Call) -> int:
        """Do it, and return the exit code."""
        ...


def module_of(command: str) -> CommandModule:
    """The module of a command."""
    name = command.replace("-", "_")
    return cast("CommandModule", import_module(f"{__package__}._{name}"))
