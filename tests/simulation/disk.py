"""Spool directories that outlive their processes.

A part is the real one, with its identities, keys and checked rows. Its database is a dictionary, its lock is
the name of its owner, its journals are real to the byte. A write may fail before it was done or after, and
the process may die at either point.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumelog_loguru._batch import BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import DeadJournal
from plumelog_loguru._spool import DeadLetter
from plumelog_loguru._spool._failures import SpoolError, SpoolVanished
from plumelog_loguru._spool._files import Footprint
from plumelog_loguru._spool._part import Part, PartOptions
from plumelog_loguru._spool._row import CorruptRow, RowKey, decode_row

from .files import SPOOL_DIR, SimulatedMark, current_process

if TYPE_CHECKING:
    from .world import Process, World

_PLENTY = 1 << 60


class Files:
    """What lies on the disk for one part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[RowKey, bytes] = {}  # in the order of their keys
        self.has_database = False
        self.journals: dict[str, bytearray] = {}
        self.marks: dict[str, dict[str, int | str]] = {}
        self.aside = 0  # what is in quarantine
        self.owner: Process | None = None
        self.replaced = 0  # how often somebody deleted the database

    def __repr__(self) -> str:
        return f"{self.name[-4:]} ({len(self.rows)} rows, journals {list(self.journals)})"

    @property
    def footprint(self) -> Footprint:
        """What the part takes of the disk."""
        return Footprint(sum(map(len, self.rows.values())), sum(map(len, self.journals.values())))


