"""The replay: the spool's rows in order, one in flight, until none is left.

It decides nothing about *when*: the courier (beside live traffic) and the command line (alone) ask it for one
row at a time. A row that Redis has taken is booked and acknowledged to the spool; one that failed stays in
hand and is tried again under the same identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ._batch import AttemptedBy, Batch, BatchId
from ._clock import Clock
from ._delivery import AlreadyApplied, Applied, Failed, Failure, Fenced, Sender
from ._ledger import Ledger
from ._spool import SpooledRow

_READ_SECONDS = 0.2


class RowSource(Protocol):
    """Where rows come from: the spool thread."""

    def request_row(self, give: Callable[[SpooledRow | None], None]) -> None: ...

    def acknowledge(self, row: SpooledRow) -> None: ...

    def restamp(self, row: SpooledRow, batch: Batch) -> None: ...


class Replayer:
    """Delivers rows one at a time, and reads one ahead while one is in flight."""

    def __init__(
        self, source: RowSource, sender: Sender, *, ledger: Ledger, clock: Clock, lane_ttl_seconds: float
    ) -> None:
        self._source = source
        self._sender = sender
        self._ledger = ledger
        self._clock = clock
        self._lane_ttl_ms = lane_ttl_seconds * 1000
        self._in_hand: SpooledRow | None = None
        self._batch: Batch | None = None  # the row in hand, with what its attempts have added
        self._ahead: asyncio.Future[SpooledRow | None] | None = None

    def rows_of(self, part_id: str) -> list[SpooledRow]:
        """A part's rows in hand or read ahead: they can be delivered, whatever becomes of the part."""
        return [row for row in self._rows() if row.part_id == part_id]

    def has(self, row: SpooledRow) -> bool:
        """Whether this row is still in hand or read ahead."""
        return any(one is row for one in self._rows())

    def _rows(self) -> list[SpooledRow]:
        rows = [self._in_hand]
        if self._ahead is not None and self._ahead.done() and not self._ahead.cancelled():
            rows.append(self._ahead.result())
        return [row for row in rows if row is not None]

    async def fetch(self) -> SpooledRow | None:
        """The row to deliver next; None if the spool has none, or cannot read it now.

        A disk that hangs must not keep live records from Redis, so it is not waited for without end.
        """
        if self._in_hand is None and (row := await self._ahead_or_next()) is not None:
            self._in_hand, self._batch = row, row.row.batch
        return self._in_hand

    async def _ahead_or_next(self) -> SpooledRow | None:
        for _ in range(2):  # there was none ahead; since then there may be
            self._ahead = self._ahead or self._request()
            if not self._ahead.done():
                await asyncio.wait([self._ahead], timeout=_READ_SECONDS)
            if not self._ahead.done():
                return None
            row = self._ahead.result()
            self._ahead = None
            if row is not None:
                return row
        return None

    async def deliver(self, row: SpooledRow) -> Failure | None:
        """Make one attempt with the row in hand; None when Redis has it."""
        batch = self._batch
        assert row is self._in_hand and batch is not None, "only the row in hand is delivered"
        if self._ahead is None:
            self._ahead = self._request()
        outcome = await self._sender.send(batch)
        while isinstance(outcome, Fenced):
            # Somebody began to take this batch out of its order, and was stopped before the work was done.
            # Its next identity follows from the old one, so that whoever repeats the step repeats the same.
            batch = replace(batch, id=BatchId(str(batch.id), 1), attempted_by=AttemptedBy.NOBODY)
            outcome = await self._sender.send(batch)
        if isinstance(outcome, Failed):
            self._note_attempt(row, batch, outcome.failure)
            return outcome.failure
        self._book(row, batch, outcome)
        self._in_hand = self._batch = None
        self._source.acknowledge(row)
        return None

    def _request(self) -> asyncio.Future[SpooledRow | None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SpooledRow | None] = loop.create_future()

        def give(row: SpooledRow | None) -> None:
            if not future.done():
                future.set_result(row)

        self._source.request_row(give)
        return future

    def _note_attempt(self, row: SpooledRow, batch: Batch, failure: Failure) -> None:
        if failure.in_doubt:
            self._batch = self._sender.stamped(batch)
            self._source.restamp(row, self._batch)

    def _book(self, row: SpooledRow, batch: Batch, outcome: Applied | AlreadyApplied) -> None:
        ledger = self._ledger
        ledger.replayed(row.part_id, row.records)
        if isinstance(outcome, AlreadyApplied):
            ledger.already_applied += 1
        elif batch.attempted_by is AttemptedBy.PLAIN or (
            # Redis no longer knows the lane, and had the right to forget it: nobody can tell what it had.
            batch.attempted_by is AttemptedBy.SCRIPT
            and outcome.last_found == 0
            and self._clock.epoch_ms() - batch.last_attempt_ms > self._lane_ttl_ms
        ):
            ledger.possibly_doubled += row.records
