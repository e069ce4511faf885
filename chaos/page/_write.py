"""All of a report into one HTML file.

Every text is escaped by Jinja, and the page's policy allows no script, style or picture but the page's own:
a text that got through all the same could do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from chaos.page import _timeline
from chaos.page._markdown import lost
from chaos.page._rows import Report, read_report
from chaos.page._summary import compare, summarize

_HERE = Path(__file__).resolve().parent
_WORST_FIRST = ("red", "not run", "green")


def write_page(folder: Path) -> Path:
    """Write index.html beside a run's files, and return its path.

    Raises:
        ReportError: a file is missing, or is not what the runner writes.
    """
    page = folder / "index.html"
    page.write_bytes(render(read_report(folder)).encode())
    return page


def render(report: Report) -> str:
    """Make the page."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"lost": lost, "duration": _duration, "breakable": _breakable}
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html").render(
        style=Markup(style),  # noqa: S704  (a file of ours)
        script=Markup(script),  # noqa: S704  (another)
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        summary=summarize(report.rows),
        rows=sorted(report.rows, key=lambda row: _WORST_FIRST.index(row.verdict)),
        ranks=_WORST_FIRST,
        groups=list(dict.fromkeys(row.group for row in report.rows)),
        pictures={key: _timeline.draw(timeline) for key, timeline in report.timelines.items()},
        geometry=_timeline,
        comparison=compare(report.comparison),
        finished=report.finished,
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _breakable(name: str) -> Markup:
    """A scenario's name, which may be broken where its group ends."""
    return Markup("/<wbr>").join(name.split("/"))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
