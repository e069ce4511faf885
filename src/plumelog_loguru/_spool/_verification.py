"""What is wrong in a spool directory: every file of every part, every row, every letter.

Promises that nothing is changed and nothing left behind, beside living owners too. Of these only the rows are
judged: a living owner's journal is memory. What is wrong in a part must be found twice: an owner is at its
files all the time, and one can come at any moment.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .._journal import JournalError, NewerJournal, examine
from ._dead_letters import DIRECTORY as LETTERS
from ._dead_letters import LEFT_AFTER_SECONDS, LEFT_NAME, NAME, CorruptLetter, DeadLetters
from ._directory import PART_NAME, RIGHTS_CURE, UNNAMED, SpoolDirectory
from ._facts import NAME as FACTS
from ._facts import NewerPart, is_whole, read_destination
from ._failures import SpoolError
from ._files import Mark, is_plain_file
from ._lock import is_held
from ._part_directory import (
    AGE,
    ATTEMPTS,
    BALLAST,
    LOCK,
    QUARANTINE,
    SALVAGED,
    SPOOL,
    journals_in,
    store_in,
)
from ._row import NewerFormat
from ._store_check import StoreFlaw, check_store

OUSTED = f"{QUARANTINE}-aside"  # what stood in the place of a quarantine, on its way into it
FILES = (LOCK, FACTS, AGE, ATTEMPTS, BALLAST)
DIRECTORIES = (SPOOL, SALVAGED, QUARANTINE)
MARKS = (AGE, ATTEMPTS)

_TO_QUARANTINE = "repair puts it into quarantine"
_NEWER = "leave it to a newer version of plumelog-loguru"
_LIVING = "its owner sees to it when it comes to it; if that has ended by then, repair does"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong."""

    part: str | None  # its id; None: in no part
    path: Path
    what: str  # what is wrong there, half a sentence
    cure: str  # what is to be done, half a sentence
    place: str | None = None  # within the file
    records: int = 0  # lost, or in doubt, as far as that is known
    repairable: bool = True


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is wrong."""

    findings: list[Finding] = field(default_factory=list)
    parts: int = 0
    batches: int = 0  # rows that are intact
    records: int = 0  # in these, and in journals of the dead
    letters: int = 0  # that are intact
    quarantined: int = 0  # files and directories; put aside earlier, and so no finding

    def add(self, other: Verified) -> None:
        """Add what was seen elsewhere."""
        self.findings += other.findings
        self.parts += other.parts
        self.batches += other.batches
        self.records += other.records
        self.letters += other.letters
        self.quarantined += other.quarantined


def verify(directory: SpoolDirectory) -> Verified:
    """Look at everything in a spool directory.

    Raises:
        SpoolError: the directory is missing, or cannot be read.
    """
    directory.check_readable()
    verified = Verified()
    for name in sorted(os.listdir(directory.path)):
        path = directory.path / name
        if PART_NAME.fullmatch(name):
            verified.add(_told_twice(path))
        elif UNNAMED.fullmatch(name):
            verified.findings += _check_unnamed(path)
        elif name == LETTERS:
            verified.add(check_letters(path))
        elif name == QUARANTINE:
            verified.quarantined += _quarantined_in(directory.path)
    return verified


def _told_twice(path: Path) -> Verified:
    seen = check_part(path)
    if seen.findings:
        before, seen = seen.findings, check_part(path)
        seen.findings = [finding for finding in seen.findings if finding in before]
    return seen if os.path.lexists(path) else Verified()


# ---------------------------------------------------------------- parts


def check_part(path: Path, *, is_ours: bool = False) -> Verified:
    """Look at one part; ``is_ours``: we hold its lock, so that nobody else is at it."""
    seen = Verified(parts=1)
    part = path.name.removeprefix("part-")
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            seen.findings.append(Finding(None, path, "it is no directory", _TO_QUARANTINE))
            return seen
        os.listdir(path)
        seen.quarantined = _quarantined_in(path)
        live = not is_ours and is_plain_file(path / LOCK) and is_held(path / LOCK)
        for finding in _check_live(path, part, seen) if live else _check_dead(path, part, seen):
            seen.findings.append(finding)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is gone
    except (SpoolError, OSError) as error:
        cure = RIGHTS_CURE if isinstance(error, PermissionError) else "try again, and look at the disk"
        seen.findings.append(
            Finding(part, path, f"it cannot be checked ({_reason(error)})", cure, repairable=False)
        )
    return seen


def _check_live(path: Path, part: str, seen: Verified) -> Iterator[Finding]:
    if (store := store_in(path)) is None:
        return
    checked = check_store(store, held_rows=False, is_live=True)
    seen.batches += checked.batches
    seen.records += checked.records
    for flaw in checked.flaws:
        cure = _NEWER if flaw.is_newer else _LIVING
        yield Finding(part, flaw.path, flaw.what, cure, flaw.place, flaw.records, repairable=False)


def _check_dead(path: Path, part: str, seen: Verified) -> Iterator[Finding]:
    journals, store = journals_in(path), store_in(path)
    if not os.path.lexists(path / FACTS) and not (journals or store or seen.quarantined):
        yield Finding(part, path, "it was left half-made, or half-removed; it is empty", "repair removes it")
        return
    yield from _check_names(path, part)
    try:
        destination = read_destination(path)
    except NewerPart as error:
        what, _, _ = _of_it(error, path).partition(";")  # the rest is the cure
        yield Finding(part, path / FACTS, what, _NEWER, repairable=False)
        return
    if destination is None:
        yield Finding(
            part,
            path / FACTS,
            "nobody can tell for which list its records are meant",
            "if it is the configured one, repair --apply --adopt-unknown says so",
            repairable=False,
        )
    elif not is_whole(path):
        yield Finding(
            part, path / FACTS, "one of its two lines is damaged", "repair writes it anew from the other"
        )
    for name in MARKS:
        if is_plain_file(path / name) and (path / name).stat().st_size and not Mark(path / name).read():
            yield Finding(part, path / name, "its checksum is wrong", _TO_QUARANTINE)
    yield from _check_rows(path, part, store, seen)
    for journal in journals:
        yield from _check_journal(journal, part, seen)


def _check_names(path: Path, part: str) -> Iterator[Finding]:
    for name in FILES:
        if os.path.lexists(path / name) and not is_plain_file(path / name):
            yield Finding(part, path / name, "it is no plain file", _TO_QUARANTINE)
    for name in (*DIRECTORIES, OUSTED):
        if os.path.lexists(path / name) and (name == OUSTED or not is_directory(path / name)):
            yield Finding(part, path / name, "it is no directory", _TO_QUARANTINE)
    if not os.path.lexists(path / LOCK):
        yield Finding(
            part,
            path / LOCK,
            "it is missing, and without it nobody takes over the part",
            "repair makes one, if no process has the part's database open",
        )


def _check_rows(path: Path, part: str, store: Path | None, seen: Verified) -> Iterator[Finding]:
    held_rows = is_plain_file(path / AGE)
    if os.path.lexists(path / SALVAGED) and (store is None or store.name == SPOOL):
        yield Finding(
            part, path / SALVAGED, "a repair was broken off, and nothing is lost", "repair begins it anew"
        )
    elif store is not None and store.name == SALVAGED:
        yield Finding(
            part, store, "a repair was broken off at its end, and nothing is lost", "repair ends it"
        )
    if store is None:
        if held_rows:
            yield Finding(
                part, path / SPOOL, "the database is gone, and rows were in it", "repair makes a new one"
            )
        return
    if not is_directory(store):
        return  # told already
    checked = check_store(store, held_rows=held_rows)
    seen.batches += checked.batches
    seen.records += checked.records
    for flaw in checked.flaws:
        yield Finding(
            part,
            flaw.path,
            flaw.what,
            _cure_of(flaw),
            flaw.place,
            flaw.records,
            repairable=not flaw.is_newer,
        )


def _cure_of(flaw: StoreFlaw) -> str:
    if flaw.is_newer:
        return _NEWER
    if flaw.spoils_all:
        return "repair keeps every batch that is intact, and puts the files into quarantine"
    if flaw.is_stranger or flaw.place is not None:
        return _TO_QUARANTINE
    return "repair has it made anew"


def _check_journal(path: Path, part: str, seen: Verified) -> Iterator[Finding]:
    try:
        examined = examine(path)
    except NewerJournal as error:
        yield Finding(part, path, _of_it(error, f"the journal {path}"), _NEWER, repairable=False)
    except JournalError as error:
        if os.path.lexists(path):
            yield Finding(part, path, _of_it(error, f"the journal {path}"), _TO_QUARANTINE)
    else:
        seen.records += examined.records
        cure = "repair makes rows of what is intact, and puts the rest into quarantine"
        for flaw in examined.flaws:
            yield Finding(part, path, flaw.what, cure, f"byte {flaw.byte}", flaw.records)


def _check_unnamed(path: Path) -> Iterator[Finding]:
    """What a maker or remover left; the one of this moment holds the lock, or will in an instant."""
    for look in (True, False):
        if not os.path.lexists(path) or is_held(path / LOCK):
            return
        if look:
            time.sleep(0.01)
    yield Finding(None, path, "it was left half-made, or half-removed", "repair removes it")


# ---------------------------------------------------------------- letters


def check_letters(path: Path) -> Verified:
    """Look at the dead letters."""
    seen = Verified()
    try:
        if not is_directory(path):
            seen.findings.append(Finding(None, path, "it is no directory", _TO_QUARANTINE))
            return seen
        letters = DeadLetters(path.parent)
        for name in sorted(os.listdir(path)):
            if NAME.fullmatch(name):
                seen.findings += _check_letter(letters, name, seen)
            elif LEFT_NAME.fullmatch(name):
                with suppress(FileNotFoundError):
                    if os.lstat(path / name).st_mtime < time.time() - LEFT_AFTER_SECONDS:
                        seen.findings.append(
                            Finding(
                                None, path / name, "its writer died before it was one", "repair removes it"
                            )
                        )
    except OSError as error:
        seen.findings.append(
            Finding(None, path, f"they cannot be checked ({error.strerror})", RIGHTS_CURE, repairable=False)
        )
    return seen


def _check_letter(letters: DeadLetters, name: str, seen: Verified) -> Iterator[Finding]:
    path = letters.path / name
    try:
        letter = letters.read(name)
    except NewerFormat as error:
        yield Finding(None, path, str(error), _NEWER, repairable=False)
    except CorruptLetter as error:
        yield Finding(None, path, str(error), _TO_QUARANTINE, records=1)
    except SpoolError as error:
        if is_plain_file(path):
            yield Finding(None, path, _reason(error), RIGHTS_CURE, records=1, repairable=False)
        elif os.path.lexists(path):
            yield Finding(None, path, "it is no plain file", _TO_QUARANTINE)
    else:
        seen.letters += 1
        if letters.name_of(letter.id) != name:
            yield Finding(None, path, "its name is that of another record", "repair gives it its own")


# ---------------------------------------------------------------- inside


def _quarantined_in(path: Path) -> int:
    with suppress(OSError):
        if is_directory(path / QUARANTINE):
            return len(os.listdir(path / QUARANTINE))
    return 0


def is_directory(path: Path) -> bool:
    """Whether a directory is there, and no link."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _of_it(error: Exception, name: object) -> str:
    """What an error says of a thing, whose name is told already."""
    return str(error).replace(str(name), "it")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
