"""A part: the share of a spool directory that one living process owns.

    part-<16 hex digits>/
        lock         held by the owner while it lives; removed last
        part.json    the format, and the destination that the records are meant for
        spool/       the rows
        quarantine/  what could not be read, byte for byte

A part is made as ``new-<16 hex digits>``, locked, and then renamed, so that nobody finds one without its
lock. It is taken over whole and in place by a process with the same destination, once its owner is gone: rows
never move between parts, and a new owner never goes on with a lane that it finds. Only the owner removes
anything.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from .._batch import Batch, BatchId, new_lane_id
from .._destination import Destination
from .._errors import PlumelogError
from ._lock import SAFE_OPEN, PartLock
from ._row import Row, decode_row, encode_row
from ._store import FILES, RowKey, SpoolDamaged, SpoolError, Store

FORMAT = 1

LOCK, FACTS, SPOOL, QUARANTINE = "lock", "part.json", "spool", "quarantine"

_MAX_FACTS_BYTES = 65_536

_kept_from_parent: list[Part] = []


class Part:
    """A part that is owned by this process; one thread makes every call."""

    def __init__(self, path: Path, destination: Destination, lock: PartLock) -> None:
        """Use :meth:`create` or :meth:`try_take`."""
        self.path = path
        self.id = path.name.removeprefix("part-")
        self.destination = destination
        self._lock = lock
        self._notes: list[str] = []
        self._keeps_damaged = False  # a row that was passed by is still in the files
        self._lane = new_lane_id()
        self._seqs = count(1)
        self._key_of: dict[BatchId, RowKey] = {}  # rows of this opening
        self._id_of: dict[RowKey, BatchId] = {}
        self._store = self._open_store()

    def __repr__(self) -> str:
        return f"<Part {self.id}: {self.batches} batches, {self.records} records>"

    @classmethod
    def create(cls, spool_dir: Path, destination: Destination) -> Part:
        """Make a new part and own it.

        Raises:
            SpoolError: the directory takes no new part.
        """
        try:
            while True:
                name = os.urandom(8).hex()
                try:
                    made = _make(spool_dir / f"new-{name}", destination)
                except FileNotFoundError:
                    if not spool_dir.is_dir():
                        raise
                    continue  # a clean-up took it for the leftover of a dead process
                if made is not None:
                    break
            path = spool_dir / f"part-{name}"
            try:
                os.rename(made.path.parent, path)
                made.path = path / LOCK
                return cls(path, destination, made)
            except BaseException:
                made.release()
                raise
        except OSError as error:
            raise SpoolError(f"no part can be made in the spool directory {spool_dir}: {error}") from error

    @classmethod
    def try_take(cls, path: Path, destination: Destination) -> Part | None:
        """Take over a part that nobody owns.

        Returns:
            None if it is owned, gone, of another destination, or of a newer format.

        Raises:
            SpoolError: it is free, but cannot be opened now.
        """
        if read_destination(path) != destination:
            return None
        lock = PartLock.take(path / LOCK)
        if lock is None:
            return None
        try:
            if read_destination(path) == destination:  # it may have been removed before the lock was ours
                return cls(path, destination, lock)
        except BaseException:
            lock.release()
            raise
        lock.release()
        return None

    # ---------------------------------------------------------------- what is in it

    @property
    def batches(self) -> int:
        """Rows."""
        return self._store.batches

    @property
    def records(self) -> int:
        """Records in all rows."""
        return self._store.records

    @property
    def bytes(self) -> int:
        """Bytes of all rows; the files are somewhat larger."""
        return self._store.bytes

    @property
    def empty(self) -> bool:
        """Whether nothing waits for delivery."""
        return self._store.batches == 0

    def notes(self) -> tuple[str, ...]:
        """What was found at the opening that a person should know, a sentence each."""
        return tuple(self._notes)

    # ---------------------------------------------------------------- rows

    def next_spool_id(self) -> BatchId:
        """The identity for a batch that is spooled without ever having been attempted.

        The lane is drawn at each opening: nobody goes on with a lane that another process began.
        """
        return BatchId(self._lane, next(self._seqs))

    def append(self, batch: Batch) -> None:
        """Write a batch behind all others; one that this opening wrote before under its identity is replaced.

        Raises:
            SpoolError: it was not written.
        """
        row = encode_row(batch)
        key = self._key_of.get(batch.id)
        if key is None:
            key = self._store.new_key(len(batch.values), len(row))
            # Kept also if the write fails: should it be done all the same, its repetition replaces it.
            self._key_of[batch.id] = key
            self._id_of[key] = batch.id
        self._store.put(key, row)

    def find(self, batch_id: BatchId) -> bool:
        """Whether a batch is there, after `append` failed: some writes are done all the same.

        Raises:
            SpoolError: that cannot be told now.
        """
        key = self._key_of.get(batch_id)
        return key is not None and self._store.find(key)

    def replace(self, key: RowKey, batch: Batch) -> None:
        """Write a row anew in its place: the same records and identity, attempted by now.

        Raises:
            SpoolError: it was not written.
        """
        self._store.put(key, encode_row(batch))

    def peek(self, after: RowKey | None = None) -> RowKey | None:
        """The oldest row, or the oldest behind ``after`` (which may be gone already)."""
        return self._store.peek(after)

    def read(self, key: RowKey) -> Row:
        """Read a row.

        Raises:
            CorruptRow: it is damaged; see :meth:`quarantine`.
            NewerFormat: a newer version wrote it; it stays, and is passed by with ``peek(after=key)``.
            SpoolError: it cannot be read now.
        """
        return decode_row(self._store.read(key))

    def ack(self, key: RowKey) -> None:
        """Delete a row: it is in Redis, or it was given up. No harm is done if it is gone.

        Raises:
            SpoolError: it is still there.
        """
        self._store.delete(key)
        self._forget(key)

    def pass_by(self, key: RowKey) -> None:
        """Take a row for gone that could not be deleted: its files keep it until the next opening."""
        self._store.pass_by(key)
        self._forget(key)

    def quarantine(self, key: RowKey) -> None:
        """Put a damaged row aside, byte for byte, and count it no more. Never raises.

        Where that fails, as on a full disk, the row is passed by and stays in the files until the next
        opening.
        """
        try:
            _write_new(self._free_name(f"{key}.row"), self._store.read(key))
            self._store.delete(key)
        except (PlumelogError, OSError):
            self._keeps_damaged = True  # what could not be put aside is not deleted either
        self._store.pass_by(key)
        self._forget(key)

    def start_anew(self) -> int:
        """Put the whole spool aside, as it is, and begin an empty one.

        Returns:
            The number of records that were in it.

        Raises:
            SpoolError: no new one can be made.
        """
        records = self.records
        self._store.close()
        self._key_of.clear()
        self._id_of.clear()
        self._set_aside("was damaged")
        self._store = self._new_store()
        return records

    # ---------------------------------------------------------------- ending

    def close(self) -> None:
        """Let go of the part; its files stay for the next owner. Never raises, and may be repeated."""
        self._store.close()
        self._lock.release()

    def remove(self) -> bool:
        """Close the part and remove its files, if nothing at all is in it. Never raises.

        Returns:
            Whether it is removed; it is closed in any case.
        """
        empty = self.empty and not self._store.foreign and not self._keeps_damaged
        self._store.close()
        removed = False
        if empty:
            with suppress(OSError):
                _remove_files(self.path)
                removed = True
        self._lock.release()
        return removed

    def release_lock_in_child(self) -> None:
        """After a fork, in the child: close the child's copy of the lock's descriptor and touch nothing else.

        The part is kept for ever: to collect it would close the parent's database in the child.
        """
        _kept_from_parent.append(self)
        self._lock.release_in_child()

    # ---------------------------------------------------------------- inside

    def _forget(self, key: RowKey) -> None:
        batch_id = self._id_of.pop(key, None)
        if batch_id is not None:
            del self._key_of[batch_id]

    def _open_store(self) -> Store:
        try:
            return self._new_store()
        except SpoolDamaged as error:
            self._set_aside(str(error))
            return self._new_store()

    def _new_store(self) -> Store:
        store = Store(self.path / SPOOL)
        if store.foreign:
            self._notes.append(
                f"{store.foreign} entries of {store.path} cannot be read or were not written by us"
            )
        return store

    def _set_aside(self, reason: str) -> None:
        try:
            target = self._free_name("spool")
            os.rename(self.path / SPOOL, target)
        except OSError as error:
            raise SpoolError(f"the damaged spool {self.path / SPOOL} cannot be put aside: {error}") from error
        self._notes.append(
            f"a spool could not be used ({reason}); it was put aside as {target} and a new one begun"
        )

    def _free_name(self, name: str) -> Path:
        directory = self.path / QUARANTINE
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            raise OSError(f"{directory} is no directory")
        return next(path for path in _numbered(directory / name) if not os.path.lexists(path))


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _make(path: Path, destination: Destination) -> PartLock | None:
    """Make the directory of a part under its temporary name; None: begin again under another."""
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)  # whatever the umask left of it
    lock = PartLock.create(path / LOCK)
    if lock is None:
        return None
    try:
        _write_new(path / FACTS, orjson.dumps({"format": FORMAT, "destination": destination.to_json()}))
    except BaseException:
        lock.release()
        raise
    return lock


def _write_new(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_OPEN, 0o600), "wb") as file:
        os.chmod(path, 0o600)
        file.write(data)


def read_destination(path: Path) -> Destination | None:
    """Where the records of a part are meant to go. None: that cannot be told, or not by this version."""
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return None
        with open(os.open(path / FACTS, os.O_RDONLY | SAFE_OPEN), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            facts: Any = orjson.loads(file.read(_MAX_FACTS_BYTES))
        return Destination.from_json(facts["destination"]) if facts["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def clear_leftover(path: Path) -> None:
    """Remove what is left of a part whose maker, or remover, died half-way. Never touches records."""
    if any(os.path.lexists(path / name) for name in (SPOOL, QUARANTINE)):
        return
    lock = PartLock.take(path / LOCK)
    try:
        with suppress(OSError):
            if lock is None:
                os.rmdir(path)  # works only if there is not even a lock
            elif path.name.startswith("new-") or not os.path.lexists(path / FACTS):
                _remove_files(path)
    finally:
        if lock is not None:
            lock.release()


def _remove_files(path: Path) -> None:
    """Remove a part of which the lock is held; stops with an OSError at the first file that is not ours.

    In this order, so that what is left after a crash half-way is still a part, or an obvious leftover.
    """
    for directory, names in ((QUARANTINE, ()), (SPOOL, FILES)):
        with suppress(FileNotFoundError):
            if any(name not in names for name in os.listdir(path / directory)):
                raise OSError(f"{path / directory} is not empty")
    for name in FILES:
        (path / SPOOL / name).unlink(missing_ok=True)
    for directory in (QUARANTINE, SPOOL):
        with suppress(FileNotFoundError):
            os.rmdir(path / directory)
    (path / FACTS).unlink(missing_ok=True)
    (path / LOCK).unlink()
    os.rmdir(path)
