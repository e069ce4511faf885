"""``--from``: which parts a command is about, told by the list that their records are meant for."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import dataclass

from .._destination import Destination
from .._spool import PartInfo
from ._command import Call, one_line

ANY = "any"
_DESTINATION = re.compile(r".+/[0-9]+ .+ \((left|right)\)")


def add_from_flag(parser: ArgumentParser, about: str) -> None:
    """Add the flag; ``about`` is its line of help."""
    parser.add_argument(
        "--from",
        dest="meant_for",
        metavar="DEST|any",
        help=f"{about}; DEST as 'status' prints it, in quotes: 'redis:6379/0 plume_log_list (left)'",
    )


@dataclass(frozen=True, slots=True)
class Selection:
    """What ``--from`` chose."""

    wanted: str | None  # a destination as `status` prints it, or ANY; None: the configured one
    configured: Destination

    @classmethod
    def of(cls, call: Call, *, default: str | None = None) -> Selection:
        """Read the flag; ``default`` is what it means not to give it."""
        return cls(call.arguments.meant_for or default, call.settings.destination)

    @property
    def is_destination(self) -> bool:
        """Whether what was named could be a list, in the form in which `status` prints one."""
        return self.wanted in (None, ANY) or _DESTINATION.fullmatch(str(self.wanted)) is not None

    def includes(self, part: PartInfo) -> bool:
        """Whether this part is chosen; one whose destination cannot be told is so by ANY alone."""
        if self.wanted == ANY:
            return True
        return part.destination is not None and self.names(part.destination)

    def names(self, destination: Destination) -> bool:
        """Whether parts that are meant for this list are chosen."""
        if self.wanted is None:
            return destination == self.configured
        return self.wanted in (ANY, str(destination), one_line(str(destination)))

    def complaint(self, parts: Iterable[PartInfo]) -> str | None:
        """What to say where a destination is named that no part has: it may be a slip."""
        if self.wanted in (None, ANY) or any(map(self.includes, parts)):
            return None
        return f"no part is meant for {self.wanted}; 'plumelog-replay status' shows which there are"
