"""``part.json``: what a part is, and which list its records are meant for. No secret.

Two lines that say the same, each ended by a checksum, so that a damaged one does not hide what the part is
for: the records in it could be delivered nowhere. The format's number stands under the checksum: a flipped
bit must not make a part look like one of a newer version.

Format 1 was one line without a checksum.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any
from zlib import crc32

from .._destination import Destination
from .._errors import PlumelogError
from .._json import dumps, loads
from ._lock import SAFE_OPEN

NAME = "part.json"
FORMATS = range(1, 3)  # what this version reads; it writes the last
_MAX_BYTES = 65_536
_CRC_BYTES = 8


class NewerPart(PlumelogError):
    """A part of a format that this version does not know; it stays as it is."""


def encode_facts(destination: Destination) -> bytes:
    """What stands in ``part.json``."""
    line = dumps({"format": FORMATS[-1], "destination": destination.to_json()})
    return _sealed(line) * 2


def read_destination(path: Path) -> Destination | None:
    """Where the records of a part are meant to go. None: that cannot be told.

    Raises:
        NewerPart: a newer version wrote it.
    """
    try:
        facts = _facts(_read(path))
        if facts["format"] >= FORMATS.stop:
            raise NewerPart(
                f"{path} has format {facts['format']}, and this version reads {FORMATS[0]} to {FORMATS[-1]}; "
                "it is left as it is, for a newer version of plumelog-loguru"
            )
        return Destination.from_json(facts["destination"]) if facts["format"] in FORMATS else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_whole(path: Path) -> bool:
    """Whether all of it is as it was written, and not only enough of it to be understood."""
    try:
        data = _read(path)
        one, other = data[: len(data) // 2], data[len(data) // 2 :]
        text = one[: -_CRC_BYTES - 2]
        return one == other == _sealed(text) or bool(_facts(data)["format"] == FORMATS[0])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read(path: Path) -> bytes:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(path)
    with open(os.open(path / NAME, os.O_RDONLY | SAFE_OPEN), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise IsADirectoryError(path / NAME)
        return file.read(_MAX_BYTES)


def _sealed(line: bytes) -> bytes:
    return b"%b %08x\n" % (line, crc32(line))


def _facts(data: bytes) -> Any:
    half = len(data) // 2  # and not where a line ends: that could be the damage
    for line in (data[:half], data[half:]):
        text, crc = line[: -_CRC_BYTES - 2], line[-_CRC_BYTES - 1 : -1]
        if crc == b"%08x" % crc32(text):
            return loads(text)
    facts = loads(data)
    # Without a checksum only the format that had none, or one that nobody knows yet.
    return facts if facts["format"] not in FORMATS[1:] else {}
