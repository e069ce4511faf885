"""The doctor's look at the spool directory: rights, locks, journal, room, and what lies in it.

What can only be told by trying is tried with files of its own, in a directory that is gone afterwards.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from .._journal import Journal, JournalError
from .._mounts import file_system_in, read_mountinfo
from .._settings import PlumelogSettings
from .._spool import DeadLetters, SpoolDirectory, SpoolError, locks_work, network_file_system
from ._command import counted
from ._diagnosis import Diagnosis, in_bytes

_NEARLY_FULL = 0.9
_NAME_IT = "set PLUMELOG_SPOOL_DIR to a directory that can be written"


def examine_directory(settings: PlumelogSettings, directory: SpoolDirectory) -> Iterator[Diagnosis]:
    """All that can be said of it; where it cannot be read, that alone."""
    path = directory.path
    try:
        os.listdir(path)
        found = os.stat(path)
    except FileNotFoundError:
        yield Diagnosis(
            "fail",
            "directory",
            f"{path} is not there",
            "set PLUMELOG_SPOOL_DIR, or PLUMELOG_APP_NAME and PLUMELOG_ENV, as the application does; "
            "its sink makes the directory when it starts",
        )
        return
    except OSError as error:
        yield Diagnosis(
            "fail",
            "directory",
            f"{path} cannot be read ({error.strerror})",
            "run the command as the user whose application writes there",
        )
        return
    yield Diagnosis("ok", "directory", str(path))
    yield from _rights(path, found)
    yield from _file_system(path)
    if os.access(path, os.W_OK | os.X_OK):
        yield from _tries(settings, path)
    yield from _room(settings, directory)
    yield from _parts(directory)


def _rights(path: Path, found: os.stat_result) -> Iterator[Diagnosis]:
    mode = stat.S_IMODE(found.st_mode)
    owner = f"belongs to {_user(found.st_uid)}, mode {mode:04o}"
    if os.path.expandvars(path) != str(path):
        yield Diagnosis("fail", "rights", f"the path {path} contains a $variable", _NAME_IT)
    elif not os.access(path, os.W_OK | os.X_OK):
        yield Diagnosis("fail", "rights", f"{owner}; it cannot be written", _NAME_IT)
    elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield Diagnosis(
            "warn", "rights", f"{owner}; everybody can remove what is in it", f"chmod 700 {quote(str(path))}"
        )
    elif hasattr(os, "geteuid") and os.geteuid() == 0 != found.st_uid:
        yield Diagnosis(
            "unknown",
            "rights",
            f"{owner}; root may write everywhere",
            f"run this as {_user(found.st_uid)} to see what the application may do",
        )
    else:
        yield Diagnosis("ok", "rights", f"{owner}; it can be written")


def _user(uid: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return f"user {uid}"


def _file_system(path: Path) -> Iterator[Diagnosis]:
    real, mounts = os.path.realpath(path), read_mountinfo()
    network = network_file_system(real, mounts)
    if network is not None:
        yield Diagnosis(
            "warn",
            "file system",
            f"{network}, where locks cannot be trusted: what ended processes leave is not taken over",
            "set PLUMELOG_SPOOL_DIR to a local directory",
        )
    elif kind := file_system_in(mounts, real):
        yield Diagnosis("ok", "file system", kind)
    else:
        yield Diagnosis("unknown", "file system", "this system does not say what it is")


def _tries(settings: PlumelogSettings, path: Path) -> Iterator[Diagnosis]:
    try:
        with _own_folder(path) as folder:
            yield _locks(folder)
            yield _journal(settings, folder)
    except OSError as error:
        yield Diagnosis("fail", "files", f"none can be made in {path} ({error.strerror})", _NAME_IT)


@contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="doctor-", dir=path)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locks(folder: Path) -> Diagnosis:
    if locks_work(folder):
        return Diagnosis("ok", "locks", "they tell who owns a part")
    if sys.platform == "win32":
        return Diagnosis("unknown", "locks", "there are none on Windows; what ended processes leave stays")
    return Diagnosis(
        "warn",
        "locks",
        "they do not work here, so nobody can tell that an owner has ended",
        "set PLUMELOG_SPOOL_DIR to a local directory",
    )


def _journal(settings: PlumelogSettings, folder: Path) -> Diagnosis:
    if settings.durability == "memory":
        return Diagnosis("ok", "journal", "none, as set: what is in memory ends with the process")
    try:
        journal = Journal.create(folder / "journal", settings.journal_max_bytes)
    except JournalError as error:
        return Diagnosis(
            "warn",
            "journal",
            f"there can be none: {error.__cause__ or error}; kill -9 loses what is in memory",
            "make room on the disk, or set PLUMELOG_SPOOL_DIR to another one",
        )
    how = "mapped" if journal.mapped else "written with a system call for each record"
    journal.remove()
    return Diagnosis("ok", "journal", f"there is room for {in_bytes(settings.journal_max_bytes)}, {how}")


def _room(settings: PlumelogSettings, directory: SpoolDirectory) -> Iterator[Diagnosis]:
    free, used = directory.free_bytes(), directory.disk_bytes()
    least, most = settings.spool_min_free_bytes, settings.spool_max_bytes
    says = (
        f"{in_bytes(used)} of {in_bytes(most)} used; {in_bytes(free)} free on the disk, of which "
        f"{in_bytes(least)} stay free"
    )
    if free < least:
        yield Diagnosis("fail", "room", f"{says}: nothing can be spooled", "make room on the disk")
    elif used >= most * _NEARLY_FULL:
        yield Diagnosis(
            "warn",
            "room",
            f"{says}: the spool is nearly full, and then {settings.spool_full_policy} decides",
            "see that Redis takes records, run 'plumelog-replay drain', or raise PLUMELOG_SPOOL_MAX_BYTES",
        )
    elif free - least < most - used:
        yield Diagnosis(
            "warn",
            "room",
            f"{says}: the disk is full before the spool is",
            "make room on the disk, or lower PLUMELOG_SPOOL_MAX_BYTES to what there is",
        )
    else:
        yield Diagnosis("ok", "room", says)


def _parts(directory: SpoolDirectory) -> Iterator[Diagnosis]:
    try:
        parts = directory.survey()
    except SpoolError as error:
        yield Diagnosis("fail", "parts", str(error))
        return
    living = sum(part.owner == "live" for part in parts)
    waiting = sum(part.records for part in parts)
    yield Diagnosis(
        "ok", "parts", f"{len(parts)}, of which {living} of living processes; {counted(waiting, 'record')}"
    )
    for part in parts:
        if part.problem is not None:
            yield Diagnosis("warn", "parts", part.problem, "'plumelog-replay verify' says more")
    for destination, records in directory.elsewhere().items():
        yield Diagnosis(
            "ok",
            "parts",
            f"for {destination}, another list than the configured one: {counted(records, 'record')} of ended "
            "processes",
            f"if it is gone: plumelog-replay drain --from {quote(str(destination))}",
        )
    quarantined = sum(part.quarantined for part in parts)
    if quarantined:
        yield Diagnosis(
            "warn",
            "quarantine",
            f"{counted(quarantined, 'file')} that could not be read",
            "keep them for whoever can read them; 'plumelog-replay verify' says where",
        )
    try:
        letters = len(DeadLetters(directory.path).names())
    except SpoolError as error:
        yield Diagnosis("fail", "letters", str(error), "'plumelog-replay repair' puts it aside")
        return
    if letters:
        yield Diagnosis(
            "warn",
            "letters",
            f"{counted(letters, 'record')} that Redis refuses",
            "'plumelog-replay dead-letters list' says why",
        )
