"""A part: the share of a spool directory that one living process owns.

It is taken over whole and in place by a process with the same destination, once its owner is gone: rows never
move between parts, and a new owner never goes on with a lane that it finds.

Assumes that the part stays locked until it is let go of, and from :meth:`Part.open` on one thread.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .._batch import AttemptedBy, Batch, BatchId
from .._clock import SYSTEM_CLOCK, Clock
from .._destination import Destination
from .._errors import PlumelogError
from ._age import AgeClock
from ._attempts import Attempts
from ._database import DATABASE
from ._failures import SpoolDamaged, SpoolError, SpoolFull
from ._files import LOG_BYTES, Ballast, Footprint, Mark, footprint_of
from ._identities import Identities
from ._lock import PartLock
from ._opener import StoreOpener
from ._part_directory import (
    AGE,
    ATTEMPTS,
    BALLAST,
    QUARANTINE,
    SPOOL,
    give_name,
    journals_in,
    make_part,
    new_journal_in,
    remove_files,
    take_part,
)
from ._quarantine import Quarantine
from ._row import CorruptRow, NewerFormat, Row, RowKey, decode_row, encode_row, level_of
from ._store import Store

_SHARE_OF_THE_DISK = 8  # this part of it is what ballast may take at most
_PLENTY_BYTES = 1 << 30
_ROOM_FOR_A_ROW_BYTES = 8 << 20  # for one more, on its way through the log, and to delete all of them

_kept_from_parent: list[Part] = []


@dataclass(frozen=True, slots=True)
class PartOptions:
    """How a part is kept."""

    fsync: bool = False  # what is written is on the disk itself before it counts
    ballast_bytes: int = 0  # 0: none is made, and what an earlier owner made is used
    max_age_seconds: float = 0.0  # 0: for ever
    clock: Clock = SYSTEM_CLOCK


class Part:
    """A part that is owned by this process; from :meth:`open` on, one thread makes every call."""

    def __init__(
        self,
        path: Path,
        destination: Destination,
        lock: PartLock,
        *,
        options: PartOptions = PartOptions(),
        opened: bool = True,
    ) -> None:
        """Use :meth:`create` or :meth:`try_take`."""
        self.path = path
        self.id = path.name.removeprefix("part-")
        self.destination = destination
        self._lock = lock
        self._options = options
        self._keeps_damaged = False  # a row that was passed by is still in the files
        self.identities = Identities()
        self._undeleted: set[RowKey] = set()  # passed by, and still in the files
        self._store: Store
        self._ballast = Ballast(path / BALLAST, 0)
        self._quarantine = Quarantine(path / QUARANTINE)
        self._opener = StoreOpener(path, self._quarantine, self._ballast, fsync=options.fsync)
        self._age: AgeClock
        self._attempts: Attempts
        self._is_open = False
        if opened:
            self.open()

    def __repr__(self) -> str:
        return f"<Part {self.id}: {self.batches} batches, {self.records} records>"

    @classmethod
    def create(
        cls,
        spool_dir: Path,
        destination: Destination,
        *,
        options: PartOptions = PartOptions(),
        opened: bool = True,
    ) -> Part:
        """Make a new part and own it. With ``opened=False`` its database waits for :meth:`open`.

        Raises:
            SpoolError: the directory takes no new part.
        """
        try:
            path, lock = make_part(spool_dir, destination, fsync=options.fsync)
            return cls._owned(path, destination, lock, options=options, opened=opened)
        except OSError as error:
            raise SpoolError(f"no part can be made in the spool directory {spool_dir}: {error}") from error

    @classmethod
    def try_take(
        cls,
        path: Path,
        destination: Destination,
        *,
        options: PartOptions = PartOptions(),
        opened: bool = True,
    ) -> Part | None:
        """Take over a part that nobody owns. With ``opened=False`` its database waits for :meth:`open`.

        Returns:
            None if it is owned, gone, or of another destination.

        Raises:
            NewerPart: a newer version made it.
            SpoolError: it is free, but cannot be opened now.
        """
        lock = take_part(path, destination)
        if lock is None:
            return None
        return cls._owned(path, destination, lock, options=options, opened=opened)

    @classmethod
    def _owned(
        cls, path: Path, destination: Destination, lock: PartLock, *, options: PartOptions, opened: bool
    ) -> Part:
        try:
            return cls(path, destination, lock, options=options, opened=opened)
        except BaseException:
            lock.release()
            raise

    def open(self, known_damage: str | None = None) -> None:
        """Open the database; ``known_damage`` as in :meth:`StoreOpener.open`.

        Raises:
            SpoolError: that is not possible now; the part is still owned.
        """
        self._store = self._open_store() if known_damage is None else self._opener.open(known_damage)
        if self._options.ballast_bytes:
            share = shutil.disk_usage(self.path).total // _SHARE_OF_THE_DISK
            self._ballast.size_bytes = min(self._options.ballast_bytes, share)
        self._age = AgeClock(
            self._mark(AGE),
            self._options.clock,
            believed_seconds=self._options.max_age_seconds,
            at_least_ms=self._store.age_ms,
        )
        self._attempts = Attempts(self._mark(ATTEMPTS), self._store.newest)
        self._is_open = True
        with suppress(OSError):
            self._ballast.make()  # what only a journal holds when its owner dies needs it, too
        if not self.empty:
            self.keep_time(at_once=True)

    # ---------------------------------------------------------------- what is in it

    @property
    def batches(self) -> int:
        """Rows."""
        return self._store.batches if self._is_open else 0

    @property
    def records(self) -> int:
        """Records in all rows."""
        return self._store.records if self._is_open else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of all rows; the files are somewhat larger."""
        return self._store.bytes if self._is_open else 0

    def bytes_of(self, level: str | None) -> int:
        """Bytes of the rows with this highest level; None: of an earlier version, which did not say."""
        return self._store.bytes_by_level[level]

    @property
    def empty(self) -> bool:
        """Whether no row waits for delivery."""
        return self.batches == 0

    def notes(self) -> tuple[str, ...]:
        """What was found at the opening that a person should know, a sentence each."""
        return tuple(self._opener.notes)

    def take_damaged_records(self) -> int:
        """How many records were lost in a damaged spool; each is told of once."""
        lost, self._opener.damaged_records = self._opener.damaged_records, 0
        return lost

    # ---------------------------------------------------------------- what it takes

    def footprint(self) -> Footprint:
        """What the part takes of the disk, and will take without another row.

        Raises:
            SpoolError: that cannot be told now.
        """
        seen = footprint_of(self.path)
        rows = self._store.bytes_on_disk()
        database, log = (_size(self.path / SPOOL / name) for name in (DATABASE, DATABASE + "-wal"))
        log_to_come = max(0, LOG_BYTES - log)
        return Footprint(
            rows,
            seen.fixed + self._store.empty_bytes + log_to_come + self._ballast.missing_bytes,
            max(0, rows - database) + log_to_come + self._ballast.missing_bytes,
        )

    def age_ms(self, key: RowKey) -> int:
        """For how long the row has been here, by the part's own clock; 0 where its key does not say it."""
        return 0 if key.age_ms is None else max(0, self._age.now_ms() - key.age_ms)

    def keep_time(self, *, at_once: bool = False) -> None:
        """Let the next owner know what the part's clock shows; to be called every few seconds."""
        if not self.empty:
            self._age.save(at_once=at_once)

    def expect_emptying(self) -> None:
        """All rows are about to be delivered: where the disk has plenty of room, some goes for speed."""
        with suppress(OSError):
            if shutil.disk_usage(self.path).free > _PLENTY_BYTES:
                self._store.let_log_grow()

    # ---------------------------------------------------------------- journals

    def journals(self) -> list[Path]:
        """The journals in this part, oldest first."""
        return journals_in(self.path)

    def new_journal_path(self) -> Path:
        """Where this owner's journal belongs: behind all that are there."""
        return new_journal_in(self.path)

    # ---------------------------------------------------------------- rows

    def next_spool_id(self) -> BatchId:
        """The identity for a batch that is spooled without ever having been attempted."""
        return self.identities.next_id()

    def append(self, batch: Batch, *, inherited: bool = False) -> None:
        """Write a batch behind all others; one that this opening wrote before under its identity is replaced.

        Args:
            batch: what to write.
            inherited: its identity was given by an owner that has ended.

        Raises:
            SpoolError: it was not written.
        """
        if inherited and not (self.empty or self._has_room_beside_rows()):
            raise SpoolFull(f"{self.path} has room for one row at a time only, and for its deletion")
        row = encode_row(batch)
        key = self.identities.key_of(batch.id)
        if key is None:
            key = self._store.new_key(len(batch.values), len(row), level_of(row), self._age.now_ms())
            # Kept also if the write fails: should it be done all the same, its repetition replaces it.
            self.identities.note(batch.id, key, inherited=inherited)
        if inherited and self.empty:
            # On a full disk that is all that can be done: one row at a time, in the room that is kept for
            # its deletion. Otherwise what a journal holds would never come out.
            self._with_ballast(lambda: self._store.put(key, row))
        else:
            self._make_ballast()
            self._store.put(key, row)
        self.keep_time()

    def find(self, batch_id: BatchId) -> bool:
        """Whether a batch is there, after `append` failed: some writes are done all the same.

        Raises:
            SpoolError: that cannot be told now.
        """
        key = self.identities.key_of(batch_id)
        return key is not None and self._store.find(key)

    def has(self, key: RowKey) -> bool:
        """Whether a row is there.

        Raises:
            SpoolError: that cannot be told now.
        """
        return self._store.find(key)

    def awaits_row_before(self, key: RowKey) -> bool:
        """Whether an older row than this may still come: its write failed, and is tried again."""
        return self._store.awaits_row_before(key)

    def is_newest(self, batch_id: BatchId) -> bool:
        """Whether the last row of all is this batch's.

        Raises:
            SpoolError: that cannot be told now.
        """
        key = self._store.newest()
        try:
            return key is not None and self.read(key).batch.id == batch_id
        except (CorruptRow, NewerFormat):
            return False

    def replace(self, key: RowKey, batch: Batch) -> None:
        """Write a row anew in its place: the same records and identity, attempted by now.

        Raises:
            SpoolError: it was not written.
        """
        self._with_ballast(lambda: self._store.put(key, encode_row(batch)))

    def peek(self, after: RowKey | None = None) -> RowKey | None:
        """The oldest row, or the oldest behind ``after`` (which may be gone already)."""
        return self._store.peek(after)

    def read(self, key: RowKey) -> Row:
        """Read a row.

        Raises:
            CorruptRow: it is damaged; see :meth:`quarantine`.
            SpoolDamaged: the database is; see :meth:`go_on_with_intact`.
            NewerFormat: a newer version wrote it; it stays, and is passed by with ``peek(after=key)``.
            SpoolError: it cannot be read now.
        """
        row = decode_row(self._store.read(key))
        if len(row.batch.values) != key.records:
            raise SpoolDamaged(f"the key of row {key} in {self.path} is not the one that it was written with")
        return self._attempts.as_attempted(key, row)

    def hand_out(self, key: RowKey, attempted_by: AttemptedBy) -> Row:
        """Read a row that is to be delivered next.

        From now on the next owner takes it, and all before it, for attempted in this way: a process may be
        killed during its first attempt, before anything can be noted on the row.

        Raises:
            CorruptRow, NewerFormat, SpoolError: as :meth:`read`.
        """
        row = self.read(key)
        with suppress(SpoolError, OSError):  # it is delivered all the same
            if self._attempts.may_include(key):
                self.replace(key, row.batch)  # for the mark now tells of this owner
            self._attempts.note(key, attempted_by, self._options.clock.epoch_ms())
        return row

    def ack(self, key: RowKey) -> None:
        """Delete a row: it is in Redis, or it was given up. No harm is done if it is gone.

        Raises:
            SpoolError: it is still there.
        """
        self._with_ballast(lambda: self._store.delete(key))
        self.identities.forget(key)

    def pass_by(self, key: RowKey) -> None:
        """Take a row for gone that could not be deleted: its files keep it for now."""
        self._store.pass_by(key)
        self.identities.forget(key)
        self._undeleted.add(key)

    def delete_passed(self) -> None:
        """Delete what was passed by, for it takes room.

        Raises:
            SpoolError: some of it is still there.
        """
        for key in sorted(self._undeleted):
            self._with_ballast(partial(self._store.delete_passed, key))
            self._undeleted.discard(key)

    def quarantine(self, key: RowKey) -> None:
        """Put a damaged row aside, byte for byte, and count it no more. Never raises.

        Where that fails, as on a full disk, the row is passed by and stays in the files until the next
        opening.
        """
        try:
            self._quarantine.keep(f"{key}.row", self._store.read(key))
            self._with_ballast(lambda: self._store.delete(key))
        except (PlumelogError, OSError):
            self._keeps_damaged = True  # what could not be put aside is not deleted either
        self._store.pass_by(key)
        self.identities.forget(key)

    def keep_aside(self, name: str, data: bytes) -> None:
        """Put bytes that are no record into quarantine; once, however often it is asked for.

        Raises:
            OSError: that is not possible now.
        """
        self._quarantine.keep_once(name, data)

    def set_aside(self, path: Path) -> Path:
        """Move a file of this part into quarantine, as it is.

        Raises:
            OSError: that is not possible now.
        """
        return self._quarantine.move_in(path)

    def go_on_with_intact(self, reason: str) -> int:
        """Put a damaged spool aside, as it is, and go on with what is intact in it, under the same keys.

        Returns:
            How many records fewer there are than before; below zero where some were found that had gone.

        Raises:
            SpoolError: that is not possible now.
        """
        records = self.records
        self._store.close()
        self._store = self._opener.salvage(reason, newest=self._store.newest_given)
        self.identities.forget_unless(self._store.find)
        return records - self.records

    def start_anew(self) -> int:
        """Put the whole spool aside, as it is, and begin an empty one.

        Returns:
            The number of records that were in it.

        Raises:
            SpoolError: no new one can be made.
        """
        records = self.records
        self._store.close()
        self.identities.forget_unless(lambda _key: False)
        self._undeleted.clear()
        self._opener.put_aside("was damaged")
        self._store = self._new_store()
        return records

    # ---------------------------------------------------------------- ending

    def is_there(self) -> bool:
        """Whether the part is still where it was taken: somebody may have deleted or replaced it."""
        return self._lock.is_there()

    def close_database(self) -> None:
        """Let go of the database, in the thread that opened it; the part is still owned. Never raises."""
        if self._is_open:
            self.keep_time(at_once=True)
            self._store.close()

    def publish(self) -> Path:
        """Make a part, and anybody's, of one that was made under a name by which nobody takes it for one.

        Raises:
            OSError: that is not possible.
        """
        self.close_database()
        self.path = give_name(self.path, self._lock, fsync=True)
        self._lock.release()
        return self.path

    def close(self) -> None:
        """Let go of the part; its files stay for the next owner. Never raises, and may be repeated."""
        self.close_database()
        self._lock.release()

    def remove(self) -> bool:
        """Close the part and remove its files, if nothing at all is in it. Never raises.

        Returns:
            Whether it is removed; it is closed in any case.
        """
        if self._is_open:
            empty = self.empty and not self._keeps_damaged
        else:
            empty = not os.path.lexists(self.path / SPOOL)  # nobody has looked into it
        self.close_database()
        removed = False
        if empty:
            with suppress(OSError):
                remove_files(self.path)
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

    def _open_store(self) -> Store:
        return self._opener.open()

    def _new_store(self) -> Store:
        return self._opener.open_intact()

    def _has_room_beside_rows(self) -> bool:
        return shutil.disk_usage(self.path).free >= _ROOM_FOR_A_ROW_BYTES

    def _with_ballast(self, write: Callable[[], None]) -> None:
        """Make a change that gives room back; on a full disk with the room that is kept for it."""
        try:
            write()
        except SpoolFull:
            self._ballast.release()
            self._store.shrink_log()
            write()

    def _make_ballast(self) -> None:
        """Before anything new is written. Else a spool that filled the disk could never be emptied."""
        try:
            self._ballast.make()
        except OSError:
            self._store.shrink_log()  # which may be what it was given up for
            try:
                self._ballast.make()
            except OSError as error:
                raise SpoolFull(
                    f"{self.path} has no room for the file without which a full disk could not be emptied: "
                    f"{error}"
                ) from error

    def _mark(self, name: str) -> Mark:
        return Mark(self.path / name)


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
