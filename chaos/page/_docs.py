"""What was measured last, put into the documentation, between its markers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from chaos.page._markdown import lost, markdown_table, plain, table
from chaos.page._rows import MUTANTS, Report, ReportError

_SECTION = re.compile(r"(<!-- chaos-(\w+): begin -->\n).*?(<!-- chaos-\2: end -->)", re.DOTALL)


def fill_in(document: Path, report: Report, folder: Path) -> None:
    """Renew the sections of a document that the files of a run tell about; all else stays as it is.

    Raises:
        ReportError: the document has no section to fill.
    """
    known = {"table": markdown_table(report)}
    if report.comparison:
        known["comparison"] = _comparison(report)
    if (folder / MUTANTS).exists():
        known["mutants"] = _mutants(folder / MUTANTS)
    text = document.read_text(encoding="utf-8")
    if not _SECTION.search(text):
        raise ReportError(f"{document} has no section that begins with <!-- chaos-table: begin -->")
    filled = _SECTION.sub(
        lambda found: found[1] + known[found[2]] + found[3] if found[2] in known else found[0], text
    )
    document.write_text(filled, encoding="utf-8")


def _comparison(report: Report) -> str:
    sinks = sorted({row.sink for row in report.comparison}, key=lambda sink: (" " in sink, sink))
    cells = {(row.scenario, row.sink): row for row in report.comparison}
    lines = []
    for scenario in sorted({row.scenario for row in report.comparison}):
        found = [cells.get((scenario, sink)) for sink in sinks]
        figures = [f"{lost(row)} / {row.duplicates:,} of {row.logged:,}" if row else "" for row in found]
        lines.append([plain(scenario), *figures])
    heads = ["lost / doubled of logged", *map(plain, sinks)]
    return table(heads, lines, figures=set(heads[1:]))


def _mutants(path: Path) -> str:
    rows = json.loads(path.read_text(encoding="utf-8"))
    lines = [[plain(row["mutation"]), plain(", ".join(row["seen_by"]) or "nobody")] for row in rows]
    return table(["shortcut", "seen by"], lines)
