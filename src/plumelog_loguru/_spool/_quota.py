"""What the spool may take of the disk, and which rows go where that, or their time, is up.

Promises, each exact to one batch:

- All files in the directory, of all parts, stay within ``max_bytes``. What is there whatever waits (journals,
  ballast, logs of databases) has at most half of it: else it comes on top, and that is said once.
- ``min_free_bytes`` of the disk stay free. Where others take them, the spool grows no more: a row is dropped
  for each that comes, and no row for nothing.
- A row that was handed out is never dropped: it may be in Redis already.
- Every drop is told, with its reason and the time span of its records.

Everything here runs in the spool thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .._batch import Batch, BatchId
from .._clock import Clock
from ._common import Common
from ._directory import SpoolDirectory
from ._failures import SpoolDamaged, SpoolVanished
from ._files import Footprint
from ._part import Part
from ._row import LEVELS, CorruptRow, NewerFormat, RowKey, highest_level

_LEAST_FOR_ROWS = 8 << 20  # of a small limit, rows have this much, or all of it
_SHARE_OF_TIME = 20  # to look at other parts takes at most one in so many seconds
_TRIES = 3  # where parts break meanwhile
_EXPIRED_AT_ONCE = 10  # rows; then others have their turn


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings."""

    max_bytes: int
    full_policy: str
    min_free_bytes: int = 0
    max_age_seconds: float = 0.0  # 0: for ever


