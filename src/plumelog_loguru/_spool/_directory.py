"""The spool directory: the parts of all processes that share it.

    <spool_dir>/
        part-<id>/   of a living process, or left by one that has ended
        new-<id>/    being made at this moment, or left by a maker that died
        aside-<id>/  being imported or purged at this moment, or left so; what is in it is nobody's
        quarantine/  what a repair put aside that lay in no part, as a damaged letter

A process that starts takes over a free part of its destination before it makes one, so there are never more
parts than processes that lived at once. Parts of other destinations are left untouched, and shown.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .._destination import Destination
from .._journal import JournalError, look_at
from .._mounts import file_system_in, read_mountinfo
from ._facts import NewerPart, read_destination
from ._failures import SpoolError
from ._files import Footprint, footprint_of, is_plain_file, sync_directory
from ._lock import LOCKS, is_held
from ._look import StoreFacts, look_into
from ._part import Part, PartOptions
from ._part_directory import LOCK, QUARANTINE, clear_leftover, journals_in, store_in

PART_NAME = re.compile("part-[0-9a-f]{16}")
UNNAMED = re.compile("(?:new|aside)-[0-9a-f]{16}")

RIGHTS_CURE = "run the command as the user whose application writes there"

_NETWORK_TYPES = frozenset(
    re.split(" ", "9p afs beegfs ceph cifs coda glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 smb2 smb3 smbfs")
)


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A part as it looks from outside."""

    id: str
    owner: Literal["live", "dead"]  # "live" also where that cannot be told
    destination: Destination | None  # None where part.json cannot be read, or is of a newer version
    batches: int
    records: int
    bytes: int  # of all rows
    oldest_ms: int | None  # time of the first record of the oldest batch, epoch milliseconds
    newest_ms: int | None  # time of the last record of the newest batch
    quarantined: int  # files
    problem: str | None  # why the counts may be wrong or nobody takes it over, in one sentence
    forbidden: bool = False  # another user's, and so nothing can be told
    journaled: int = 0  # of the records: in a dead owner's journals, and in no batch yet


class SpoolDirectory:
    """The parts in one directory, seen by a process with one destination."""

    def __init__(self, path: Path, destination: Destination, options: PartOptions | None = None) -> None:
        # Absolute: the application may change its working directory.
        self.path = Path(os.path.abspath(path))
        self.destination = destination
        self._options = options or PartOptions()
        self.locks = LOCKS
        self.network: str | None = None  # the type of the network file system that it lies on
        self._notes: list[str] = []

    @property
    def adopts(self) -> bool:
        """Whether parts can be taken over here: only where a lock tells that their owner has ended."""
        return self.locks and self.network is None

    def notes(self) -> tuple[str, ...]:
        """What a person should know of this directory, a sentence each."""
        return tuple(self._notes)

    def open(self) -> None:
        """Make the directory where it is missing, and see what it lies on.

        Raises:
            SpoolError: it cannot be made or used; the message names the cure.
        """
        cure = "set PLUMELOG_SPOOL_DIR to a directory that can be written"
        if os.path.expandvars(self.path) != str(self.path):
            # diskcache would expand it once more, and write somewhere else than the locks are.
            raise SpoolError(f"the path of the spool directory {self.path} contains a $variable; {cure}")
        try:
            self._make()
            os.listdir(self.path)
        except OSError as error:
            raise SpoolError(
                f"the spool directory {self.path} cannot be used ({error.strerror}); {cure}"
            ) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise SpoolError(f"the spool directory {self.path} cannot be written; {cure}")
        with suppress(OSError):
            self.network = network_file_system(os.path.realpath(self.path), read_mountinfo())
        if self.network is not None:
            self._notes.append(
                f"the spool directory {self.path} lies on {self.network}, where locks cannot be trusted: "
                "what ended processes leave there is not taken over; "
                "set PLUMELOG_SPOOL_DIR to a local directory"
            )

    def _make(self) -> None:
        above = [path for path in (self.path, *self.path.parents) if not path.exists()]
        for path in reversed(above):
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
                os.chmod(path, 0o700)  # whatever the umask left of it
        for path in above if self._options.fsync else ():
            sync_directory(path.parent)

    def take_or_create(self, exclude: Collection[str] = (), *, opened: bool = True) -> Part:
        """Take over a free part as `take_free` does, or else make one; ``opened`` as in :class:`Part`.

        Raises:
            SpoolError: neither is possible.
        """
        self.clear_leftovers()
        return self.take_free(exclude, opened=opened) or Part.create(
            self.path, self.destination, options=self._options, opened=opened
        )

    def clear_leftovers(self) -> None:
        """Remove what makers and removers of parts left behind when they died half-way."""
        if self.adopts:
            for path in self._paths(UNNAMED):
                clear_leftover(path)
            for path in self._paths(PART_NAME):
                if not os.path.lexists(path / "part.json"):
                    clear_leftover(path)

    def take_free(
        self,
        exclude: Collection[str] = (),
        *,
        opened: bool = True,
        also: Callable[[Destination], bool] | None = None,
    ) -> Part | None:
        """Take over a free part of this destination, if there is one.

        Never raises: a part that cannot be opened is noted and left as it is.

        Args:
            exclude: ids to leave alone.
            opened: as in :class:`Part`.
            also: parts of which other destinations are taken as well.
        """
        for path in self._paths(PART_NAME) if self.adopts else ():
            if path.name.removeprefix("part-") in exclude:
                continue
            try:
                meant_for = self.destination
                if also is not None and (found := read_destination(path)) is not None and also(found):
                    meant_for = found
                part = Part.try_take(path, meant_for, options=self._options, opened=opened)
            except SpoolError as error:
                self._note(f"what an ended process left cannot be taken over: {error}")
                continue
            except NewerPart as error:
                self._note(str(error))
                continue
            if part is not None:
                return part
        return None

    def survey(self) -> list[PartInfo]:
        """Look at every part, of whatever destination; changes nothing.

        Raises:
            SpoolError: the directory cannot be read.
        """
        self.check_readable()
        looked = [(path, _look_at(path)) for path in self._paths(PART_NAME)]
        # One that is gone was removed while we looked, and one without a lock and without records is about to
        # be.
        return [
            info
            for path, info in looked
            if os.path.lexists(path) and (info.records or info.forbidden or os.path.lexists(path / LOCK))
        ]

    def check_readable(self) -> None:
        """Nothing, if the directory is there and can be read.

        Raises:
            SpoolError: it is not; the message names the cure.
        """
        try:
            os.listdir(self.path)
        except OSError as error:
            cure = "set PLUMELOG_SPOOL_DIR, or PLUMELOG_APP_NAME and PLUMELOG_ENV, as the application does"
            if isinstance(error, PermissionError):
                cure = RIGHTS_CURE
            raise SpoolError(
                f"the spool directory {self.path} cannot be read ({error.strerror}); {cure}"
            ) from error

    def elsewhere(self) -> dict[Destination, int]:
        """How many records wait in parts that nobody owns and that are meant for another destination."""
        waiting: Counter[Destination] = Counter()
        for part in self.survey():
            if part.destination not in (None, self.destination) and part.owner == "dead" and part.records:
                waiting[part.destination] += part.records
        return dict(waiting)

    def footprint(self, without: Collection[str] = ()) -> Footprint:
        """What all files in the directory take, but those of the parts with these ids."""
        total = Footprint()
        with suppress(OSError):
            for name in os.listdir(self.path):
                if name.removeprefix("part-") not in without:
                    total += footprint_of(self.path / name)
        return total

    def disk_bytes(self) -> int:
        """Bytes of all files in the directory, those of other processes too."""
        total = self.footprint()
        return total.rows + total.fixed

    def quarantined(self) -> int:
        """Files that could not be read, and were in no part."""
        with suppress(OSError):
            return len(os.listdir(self.path / QUARANTINE))
        return 0

    def free_bytes(self) -> int:
        """What this user may still take of the disk; where that cannot be told, there is no end to it."""
        try:
            return shutil.disk_usage(self.path).free
        except OSError:
            return sys.maxsize

    def _paths(self, pattern: re.Pattern[str]) -> Iterator[Path]:
        with suppress(OSError):
            for name in sorted(os.listdir(self.path)):
                if pattern.fullmatch(name) and not os.path.islink(self.path / name):
                    yield self.path / name

    def _note(self, sentence: str) -> None:
        if sentence not in self._notes:
            self._notes.append(sentence)


