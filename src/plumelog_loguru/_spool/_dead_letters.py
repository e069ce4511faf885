r"""Dead letters: records that Redis refuses, one file each, until somebody decides about them.

    <spool_dir>/dead-letters/
        <digest of the identity>.letter    PLD1 <crc32, 8 hex digits> <header, one line of JSON>\n<the value>
        <digest of the identity>.new       being written, or left by a writer that died

Promises:

- A letter is there whole or not at all: it is prepared under another name, and renamed.
- It is written once, however often that is repeated: its name follows from the record's identity.
- It holds the record's exact bytes, under a checksum, and no secret.
- Links are refused, for the directory and for each file.

The identity in a letter is fenced before the letter gets its name: no late request can bring the record into
the list. Whoever wants it there after all sends it under the first identity that follows from this one
(`BatchId.child`), so that a sink that was killed before it forgot the record finds it done.

Letters belong to the directory and not to a part: they outlive every owner.
"""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any
from zlib import crc32

from .._batch import BatchId
from .._destination import Destination
from .._errors import PlumelogError
from .._json import dumps, loads
from ._failures import SpoolError
from ._files import sync_directory
from ._lock import SAFE_OPEN
from ._row import NewerFormat

FORMAT = 1
DIRECTORY = "dead-letters"

_PREFIX_BYTES = len(b"PLD1 01234567 ")
NAME = re.compile(r"[0-9a-f]{32}\.letter")
LEFT_NAME = re.compile(r"[0-9a-f]{32}\.new")
MOST_BYTES = 64 << 20  # of a letter: one record, which has a mebibyte at most, and a header
LEFT_AFTER_SECONDS = 3600.0  # nobody takes so long between preparing a letter and naming it


class CorruptLetter(PlumelogError):
    """A dead letter is not what was written."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that was given up, and why."""

    id: BatchId  # of the record alone; fenced
    value: bytes
    destination: Destination
    reason: str  # one line, without a secret
    at_ms: int  # when it was given up, epoch milliseconds
    may_be_there: bool = False  # it was pushed plainly since: Redis may have it, and cannot tell


