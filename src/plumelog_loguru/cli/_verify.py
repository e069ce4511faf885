"""``verify``: every file, row, journal and letter of the spool looked at, and nothing changed."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

from .._spool import Finding, Verified, import_diskcache, verify
from ._command import DONE, LEFT, Call, counted, show, show_json, tell
from ._findings import as_json, as_line

_MOST_SHOWN = 20


def add_flags(parser: ArgumentParser) -> None:
    """None but the common ones; and what the help says besides."""
    parser.description = (
        "Check every checksum in the spool: rows, databases and their logs, journals of ended processes, "
        "dead letters, and what belongs to them. Nothing is changed, and living processes are not disturbed: "
        "of these the rows are checked. What repair has put into quarantine is counted, and no fault."
    )
    parser.epilog = (
        "Each line says what is wrong, where, how many records it concerns, and what to do. Exit codes: 0 "
        "nothing is wrong, 1 something is. Example: plumelog-replay verify || plumelog-replay repair"
    )


def run(call: Call) -> int:
    """Look, and say what is wrong."""
    directory = call.directory
    directory.check_readable()
    import_diskcache()
    seen = verify(directory)
    if call.arguments.json:
        show_json(
            {
                "spool_dir": str(directory.path),
                "parts": seen.parts,
                "batches": seen.batches,
                "records": seen.records,
                "dead_letters": seen.letters,
                "quarantined": seen.quarantined,
                "findings": [as_json(finding) for finding in seen.findings],
            }
        )
    else:
        for line in _summary(directory.path, seen):
            show(line)
        for finding in seen.findings:
            show(as_line(finding, directory.path))
    if not seen.findings:
        return DONE
    tell(f"{counted(len(seen.findings), 'thing is', 'things are')} wrong; {_what_to_do(seen.findings)}")
    return LEFT


def _summary(path: Path, seen: Verified) -> Iterable[str]:
    yield f"spool       {path}"
    yield (
        f"intact      {counted(seen.records, 'record')}, {counted(seen.batches, 'batch', 'batches')} in "
        f"{counted(seen.parts, 'part')}; {counted(seen.letters, 'dead letter')}"
    )
    if seen.quarantined:
        yield f"quarantine  {counted(seen.quarantined, 'thing')} put aside earlier"
        aside = sorted([*path.glob("part-*/quarantine/*"), *path.glob("quarantine/*")])
        yield from (f"            {one.relative_to(path)}" for one in aside[:_MOST_SHOWN])
        if len(aside) > _MOST_SHOWN:
            yield f"            and {len(aside) - _MOST_SHOWN:,} more"


def _what_to_do(findings: list[Finding]) -> str:
    if any(finding.repairable for finding in findings):
        return "'plumelog-replay repair' shows what it would do about it"
    return "repair does nothing about it by itself; each line says what helps"
