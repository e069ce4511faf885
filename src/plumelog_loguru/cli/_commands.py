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
    "list": "show the batches in the spool, a line each",
    "show": "print the records of a batch as JSON lines, byte for byte",
    "export": "copy the records in the spool as JSON lines, byte for byte; it keeps them",
    "dead-letters": "list records that Redis refused; send them once more, export or drop them",
    "import": "put records from a file into the spool: all of them, or none if one line is no record",
    "verify": "check every checksum in the spool, and say what is wrong; it changes nothing",
    "repair": "put right what verify finds in what ended processes left; shows its plan first",
    "audit": "say what is missing and what is doubled in the list, by producer; it takes nothing out",
    "doctor": "examine settings, directory and server: a verdict each, and what to do",
    "purge": "delete what ended processes left, undelivered, and dead letters",
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
