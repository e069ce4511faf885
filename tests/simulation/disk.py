"""Spool directories that outlive their processes.

A part is the real one, with its identities, keys and checked rows. Its database is a dictionary, its lock is
the name of its owner. A write may fail before it was done or after, and the process may die at either point.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumelog_loguru._batch import BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter
from plumelog_loguru._spool._files import Footprint
from plumelog_loguru._spool._part import Part, PartOptions
from plumelog_loguru._spool._row import CorruptRow, decode_row
from plumelog_loguru._spool._store import RowKey, SpoolError, SpoolVanished

if TYPE_CHECKING:
    from .world import Process, World


class Files:
    """What lies on the disk for one part."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[RowKey, bytes] = {}  # in the order of their keys
        self.marks: dict[str, dict[str, int | str]] = {}
        self.owner: Process | None = None
        self.replaced = 0  # how often somebody deleted the database


class Disk:
    """All parts of one directory."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.parts: dict[str, Files] = {}
        self.made = 0
        self.opens = True
        # Probabilities.
        self.write_fails = 0.0
        self.done_though_failed = 0.0  # of the writes that fail
        self.read_fails = 0.0
        self.faults_met = 0
        self.letters: dict[BatchId, bytes] = {}
        self.prepared: dict[BatchId, bytes] = {}

    def heal(self) -> None:
        """From now on everything works."""
        self.opens = True
        self.write_fails = self.read_fails = 0.0

    def parts_with_rows(self) -> list[str]:
        """The names of parts that hold something."""
        return [name for name, files in self.parts.items() if files.rows]

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

    def write(self, process: Process, what: str, done: Any) -> Any:
        """Make a change, or fail before or after it."""
        dice = self._world.dice
        process.may_die(f"before it {what}")
        fails = dice.random() < self.write_fails
        if fails:
            self.faults_met += 1
        if fails and dice.random() >= self.done_though_failed:
            self._world.tell(f"{process} could not have {what}")
            raise SpoolError("the disk is full")
        result = done()
        self._world.tell(f"{process} {what}{', and was told that it failed' if fails else ''}")
        process.may_die(f"after it {what}")
        if fails:
            raise SpoolError("the disk is full, and yet it was written")
        return result

    def check_read(self, process: Process) -> None:
        if self._world.dice.random() < self.read_fails:
            self.faults_met += 1
            raise SpoolError("the disk cannot be read")


class SimulatedStore:
    """Stands for the library's `Store`."""

    foreign = 0

    def __init__(self, files: Files, process: Process) -> None:
        self.path = Path("/simulated") / files.name
        self._files = files
        self._process = process
        self._disk = process.world.disk
        self._replaced = files.replaced
        self._newest = max((key.counter for key in files.rows), default=0)
        self.batches = self.records = self.bytes = self.age_ms = 0
        self.bytes_by_level: Counter[str | None] = Counter()
        for key in files.rows:
            self._count(key, 1)
        self._unwritten: set[RowKey] = set()
        self._passed: set[RowKey] = set()

    def newest(self) -> RowKey | None:
        self._disk.check_read(self._process)
        return max(self._files.rows, default=None)

    def new_key(self, records: int, size: int, level: str, age_ms: int) -> RowKey:
        self._newest += 1
        key = RowKey(self._newest, records, size, level, age_ms)
        self._unwritten.add(key)
        return key

    def put(self, key: RowKey, row: bytes) -> None:
        self._check_still_ours()
        self._disk.write(
            self._process, f"wrote {_described(row)}", lambda: self._files.rows.__setitem__(key, row)
        )
        self._written(key)

    def find(self, key: RowKey) -> bool:
        self._check_still_ours()
        self._disk.check_read(self._process)
        if key in self._files.rows:
            self._written(key)
        return key in self._files.rows

    def _written(self, key: RowKey) -> None:
        if key in self._unwritten:
            self._unwritten.remove(key)
            self._count(key, 1)

    def delete(self, key: RowKey) -> None:
        self._check_still_ours()
        row = self._files.rows.get(key)
        if row is None:
            return
        self._disk.write(self._process, f"deleted {_described(row)}", lambda: self._files.rows.pop(key))
        self._count(key, -1)

    def pass_by(self, key: RowKey) -> None:
        if key not in self._passed:
            self._passed.add(key)
            self._count(key, -1)

    def peek(self, after: RowKey | None = None) -> RowKey | None:
        self._check_still_ours()
        self._disk.check_read(self._process)
        keys = [key for key in self._files.rows if key not in self._passed]
        place = 0 if after is None else bisect_right(keys, after)
        return keys[place] if place < len(keys) else None

    def read(self, key: RowKey) -> bytes:
        self._check_still_ours()
        self._disk.check_read(self._process)
        if key not in self._files.rows:
            raise CorruptRow("not found")
        return self._files.rows[key]

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