class Disk:
    """All parts of one directory."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.parts: dict[str, Files] = {}
        self.made = 0
        self.opens = True
        self.opens_databases = True
        self.free_bytes = _PLENTY
        self.mapped = True  # journals are written through a mapping
        # Probabilities.
        self.write_fails = 0.0
        self.done_though_failed = 0.0  # of the writes that fail
        self.read_fails = 0.0
        self.faults_met = 0
        self.letters: dict[BatchId, bytes] = {}
        self.prepared: dict[BatchId, bytes] = {}

    def heal(self) -> None:
        """From now on everything works."""
        self.opens = self.opens_databases = True
        self.free_bytes = _PLENTY
        self.write_fails = self.read_fails = 0.0

    def part_at(self, path: Path) -> Files | None:
        """The part in this place, if there is one."""
        return self.parts.get(path.name.removeprefix("part-"))

    def left_behind(self) -> list[Files]:
        """Parts with rows, or with journals that nobody writes any more."""
        return [
            files
            for files in self.parts.values()
            if files.rows or files.journals.keys() - (files.owner.journal_names() if files.owner else set())
        ]

    def values(self) -> set[bytes]:
        """Every record in an intact row."""
        found: set[bytes] = set()
        for files in self.parts.values():
            for row in files.rows.values():
                try:
                    found.update(decode_row(row).batch.values)
                except CorruptRow:
                    pass
        return found

    def journaled(self) -> set[bytes]:
        """Every record that a recovery would find in a journal now."""
        journals = (data for files in self.parts.values() for data in files.journals.values())
        return {value for data in journals for value in self.values_in(data)}

    def values_in(self, data: bytearray) -> Iterator[bytes]:
        """Every record that a recovery would find in this journal."""
        dead = DeadJournal(SPOOL_DIR / "journal", self._world.os.descriptor_of(data))
        dead.close()
        for batch in dead._unsettled():
            yield from (dead._value(place) for _, place in batch.frames)
        yield from (dead._value(place) for place, _ in dead._fresh)

    def write(self, process: Process, what: str, done: Any) -> Any:
        """Make a change, or fail before or after it."""
        process.may_die("before it", what)
        fails = self.draws_failure()
        if fails and self._world.dice.random() >= self.done_though_failed:
            self._world.tell(f"{process} could not have {what}")
            raise SpoolError("the disk is full")
        result = done()
        self._world.tell(f"{process} {what}{', and was told that it failed' if fails else ''}")
        process.may_die("after it", what)
        if fails:
            raise SpoolError("the disk is full, and yet it was written")
        return result

    def draws_failure(self) -> bool:
        """Whether the next write fails."""
        fails = self.write_fails > 0 and self._world.dice.random() < self.write_fails
        self.faults_met += fails
        return fails

    def check_read(self) -> None:
        """Fail, now and then."""
        if self.read_fails and self._world.dice.random() < self.read_fails:
            self.faults_met += 1
            raise SpoolError("the disk cannot be read")


class SimulatedStore:
    """Stands for the library's `Store`."""

    foreign = 0
    empty_bytes = 0

    def __init__(self, files: Files, process: Process) -> None:
        self.path = SPOOL_DIR / files.name
        self._files = files
        self._process = process
        self._disk = process.world.disk
        if not self._disk.opens_databases:
            self._disk.faults_met += 1
            raise SpoolError("the database cannot be opened")
        files.has_database = True
        self._replaced = files.replaced
        self._newest = max((key.counter for key in files.rows), default=0)
        self.batches = self.records = self.bytes = self.age_ms = 0
        self.bytes_by_level: Counter[str | None] = Counter()
        for key in files.rows:
            self._count(key, 1)
            self.age_ms = max(self.age_ms, key.age_ms or 0)
        self._unwritten: set[RowKey] = set()
        self._known = sorted(files.rows)  # what is taken to be there

    def bytes_on_disk(self) -> int:
        return self.bytes

    def newest(self) -> RowKey | None:
        self._disk.check_read()
        return max(self._files.rows, default=None)

    def new_key(self, records: int, size: int, level: str, age_ms: int) -> RowKey:
        self._newest += 1
        key = RowKey(self._newest, records, size, level, age_ms)
        self._unwritten.add(key)
        return key

    def put(self, key: RowKey, row: bytes) -> None:
        self._check_still_ours()
        self._disk.write(
            self._process, f"wrote {self._described(row)}", lambda: self._files.rows.__setitem__(key, row)
        )
        self._written(key)

    def find(self, key: RowKey) -> bool:
        self._check_still_ours()
        self._disk.check_read()
        if key in self._files.rows:
            self._written(key)
        return key in self._files.rows

    def awaits_row_before(self, key: RowKey) -> bool:
        return any(unwritten < key for unwritten in self._unwritten)

    def _written(self, key: RowKey) -> None:
        if key in self._unwritten:
            self._unwritten.remove(key)
            self._count(key, 1)
            self._learn(key)

    def _learn(self, key: RowKey) -> None:
        if key not in self._known:
            insort(self._known, key)

    def delete(self, key: RowKey) -> None:
        self._check_still_ours()
        row = self._files.rows.get(key)
        if row is not None:
            self._disk.write(
                self._process, f"deleted {self._described(row)}", lambda: self._files.rows.pop(key)
            )
        self._forget(key, counted=row is not None)

    def pass_by(self, key: RowKey) -> None:
        self._forget(key, counted=False)

    def delete_passed(self, key: RowKey) -> None:
        self._check_still_ours()
        row = self._files.rows.get(key)
        if row is not None:
            self._disk.write(
                self._process, f"deleted {self._described(row)}", lambda: self._files.rows.pop(key)
            )

    def _forget(self, key: RowKey, *, counted: bool) -> None:
        if key in self._known:
            self._known.remove(key)
            counted = True
        if key in self._unwritten:
            self._unwritten.remove(key)
        elif counted:
            self._count(key, -1)

    def peek(self, after: RowKey | None = None) -> RowKey | None:
        self._check_still_ours()
        self._disk.check_read()
        for key in self._unwritten & self._files.rows.keys():  # written, and told that it failed
            self._learn(key)
        place = 0 if after is None else bisect_right(self._known, after)
        return self._known[place] if place < len(self._known) else None

    def read(self, key: RowKey) -> bytes:
        self._check_still_ours()
        self._disk.check_read()
        if key not in self._files.rows:
            raise CorruptRow("not found")
        return self._files.rows[key]

    def shrink_log(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _count(self, key: RowKey, sign: int) -> None:
        self.batches += sign
        self.records += sign * key.records
        self.bytes += sign * key.size
        self.bytes_by_level[key.level] += sign * key.size

    def _check_still_ours(self) -> None:
        if self._files.replaced != self._replaced:
            raise SpoolVanished("the spool was deleted while it was in use")

    def _described(self, row: bytes) -> str:
        if self._process.world.story is None:
            return ""
        try:
            batch = decode_row(row).batch
        except CorruptRow:
            return "a damaged row"
        return f"{batch.id.lane[:6]}…:{batch.id.seq} ({len(batch.values)} records)"


class SimulatedLetters:
    """Stands for the library's `DeadLetters`."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self._process = current_process()
        self._disk = self._process.world.disk

    def prepare(self, letter: DeadLetter) -> None:
        def done() -> None:
            self._disk.prepared[letter.id] = letter.value

        self._disk.write(self._process, f"prepared the letter {letter.id}", done)

    def commit(self, batch_id: BatchId) -> None:
        def done() -> None:
            value = self._disk.prepared.pop(batch_id, None)
            if value is None:
                raise SpoolError("there is no such letter")
            self._process.world.on_letter(value)
            self._disk.letters[batch_id] = value

        self._disk.write(self._process, f"named the letter {batch_id}", done)

    def discard(self, batch_id: BatchId) -> None:
        self._disk.prepared.pop(batch_id, None)

    def has(self, batch_id: BatchId) -> bool:
        self._disk.check_read()
        return batch_id in self._disk.letters


class SimulatedPart(Part):
    """The real part, on a simulated database and under a simulated lock."""

    def __init__(
        self, files: Files, process: Process, destination: Destination, options: PartOptions, opened: bool
    ) -> None:
        self._files = files
        self._process = process
        files.owner = process
        super().__init__(
            SPOOL_DIR / f"part-{files.name}",
            destination,
            _Lock(files, process),  # type: ignore[arg-type]
            options=replace(options, ballast_bytes=0),
            opened=opened,
        )

    def _open_store(self) -> Any:
        return SimulatedStore(self._files, self._process)

    _new_store = _open_store

    def _mark(self, name: str) -> Any:
        return SimulatedMark(self._files.marks, name)

    def footprint(self) -> Footprint:
        return self._files.footprint

    def _has_room_beside_rows(self) -> bool:
        return True  # the simulated disk says no in its own way

    def quarantine(self, key: RowKey) -> None:
        try:
            self._store.delete(key)
            self._files.aside += 1
        except SpoolError:
            self._store.pass_by(key)
        self.identities.forget(key)

    def keep_aside(self, name: str, data: bytes) -> None:
        self._files.aside += 1

    def set_aside(self, path: Path) -> Path:
        del self._files.journals[path.name]
        self._files.aside += 1
        return path


def remove_files(path: Path) -> None:
    """Stands for what removes a part; where there is a journal, or a quarantine, it removes nothing."""
    process = current_process()
    parts = process.world.disk.parts
    files = process.world.disk.part_at(path)
    process.may_die("before it", "removed a part")
    if files is None or files.owner is not process or files.aside or files.journals:
        raise OSError("the part is not empty, or not ours")
    del parts[files.name]
    process.world.tell(f"{process} removed part {files}")
    process.may_die("after it", "removed a part")


class _Lock:
    def __init__(self, files: Files, process: Process) -> None:
        self._files = files
        self._process = process

    def is_there(self) -> bool:
        return self._process.world.disk.parts.get(self._files.name) is self._files

    def release(self) -> None:
        if self._files.owner is self._process:
            self._files.owner = None


class SimulatedDirectory:
    """Stands for the library's `SpoolDirectory`."""

    def __init__(self, path: Path, destination: Destination, options: PartOptions) -> None:
        self.destination = destination
        self._options = options
        self._process = current_process()
        self._disk = self._process.world.disk

    def open(self) -> None:
        if not self._disk.opens:
            self._disk.faults_met += 1
            raise SpoolError("the spool directory cannot be written")

    def notes(self) -> tuple[str, ...]:
        return ()

    def elsewhere(self) -> dict[Destination, int]:
        return {}

    def footprint(self, without: Collection[str]) -> Footprint:
        parts = self._disk.parts.values()
        return sum((files.footprint for files in parts if files.name not in without), Footprint())

    def free_bytes(self) -> int:
        return self._disk.free_bytes

    def take_or_create(self, exclude: Collection[str] = (), *, opened: bool = True) -> Part:
        part = self.take_free(exclude, opened=opened)
        if part is None:
            self._process.may_die("before it", "made a part")
            self._disk.made += 1
            files = Files(f"{self._disk.made:016x}")
            self._disk.parts[files.name] = files
            part = SimulatedPart(files, self._process, self.destination, self._options, opened)
        return part

    def take_free(self, exclude: Collection[str] = (), *, opened: bool = True) -> Part | None:
        free = [f for f in self._disk.parts.values() if f.owner is None and f.name not in exclude]
        if not free:
            return None
        process, world = self._process, self._process.world
        files = world.dice.choice(free)
        try:
            part = SimulatedPart(files, process, self.destination, self._options, opened)
        except SpoolError:
            files.owner = None
            return None
        world.adopted += bool(files.rows)
        world.recovered += bool(files.journals)
        world.tell(f"{process} takes over part {files}")
        return part
