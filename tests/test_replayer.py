"""Rows go in order, one in flight, under their identities, and each is booked once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, cast

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId
from plumelog_loguru._delivery import (
    AlreadyApplied,
    Applied,
    Failed,
    Failure,
    FailureKind,
    Fenced,
    Healthy,
    Outcome,
    Sender,
)
from plumelog_loguru._destination import Destination
from plumelog_loguru._dissection import Onward, Settled, Step, Suspected
from plumelog_loguru._ledger import Ledger
from plumelog_loguru._replayer import Replayer
from plumelog_loguru._spool import DeadLetters, RowKey, SpooledRow
from plumelog_loguru._spool._row import Row

LANE = "a" * 32
TTL_SECONDS = 60.0
NOW_MS = 1_000_000
AWAY = Failure(FailureKind.TRANSIENT, "TIMEOUT", "no answer", in_doubt=True)
REFUSED = Failure(FailureKind.TRANSIENT, "REFUSED", "nobody listens", in_doubt=False)


def spooled_row(
    seq: int, by: AttemptedBy = AttemptedBy.NOBODY, last_attempt_ms: int = 0, part_id: str = "part"
) -> SpooledRow:
    batch = Batch(BatchId(LANE, seq), (b"1", b"2"), by, last_attempt_ms)
    return SpooledRow(part_id, 0, RowKey(seq, 2, 10), Row(batch, 0, 0, ""))


class FakeSource:
    """The spool as a list; what it gives may be held back."""

    def __init__(self, *rows: SpooledRow) -> None:
        self.rows = list(rows)
        self.asked = 0
        self.held: list[Callable[[], None]] | None = None
        self.acknowledged: list[SpooledRow] = []
        self.restamped: list[tuple[SpooledRow, Batch]] = []
        self.left: list[SpooledRow] = []

    def request_row(self, give: Callable[[SpooledRow | None], None], *, attempted_by: AttemptedBy) -> None:
        self.asked += 1
        row = self.rows.pop(0) if self.rows else None
        if self.held is None:
            give(row)
        else:
            self.held.append(lambda: give(row))

    def acknowledge(self, row: SpooledRow) -> None:
        self.acknowledged.append(row)

    def restamp(self, row: SpooledRow, batch: Batch) -> None:
        self.restamped.append((row, batch))

    def leave(self, row: SpooledRow) -> None:
        self.left.append(row)

    def ask_letters(self, work: Callable[[DeadLetters], bool], give: Callable[[bool | None], None]) -> None:
        give(False)


class FakeSender:
    """Answers from a list, then always that the batch is applied."""

    attempts_by = AttemptedBy.SCRIPT

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.sent: list[Batch] = []

    async def send(self, batch: Batch) -> Outcome:
        self.sent.append(batch)
        await asyncio.sleep(0)
        return self.answers.pop(0) if self.answers else Applied(batch.id.seq - 1, 2)

    async def probe(self) -> Healthy:
        return Healthy(0)

    async def hang_up(self) -> None: ...

    def stamped(self, batch: Batch) -> Batch:
        return replace(batch, attempted_by=AttemptedBy.SCRIPT, last_attempt_ms=NOW_MS)


class Clock:
    def monotonic(self) -> float:
        return 0.0

    def epoch_ms(self) -> int:
        return NOW_MS


class Rig:
    def __init__(self, *rows: SpooledRow, answers: tuple[Outcome, ...] = ()) -> None:
        self.source = FakeSource(*rows)
        self.sender = FakeSender(*answers)
        self.ledger = Ledger()
        self.ledger.adopted("part", 2 * len(rows))
        self.replayer = Replayer(
            self.source,
            cast("Sender", self.sender),
            ledger=self.ledger,
            clock=Clock(),
            destination=Destination("server:6379", 0, "list", "left"),
            retry_count=3,
            lane_ttl_seconds=TTL_SECONDS,
        )

    async def attempt(self) -> Step:
        row = await self.replayer.fetch()
        assert row is not None
        return await self.replayer.deliver(row)

    async def replay(self) -> None:
        while (row := await self.replayer.fetch()) is not None:
            await self.replayer.deliver(row)


def records_of(rig: Rig, part_id: str) -> int:
    return sum(row.records for row in rig.replayer.rows_of(part_id))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_all_rows_go_in_order_and_are_acknowledged() -> None:
    """Each row is sent once under its identity, booked, and then deleted; then there is none."""
    rows = [spooled_row(seq) for seq in (1, 2, 3)]
    rig = Rig(*rows)
    run(rig.replay())
    assert rig.sender.sent == [row.row.batch for row in rows]
    assert rig.source.acknowledged == rows
    assert (rig.ledger.settled.delivered, rig.ledger.settled.spooled) == (6, 0)
    assert (rig.ledger.already_applied, rig.ledger.possibly_doubled) == (0, 0)


def test_one_row_is_read_ahead_and_no_more() -> None:
    """While a row is in flight the next is asked for, and it waits in hand for its turn."""
    rig = Rig(*(spooled_row(seq) for seq in (1, 2, 3)))

    async def main() -> None:
        await rig.replayer.fetch()
        assert rig.source.asked == 1
        await rig.attempt()
        assert rig.source.asked == 2
        assert records_of(rig, "part") == 2
        assert records_of(rig, "another") == 0
        await rig.replayer.fetch()
        assert rig.source.asked == 2

    run(main())


@pytest.mark.parametrize(("failure", "in_doubt"), [(AWAY, True), (REFUSED, False)])
def test_a_row_that_failed_stays_in_hand(failure: Failure, in_doubt: bool) -> None:
    """It is tried again under its identity before any other; only what is in doubt is noted on disk."""
    first = spooled_row(1)
    rig = Rig(first, spooled_row(2), answers=(Failed(failure),))

    async def main() -> None:
        assert await rig.attempt() == (Suspected(failure, 0) if in_doubt else Failed(failure))
        assert rig.ledger.settled.delivered == 0
        assert records_of(rig, "part") == 4
        if in_doubt:
            assert await rig.attempt() == Onward()  # a probe: is it Redis, or the row?
        assert isinstance(await rig.attempt(), Settled)
        assert isinstance(await rig.attempt(), Settled)

    run(main())
    assert [batch.id.seq for batch in rig.sender.sent] == [1, 1, 2]
    stamped = replace(first.row.batch, attempted_by=AttemptedBy.SCRIPT, last_attempt_ms=NOW_MS)
    assert rig.sender.sent[1] == (stamped if in_doubt else first.row.batch)
    assert rig.source.restamped == ([(first, stamped)] if in_doubt else [])
    assert rig.source.acknowledged[0] == first


def test_a_batch_that_redis_has_already_is_done() -> None:
    """A lost reply: the row is booked as delivered, counted, and deleted."""
    rig = Rig(spooled_row(1, AttemptedBy.SCRIPT, NOW_MS), answers=(AlreadyApplied(1),))
    run(rig.replay())
    assert (rig.ledger.settled.delivered, rig.ledger.already_applied) == (2, 1)
    assert len(rig.source.acknowledged) == 1


def test_a_fenced_batch_goes_under_an_identity_that_follows_from_its_own() -> None:
    """Whoever repeats the step repeats the same one; and a second fence is never taken for delivery."""
    rig = Rig(spooled_row(4), answers=(Fenced(5), Fenced(1), Applied(0, 1), Applied(1, 2)))
    run(rig.replay())
    first, second = BatchId(f"{LANE}.4", 1), BatchId(f"{LANE}.4", 2)
    assert [(batch.id, batch.values) for batch in rig.sender.sent] == [
        (BatchId(LANE, 4), (b"1", b"2")),
        (first, (b"1",)),
        (BatchId(f"{LANE}.4.1", 1), (b"1",)),
        (second, (b"2",)),
    ]
    assert rig.ledger.settled.delivered == 2


def test_a_part_of_a_fenced_batch_that_fails_is_repeated() -> None:
    """What is in doubt is the part; the row is noted to be in doubt, and stays under its own identity."""
    row = spooled_row(4)
    rig = Rig(row, answers=(Fenced(5), Failed(AWAY)))

    async def main() -> None:
        assert await rig.attempt() == Onward()
        assert await rig.attempt() == Suspected(AWAY, 0)
        assert await rig.attempt() == Onward()

    run(main())
    run(rig.replay())
    first, second = BatchId(f"{LANE}.4", 1), BatchId(f"{LANE}.4", 2)
    assert [batch.id for batch in rig.sender.sent] == [row.row.batch.id, first, first, second]
    stamped = replace(row.row.batch, attempted_by=AttemptedBy.SCRIPT, last_attempt_ms=NOW_MS)
    assert rig.source.restamped == [(row, stamped)]


@pytest.mark.parametrize(
    ("by", "age_ms", "found", "doubled"),
    [
        (AttemptedBy.NOBODY, 0, 0, 0),
        (AttemptedBy.PLAIN, 0, 0, 2),  # a plain push cannot be recognised
        (AttemptedBy.SCRIPT, 59_999, 0, 0),  # Redis would know the lane
        (AttemptedBy.SCRIPT, 60_001, 0, 2),  # Redis had the right to forget it
        (AttemptedBy.SCRIPT, 60_001, 3, 0),  # and did not
    ],
)
def test_what_may_be_doubled_is_counted(by: AttemptedBy, age_ms: int, found: int, doubled: int) -> None:
    """Only where nobody can tell whether an earlier attempt had worked, the records count as in doubt."""
    rig = Rig(spooled_row(4, by, NOW_MS - age_ms), answers=(Applied(found, 2),))
    run(rig.replay())
    assert rig.ledger.possibly_doubled == doubled


def test_an_empty_spool_is_asked_again_each_time() -> None:
    """None is not remembered: a row that comes later is found."""
    rig = Rig()

    async def main() -> None:
        assert await rig.replayer.fetch() is None
        assert await rig.replayer.fetch() is None
        rig.source.rows.append(spooled_row(1))
        assert await rig.replayer.fetch() is not None

    run(main())


def test_a_row_that_is_on_its_way_counts_as_held_once_it_is_here() -> None:
    """What was read ahead is delivered whatever becomes of its part, and must not be counted as lost."""
    rig = Rig(spooled_row(1), spooled_row(2))

    async def main() -> None:
        assert await rig.replayer.fetch() is not None
        rig.source.held = []
        await rig.attempt()
        assert records_of(rig, "part") == 0
        rig.source.held.pop()()
        assert records_of(rig, "part") == 2

    run(main())
