"""What parts hold, batch by batch, seen from outside.

Promises:

- Nothing is changed and nothing left behind: beside a living owner, on a disk that cannot be written, and of
  what an owner left that was killed.
- A batch is seen once, also while a journal's batches become rows. What goes away meanwhile may be left out;
  what an owner adds after the beginning is.
- Little is in memory at a time: some rows, or a journal.
- What is damaged is seen as such, and hides nothing that is intact.

A living owner's journal is its own business: it is memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .._batch import AttemptedBy, Batch, BatchId
from .._journal import JournalError, see_into
from ._attempts import Doubt
from ._directory import PartInfo
from ._files import Mark
from ._look import rows_of
from ._part_directory import ATTEMPTS, journals_in, store_in
from ._row import CorruptRow, NewerFormat, Row, RowKey, decode_head, decode_row, dt_time_ms, highest_level


@dataclass(frozen=True, slots=True)
class SeenBatch:
    """A batch as it looks from outside."""

    id: str  # "<part>.<counter>"; in a dead owner's journal "<part>.journal-<n>.<place>"
    part: PartInfo
    batch: Batch | None  # None: damaged, or of a newer version
    records: int
    bytes: int  # of a row, or of a journal's values
    first_ms: int | None  # dtTime of the first record, epoch milliseconds; None where unknown
    last_ms: int | None  # of the last
    level: str  # the highest among the records; "" where unknown
    problem: str | None  # why there is no batch, in one sentence


def batches_of(spool_dir: Path, part: PartInfo, *, with_values: bool = True) -> Iterator[SeenBatch]:
    """What a part holds, oldest first.

    Args:
        spool_dir: the spool directory.
        part: one of its parts, as a survey saw it just now.
        with_values: whether the batches come with their records. Without, damage among these is not noticed.

    Raises:
        SpoolError: its files cannot be read now.
    """
    path = spool_dir / f"part-{part.id}"
    # Before the rows: what a new owner brings into rows meanwhile is then seen twice rather than never.
    left = _journaled(path, part, with_values=with_values) if part.owner == "dead" else []
    doubt = Doubt.in_mark(Mark(path / ATTEMPTS))
    in_rows: set[BatchId] = set()
    in_journals = {seen.batch.id for seen in left if seen.batch is not None}
    store = store_in(path)
    rows = rows_of(store, whole=with_values, is_live=part.owner == "live") if store else ()
    for key, data in rows:
        seen = _seen_row(part, key, data, doubt, with_values=with_values)
        if seen.batch is not None and seen.batch.id in in_journals:
            in_rows.add(seen.batch.id)
        yield seen
    for seen in left:
        if seen.batch is None or seen.batch.id not in in_rows:
            yield seen


def _seen_row(
    part: PartInfo, key: RowKey, data: bytes | None, doubt: Doubt, *, with_values: bool
) -> SeenBatch:
    seen = SeenBatch(
        id=f"{part.id}.{key.counter}",
        part=part,
        batch=None,
        records=key.records,
        bytes=key.size,
        first_ms=None,
        last_ms=None,
        level=key.level or "",
        problem="the batch is damaged",
    )
    if data is None:
        return seen
    try:
        row: Row = decode_row(data) if with_values else decode_head(data)
    except NewerFormat as error:
        return replace(seen, problem=str(error))
    except CorruptRow as error:
        return replace(seen, problem=str(error))
    batch = row.batch
    if batch.attempted_by is AttemptedBy.NOBODY and key.counter <= doubt.upto:
        batch = replace(batch, attempted_by=doubt.by, last_attempt_ms=doubt.at_ms)
    return replace(
        seen,
        batch=batch,
        records=len(batch.values) if with_values else key.records,
        first_ms=row.first_ms or None,
        last_ms=row.last_ms or None,
        level=row.level,
        problem=None,
    )


def _journaled(path: Path, part: PartInfo, *, with_values: bool) -> list[SeenBatch]:
    found: list[SeenBatch] = []
    with suppress(FileNotFoundError):  # the part is gone
        for journal in journals_in(path):
            name = f"{part.id}.{journal.name}"
            nothing = SeenBatch(f"{name}.1", part, None, 0, 0, None, None, "", None)
            try:
                batches, corrupt = see_into(journal)
            except JournalError as error:
                if journal.exists():
                    found.append(replace(nothing, problem=str(error)))
                continue
            for place, batch in enumerate(batches, 1):
                first, last = batch.values[0], batch.values[-1]
                found.append(
                    SeenBatch(
                        id=f"{name}.{place}",
                        part=part,
                        batch=batch if with_values else replace(batch, values=()),
                        records=len(batch.values),
                        bytes=batch.size_bytes,
                        first_ms=dt_time_ms(first) or None,
                        last_ms=dt_time_ms(last) or None,
                        level=highest_level(b"\n".join(batch.values)),
                        problem=None,
                    )
                )
            for place, stretch in enumerate(corrupt, len(batches) + 1):
                found.append(
                    replace(
                        nothing,
                        id=f"{name}.{place}",
                        records=stretch.records,
                        bytes=len(stretch.data),
                        problem=f"a stretch of the journal {journal} is damaged",
                    )
                )
    return found
