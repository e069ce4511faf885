"""``dead-letters``: records that Redis refused, and what an operator decides about them.

A letter is removed when Redis has its record, or when somebody says so; never by looking at it.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from .._spool import DeadLetters, SpoolError
from ._command import DONE, LEFT, USAGE, Call, UsageError, counted, show, show_json, tell
from ._letters import Seen, look_at
from ._owner import act_as_owner
from ._records import Records

_DEEDS = {
    "list": "show name, time, size, list, and why Redis refused it",
    "retry": "send them to the configured list once more, and remove those that Redis takes",
    "export": "print their records as JSON lines, byte for byte; the letters stay",
    "drop": "delete them, and their records with them",
}
_DONE = (None, "exported", "delivered", "already_delivered", "dropped")
_SUFFIX = ".letter"


def add_flags(parser: ArgumentParser) -> None:
    """The command's own words."""
    about = "; ".join(f"{name}: {does}" for name, does in _DEEDS.items())
    parser.add_argument("deed", choices=tuple(_DEEDS), metavar="|".join(_DEEDS), help=about)
    parser.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="NAME",
        help="letters, by the names that 'list' shows",
    )
    parser.add_argument(
        "--all", action="store_true", help="all letters, as 'list' and 'export' do without it"
    )
    parser.add_argument("--yes", action="store_true", help="drop --all needs it")
    parser.add_argument("--output", metavar="FILE", help="a file that export makes; else standard output")
    parser.epilog = (
        "A record that Redis refuses, mostly for its size, waits in the spool directory for a decision. "
        "To retry is safe at any time: Redis takes a letter's record once, as long as it remembers the last "
        "try (lane_ttl_seconds). Letters for another list stay, and are no fault. "
        "Example: plumelog-replay dead-letters retry --all"
    )


def run(call: Call) -> int:
    """Do what is asked with the letters that are named."""
    arguments, directory = call.arguments, call.directory
    directory.check_readable()
    letters = DeadLetters(directory.path, fsync=call.settings.spool_fsync)
    deed, names = arguments.deed, _chosen(call, letters)
    output = None if arguments.output in (None, "-") else Path(arguments.output)
    if deed == "export" and arguments.json and output is None:
        raise UsageError("the records go to standard output; to have --json there, name a file with --output")
    if deed == "drop" and arguments.all and not arguments.yes:
        _show(call, [look_at(letters, name)[0] for name in names])
        tell(f"nothing is dropped; with --yes, {counted(len(names), 'record')} would be gone for good")
        return USAGE
    if deed == "retry":
        seen = _retry(call, letters, names)
    elif deed == "drop":
        act_as_owner(directory.path)
        seen = [_drop(letters, name) for name in names]
    elif deed == "export":
        with Records(output, spool_dir=directory.path) as records:
            seen = [_export(letters, name, records) for name in names]
    else:
        seen = [look_at(letters, name)[0] for name in names]
    if deed != "export" or output is not None:
        _show(call, seen)
    return _judge(call, seen)


def _chosen(call: Call, letters: DeadLetters) -> list[str]:
    """The letters that are meant, by name."""
    arguments, there = call.arguments, letters.names()
    named = [name.removesuffix(_SUFFIX) + _SUFFIX for name in arguments.names]
    if arguments.all and named:
        raise UsageError("name letters, or say --all; not both")
    for name in named:
        if name not in there:
            raise UsageError(
                f"there is no dead letter {name}; 'plumelog-replay dead-letters list' shows them"
            )
    if named or arguments.all or arguments.deed in ("list", "export"):
        return list(dict.fromkeys(named)) or there
    raise UsageError(f"name the letters to {arguments.deed}, or say --all")


def _retry(call: Call, letters: DeadLetters, names: Sequence[str]) -> list[Seen]:
    from .._delivery import import_redis
    from ._letter_retry import Retry

    import_redis()
    act_as_owner(letters.path.parent)
    retry = Retry(call.settings, letters, tell)
    seen = asyncio.run(retry.run(names))
    if retry.possibly_doubled:
        tell(f"{counted(retry.possibly_doubled, 'record')} may be in Redis twice")
    return seen


def _drop(letters: DeadLetters, name: str) -> Seen:
    seen, _ = look_at(letters, name)  # told as it was
    try:
        letters.remove(name)
    except SpoolError as error:
        return seen.became("failed", str(error))
    return seen.became("dropped")


def _export(letters: DeadLetters, name: str, records: Records) -> Seen:
    seen, letter = look_at(letters, name)
    if letter is None:
        return seen.became("failed", seen.problem)
    records.write([letter.value])
    return seen.became("exported")


def _show(call: Call, seen: Sequence[Seen]) -> None:
    if call.arguments.json:
        show_json({"deed": call.arguments.deed, "letters": [one.to_json() for one in seen]})
        return
    for one in seen:
        show(f"{one}" if one.result is None else f"{one.result.replace('_', ' ')}  {one}")
    if not seen:
        show("there are no dead letters")


def _judge(call: Call, seen: Sequence[Seen]) -> int:
    """Tell what is left, and why; the exit code."""
    arguments = call.arguments
    for one in seen:
        if one.problem is not None:
            tell(one.problem)
    elsewhere = [one for one in seen if one.result == "elsewhere"]
    if elsewhere:
        tell(
            f"{counted(len(elsewhere), 'letter stays', 'letters stay')}: meant for "
            f"{', '.join(sorted({str(one.destination) for one in elsewhere}))}; "
            "retry with the settings of that destination"
        )
    left = [one for one in seen if one.result not in _DONE or one.problem is not None]
    # As with parts: what is for another list is not left, unless it was asked for by name.
    if not arguments.names:
        left = [one for one in left if one.result != "elsewhere"]
    if left and arguments.deed == "retry":
        letters = DeadLetters(call.directory.path)
        tell(f"{counted(len(left), 'letter remains', 'letters remain')} in {letters.path}")
    return LEFT if left else DONE
