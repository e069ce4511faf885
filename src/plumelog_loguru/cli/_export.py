"""``export``: records as JSON lines, byte for byte.

It copies: the spool keeps its rows, and what is copied will be delivered all the same. With ``--move`` they
are taken out of the spool.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from ._batches import Batches
from ._command import DONE, LEFT, Call, UsageError, counted, show, show_json, tell
from ._records import Records
from ._selection import Selection, add_from_flag


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument(
        "--output", metavar="FILE", help="a file to make, which only you can read; else standard output"
    )
    add_from_flag(parser, "the records that are meant for this list, instead of the configured one")
    parser.add_argument(
        "--move",
        action="store_true",
        help="take out of the spool what ended processes left for the configured list; needs --output, and "
        "Redis for what may be in it already",
    )
    parser.epilog = (
        "Oldest first: what living and ended processes have spooled, and what ended ones had in memory. The "
        "bytes are those that Redis would hold. It is a copy: the spool keeps all of it, so to import it "
        "where the spool is still delivered puts records into Redis twice. FILE has its name once all is in "
        "it; with --move at once, and a batch leaves the spool when it is on the disk there. Redis may have "
        "some of that already, which is not written. Killed in the middle, its last mebibyte may still be "
        "spooled, too, and its last line be cut off. "
        "Dead letters have an export of their own: 'plumelog-replay dead-letters export'. "
        "Example: plumelog-replay export --output spooled.jsonl"
    )


def run(call: Call) -> int:
    """Copy, and say what was copied; or move."""
    arguments, directory = call.arguments, call.directory
    output = None if arguments.output in (None, "-") else Path(arguments.output)
    if arguments.move:
        from ._move import run_move  # it needs what speaks to Redis

        return run_move(call, output)
    if arguments.json and output is None:
        raise UsageError("the records go to standard output; to have --json there, name a file with --output")
    batches = Batches(directory, Selection.of(call))
    try:
        with Records(output, spool_dir=directory.path) as records:
            for seen in batches:
                if seen.batch is not None:
                    records.write(seen.batch.values)
    except BrokenPipeError:
        raise  # who reads them has had enough
    except OSError as error:
        tell(f"{output or 'standard output'} cannot be written ({error.strerror}); no file is made")
        return LEFT
    if arguments.json:
        show_json({"batches": batches.intact, "records": batches.records, "output": str(output)})
    else:
        said = (
            f"{counted(batches.records, 'record')} in {counted(batches.intact, 'batch', 'batches')} exported"
        )
        if output is None:
            tell(said)  # standard output is the records' alone
        else:
            show(f"{said} to {output}; the spool keeps them")
    for remark in batches.remarks():
        tell(remark)
    faults = list(batches.faults())
    for fault in faults:
        tell(fault)
    return LEFT if faults else DONE