def _look_at(path: Path) -> PartInfo:
    # Asked before and after: what an owner removes while we look must not seem to have been left behind.
    held = is_held(path / LOCK)
    facts, journaled, problem, forbidden = StoreFacts(0, 0, 0), 0, None, False
    try:
        os.listdir(path)
        if store := store_in(path):
            facts = look_into(store)
    except SpoolError as error:
        problem = str(error)
    except PermissionError as error:
        forbidden = True
        problem = f"the part {path} cannot be read ({error.strerror}); {RIGHTS_CURE}"
    except OSError:
        pass  # gone, or no directory
    dead = not (held or is_held(path / LOCK))
    if dead:
        in_rows = facts.records
        facts, journal_problem = _with_journals(path, facts)
        journaled = facts.records - in_rows
        problem = problem or journal_problem
    if facts.records and not is_plain_file(path / LOCK):
        problem = problem or (
            f"nobody takes over {path} without the file {LOCK!r} in it: make an empty one once its process "
            "has ended"
        )
    destination = None
    try:
        destination = read_destination(path)
    except NewerPart as error:
        problem = problem or str(error)
    if destination is None:
        problem = problem or (
            f"{path / 'part.json'} cannot be read, so nobody knows which list it is for; "
            "'plumelog-replay verify' says what helps"
        )
    quarantined = 0
    with suppress(OSError):
        quarantined = len(os.listdir(path / QUARANTINE))
    return PartInfo(
        id=path.name.removeprefix("part-"),
        owner="dead" if dead and not is_held(path / LOCK) else "live",
        destination=destination,
        batches=facts.batches,
        records=facts.records,
        bytes=facts.bytes,
        oldest_ms=facts.first_ms,
        newest_ms=facts.last_ms,
        quarantined=quarantined,
        problem=problem,
        forbidden=forbidden,
        journaled=journaled,
    )


def _with_journals(path: Path, facts: StoreFacts) -> tuple[StoreFacts, str | None]:
    """Add what an owner had in memory when it died. A living owner's journal is its own business."""
    problem = None
    with suppress(OSError):
        for journal in journals_in(path):
            try:
                found = look_at(journal)
            except JournalError as error:
                problem = str(error)
                continue
            facts = replace(
                facts,
                records=facts.records + found.records,
                bytes=facts.bytes + found.bytes,
                first_ms=facts.first_ms or found.first_ms,
                last_ms=found.last_ms or facts.last_ms,
            )
    return facts, problem


def network_file_system(path: str, mountinfo: str) -> str | None:
    """The type of the network file system that a real path lies on, by ``mountinfo``; None: it is local.

    What ``fuse`` mounts is taken for remote, except for what containers without root run on: to adopt nothing
    costs an operator one command, to adopt what a living process owns would cost records.
    """
    found = file_system_in(mountinfo, path)
    remote = found in _NETWORK_TYPES or (found.startswith("fuse.") and found != "fuse.fuse-overlayfs")
    return found if remote else None
