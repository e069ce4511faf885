"""What could not be read, byte for byte: whoever looks for lost records needs it.

Promises that nothing that is kept is written over. The directory is made when it is first needed, and never
removed while anything is in it. All calls raise OSError where the disk does not do what is asked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from ._files import write_new


class Quarantine:
    """The quarantine of one part."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, name: str, data: bytes) -> None:
        """Keep these bytes under this name, or a similar one."""
        write_new(self._free_name(name), data)

    def keep_once(self, name: str, data: bytes) -> None:
        """Keep these bytes, unless there is something under this name."""
        path = self._directory() / name
        if not os.path.lexists(path):
            write_new(path, data)

    def move_in(self, path: Path) -> Path:
        """Keep a file or a directory, as it is; returns where it is now."""
        target = self._free_name(path.name)
        os.rename(path, target)
        return target

    def _free_name(self, name: str) -> Path:
        directory = self._directory()
        return next(path for path in _numbered(directory / name) if not os.path.lexists(path))

    def _directory(self) -> Path:
        with suppress(FileExistsError):
            os.mkdir(self._path, 0o700)
            os.chmod(self._path, 0o700)  # whatever the umask left of it
        if not stat.S_ISDIR(os.lstat(self._path).st_mode):
            raise OSError(f"{self._path} is no directory")
        return self._path


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