class DeadLetters:
    """The letters in one spool directory; every call names what went wrong by a `SpoolError`."""

    def __init__(self, spool_dir: Path, *, fsync: bool = False) -> None:
        """Make nothing yet. ``fsync``: a letter that is there is on the disk itself."""
        self.path = Path(os.path.abspath(spool_dir)) / DIRECTORY
        self._fsync = fsync

    def __repr__(self) -> str:
        return f"<DeadLetters {self.path}>"

    # ---------------------------------------------------------------- writing

    def write(self, letter: DeadLetter) -> None:
        """Put a letter down; one under the same identity is replaced."""
        self.prepare(letter)
        self.commit(letter.id)

    def prepare(self, letter: DeadLetter) -> None:
        """Write a letter, but for its name: afterwards `commit` needs no more room on the disk."""
        path = self._path_of(letter.id, ".new")
        try:
            self._make_directory()
            with suppress(FileNotFoundError):
                os.unlink(path)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_OPEN, 0o600), "wb") as file:
                os.chmod(path, 0o600)  # whatever the umask left of it
                file.write(_encoded(letter))
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.unlink(path)
            raise SpoolError(f"a dead letter cannot be written into {self.path}: {error}") from error

    def commit(self, batch_id: BatchId) -> None:
        """Give a letter that is prepared its name."""
        try:
            self._check_directory()
            os.replace(self._path_of(batch_id, ".new"), self._path_of(batch_id))
            if self._fsync:
                sync_directory(self.path)
        except OSError as error:
            raise SpoolError(f"a dead letter cannot be written into {self.path}: {error}") from error

    def discard(self, batch_id: BatchId) -> None:
        """Forget a letter that is prepared. Never raises."""
        with suppress(OSError):
            self._check_directory()
            os.unlink(self._path_of(batch_id, ".new"))

    # ---------------------------------------------------------------- reading

    def has(self, batch_id: BatchId) -> bool:
        """Whether there is a letter for this identity."""
        try:
            self._check_directory()
            return stat.S_ISREG(os.lstat(self._path_of(batch_id)).st_mode)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SpoolError(f"the dead letters in {self.path} cannot be read: {error}") from error

    def names(self) -> list[str]:
        """The names of all letters, oldest file first."""
        try:
            found = []
            self._check_directory()
            for entry in os.scandir(self.path):
                if NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # somebody removed it just now
                        found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SpoolError(f"the dead letters in {self.path} cannot be read: {error}") from error
        return [name for _, name in sorted(found)]

    @staticmethod
    def name_of(batch_id: BatchId, suffix: str = ".letter") -> str:
        """The name of the letter for this identity."""
        # A digest: a lane's name stood in a file, and may be anything.
        return blake2s(str(batch_id).encode(), digest_size=16).hexdigest() + suffix

    def read(self, name: str) -> DeadLetter:
        """Read the letter with this name.

        Raises:
            CorruptLetter: it is damaged, or no letter.
            NewerFormat: a newer version wrote it.
            SpoolError: it cannot be read, or is gone.
        """
        try:
            path = self._checked(name)
            self._check_directory()
            with open(os.open(path, os.O_RDONLY | SAFE_OPEN), "rb") as file:
                found = os.fstat(file.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise CorruptLetter("it is no file")
                if found.st_size > MOST_BYTES:
                    raise CorruptLetter("it is larger than a letter can be")
                return _decoded(file.read(MOST_BYTES))
        except OSError as error:
            raise SpoolError(f"the dead letter {name} in {self.path} cannot be read: {error}") from error

    def remove(self, name: str) -> None:
        """Delete the letter with this name; no harm is done if it is gone."""
        try:
            path = self._checked(name)
            self._check_directory()
            path.unlink(missing_ok=True)
            if self._fsync:
                sync_directory(self.path)
        except FileNotFoundError:
            pass  # with the directory
        except OSError as error:
            raise SpoolError(f"the dead letter {name} in {self.path} cannot be removed: {error}") from error

    # ---------------------------------------------------------------- inside

    def _path_of(self, batch_id: BatchId, suffix: str = ".letter") -> Path:
        return self.path / self.name_of(batch_id, suffix)

    def _checked(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise SpoolError(f"{name!r} is not the name of a dead letter")
        return self.path / name

    def _make_directory(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
            os.chmod(self.path, 0o700)
            if self._fsync:
                sync_directory(self.path.parent)
        self._check_directory()
        self.clear_leftovers()

    def _check_directory(self) -> None:
        if not stat.S_ISDIR(os.lstat(self.path).st_mode):
            raise OSError("it is no directory; a symbolic link is refused")

    def clear_leftovers(self) -> None:
        """Remove what writers left that died before a letter had its name.

        Raises:
            OSError: the directory cannot be read.
        """
        before = time.time() - LEFT_AFTER_SECONDS
        for entry in os.scandir(self.path):
            if LEFT_NAME.fullmatch(entry.name):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)


def _encoded(letter: DeadLetter) -> bytes:
    facts = {
        "format": FORMAT,
        "lane": letter.id.lane,
        "seq": letter.id.seq,
        "destination": letter.destination.to_json(),
        "reason": letter.reason,
        "at_ms": letter.at_ms,
    }
    if letter.may_be_there:  # else it is as all earlier versions wrote it
        facts["may_be_there"] = True
    header = dumps(facts)
    return b"PLD1 %08x %b\n%b" % (crc32(letter.value, crc32(header + b"\n")), header, letter.value)


def _decoded(data: bytes) -> DeadLetter:
    if data[:_PREFIX_BYTES] != b"PLD1 %08x " % crc32(memoryview(data)[_PREFIX_BYTES:]):
        raise CorruptLetter("a dead letter does not have the checksum it was written with")
    line, _, value = data[_PREFIX_BYTES:].partition(b"\n")
    try:
        header: dict[str, Any] = loads(line)
        if header["format"] > FORMAT:
            raise NewerFormat(f"a dead letter has format {header['format']}; this version reads {FORMAT}")
        return DeadLetter(
            BatchId(str(header["lane"]), int(header["seq"])),
            value,
            Destination.from_json(header["destination"]),
            str(header["reason"]),
            int(header["at_ms"]),
            bool(header.get("may_be_there", False)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptLetter(f"a dead letter has an unreadable header ({type(error).__name__})") from None
