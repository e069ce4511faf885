"""``python -m chaos.page [FOLDER]`` writes index.html beside a run's results.

``--table`` prints Markdown instead; ``--docs FILE`` puts what was measured into a document.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos.page import ReportError, fill_in, markdown_table, read_report, write_page

REPORT_FOLDER = Path(__file__).resolve().parent.parent / "report"


def main(words: Sequence[str] | None = None) -> int:
    """Write the page or the table; 2 where there is nothing to make them of."""
    parser = argparse.ArgumentParser(prog="python -m chaos.page", description="The report of a chaos run.")
    parser.add_argument("folder", nargs="?", type=Path, default=REPORT_FOLDER, help="where results.json is")
    parser.add_argument("--table", action="store_true", help="print the run as a Markdown table")
    parser.add_argument("--docs", type=Path, help="a document whose marked sections are renewed")
    arguments = parser.parse_args(words)
    try:
        if arguments.table:
            text = markdown_table(read_report(arguments.folder))
        elif arguments.docs:
            fill_in(arguments.docs, read_report(arguments.folder), arguments.folder)
            text = f"{arguments.docs}\n"
        else:
            text = f"{write_page(arguments.folder)}\n"
    except ReportError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
