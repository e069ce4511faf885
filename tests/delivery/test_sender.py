"""By script or plainly: when a sender falls back, and what it then never does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, cast

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId
from plumelog_loguru._delivery._acknowledged import Acknowledged
from plumelog_loguru._delivery._client import AsyncRedisClient
from plumelog_loguru._delivery._outcomes import (
    AlreadyApplied,
    Applied,
    Failed,
    Failure,
    FailureKind,
    Fenced,
    Healthy,
)
from plumelog_loguru._delivery._sender import Outcome, Sender

Delivery = Literal["exactly_once", "at_least_once"]

NO_SCRIPTS = Failed(
    Failure(
        FailureKind.OPERATOR,
        "NOPERM",
        "no permission to run the 'evalsha' command",
        in_doubt=False,
        scripting_unavailable=True,
    )
)
AWAY = Failed(Failure(FailureKind.TRANSIENT, "TIMEOUT", "no answer", in_doubt=True))
APPLIED = Applied(last_found=0, list_length=2)
BATCH = Batch(BatchId("a" * 32, 1), (b"1", b"2"))
IN_DOUBT = Batch(BATCH.id, BATCH.values, AttemptedBy.SCRIPT, 5)


class FakeClient:
    """Answers what the test says, and writes down what it was asked."""

    def __init__(self) -> None:
        self.scripted = True
        self.asked: list[str] = []
        self.by_script: Outcome = APPLIED
        self.plainly: Applied | Failed = APPLIED
        self.healthy_by_script: Healthy | Failed = Healthy(0)
        self.last: int | Failed = 0

    async def last_of(self, lane: str) -> int | Failed:
        self.asked.append(f"last of {lane[0]}")
        return self.last

    async def send_batch(self, batch: Batch) -> Outcome:
        self.asked.append("script")
        return self.by_script

    async def push_plain(self, values: Sequence[bytes]) -> Applied | Failed:
        assert tuple(values) == BATCH.values
        self.asked.append("plain")
        return self.plainly

    async def health_check(self) -> Healthy | Failed:
        self.asked.append("scripted probe" if self.scripted else "plain probe")
        return self.healthy_by_script if self.scripted else Healthy(7)


class Clock:
    """The moment at which a batch is stamped."""

    def monotonic(self) -> float:
        return 0.0

    def epoch_ms(self) -> int:
        return 1234


class Rig:
    def __init__(self, delivery: Delivery = "exactly_once") -> None:
        self.client = FakeClient()
        self.reports: list[tuple[str, str]] = []
        self.forgotten: list[int] = []
        self.sender = Sender(
            cast("AsyncRedisClient", self.client),
            delivery,
            clock=Clock(),
            report=lambda kind, sentence: self.reports.append((kind, sentence)),
            acknowledged=Acknowledged(60, Clock(), lambda records, which: self.forgotten.append(records)),
        )

    def send(self, batch: Batch = BATCH) -> Outcome:
        return asyncio.run(self.sender.send(batch))

    def probe(self) -> Healthy | Failed:
        return asyncio.run(self.sender.probe())

    def recount(self) -> Failed | None:
        return asyncio.run(self.sender.recount())


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("outcome", [APPLIED, AlreadyApplied(3), Fenced(3), AWAY])
def test_what_the_script_answers_is_the_outcome(rig: Rig, outcome: Outcome) -> None:
    """Where there are scripts, a batch is sent by script once, and the answer is passed on as it is."""
    rig.client.by_script = outcome
    assert rig.send() == outcome
    assert rig.client.asked == ["script"]
    assert (rig.sender.delivery, rig.reports) == ("exactly_once", [])


def test_a_server_without_scripts_gets_the_batch_plainly(rig: Rig) -> None:
    """On the server's own word before the first scripted push, this and all later batches go plainly."""
    rig.client.by_script = NO_SCRIPTS
    assert rig.send() == APPLIED
    assert rig.send() == APPLIED
    assert rig.client.asked == ["script", "plain", "plain"]
    assert rig.sender.delivery == "at_least_once"
    assert not rig.client.scripted
    assert [kind for kind, _ in rig.reports] == ["no-scripts"]


def test_a_probe_finds_out_as_well(rig: Rig) -> None:
    """The probe before the first batch falls back, and answers for the plain road."""
    rig.client.healthy_by_script = NO_SCRIPTS
    assert rig.probe() == Healthy(7)
    assert rig.client.asked == ["scripted probe", "plain probe"]
    assert rig.sender.delivery == "at_least_once"


