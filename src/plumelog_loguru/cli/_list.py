"""``list``: the batches in the spool, a line each.

It reads beside living owners and changes nothing; little is in memory at a time, however much is spooled.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterable
from itertools import chain, repeat

from .._spool import SeenBatch
from ._batches import Batches
from ._command import DONE, LEFT, Call, counted, local_time, put, show, tell
from ._selection import ANY, Selection, add_from_flag

_LINE = "{:<29} {:<5} {:>9} {:>11}  {:<25} {:<5} {}"  # a hundred characters, mostly
_HEAD = _LINE.format("BATCH", "OWNER", "RECORDS", "BYTES", "OLDEST RECORD", "LEVEL", "TRIED")


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    add_from_flag(parser, "only the batches that are meant for this list; else all")
    parser.epilog = (
        "Oldest first. A batch is PART.NUMBER, or PART.journal-N.NUMBER for what an ended process had in "
        "memory; 'plumelog-replay show BATCH' prints its records. OWNER is 'live' while a process delivers "
        "the part itself. TRIED says who may have put the batch into Redis already: nobody, script (a "
        "drain recognises it) or plain (a drain may double it). Nothing is changed, also beside living "
        "processes and on a disk that cannot be written. Exit code 1 tells that something cannot be read."
    )


def run(call: Call) -> int:
    """Walk through the spool, and show what is met."""
    batches = Batches(call.directory, Selection.of(call, default=ANY))
    if call.arguments.json:
        _show_json(batches)
    else:
        for number, seen in enumerate(batches):
            if number == 0:
                show(_HEAD)
            show(_line(seen))
        show(
            f"{counted(batches.records, 'record')} in {counted(batches.intact, 'batch', 'batches')}, "
            f"{counted(batches.bytes, 'byte')}"
        )
    for remark in batches.remarks():
        tell(remark)
    faults = list(batches.faults())
    for fault in faults:
        tell(fault)
    return LEFT if faults else DONE


def _line(seen: SeenBatch) -> str:
    return _LINE.format(
        seen.id,
        seen.part.owner,
        f"{seen.records:,}",
        f"{seen.bytes:,}",
        "-" if seen.first_ms is None else local_time(seen.first_ms),
        seen.level or "-",
        seen.problem if seen.batch is None else seen.batch.attempted_by.value,
    )


def _show_json(batches: Batches) -> None:
    """One line, written as the walk goes on: nobody knows how long it becomes."""
    commas: Iterable[str] = chain(("",), repeat(", "))
    put('{"batches": [')
    for comma, seen in zip(commas, batches, strict=False):
        put(comma + json.dumps(_facts(seen)))
    put(f'], "records": {batches.records}, "bytes": {batches.bytes}}}\n')


def _facts(seen: SeenBatch) -> dict[str, object]:
    return {
        "id": seen.id,
        "part": seen.part.id,
        "owner": seen.part.owner,
        "destination": None if seen.part.destination is None else str(seen.part.destination),
        "records": seen.records,
        "bytes": seen.bytes,
        "oldest": seen.first_ms,
        "newest": seen.last_ms,
        "level": seen.level or None,
        "attempted": None if seen.batch is None else seen.batch.attempted_by.value,
        "problem": seen.problem,
    }
