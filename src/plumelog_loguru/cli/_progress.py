"""How far a drain has come: shown to a person who watches, and to nobody else.

On a terminal it is a bar, if rich is there (the extra ``cli``), and else a line each second. Where standard
error is no terminal nothing is shown: it would be noise in somebody's log.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._command import counted, tell

_LINE_SECONDS = 1.0


# Hears that so many records are delivered, of so many that are known of.
Progress = Callable[[int, int], None]


@contextmanager
def shown() -> Iterator[Progress]:
    """What shows the progress of the drain within."""
    if not sys.stderr.isatty():
        yield lambda _delivered, _expected: None
        return
    try:
        import rich  # noqa: F401
    except ImportError:
        yield Lines()
    else:
        with _bar() as bar:
            yield bar


class Lines:
    """A line each second."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def __call__(self, delivered: int, expected: int) -> None:
        """Tell, if the last time was a while ago."""
        now = time.monotonic()
        if now - self._last < _LINE_SECONDS:
            return
        self._last = now
        rate = delivered / (now - self._begun)
        left = f", {(expected - delivered) / rate:,.0f} s left" if rate else ""
        tell(f"{delivered:,} of {counted(expected, 'record')} delivered, {rate:,.0f} a second{left}")


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed or 0:,.0f}/s", style="progress.data.speed")

    class Count(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            known = "" if task.total is None else f"of {task.total:,.0f} "
            return Text(f"{task.completed:,.0f} {known}records")

    columns = (
        progress.BarColumn(),
        Count(),
        Rate(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("left"),
    )
    console = Console(stderr=True)
    # Nothing of it stays: what came of it is said afterwards. What is told meanwhile goes above the bar.
    with progress.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda delivered, expected: bar.update(task, completed=delivered, total=expected)
