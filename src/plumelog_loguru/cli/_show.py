"""``show``: the records of a batch, byte for byte, a line each."""

from __future__ import annotations

from argparse import ArgumentParser

from .._spool import SeenBatch
from ._batches import Batches
from ._command import DONE, LEFT, Call, show_json, tell
from ._records import Records
from ._selection import ANY, Selection


def add_flags(parser: ArgumentParser) -> None:
    """The command's own words."""
    parser.add_argument("batches", nargs="+", metavar="BATCH", help="a batch, as 'list' names it")
    parser.epilog = (
        "The records are printed in the bytes that Redis will hold, a line of JSON each; a terminal is shown "
        "control characters as \\x1b. Nothing is changed. "
        "Example: plumelog-replay show 0f3c5a7e9b1d2c4f.17 | jq .content"
    )


def run(call: Call) -> int:
    """Find the batches, and print them."""
    directory, names = call.directory, call.arguments.batches
    batches = Batches(directory, Selection(ANY, directory.destination))
    found = {name: batches.find(name) for name in names} if call.arguments.json else {}
    wrong = False
    with Records(spool_dir=directory.path) as records:
        for name in names:
            seen = found[name] if found else batches.find(name)
            problem = _problem(name, seen)
            if problem is not None:
                tell(problem)
                wrong = True
            elif not found and seen is not None and seen.batch is not None:
                records.write(seen.batch.values)
    if found:
        show_json({"batches": [_facts(seen) for seen in found.values() if seen is not None]})
    for fault in batches.faults() if wrong else ():
        tell(fault)  # it may be the reason
    return LEFT if wrong else DONE


def _problem(name: str, seen: SeenBatch | None) -> str | None:
    if seen is None:
        return (
            f"there is no batch {name}, or none any more: it may have been delivered; "
            "'plumelog-replay list' shows which there are"
        )
    if seen.problem is not None:
        return f"{name} cannot be shown: {seen.problem}; 'plumelog-replay verify' says what is damaged"
    return None


def _facts(seen: SeenBatch) -> dict[str, object]:
    values = seen.batch.values if seen.batch is not None else ()
    return {
        "id": seen.id,
        "records": [value.decode("utf-8", "backslashreplace") for value in values],
        "problem": seen.problem,
    }