class SimulatedLetters:
    """Stands for the library's `DeadLetters`."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        from .world import PROCESS

        self._process: Process = PROCESS.get()
        self._disk = self._process.world.disk

    def prepare(self, letter: DeadLetter) -> None:
        def done() -> None:
            self._disk.prepared[letter.id] = letter.value

        self._disk.write(self._process, f"prepared the letter {letter.id}", done)

    def commit(self, batch_id: BatchId) -> None:
        def done() -> None:
            value = self._disk.prepared.pop(batch_id)
            self._process.world.on_letter(value)
            self._disk.letters[batch_id] = value

        self._disk.write(self._process, f"named the letter {batch_id}", done)

    def discard(self, batch_id: BatchId) -> None:
        self._disk.prepared.pop(batch_id, None)

    def has(self, batch_id: BatchId) -> bool:
        self._disk.check_read(self._process)
        return batch_id in self._disk.letters


class SimulatedPart(Part):
    """The real part, on a simulated database and under a simulated lock."""

    def __init__(self, files: Files, process: Process, destination: Destination, opened: bool) -> None:
        self._files = files
        self._process = process
        files.owner = process
        super().__init__(
            Path(f"/simulated/part-{files.name}"),
            destination,
            _Lock(files),  # type: ignore[arg-type]
            options=PartOptions(clock=process.world.clock),
            opened=opened,
        )

    def _open_store(self) -> Any:
        return SimulatedStore(self._files, self._process)

    _new_store = _open_store

    def _mark(self, name: str) -> Any:
        return _Mark(self._files.marks, name)

    def footprint(self) -> Footprint:
        return Footprint(self.bytes)

    def journals(self) -> list[Path]:
        return []

    def quarantine(self, key: RowKey) -> None:
        try:
            self._store.delete(key)
        except SpoolError:
            self._store.pass_by(key)
        self._forget(key)

    def remove(self) -> bool:
        empty = not self._files.rows
        if empty:
            self._process.world.disk.parts.pop(self._files.name, None)
        self._lock.release()
        return empty


class _Mark:
    def __init__(self, marks: dict[str, dict[str, int | str]], name: str) -> None:
        self._marks = marks
        self._name = name

    def read(self) -> dict[str, int | str]:
        return self._marks.get(self._name, {})

    def write(self, **facts: int | str) -> None:
        self._marks[self._name] = facts

    def remove(self) -> None:
        self._marks.pop(self._name, None)


class _Lock:
    def __init__(self, files: Files) -> None:
        self._files = files

    def is_there(self) -> bool:
        return True

    def release(self) -> None:
        self._files.owner = None


class SimulatedDirectory:
    """Stands for the library's `SpoolDirectory`."""

    def __init__(self, path: Path, destination: Destination, options: PartOptions) -> None:
        from .world import PROCESS

        self.destination = destination
        self._process: Process = PROCESS.get()
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
        return Footprint()

    def free_bytes(self) -> int:
        return 1 << 40

    def take_or_create(self, *, opened: bool = True) -> Part:
        part = self.take_free(opened=opened)
        if part is None:
            self._process.may_die("before it made a part")
            self._disk.made += 1
            files = Files(f"{self._disk.made:016x}")
            self._disk.parts[files.name] = files
            part = SimulatedPart(files, self._process, self.destination, opened)
        return part

    def take_free(self, exclude: Collection[str] = (), *, opened: bool = True) -> Part | None:
        free = [f for f in self._disk.parts.values() if f.owner is None and f.name not in exclude]
        if not free:
            return None
        files = self._process.world.dice.choice(free)
        self._process.world.adopted += bool(files.rows)
        self._process.world.tell(f"{self._process} takes over part {files.name[-4:]}, {len(files.rows)} rows")
        return SimulatedPart(files, self._process, self.destination, opened)


def _described(row: bytes) -> str:
    try:
        batch = decode_row(row).batch
    except CorruptRow:
        return "a damaged row"
    return f"{batch.id.lane[:6]}…:{batch.id.seq} ({len(batch.values)} records)"