@pytest.mark.parametrize("outcome", [APPLIED, AlreadyApplied(1), Fenced(1), Healthy(0)])
def test_once_scripts_have_worked_there_is_no_fall_back(rig: Rig, outcome: Any) -> None:
    """A right that is taken away later is for the operator: the promise is not given up in silence."""
    if isinstance(outcome, Healthy):
        rig.probe()
    else:
        rig.client.by_script = outcome
        rig.send()
    rig.client.by_script = rig.client.healthy_by_script = NO_SCRIPTS
    assert rig.send() == NO_SCRIPTS
    assert rig.probe() == NO_SCRIPTS
    assert "plain" not in rig.client.asked
    assert rig.sender.delivery == "exactly_once"


def test_other_failures_are_no_reason_to_fall_back(rig: Rig) -> None:
    """A server that is away says nothing about its scripts."""
    rig.client.by_script = AWAY
    rig.send()
    rig.client.by_script = NO_SCRIPTS
    assert rig.send() == APPLIED
    assert rig.client.asked == ["script", "script", "plain"]


def test_a_batch_that_a_script_may_have_applied_is_never_pushed_plainly(rig: Rig) -> None:
    """It is held, however often it is tried and whatever is noted of the tries."""
    rig.client.by_script = NO_SCRIPTS
    batch = IN_DOUBT
    for _ in range(3):
        outcome = rig.send(batch)
        assert isinstance(outcome, Failed)
        assert outcome.failure.kind is FailureKind.OPERATOR
        assert not outcome.failure.in_doubt  # by this attempt, which was none
        batch = rig.sender.stamped(batch)
        assert batch.attempted_by is AttemptedBy.SCRIPT
    assert "plain" not in rig.client.asked
    assert rig.send(BATCH) == APPLIED


def test_a_batch_in_doubt_goes_by_script_whatever_was_asked_for(rig: Rig) -> None:
    """Rows that a scripted run left in doubt are delivered under `at_least_once` too, undoubled."""
    rig = Rig("at_least_once")
    assert rig.send(IN_DOUBT) == APPLIED
    assert rig.client.asked == ["script"]
    assert rig.sender.delivery == "at_least_once"


def test_who_asks_for_plain_pushes_gets_them(rig: Rig) -> None:
    """With `at_least_once` no script is tried, and the probe goes the plain road."""
    rig = Rig("at_least_once")
    rig.client.scripted = False
    assert rig.send() == APPLIED
    assert rig.probe() == Healthy(7)
    assert rig.client.asked == ["plain", "plain probe"]
    assert rig.reports == []


@pytest.mark.parametrize(
    ("delivery", "before", "after"),
    [
        ("exactly_once", AttemptedBy.NOBODY, AttemptedBy.SCRIPT),
        ("exactly_once", AttemptedBy.SCRIPT, AttemptedBy.SCRIPT),
        ("exactly_once", AttemptedBy.PLAIN, AttemptedBy.SCRIPT),
        ("at_least_once", AttemptedBy.NOBODY, AttemptedBy.PLAIN),
        ("at_least_once", AttemptedBy.PLAIN, AttemptedBy.PLAIN),
        ("at_least_once", AttemptedBy.SCRIPT, AttemptedBy.SCRIPT),
    ],
)
def test_a_stamp_says_by_whom_and_when(delivery: Delivery, before: AttemptedBy, after: AttemptedBy) -> None:
    """An attempt is noted with its way and its moment; a script's doubt outlasts a change of the way."""
    stamped = Rig(delivery).sender.stamped(Batch(BATCH.id, BATCH.values, before, 5))
    assert stamped == Batch(BATCH.id, BATCH.values, after, 1234)


@pytest.mark.parametrize("outcome", [APPLIED, AlreadyApplied(1)])
def test_a_recount_finds_what_the_server_has_forgotten(rig: Rig, outcome: Outcome) -> None:
    """What was acknowledged, in whatever way, is asked for; what is not known any more is told once."""
    rig.client.by_script = outcome
    rig.send()
    rig.client.last = 1
    assert (rig.recount(), rig.forgotten) == (None, [])
    rig.client.last = 0
    assert (rig.recount(), rig.forgotten) == (None, [2])
    assert (rig.recount(), rig.forgotten) == (None, [2])
    assert rig.client.asked == ["script", "last of a", "last of a"]


def test_a_push_shows_what_the_server_has_forgotten(rig: Rig) -> None:
    """The lane's number before a push is lower than what was acknowledged: nothing needs to be asked."""
    rig.send()
    rig.send(Batch(BatchId(BATCH.id.lane, 2), (b"3",)))
    assert rig.forgotten == [2]


def test_a_recount_that_fails_claims_nothing(rig: Rig) -> None:
    """Without an answer nothing is said to be lost, and the failure is passed on."""
    rig.send()
    rig.client.last = AWAY
    assert (rig.recount(), rig.forgotten) == (AWAY, [])


def test_where_nothing_went_by_script_there_is_nothing_to_recount(rig: Rig) -> None:
    """A plain push leaves no number behind."""
    rig.client.by_script = NO_SCRIPTS
    rig.send()
    assert rig.recount() is None
    assert rig.client.asked == ["script", "plain"]
