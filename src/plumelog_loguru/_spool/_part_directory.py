"""The directory of one part: made, taken over and removed.

    part-<16 hex digits>/
        lock         held by the owner while it lives; removed last
        part.json    the format, and the destination that the records are meant for
        spool/       the rows
        spool-new/   the intact rows of a damaged spool, until all of them are there
        journal-<n>  what an owner had in memory; the last is the living owner's
        quarantine/  what could not be read, byte for byte
        ballast      room on the disk, given up where deleting needs some
        age          what the part's own clock shows, by which rows expire
        attempts     up to which row, and how, the owner may have delivered

Promises:

- A part is made as ``new-<16 hex digits>``, locked, and then renamed: nobody finds one without its lock.
- Only who holds the lock removes anything, and nothing in which a record may be: no row, no journal, no
  quarantine.
- What is in ``aside-<16 hex digits>`` is nobody's, records too: it is not yet a part, or no longer one, as an
  operator wants it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from contextlib import suppress
from itertools import count
from pathlib import Path

from .._destination import Destination
from ._database import FILES, refuse_links
from ._facts import NAME as FACTS
from ._facts import encode_facts, read_destination
from ._files import sync_directory, write_new
from ._lock import PartLock

LOCK, SPOOL, SALVAGED, QUARANTINE, JOURNAL = "lock", "spool", "spool-new", "quarantine", "journal"
BALLAST, AGE, ATTEMPTS = "ballast", "age", "attempts"
NEW, ASIDE = "new-", "aside-"  # how the names of directories begin that are not yet parts, or no longer

_JOURNAL_NAME = re.compile(f"{JOURNAL}-([1-9][0-9]{{0,8}})")
_MOST_JOURNALS = 999_999_999
_ID_DIGITS = 16
_FACTS_NEW = FACTS + ".new"  # what is to take the place of `FACTS`, as long as it is being written
_OUR_NAMES = frozenset((LOCK, FACTS, _FACTS_NEW, SPOOL, SALVAGED, QUARANTINE, BALLAST, AGE, ATTEMPTS))


def make_part(spool_dir: Path, destination: Destination, *, fsync: bool) -> tuple[Path, PartLock]:
    """Make a part in the spool directory, and hold its lock.

    Raises:
        OSError: that is not possible.
    """
    path, lock = make_unnamed(spool_dir, destination, NEW, fsync=fsync)
    try:
        return give_name(path, lock, fsync=fsync), lock
    except BaseException:
        lock.release()
        raise


def make_unnamed(
    spool_dir: Path, destination: Destination, prefix: str, *, fsync: bool
) -> tuple[Path, PartLock]:
    """Make the directory of a part under a name by which nobody takes it for one, and hold its lock.

    Raises:
        OSError: that is not possible.
    """
    while True:
        path = spool_dir / f"{prefix}{os.urandom(8).hex()}"
        try:
            made = _make(path, destination, fsync=fsync)
        except FileNotFoundError:
            if not spool_dir.is_dir():
                raise
            continue  # a clean-up took it for the leftover of a dead process
        if made is not None:
            return path, made


def give_name(path: Path, lock: PartLock, *, fsync: bool) -> Path:
    """Make a part of what ``make_unnamed`` made.

    Raises:
        OSError: that is not possible.
    """
    named = path.with_name(f"part-{path.name[-_ID_DIGITS:]}")
    os.rename(path, named)
    lock.path = named / LOCK
    if fsync:
        sync_directory(named.parent)
    return named


def _make(path: Path, destination: Destination, *, fsync: bool) -> PartLock | None:
    """Make the directory of a part; None: begin again under another name."""
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # whatever the umask left of it
    lock = PartLock.create(path / LOCK)
    if lock is None:
        return None
    try:
        write_new(path / FACTS, encode_facts(destination), fsync=fsync)
        if fsync:
            sync_directory(path)
    except BaseException:
        lock.release()
        raise
    return lock


def take_part(path: Path, destination: Destination) -> PartLock | None:
    """Hold the lock of a part that nobody owns. None: it is owned, gone, or of another destination.

    Raises:
        NewerPart: a newer version made it.
        SpoolError: its spool is a link.
    """
    if read_destination(path) != destination:
        return None
    lock = PartLock.take(path / LOCK)
    if lock is None:
        return None
    try:
        if read_destination(path) == destination:  # it may have been removed before the lock was ours
            with suppress(FileNotFoundError):
                refuse_links(path / SPOOL)
            return lock
    except BaseException:
        lock.release()
        raise
    lock.release()
    return None


def replace_facts(path: Path, destination: Destination) -> None:
    """Say anew what a part is, of which the lock is held; it says the one or the other at every moment.

    Raises:
        OSError: that is not possible.
    """
    (path / _FACTS_NEW).unlink(missing_ok=True)
    write_new(path / _FACTS_NEW, encode_facts(destination), fsync=True)
    os.replace(path / _FACTS_NEW, path / FACTS)
    sync_directory(path)


def store_in(path: Path) -> Path | None:
    """Where the rows of a part are; None: it has none yet."""
    for name in (SPOOL, SALVAGED):
        if any(os.path.lexists(path / name / file) for file in FILES):
            return path / name
    return None


def journals_in(path: Path) -> list[Path]:
    """The journals in a part, oldest first."""
    numbered = [(_journal_number(name), path / name) for name in os.listdir(path)]
    return [journal for number, journal in sorted(numbered) if number]


def new_journal_in(path: Path) -> Path:
    """Where the journal of the part's owner belongs: behind all that are there."""
    numbers = set(map(_journal_number, os.listdir(path)))
    number = max(numbers, default=0) + 1
    if number > _MOST_JOURNALS:  # somebody has put one there
        number = next(free for free in count(1) if free not in numbers)
    return path / f"{JOURNAL}-{number}"


