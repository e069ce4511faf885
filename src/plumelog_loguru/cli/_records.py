"""Where records are written: byte for byte, a line each, to standard output or into a new file.

Promises of a file:

- It has its name once all is in it and on the disk itself, or, for who takes records out of the spool, from
  the beginning on: what is written there is found again whatever happens. Where it ends with an error, it
  then has what was last said to be on the disk, and no more.
- Only its owner can read it, nothing is written over, and none is made inside the spool directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .._spool import sync_directory
from ._command import OutputError, UsageError, flush_output, one_line, put

if TYPE_CHECKING:
    from typing_extensions import Self


class Records:
    """An open destination of records; a context, which ends it."""

    def __init__(self, path: Path | None = None, *, spool_dir: Path, at_once: bool = False) -> None:
        """Open it.

        Args:
            path: a file that is not there yet; None: standard output.
            spool_dir: where no file may lie.
            at_once: whether the file has its name from the beginning on.

        Raises:
            UsageError: there can be no such file.
        """
        self._path = path
        self._escaped = path is None and sys.stdout.isatty()
        self._temporary: Path | None = None
        if path is None:
            self._file: BinaryIO = sys.stdout.buffer
            return
        _refuse(path, spool_dir)
        target = path
        if not at_once:
            self._temporary = target = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise UsageError(f"the file {path} cannot be made ({error.strerror})") from error
        self._file = open(descriptor, "wb")  # noqa: SIM115  # closed at the end of the context
        self._synced_bytes = 0
        if at_once:
            sync_directory(path.absolute().parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._path is None:
            flush_output()
            return
        try:
            if kind is None:
                self.sync()
                self._name_it(self._path)
            else:
                self._forget_unsynced()
        finally:
            try:
                self._file.close()  # fails once more where the disk is full
            finally:
                if self._temporary is not None:
                    self._temporary.unlink(missing_ok=True)

    def write(self, values: Iterable[bytes]) -> None:
        """Write records, a line each.

        A terminal is shown its control characters, and not sent them.

        Raises:
            OSError: the file cannot be written.
            OutputError: standard output cannot.
        """
        if self._escaped:
            for value in values:
                put(one_line(value.decode("utf-8", "backslashreplace")) + "\n")
            return
        lines = b"\n".join((*values, b""))
        try:
            self._file.write(lines)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._path is None:
                raise OutputError(error) from error
            raise

    def sync(self) -> None:
        """Have all that was written on the disk itself."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced_bytes = self._file.tell()

    def _forget_unsynced(self) -> None:
        with suppress(OSError):
            self._file.flush()  # a full disk takes some of it, and the rest when that is given back
        os.ftruncate(self._file.fileno(), self._synced_bytes)
        with suppress(OSError):
            self._file.flush()
        os.ftruncate(self._file.fileno(), self._synced_bytes)
        if self._path is not None and self._temporary is None and not self._synced_bytes:
            with suppress(OSError):
                self._path.unlink()

    def _name_it(self, path: Path) -> None:
        if self._temporary is None:
            return
        try:
            os.link(self._temporary, path)  # a renaming would replace what somebody has made meanwhile
        except FileExistsError:
            raise UsageError(f"the file {path} has been made by somebody else meanwhile") from None
        except OSError:  # there are file systems without links
            os.rename(self._temporary, path)
        with suppress(OSError):
            sync_directory(path.absolute().parent)


def _refuse(path: Path, spool_dir: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"the file {path} is there already, and nothing is written over; name another")
    inside = Path(os.path.realpath(path.parent))
    if Path(os.path.realpath(spool_dir)) in (inside, *inside.parents):
        raise UsageError(f"the file {path} would lie in the spool directory; name another place")
