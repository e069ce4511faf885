"""What a program believes of the world round it: the time, and where a name points. The stage moves both.

    Orders(options={"world": ["clock"]})    the wall clock is off by what the stage says; no other clock is
    Orders(options={"world": ["names"]})    the server's name is looked up where the stage says

Each is one small file below the books: the stage writes it, and the program looks into it whenever it asks.
"""

from __future__ import annotations

import datetime as dt
import functools
import mmap
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .orders import Orders

SERVER_NAME = (
    "localhost"  # for the programs alone: what else has this name to look up finds the usual address
)
NOWHERE, HANGING = "nowhere", "hanging"  # instead of an address: there is none, or no answer comes

_SECONDS = struct.Struct("<d")


class Clock:
    """A wall clock that is off."""

    def __init__(self, folder: Path) -> None:
        """Map its file, and make it first where it is missing: the right time."""
        with open(folder / "clock", "ab") as file:
            file.truncate(_SECONDS.size)
        with open(folder / "clock", "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SECONDS.size)

    @property
    def seconds_off(self) -> float:
        """By how much it is fast; negative where it is slow."""
        seconds: float = _SECONDS.unpack_from(self._map)[0]
        return seconds

    @seconds_off.setter
    def seconds_off(self, seconds: float) -> None:
        _SECONDS.pack_into(self._map, 0, seconds)


class Names:
    """The one entry of a name server, and the list of who asked."""

    def __init__(self, folder: Path) -> None:
        """Take the folder; without an entry the name is looked up as usual."""
        self._entry, self._asked = folder / "name", folder / "names-asked"

    @property
    def entry(self) -> str:
        """An address, `NOWHERE`, `HANGING`, or "" for what the system says."""
        return self._entry.read_text() if self._entry.exists() else ""

    @entry.setter
    def entry(self, entry: str) -> None:
        fresh = self._entry.with_suffix(".new")
        fresh.write_text(entry)
        fresh.replace(self._entry)

    def note(self, entry: str) -> None:
        """Somebody asked, and this is the answer."""
        with open(self._asked, "a") as file:
            file.write(entry + "\n")

    def asked(self, entry: str) -> int:
        """How often this was the answer."""
        return self._asked.read_text().split("\n").count(entry) if self._asked.exists() else 0


def enter(orders: Orders) -> None:
    """From now on, believe what the stage says."""
    for name in orders.options.get("world", ()):
        _BELIEFS[name](Path(orders.folder))


def _believe_clock(folder: Path) -> None:
    clock = Clock(folder)
    real_time, real_time_ns = time.time, time.time_ns
    time.time = lambda: real_time() + clock.seconds_off
    time.time_ns = lambda: real_time_ns() + int(clock.seconds_off * 1e9)

    class Moved(dt.datetime):
        """The class of the standard library reads the clock in C."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Moved:
            return cls.fromtimestamp(time.time(), tz)

    import loguru._datetime

    loguru._datetime.datetime_ = Moved  # type: ignore[attr-defined]


def _believe_names(folder: Path) -> None:
    names = Names(folder)
    real = socket.getaddrinfo

    @functools.wraps(real)
    def look_up(host: Any, *words: Any, **more: Any) -> Any:
        if host != SERVER_NAME or not (entry := names.entry):
            return real(host, *words, **more)
        names.note(entry)
        while entry == HANGING:
            time.sleep(0.02)
            entry = names.entry
        if entry == NOWHERE:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(entry, *words, **more)

    socket.getaddrinfo = look_up


_BELIEFS: dict[str, Callable[[Path], None]] = {"clock": _believe_clock, "names": _believe_names}
