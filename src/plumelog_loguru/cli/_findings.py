"""What is wrong in a spool, as a line for a person and as JSON for a program."""

from __future__ import annotations

from pathlib import Path

from .._spool import Finding
from ._command import counted


def as_line(finding: Finding, spool_dir: Path, *, with_cure: bool = True) -> str:
    """A finding for a person: where, what, how many records, what to do."""
    where = str(finding.path.relative_to(spool_dir))
    if finding.place is not None:
        where += f", {finding.place}"
    records = f" ({counted(finding.records, 'record')})" if finding.records else ""
    return f"{where}: {finding.what}{records}" + (f"; {finding.cure}" if with_cure else "")


def as_json(finding: Finding) -> dict[str, object]:
    """A finding for a program."""
    return {
        "part": finding.part,
        "path": str(finding.path),
        "place": finding.place,
        "what": finding.what,
        "records": finding.records,
        "cure": finding.cure,
        "repairable": finding.repairable,
    }
