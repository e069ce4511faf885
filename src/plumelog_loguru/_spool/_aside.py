"""Parts that are made, or taken away, aside: whole or not at all, wherever their maker is killed.

What lies aside has a name by which nobody takes it for a part (``aside-<16 hex digits>``). One that is made
is a part from the moment on that it is renamed; one that is taken away is none from that moment on. What a
maker or remover leaves there when it dies is removed by whoever comes next.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from .._batch import Batch
from ._directory import PartInfo, SpoolDirectory
from ._facts import read_destination
from ._failures import NO_ROOM_ERRNOS, SpoolError, SpoolFull
from ._lock import PartLock
from ._part import Part, PartOptions
from ._part_directory import (
    ASIDE,
    LOCK,
    clear_leftover,
    make_unnamed,
    remove_with_records,
)


class NewPart:
    """A part that others see when it is complete; what is in it then is on the disk itself."""

    def __init__(self, directory: SpoolDirectory, *, max_bytes: int, min_free_bytes: int) -> None:
        """Begin one.

        Args:
            directory: where; the records are meant for its destination.
            max_bytes: what all files in the directory may take.
            min_free_bytes: what is to stay free on the disk.

        Raises:
            SpoolFull: there is no room for it.
            SpoolError: the directory takes no new part.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._others_bytes = directory.disk_bytes()
        try:
            path, lock = make_unnamed(directory.path, directory.destination, ASIDE, fsync=True)
        except OSError as error:
            raise _refused(directory, error) from error
        try:
            self._part = Part(path, directory.destination, lock, options=PartOptions(fsync=True))
        except BaseException:
            lock.release()
            clear_leftover(path)
            raise

    @property
    def room_bytes(self) -> int:
        """What it may still grow by, as far as that can be told."""
        mine = self._part.footprint()
        within = self._max_bytes - self._others_bytes - mine.rows - mine.fixed
        return min(within, self._directory.free_bytes() - self._min_free_bytes)

    def append(self, values: Sequence[bytes]) -> None:
        """Add a batch of records under an identity of its own.

        Raises:
            SpoolFull: there is no room for it.
            SpoolError: it cannot be written.
        """
        self.check_room(sum(map(len, values)))
        self._part.append(Batch(self._part.next_spool_id(), tuple(values)))

    def check_room(self, size_bytes: int) -> None:
        """Nothing, if there is room for so many bytes.

        Raises:
            SpoolFull: there is not; the message names the cure.
        """
        if size_bytes > self.room_bytes:
            raise SpoolFull(
                f"the spool {self._directory.path} has no room for it: raise spool_max_bytes "
                f"({self._max_bytes}) or lower spool_min_free_bytes ({self._min_free_bytes}), or drain first"
            )

    def publish(self) -> str:
        """Make it a part like any other, that nobody owns; returns its id.

        Raises:
            SpoolError: that is not possible; it is still to be discarded.
        """
        try:
            return self._part.publish().name.removeprefix("part-")
        except OSError as error:
            raise _refused(self._directory, error) from error

    def discard(self) -> None:
        """Forget it. Never raises; what cannot be removed now is removed by whoever comes next."""
        self._part.close_database()
        try:
            remove_with_records(self._part.path)
        except OSError:
            pass
        self._part.close()


def _refused(directory: SpoolDirectory, error: OSError) -> SpoolError:
    kind = SpoolFull if error.errno in NO_ROOM_ERRNOS else SpoolError
    return kind(f"nothing can be put into {directory.path}: {error}")


def purge(directory: SpoolDirectory, info: PartInfo) -> bool:
    """Remove a part that nobody owns, with all that is in it. False: somebody does, or it is gone.

    Raises:
        NewerPart: a newer version made it.
        SpoolError: it cannot be removed.
    """
    path = directory.path / f"part-{info.id}"
    lock = PartLock.take(path / LOCK)
    if lock is None:
        return False
    try:
        if read_destination(path) != info.destination:  # it is another by now
            return False
        aside = path.with_name(f"{ASIDE}{info.id}")
        os.rename(path, aside)
        remove_with_records(aside)
    except OSError as error:
        raise SpoolError(f"the part {path} cannot be removed: {error}") from error
    finally:
        lock.release()
    return True
