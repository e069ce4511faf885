"""What is wrong in the parts that nobody owns, put right; and in the letters.

Promises:

- Nothing is deleted but what is known to be empty: what is damaged goes into quarantine, byte for byte, that
  of its part or, where there is none, the spool directory's own.
- What is intact can be delivered afterwards, under the identities that it had.
- Whoever is killed in the midst of it leaves what the next mender, or the next owner, goes on with.

Everything is done under the lock of the part. What a living process owns is its own business.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .._destination import Destination
from ._database import DATABASE
from ._database import FILES as STORE_FILES
from ._dead_letters import DIRECTORY as LETTERS
from ._dead_letters import NAME, CorruptLetter, DeadLetters
from ._directory import PART_NAME, SpoolDirectory
from ._facts import NAME as FACTS
from ._facts import NewerPart, is_whole, read_destination
from ._failures import SpoolDamaged, SpoolError
from ._files import Mark, is_plain_file
from ._lock import PartLock, is_used_by_sqlite
from ._part import Part, PartOptions
from ._part_directory import AGE, LOCK, QUARANTINE, SALVAGED, SPOOL, journals_in, replace_facts, store_in
from ._quarantine import Quarantine
from ._recovery import Recovery
from ._row import CorruptRow, NewerFormat
from ._store_check import check_store
from ._verification import (
    DIRECTORIES,
    FILES,
    MARKS,
    OUSTED,
    Finding,
    check_part,
    is_directory,
)

_TURNS = 3  # that one part's rows are looked at


@dataclass(slots=True)
class Mended:
    """What came of it, besides that less is wrong."""

    possibly_doubled: int = 0  # records of which nobody knows whether they were attempted
    problems: list[str] = field(default_factory=list)  # why something could not be mended


def mend(
    directory: SpoolDirectory,
    findings: list[Finding],
    *,
    options: PartOptions,
    adopt_unknown: bool = False,
) -> Mended:
    """Put right what was found.

    Args:
        directory: where; its destination is the configured one.
        findings: what was found; parts without any are left alone.
        options: how parts are kept.
        adopt_unknown: whether what is meant for nobody knows which list is meant for the configured one.

    Raises:
        SpoolError: locks cannot be trusted here.
    """
    directory.open()
    if not directory.adopts:
        raise SpoolError("; ".join(directory.notes()) or "nothing is locked on this system, nor repaired")
    mended = Mended()
    directory.clear_leftovers()
    aside = Quarantine(directory.path / QUARANTINE)
    adopted = directory.destination if adopt_unknown else None
    for path in sorted({_top_of(directory.path, finding.path) for finding in findings}):
        try:
            if path.name == LETTERS:
                _mend_letters(directory.path, aside)
            elif PART_NAME.fullmatch(path.name) and is_directory(path):
                _mend_part(path, adopted, options, mended)
            elif PART_NAME.fullmatch(path.name) and os.path.lexists(path):
                aside.move_in(path)
        except NewerPart:
            pass  # it was told, and is left as it is
        except (SpoolError, OSError) as error:
            mended.problems.append(f"{path} cannot be repaired now: {error}")
    return mended


def _top_of(directory: Path, path: Path) -> Path:
    return directory / path.relative_to(directory).parts[0]


# ---------------------------------------------------------------- parts


def _mend_part(path: Path, adopted: Destination | None, options: PartOptions, mended: Mended) -> None:
    quarantine = Quarantine(path / QUARANTINE)
    _clear_place_of_quarantine(path, quarantine)
    lock = _lock_of(path, quarantine)
    if lock is None:
        return
    part: Part | None = None
    try:
        destination = read_destination(path)
        _oust(path, quarantine)
        if destination is None and adopted is not None:
            if os.path.lexists(path / FACTS):
                quarantine.move_in(path / FACTS)
            replace_facts(path, adopted)
            destination = adopted
        if destination is None:
            return
        if not is_whole(path):
            quarantine.keep(FACTS, (path / FACTS).read_bytes())
            replace_facts(path, destination)
        part = _mend_rows(path, destination, lock, options)
        journals = {str(journal) for journal in journals_in(path)}
        if any(str(finding.path) in journals for finding in check_part(path, is_ours=True).findings):
            part = Part(path, destination, lock, options=options)
            mended.possibly_doubled += _mend_journals(part)
    finally:
        if part is not None:
            part.remove()  # if nothing is in it
        lock.release()


def _clear_place_of_quarantine(path: Path, quarantine: Quarantine) -> None:
    if os.path.lexists(path / QUARANTINE) and not is_directory(path / QUARANTINE):
        os.rename(path / QUARANTINE, path / OUSTED)
    if os.path.lexists(path / OUSTED):
        quarantine.move_in(path / OUSTED)


def _lock_of(path: Path, quarantine: Quarantine) -> PartLock | None:
    """The lock of a part, made where it is missing. None: somebody has it.

    Raises:
        SpoolError: the part has none, and somebody may own it all the same.
    """
    if is_plain_file(path / LOCK):
        return PartLock.take(path / LOCK)
    store = store_in(path)
    if store is not None and any(is_used_by_sqlite(store / name) for name in STORE_FILES):
        raise SpoolError("it has no lock, and a process has its database open; end that process first")
    if os.path.lexists(path / LOCK):
        quarantine.move_in(path / LOCK)
    return PartLock.create(path / LOCK)


def _oust(path: Path, quarantine: Quarantine) -> None:
    """What stands in the place of a file or directory of ours, and marks that are damaged."""
    for name in FILES:
        if os.path.lexists(path / name) and not is_plain_file(path / name):
            quarantine.move_in(path / name)
    for name in DIRECTORIES:
        if os.path.lexists(path / name) and not is_directory(path / name):
            quarantine.move_in(path / name)
    for store in (path / SPOOL, path / SALVAGED):
        for name in STORE_FILES:
            if os.path.lexists(store / name) and not is_plain_file(store / name):
                quarantine.move_in(store / name)
    for name in MARKS:
        if is_plain_file(path / name) and (path / name).stat().st_size and not Mark(path / name).read():
            quarantine.move_in(path / name)


def _mend_rows(path: Path, destination: Destination, lock: PartLock, options: PartOptions) -> Part | None:
    """Go on with what is intact; returns the part, closed, if it had to be opened."""
    part: Part | None = None
    for turn in range(_TURNS):
        store, held_rows = store_in(path), is_plain_file(path / AGE)
        flaws = [] if store is None else check_store(store, held_rows=held_rows).flaws
        flaws = [flaw for flaw in flaws if not flaw.is_newer]
        unfinished = os.path.lexists(path / SALVAGED)
        if not (flaws or unfinished or (store is None and held_rows)):
            break
        spoilt = [flaw.what for flaw in flaws if flaw.spoils_all or turn]
        there = is_plain_file(path / SPOOL / DATABASE)
        part = Part(path, destination, lock, options=options, opened=False)
        part.open(spoilt[0] if spoilt and there else None)
        try:
            _quarantine_rows(part)
        finally:
            part.close_database()
    return part


def _quarantine_rows(part: Part) -> None:
    key = part.peek()
    while key is not None:
        try:
            part.read(key)
        except CorruptRow:
            part.quarantine(key)
        except NewerFormat:
            pass
        except SpoolDamaged as error:
            part.go_on_with_intact(str(error))
        key = part.peek(after=key)


def _mend_journals(part: Part) -> int:
    """Make rows of what is intact in all journals, as their next owner would; how many may be doubled."""
    recovery, possibly_doubled = Recovery(part), 0
    try:
        while recovery:
            possibly_doubled += recovery.step().possibly_doubled
    finally:
        recovery.close()
    return possibly_doubled


# ---------------------------------------------------------------- letters


def _mend_letters(spool_dir: Path, aside: Quarantine) -> None:
    path = spool_dir / LETTERS
    if not is_directory(path):
        aside.move_in(path)
        return
    letters = DeadLetters(spool_dir)
    letters.clear_leftovers()
    for name in filter(NAME.fullmatch, os.listdir(path)):
        if not is_plain_file(path / name):
            aside.move_in(path / name)
            continue
        with suppress(NewerFormat):
            try:
                letter = letters.read(name)
            except CorruptLetter:
                aside.move_in(path / name)
                continue
            if letters.name_of(letter.id) != name:
                if letters.has(letter.id):
                    aside.move_in(path / name)
                else:
                    os.rename(path / name, path / letters.name_of(letter.id))