def _journal_number(name: str) -> int:
    """The number in a journal's name; 0 for any other name."""
    found = _JOURNAL_NAME.fullmatch(name)
    return int(found[1]) if found else 0


def clear_leftover(path: Path) -> None:
    """Remove what is left of a part whose maker, or remover, died half-way.

    Records are touched only in what was aside.
    """
    with suppress(OSError):
        if not path.name.startswith(ASIDE) and any(
            name in (SPOOL, SALVAGED, QUARANTINE) or _journal_number(name) for name in os.listdir(path)
        ):
            return
    lock = PartLock.take(path / LOCK)
    try:
        with suppress(OSError):
            if lock is None:
                os.rmdir(path)  # works only if there is not even a lock
            elif path.name.startswith(ASIDE):
                remove_with_records(path)
            elif path.name.startswith("new-") or not os.path.lexists(path / FACTS):
                remove_files(path)
    finally:
        if lock is not None:
            lock.release()


def remove_files(path: Path) -> None:
    """Remove a part of which the lock is held; stops with an OSError at the first file that is not ours.

    In this order, so that what is left after a crash half-way is still a part, or an obvious leftover.
    """
    for directory, names in ((QUARANTINE, ()), (SPOOL, FILES), (SALVAGED, FILES)):
        with suppress(FileNotFoundError):
            if any(name not in names for name in os.listdir(path / directory)):
                raise OSError(f"{path / directory} is not empty")
    if not _OUR_NAMES.issuperset(os.listdir(path)):
        raise OSError(f"{path} has a journal, or files that are not ours")
    with suppress(FileNotFoundError):
        os.rmdir(path / QUARANTINE)
    for directory in (SALVAGED, SPOOL):
        remove_store(path / directory)
    for name in (BALLAST, AGE, ATTEMPTS, _FACTS_NEW, FACTS):
        (path / name).unlink(missing_ok=True)
    (path / LOCK).unlink()
    os.rmdir(path)


def remove_with_records(path: Path) -> None:
    """Remove what lies aside, and of which the lock is held; whatever is in it.

    The lock goes last, so that what is left after a crash half-way is found again.

    Raises:
        OSError: some of it cannot be removed.
    """
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != LOCK:
            os.unlink(entry.path)
    (path / LOCK).unlink()
    os.rmdir(path)


def remove_store(path: Path) -> None:
    """Remove a spool's files and its directory; stops with an OSError at a file that is not ours."""
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise OSError(f"{path} is no directory")
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        os.rmdir(path)
