"""What the demo shows: lines that stay, and under them one line that lives.

Where there is no terminal, nothing moves: the live line is printed anew every two seconds, without colours.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

_PLAIN_EVERY_SECONDS = 2.0
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Screen:
    """Prints from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._moves = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._moves and "NO_COLOR" not in os.environ
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._live = ""
        self._plain_again_at = 0.0

    def style(self, text: str, style: str) -> str:
        """The text in a style, if the screen has any."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colours else text

    def line(self, text: str = "") -> None:
        """Print a line that stays."""
        with self._lock:
            self._erase_locked()
            self._stream.write(text + "\n")
            self._draw_locked()

    def event(self, text: str, style: str | None = None) -> None:
        """Print a line that stays, with the seconds since the demo began before it."""
        at = self.style(f"{time.monotonic() - self._begun:5.1f} s", "dim")
        self.line(f"{at}  {self.style(text, style) if style else text}")

    def live(self, text: str) -> None:
        """Replace the line that lives; an empty one takes it away."""
        with self._lock:
            if self._moves:
                self._erase_locked()
                self._live = text
                self._draw_locked()
            elif text and time.monotonic() >= self._plain_again_at:
                self._plain_again_at = time.monotonic() + _PLAIN_EVERY_SECONDS
                self._stream.write(f"         {text}\n")
                self._stream.flush()

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, its first column to the left and all others to the right."""
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for number, row in enumerate((head, *rows)):
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            text = "   ".join([row[0].ljust(widths[0]), *cells[1:]])
            self.line("  " + (self.style(text, "bold") if number == 0 else text))

    def _erase_locked(self) -> None:
        if self._live:
            self._stream.write("\r\x1b[K")

    def _draw_locked(self) -> None:
        if self._live:
            # A line that wraps could not be erased again.
            columns = shutil.get_terminal_size().columns
            self._stream.write(self.style(self._live[: columns - 1], "cyan"))
        self._stream.flush()
