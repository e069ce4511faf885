"""``repair``: what is wrong in parts of ended processes, put right; without ``--apply`` only a plan."""

from __future__ import annotations

from argparse import ArgumentParser

from .._spool import Mended, PartOptions, import_diskcache, mend, verify
from ._command import DONE, LEFT, Call, counted, show, show_json, tell
from ._findings import as_json, as_line
from ._owner import act_as_owner


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.add_argument("--apply", action="store_true", help="do it; without this nothing is changed")
    parser.add_argument(
        "--adopt-unknown",
        action="store_true",
        help="say of parts whose part.json is lost that their records are meant for the configured list",
    )
    parser.description = (
        "Put right what 'verify' finds, in parts that no living process owns, of whatever destination. What "
        "is damaged goes into quarantine, byte for byte; what is intact can be delivered afterwards, exactly "
        "once. Nothing is sent, and Redis is not needed. It may be interrupted, and run again."
    )
    parser.epilog = (
        "Exit codes: 0 nothing is wrong (any more), 1 there is something to do, or left that it can do "
        "nothing about. Example: plumelog-replay repair --apply && plumelog-replay drain"
    )


def run(call: Call) -> int:
    """Repair, or say what that would be."""
    arguments, directory, settings = call.arguments, call.directory, call.settings
    directory.check_readable()
    import_diskcache()  # the owner may not be able to read it
    if arguments.apply:
        act_as_owner(directory.path)
    found = left = verify(directory).findings
    mended = Mended()
    if arguments.apply and found:
        options = PartOptions(
            fsync=settings.spool_fsync, max_age_seconds=settings.spool_max_age_seconds or 0.0
        )
        mended = mend(directory, found, options=options, adopt_unknown=arguments.adopt_unknown)
        left = verify(directory).findings
    if arguments.json:
        show_json(
            {
                "spool_dir": str(directory.path),
                "applied": arguments.apply,
                "findings": [as_json(finding) for finding in found],
                "left": [as_json(finding) for finding in left],
                "possibly_doubled": mended.possibly_doubled,
                "problems": mended.problems,
            }
        )
    else:
        for finding in found:
            if not arguments.apply:
                show(as_line(finding, directory.path))
            elif finding not in left:
                show("done: " + as_line(finding, directory.path, with_cure=False))
        for finding in left if arguments.apply else ():
            show("left: " + as_line(finding, directory.path))
        if not found:
            show(f"nothing is wrong in {directory.path}")
    for problem in mended.problems:
        tell(problem)
    if mended.possibly_doubled:
        tell(
            f"{counted(mended.possibly_doubled, 'record')} may be delivered twice: their identity was damaged"
        )
    if not left:
        return DONE
    if not arguments.apply:
        repairable = sum(finding.repairable for finding in left)
        tell(
            f"{counted(len(left), 'thing is', 'things are')} wrong, and nothing is changed yet; "
            f"with --apply {repairable:,} of them would be repaired"
        )
    else:
        tell(f"{counted(len(left), 'thing is', 'things are')} still wrong; each line says what helps")
    return LEFT
