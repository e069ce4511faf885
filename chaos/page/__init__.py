"""The report of a chaos run, as one HTML file and as one Markdown table.

    _rows.py        what the runner wrote, read and checked
    _summary.py     the sums over it, and what they come to
    _timeline.py    one scenario's timeline as lines, ticks and shades; pure
    _write.py       all of it into page.html, page.css, page.js and timeline.svg
    _markdown.py    the table for the documentation
    _docs.py        what was measured, put into the documentation

The page is one file. It asks nothing of any network, works from a disk, and shows everything without its
script; the script sorts, filters and reads values off a timeline. Its state stands in the address, so a view
has a link: ``#sort=lost&dir=desc&q=kill&group=server&verdict=red&open=server/kill 7``.
"""

from chaos.page._docs import fill_in
from chaos.page._markdown import markdown_table
from chaos.page._rows import MUTANTS, Report, ReportError, Row, Timeline, read_report
from chaos.page._summary import counted, summarize
from chaos.page._write import write_page

__all__ = [
    "MUTANTS",
    "Report",
    "ReportError",
    "Row",
    "Timeline",
    "counted",
    "fill_in",
    "markdown_table",
    "read_report",
    "summarize",
    "write_page",
]
