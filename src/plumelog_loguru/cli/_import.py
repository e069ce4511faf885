"""``import``: records from a file into the spool, as ``export`` wrote them.

Promises:

- all or nothing: one line that is no record and nothing is imported, and nobody ever sees a half of it;
- each record arrives in the bytes that stand in the file, in their order;
- constant memory: rows are written aside while lines are read, and become a part at the end;
- an import that is done is told as done, also to who interrupts it then, or reads no result: whoever took it
  for failed would do it again.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from .._batch import MAX_BATCH_BYTES
from .._spool import NewPart, SpoolDirectory, SpoolFull, import_diskcache
from ._command import (
    DONE,
    LEFT,
    Call,
    OutputError,
    UsageError,
    counted,
    flush_output,
    show,
    show_json,
    silence,
    tell,
)
from ._owner import act_as_owner
from ._wire import fault_of

_FAULTS_SHOWN = 10


def add_flags(parser: ArgumentParser) -> None:
    """The command's own words."""
    parser.add_argument(
        "file", metavar="FILE", help="JSON lines, as 'export' writes them; - is standard input"
    )
    parser.description = (
        "Put records back into the spool, from where they go to the configured list: all of a file, or, if "
        "one line is no Plumelog record, nothing of it."
    )
    parser.epilog = (
        "The records get new identities: Redis cannot tell that it has one already. So a copy of what is "
        "still spooled ('export' without --move), or a file that is imported twice, is delivered twice. "
        "Example: plumelog-replay import saved.jsonl && plumelog-replay drain"
    )


@dataclass(slots=True)
class Imported:
    """What an import came to."""

    records: int = 0
    batches: int = 0
    bytes: int = 0  # of the records
    part: str | None = None  # its id; None: nothing was imported
    full: str | None = None  # why there is no room for it
    faulty: int = 0  # lines
    faults: list[tuple[int, str]] = field(
        default_factory=list
    )  # the first of them: number, and what is wrong

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        there = self.part is not None
        return {
            "records": self.records if there else 0,
            "batches": self.batches if there else 0,
            "bytes": self.bytes if there else 0,
            "part": self.part,
            "faulty_lines": self.faulty,
            "faults": [{"line": number, "fault": fault} for number, fault in self.faults],
        }


def run(call: Call) -> int:
    """Import, and say what came of it."""
    directory, name = call.directory, call.arguments.file
    directory.check_readable()
    with _opened(name) as file:
        import_diskcache()  # the owner may not be able to read it
        act_as_owner(directory.path)
        directory.open()
        directory.clear_leftovers()
        work = _Import(call, directory)
        outcome = work.outcome
        try:
            work.read(file)
        except SpoolFull as error:
            outcome.full = str(error)
    try:
        _show(call, outcome)
        flush_output()
    except (OSError, OutputError):
        if outcome.part is None:
            raise
        silence(sys.stdout)
        tell(
            f"standard output cannot be written; {counted(outcome.records, 'record')} imported as part "
            f"{outcome.part}"
        )
    if outcome.full is not None:
        tell(f"nothing is imported: {outcome.full}")
        return LEFT
    for number, fault in outcome.faults:
        tell(f"line {number} {fault}")
    if outcome.faulty:
        more = outcome.faulty - len(outcome.faults)
        unlisted = f" ({more:,} of them are not listed here)" if more else ""
        lines = counted(outcome.faulty, "line is", "lines are")
        tell(f"nothing is imported: {lines} no Plumelog record{unlisted}")
        return LEFT
    for note in directory.notes():
        tell(note)
    if outcome.records:
        tell("if the file is a copy of what is still spooled, its records will be delivered twice")
    return DONE


def _show(call: Call, outcome: Imported) -> None:
    if call.arguments.json:
        show_json(outcome.to_json())
    elif not outcome.faulty and outcome.full is None:
        show(
            f"{counted(outcome.records, 'record')} imported for {call.settings.destination}; "
            "the next sink that starts delivers them, or 'plumelog-replay drain'"
        )


class _Import:
    """One file on its way into one part."""

    def __init__(self, call: Call, directory: SpoolDirectory) -> None:
        self._settings = call.settings
        self._directory = directory
        self.outcome = Imported()
        self._part: NewPart | None = None
        self._row: list[bytes] = []
        self._row_bytes = 0
        self._file_bytes = 0

    def read(self, file: BinaryIO) -> None:
        """Import the file, or nothing of it.

        Raises:
            SpoolFull: there is no room for it.
            SpoolError: it cannot be written into the spool.
            UsageError: the file cannot be read.
        """
        outcome = self.outcome
        found = os.fstat(file.fileno())
        # Known before the first row: room that is taken only to be given back costs living sinks their rows.
        self._file_bytes = found.st_size if stat.S_ISREG(found.st_mode) else 0
        try:
            for number, line in enumerate(_lines(file, self._settings.record_max_bytes), 1):
                self._take(number, line)
            if not outcome.faulty:
                self._write_row()
                if self._part is not None:
                    with suppress(ValueError):  # not in the main thread, which alone hears interrupts
                        signal.signal(signal.SIGINT, signal.SIG_IGN)  # for good: only the result is missing
                    outcome.part = self._part.publish()
        finally:
            if outcome.part is None and self._part is not None:
                self._part.discard()

    def _take(self, number: int, line: bytes | None) -> None:
        outcome = self.outcome
        most = self._settings.record_max_bytes
        if line is None:
            fault: str | None = f"is longer than record_max_bytes ({most})"
        else:
            fault = fault_of(line)
        if fault is not None:
            outcome.faulty += 1
            if len(outcome.faults) < _FAULTS_SHOWN:
                outcome.faults.append((number, fault))
        if outcome.faulty or line is None:
            return
        if self._row_bytes + len(line) > MAX_BATCH_BYTES:
            self._write_row()
        self._row.append(line)
        self._row_bytes += len(line)
        outcome.records += 1
        outcome.bytes += len(line)

    def _write_row(self) -> None:
        if not self._row:
            return
        if self._part is None:
            settings = self._settings
            self._part = NewPart(
                self._directory,
                max_bytes=settings.spool_max_bytes,
                min_free_bytes=settings.spool_min_free_bytes,
            )
            self._part.check_room(self._file_bytes)
        self._part.append(self._row)
        self.outcome.batches += 1
        self._row, self._row_bytes = [], 0


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(name, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UsageError(f"the file {name} cannot be read ({error.strerror})") from error
    with file:
        yield file


def _lines(file: BinaryIO, most_bytes: int) -> Iterator[bytes | None]:
    """The lines without their ends; None for one that is longer than that, which is not kept in memory."""

    def read() -> bytes:
        try:
            return file.readline(most_bytes + 1)
        except OSError as error:
            raise UsageError(f"the file cannot be read ({error.strerror})") from error

    while line := read():
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) <= most_bytes:
            yield line  # the last one
        else:
            while (rest := read()) and not rest.endswith(b"\n"):
                pass
            yield None