class Quota:
    """Makes room for a batch, where that is possible."""

    def __init__(
        self,
        limits: Limits,
        common: Common,
        *,
        parts: Callable[[], Sequence[Part]],
        keep: Callable[[Part, RowKey], bool],
        tell_loss: Callable[[Part, int, str, int, int], None],
        tell_broken: Callable[[Part, SpoolVanished | SpoolDamaged], object],
        clock: Clock,
    ) -> None:
        """The quota of a spool.

        Args:
            limits: the settings.
            common: what all rooms are given.
            parts: those that are ours, in the order in which they are delivered; the last is written to.
            keep: whether a row must not be dropped.
            tell_loss: told of records that were dropped: part, number, reason, first and last ``dtTime``.
            tell_broken: told of a part that can no longer be used.
            clock: to measure time.
        """
        self._limits = limits
        self._common = common
        self._parts = parts
        self._keep = keep
        self._tell_loss = tell_loss
        self._tell_broken = tell_broken
        self._clock = clock
        self.directory: SpoolDirectory | None = None
        self._others = Footprint()
        self._look_at = 0.0
        self._small_told = False
        # What was dropped for the batch that is to be written: the disk may show it later.
        self._freed_bytes = 0
        self._freed_for: BatchId | None = None
        self._searched: dict[tuple[str, str | None], RowKey] = {}  # no row of this level up to there

    def search_anew(self) -> None:
        """Rows that were kept may be dropped again."""
        self._searched.clear()

    # ---------------------------------------------------------------- size

    def make_room(self, batch: Batch, may_drop: bool = True) -> bool:
        """Whether a row of this batch may be written, after the policy has done what it may.

        Args:
            batch: what is to be written.
            may_drop: whether rows may go for it.

        Raises:
            SpoolError: the disk does not do what was asked; the part that is written to may be broken.
        """
        if batch.id != self._freed_for:
            self._freed_for, self._freed_bytes = batch.id, 0
        for _ in range(_TRIES):
            parts = self._parts()
            try:
                deficit = batch.size_bytes - self._may_grow(parts)
                if deficit <= 0:
                    return True
                if not may_drop:
                    return False
                victims = self._victims(parts, batch, deficit)
                for part, key in victims:
                    self._drop(part, key, "spool_full")
                return bool(victims)
            except _Broken as error:
                if error.part is parts[-1]:
                    raise error.cause from None
                self._tell_broken(error.part, error.cause)
        return False

    def _may_grow(self, parts: Sequence[Part]) -> int:
        """By how many bytes the rows may grow; negative: they must shrink."""
        limits, directory = self._limits, self.directory
        assert directory is not None
        mine = Footprint()
        for part in parts:
            with self._careful(part):
                mine += part.footprint()
        others = self._footprint_of_others(directory, parts)
        fixed = mine.fixed + others.fixed
        for_rows = max(
            limits.max_bytes - fixed, limits.max_bytes // 2, min(limits.max_bytes, _LEAST_FOR_ROWS)
        )
        if for_rows > limits.max_bytes - fixed and not self._small_told:
            self._small_told = True
            self._common.report(
                "spool-small",
                f"spool_max_bytes ({limits.max_bytes}) is small beside the journals and other files that the "
                f"spool always has ({fixed} bytes): rows have {for_rows} bytes, and all of it may take "
                f"{fixed + for_rows}",
            )
        growth = for_rows - mine.rows - others.rows
        if growth < 0 and others.rows >= for_rows:
            growth = 0  # whatever is dropped here, it would not be enough
        free = directory.free_bytes() - limits.min_free_bytes - mine.to_come
        return min(growth, max(0, free) + self._freed_bytes)

    def _footprint_of_others(self, directory: SpoolDirectory, parts: Sequence[Part]) -> Footprint:
        began = self._clock.monotonic()
        if began >= self._look_at:
            self._others = directory.footprint(without={part.id for part in parts})
            ended = self._clock.monotonic()
            self._look_at = ended + (ended - began) * _SHARE_OF_TIME
        return self._others

    def _victims(self, parts: Sequence[Part], batch: Batch, deficit: int) -> list[tuple[Part, RowKey]]:
        """Rows that make enough room when they are dropped; none where that cannot be."""
        victims: list[tuple[Part, RowKey]] = []
        for part, key in self._candidates(parts, batch, deficit):
            victims.append((part, key))
            deficit -= key.size
            if deficit <= 0:
                return victims
        return []

    def _candidates(self, parts: Sequence[Part], batch: Batch, deficit: int) -> Iterator[tuple[Part, RowKey]]:
        """What the policy lets go, in this order."""
        if self._limits.full_policy == "drop_oldest":
            if sum(part.row_bytes for part in parts) >= deficit:  # else there is no need to look
                for part in parts:
                    yield from ((part, key) for key in self._rows(part))
        elif self._limits.full_policy == "drop_lowest_level":
            levels = _UP_TO[highest_level(b"\n".join(batch.values))]
            if sum(part.bytes_of(level) for part in parts for level in levels) >= deficit:
                for level in levels:
                    for part in parts:
                        yield from ((part, key) for key in self._rows_of(level, part))

    def _rows_of(self, level: str | None, part: Part) -> Iterator[RowKey]:
        if not part.bytes_of(level):
            return
        place = (part.id, level)
        found = False
        for key in self._rows(part, self._searched.get(place)):
            if key.level == level:
                found = True  # it may be needed, and still not be dropped
                yield key
            elif not found:
                self._searched[place] = key

    def _rows(self, part: Part, after: RowKey | None = None) -> Iterator[RowKey]:
        """The part's rows, oldest first, but those that must stay."""
        while True:
            with self._careful(part):
                after = part.peek(after)
            if after is None:
                return
            if not self._keep(part, after):
                yield after

    # ---------------------------------------------------------------- age

    def expire(self) -> float | None:
        """Drop some of the rows that are too old.

        Returns:
            In how many seconds to ask again; None: when there are rows again.

        Raises:
            SpoolError: the disk does not do what was asked.
        """
        soonest: float | None = None
        for part in self._parts():
            part.keep_time()
            if not self._limits.max_age_seconds:
                continue
            try:
                left = self._expire_some(part)
            except _Broken as error:
                self._tell_broken(part, error.cause)
                continue
            if left is not None and (soonest is None or left < soonest):
                soonest = left
        return soonest

    def _expire_some(self, part: Part) -> float | None:
        after = None
        for _ in range(_EXPIRED_AT_ONCE):
            with self._careful(part):
                after = part.peek(after)
            while after is not None and self._keep(part, after):
                with self._careful(part):
                    after = part.peek(after)
            if after is None:
                return None
            if not self._is_expired(part, after):
                return self._limits.max_age_seconds - part.age_ms(after) / 1000
            self._drop(part, after, "expired")
        return 0.0

    def drop_if_expired(self, part: Part, key: RowKey) -> bool:
        """Whether the row was too old to be delivered, and is dropped.

        Raises:
            SpoolError: the disk does not do what was asked.
        """
        if not self._is_expired(part, key) or self._keep(part, key):
            return False
        try:
            self._drop(part, key, "expired")
        except _Broken as error:
            raise error.cause from None
        return True

    def _is_expired(self, part: Part, key: RowKey) -> bool:
        limit = self._limits.max_age_seconds
        return limit > 0 and part.age_ms(key) >= limit * 1000

    # ---------------------------------------------------------------- inside

    def _drop(self, part: Part, key: RowKey, reason: str) -> None:
        first_ms = last_ms = 0
        with self._careful(part):
            try:
                row = part.read(key)
                first_ms, last_ms = row.first_ms, row.last_ms
            except (CorruptRow, NewerFormat) as error:
                if isinstance(error, CorruptRow) and reason == "expired":
                    reason = "corrupt"  # its age is as doubtful as all else; and no room is needed
                    part.quarantine(key)
            if reason != "corrupt":
                part.ack(key)
        self._freed_bytes += key.size
        self._tell_loss(part, key.records, reason, first_ms, last_ms)

    @contextmanager
    def _careful(self, part: Part) -> Iterator[None]:
        """A call into a part's files."""
        try:
            with self._common.sqlite_lock:
                yield
        except (SpoolVanished, SpoolDamaged) as error:
            raise _Broken(part, error) from error


class _Broken(Exception):
    def __init__(self, part: Part, cause: SpoolVanished | SpoolDamaged) -> None:
        super().__init__(part, cause)
        self.part = part
        self.cause = cause


# For a batch of this level, what may go: nothing that is higher. Rows of an earlier version are the last.
_UP_TO: dict[str, tuple[str | None, ...]] = {
    level: (*LEVELS[: rank + 1], *((None,) if level == LEVELS[-1] else ()))
    for rank, level in enumerate(LEVELS)
}
