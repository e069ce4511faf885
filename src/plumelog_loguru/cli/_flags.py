"""The command line: what may stand in it, and the settings that come of it.

Promises: every setting is a flag, because the flags are read off the settings; a password is none, and no
complaint repeats one, wherever in the line it stood.

It is argparse and not pydantic-settings' own command line, which would make a flag of each password too, show
the commands without a word on what they do, and answer a wrong value with a traceback.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from pydantic import SecretStr

from .._destination import parse_redis_url
from .._errors import SettingsError
from .._settings import PREFIX, PlumelogSettings
from ._command import UsageError, put
from ._commands import COMMANDS, module_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_ALONE = "drain"  # what the program does where no command is named
_INVALID_CHOICE = re.compile(r"invalid choice: .*\(choose from (.*)\)", re.DOTALL)
_FLAG = re.compile(r"--[a-z][a-z-]*")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # A word that stands in the wrong place may be a password.
        raise UsageError(_INVALID_CHOICE.sub(r"must be one of \1", message))

    def _print_message(self, message: str, file: object = None) -> None:
        put(message)  # argparse itself would pass over what cannot be written


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version  # nobody else needs it, and it takes its time

        put(f"plumelog-replay {version('plumelog-loguru')}\n")
        parser.exit()


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Returns:
        ``command``, ``json``, ``debug``; the command's own flags; each setting that was given.

    Raises:
        UsageError: it cannot be understood.
    """
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words = [_ALONE, *words]
    elif words[0] not in COMMANDS and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        raise UsageError(
            f"there is no such command; did you mean {near[0]}?"
            if near
            else f"the command must be one of {', '.join(COMMANDS)}, and stand before the flags"
        )
    arguments, unknown = parser_of(words[0]).parse_known_args(words)
    if "names" in arguments and not any(word.startswith("-") for word in unknown):
        # argparse ends a list of names at the first flag, even before it has begun.
        arguments.names, unknown = [*arguments.names, *unknown], []
    if unknown:
        raise UsageError(_complaint(arguments.command, unknown))
    empty = next((name for name in _flag_names() if getattr(arguments, name, None) == ""), None)
    if empty is not None:
        # An unset variable of a shell script: neither the default nor the current directory can be meant.
        raise UsageError(f"{_flag(empty)} is empty")
    return arguments


def settings_of(arguments: argparse.Namespace) -> PlumelogSettings:
    """The settings: flags win over the environment.

    Raises:
        SettingsError: a setting can never work.
        UsageError: a password stands in the command line.
    """
    values: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name in _flag_names()}
    url = values.get("redis_url")
    if url is not None and _carries_password(url):
        raise UsageError(
            "--redis-url carries a password, which everybody on this machine can read; "
            f"set {PREFIX}REDIS_URL in the environment instead"
        )
    settings = PlumelogSettings(**values)
    address = next((name for name in ("redis_host", "redis_port", "redis_db") if name in values), None)
    if address is not None and url is None and settings.redis_url is not None:
        # The settings have it so; but whoever names a server here must not be sent to another.
        raise UsageError(
            f"{_flag(address)} would not be heeded, for {PREFIX}REDIS_URL is set; unset that, or give "
            "--redis-url"
        )
    return settings


def parser_of(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser of the program, with the flags of one command, or of all."""
    parser = _Parser(
        prog="plumelog-replay",
        description="Looks into the spool of a plumelog-loguru sink, and delivers what no application "
        f"delivers any more. Alone, it is '{_ALONE}'.",
        epilog="Exit codes: 0 done, nothing left to do; 1 done, but something is left or wrong; "
        "2 wrong usage or settings, or no spool directory; 130 interrupted, nothing lost.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, about in COMMANDS.items():
        if chosen not in (name, None):
            commands.add_parser(name, help=about)  # in the list of commands
            continue
        command = commands.add_parser(
            name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False
        )
        module_of(name).add_flags(command)
        usage = command.format_usage().partition(" ")[2]  # without the flags that all commands share
        command.usage = " ".join(usage.replace("%", "%%").split()) + " [--json] [--debug] [setting ...]"
        _add_common_flags(command)
    return parser


def _add_common_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one line of JSON on standard output")
    command.add_argument("--debug", action="store_true", help="show a traceback where something fails")
    settings = command.add_argument_group(
        "settings", f"each is also a variable, {PREFIX}<NAME>; passwords are variables only"
    )
    for name in _flag_names():
        field = PlumelogSettings.model_fields[name]
        more = ["--rate"] if name == "replay_rate" else []
        settings.add_argument(
            _flag(name),
            *more,
            dest=name,
            default=argparse.SUPPRESS,
            metavar=_metavar(field),
            help=_help(field),
        )


def _flag_names() -> list[str]:
    """The settings that can be flags: all but the secret ones; a URL need not carry a secret."""
    fields = PlumelogSettings.model_fields.items()
    return [
        name for name, field in fields if name == "redis_url" or SecretStr not in get_args(field.annotation)
    ]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _metavar(field: FieldInfo) -> str:
    kinds = get_args(field.annotation)
    if get_origin(field.annotation) is Literal:
        return "|".join(kinds)
    if field.annotation is bool:
        return "true|false"
    if field.annotation in (int, float):
        return "N" if field.annotation is int else "SECONDS"
    return "PATH" if Path in kinds else "TEXT"


def _help(field: FieldInfo) -> str:
    about = field.description or ""
    if field.default_factory or field.default is None:
        return about
    default = field.default
    if isinstance(default, Mapping):
        shown = ",".join(f"{key}:{value}" for key, value in default.items())
    else:
        shown = str(default).lower() if field.annotation is bool else str(default)
    return f"{about} (default {shown})".replace("%", "%%")


def _carries_password(url: str) -> bool:
    try:
        return parse_redis_url(url).password is not None
    except SettingsError:
        return False  # the settings refuse it, without repeating it


def _complaint(command: str, unknown: Sequence[str]) -> str:
    """What to say of words that mean nothing: flags by name, others not at all, as one may be a password."""
    names = [word.partition("=")[0] for word in unknown]
    if "--redis-password" in names:
        return f"a password is never a flag; set {PREFIX}REDIS_PASSWORD in the environment instead"
    flags = [name for name in names if _FLAG.fullmatch(name)]
    return (
        f"{command} has no flag {flags[0]}" if flags else "there is a word too many: a flag takes one value"
    )
