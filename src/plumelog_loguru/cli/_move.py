"""``export --move``: the same file, and the spool no longer has what is in it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .._delivery import import_redis
from .._spool import import_diskcache
from ._command import DONE, INTERRUPTED, LEFT, Call, UsageError, counted, show, show_json, tell
from ._mover import Moved, Mover
from ._owner import act_as_owner
from ._records import Records


def run_move(call: Call, output: Path | None) -> int:
    """Move, and say what came of it."""
    directory, faults = call.directory, 0

    def complain(fault: str) -> None:
        nonlocal faults
        faults += 1
        tell(fault)

    if output is None:
        raise UsageError("--move needs a file, --output FILE: nobody knows what becomes of standard output")
    if call.arguments.meant_for is not None:
        raise UsageError(
            "--move asks Redis what it has already, so it takes what is meant for the configured list: "
            "leave out --from, and give the settings of the other list"
        )
    directory.check_readable()
    import_redis()
    import_diskcache()
    mover = Mover(call.settings, directory, complain=complain)
    try:
        with Records(output, spool_dir=directory.path, at_once=True) as records:
            act_as_owner(directory.path)
            directory.open()
            directory.clear_leftovers()
            asyncio.run(mover.run(records))
    except asyncio.CancelledError:
        pass  # interrupted twice
    except OSError as error:
        complain(f"{output} cannot be written ({error.strerror}); what is not in it is still spooled")
    for note in directory.notes():
        tell(note)
    left = [
        part
        for part in directory.survey()
        if part.owner == "dead" and part.destination in (None, directory.destination)
    ]
    for part in left:
        if part.problem in directory.notes():
            faults += 1  # told already
        elif part.problem is not None:
            complain(part.problem)
    remaining = sum(part.records for part in left)
    if call.arguments.json:
        show_json(_to_json(mover.moved, output, remaining))
    else:
        _show(mover.moved, output)
    if remaining:
        tell(f"{counted(remaining, 'record remains', 'records remain')} in {directory.path}")
    if mover.interrupted:
        tell("interrupted; nothing is lost")
        return INTERRUPTED
    return LEFT if remaining or faults else DONE


def _show(moved: Moved, output: Path) -> None:
    batches = counted(moved.batches, "batch", "batches")
    known = f"; {counted(moved.in_redis, 'record')} more Redis had already" if moved.in_redis else ""
    letters = (
        f"; {counted(moved.dead_letters, 'record')} more had become dead letters"
        if moved.dead_letters
        else ""
    )
    show(f"{counted(moved.records, 'record')} in {batches} moved to {output}{known}{letters}")
    if moved.possibly_doubled:
        tell(f"{counted(moved.possibly_doubled, 'record')} in the file may be in Redis, too")
    if moved.twice:
        tell(
            f"{counted(moved.twice, 'record')} in the file could not be deleted from the spool: whoever "
            "drains it and imports the file delivers them twice"
        )


def _to_json(moved: Moved, output: Path, remaining: int) -> dict[str, object]:
    return {
        "batches": moved.batches,
        "records": moved.records,
        "output": str(output),
        "moved": {
            "in_redis": moved.in_redis,
            "dead_letters": moved.dead_letters,
            "possibly_doubled": moved.possibly_doubled,
            "twice": moved.twice,
            "remaining": remaining,
        },
    }
