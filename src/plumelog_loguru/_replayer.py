"""The replay: the spool's rows in order, one in flight, until none is left.

It decides nothing about *when*: the courier (beside live traffic) and the command line (alone) ask it for one
row at a time, and for one step at a time until the row is settled. A row that Redis has taken, but for those
of its records that are dead letters now, is booked and acknowledged to the spool; one that is not settled yet
stays in hand and goes on under the same identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ._batch import AttemptedBy, Batch
from ._clock import Clock
from ._delivery import Sender
from ._destination import Destination
from ._dissection import Disk, Dissection, Settled, Step, Stuck
from ._ledger import Ledger
from ._spool import SpooledRow

_READ_SECONDS = 0.2


class RowSource(Disk, Protocol):
    """Where rows come from: the spool thread."""

    def request_row(self, give: Callable[[SpooledRow | None], None], *, attempted_by: AttemptedBy) -> None:
        """Give the next row, or None; it will be attempted in this way."""
        ...

    def acknowledge(self, row: SpooledRow) -> None: ...

    def restamp(self, row: SpooledRow, batch: Batch) -> None: ...

    def leave(self, row: SpooledRow) -> None:
        """It cannot be settled now: others first, then it is given again."""
        ...


class Replayer:
    """Delivers rows one at a time, and reads one ahead while one is in flight."""

    def __init__(
        self,
        source: RowSource,
        sender: Sender,
        *,
        ledger: Ledger,
        clock: Clock,
        destination: Destination,
        retry_count: int,
        lane_ttl_seconds: float,
    ) -> None:
        """``retry_count``: a row is refused when so many attempts more fail, and Redis takes the probes."""
        self._source = source
        self._sender = sender
        self._ledger = ledger
        self._clock = clock
        self._destination = destination
        self._lane_ttl_seconds = lane_ttl_seconds
        self.retry_count = retry_count
        self._in_hand: SpooledRow | None = None
        self._dissection: Dissection | None = None  # of the row in hand
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
            self._in_hand = row
            self._dissection = Dissection(
                row.row.batch,
                destination=self._destination,
                retry_count=self.retry_count,
                clock=self._clock,
                lane_ttl_seconds=self._lane_ttl_seconds,
                kept=True,
            )
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

    async def deliver(self, row: SpooledRow) -> Step:
        """Take the next step with the row in hand, mostly an attempt. One that is stuck is left for later."""
        dissection = self._dissection
        assert row is self._in_hand and dissection is not None, "only the row in hand is delivered"
        if self._ahead is None:
            self._ahead = self._request()
        stamp = dissection.stamp
        step = await dissection.step(self._sender, self._source)
        if isinstance(step, Settled):
            self._book(row, step)
            self._source.acknowledge(row)
        elif dissection.stamp != stamp:
            self._source.restamp(row, dissection.stamp)
        if isinstance(step, Stuck):
            self._source.leave(row)
        if isinstance(step, (Settled, Stuck)):
            self._in_hand = self._dissection = None
        return step

    def _request(self) -> asyncio.Future[SpooledRow | None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SpooledRow | None] = loop.create_future()

        def give(row: SpooledRow | None) -> None:
            if not future.done():
                future.set_result(row)

        self._source.request_row(give, attempted_by=self._sender.attempts_by)
        return future

    def _book(self, row: SpooledRow, settled: Settled) -> None:
        ledger = self._ledger
        ledger.replayed(row.part_id, settled.delivered)
        ledger.dead_lettered(len(settled.letters), row.part_id)
        ledger.already_applied += settled.already_applied
        ledger.possibly_doubled += settled.possibly_doubled
