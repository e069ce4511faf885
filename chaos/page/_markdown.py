"""A run as a Markdown table, for the documentation."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from chaos.page._rows import Report, Row
from chaos.page._summary import summarize

_TITLES = ("scenario", "what must hold", "logged", "lost", "doubled", "faults", "recovery", "verdict")
_FIGURES = {"logged", "lost", "doubled", "faults", "recovery"}


def markdown_table(report: Report) -> str:
    """The run in one line, and under it a table with a line for each scenario."""
    summary = summarize(report.rows)
    about = (
        f"{report.finished:%Y-%m-%d}, profile {summary.profile}, seed {summary.seed}, "
        f"proxy {summary.proxy}, server {summary.server}: {summary.scenarios}; {summary.records}."
    )
    return f"{plain(about)}\n\n{table(_TITLES, map(_cells, report.rows), figures=_FIGURES)}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, figures: Container[str] = ()) -> str:
    """A table in Markdown; columns of figures stand on the right."""
    rules = ["--:" if title in figures else "---" for title in titles]
    return "".join(f"{_line(cells)}\n" for cells in (titles, rules, *rows))


def _cells(row: Row) -> list[str]:
    figures = [
        f"{row.logged:,}",
        lost(row),
        doubled(row),
        f"{row.faults_injected:,}",
        _recovery(row),
    ]
    return [
        plain(row.scenario),
        plain(row.promise),
        *(figures if row.ran else [""] * len(figures)),
        row.verdict,
    ]


def lost(row: Row) -> str:
    """How many are missing, and how many of those the library itself reported."""
    said = row.lost - row.lost_unsaid
    if not said:
        return f"{row.lost:,}"
    return f"{row.lost:,}, all reported" if said == row.lost else f"{row.lost:,}, {said:,} reported"


def doubled(row: Row) -> str:
    """How many are there twice; where they may be, the library reported them."""
    said = ", all reported" if row.duplicates and not row.doubled_unsaid else ""
    return f"{row.duplicates:,}{said}"


def _recovery(row: Row) -> str:
    return "" if row.recovery_seconds is None else f"{row.recovery_seconds:.1f} s"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """A text that Markdown leaves as it is, on one line."""
    text = " ".join(text.split())
    for sign in "\\`*_<>|[]":
        text = text.replace(sign, f"\\{sign}")
    return text
