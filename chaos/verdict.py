"""The verdict on one scenario: what the oracle found, against what the scenario promises."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable

from chaos import oracle
from chaos.application.orders import announced_in
from chaos.latencies import quantile_us
from chaos.result import Result
from chaos.scenario import Scenario
from chaos.setting import OURS, Setting
from chaos.stage import KEY, Stage
from lab.servers import RedisServer, ServerError

_RATE_SLACK = 1.3  # the list is looked at ten times a second, and rows go as a whole


def pronounce(stage: Stage, scenario: Scenario, setting: Setting, result: Result) -> None:
    """Fill in what came of it, and every promise that was broken."""
    values = [value for server in stage.servers for value in _values_of(server)]
    within = _logged_within(stage, scenario) if setting.sink == OURS else None
    judgement = oracle.judge(stage.books(), values, setting.content_of(scenario), within)
    samples = [application.samples() for application in stage.applications]
    result.logged, result.delivered = judgement.owed, judgement.delivered
    result.lost, result.duplicates = len(judgement.lost), len(judgement.doubled)
    result.out_of_order, result.refused = judgement.out_of_order, judgement.refused
    result.reported_lost += sum(map(oracle.reported_lost, samples))
    result.proofs, result.faults_injected = stage.proofs, stage.faults_injected
    announced = announced_in(stage.books_folder)
    latencies = [orders.open_latencies() for orders in announced]
    result.p999_us = round(quantile_us(latencies, 0.999), 1)
    say = result.violations.append

    if setting.sink != OURS:
        _judge_peer(judgement, say)
        return
    if not stage.faults_injected:
        say("nothing shows that the fault happened")
    for what in stage.unseen:
        say(f"a part of the fault never showed: {what}")
    if scenario.felt != "nothing" and not _was_felt(stage, scenario):
        say(f"the programs never showed that they felt it: {scenario.felt}")
    if judgement.owed == 0:
        say("nothing was logged")
    if scenario.loss == "none" and judgement.lost:
        say(f"{len(judgement.lost)} records are lost: {_some(judgement.lost)}")
    if scenario.loss == "reported" and len(judgement.lost) != result.reported_lost:
        say(f"{len(judgement.lost)} records are lost, and {result.reported_lost} are reported as lost")
    ended_well = all(
        application.process.returncode == 0 or oracle.reported_lost(said) == 0
        for application, said in zip(stage.applications, samples, strict=True)
    )
    result.violations.extend(oracle.false_words(judgement, samples, ended_well=ended_well))
    if scenario.must_lose and not judgement.lost:
        say("nothing is lost, so nothing shows that the fault took effect")
    doubles_reported = sum(map(oracle.possibly_doubled, samples)) if scenario.doubles == "reported" else 0
    if judgement.copies > doubles_reported:
        say(f"{len(judgement.doubled)} records are doubled: {_some(judgement.doubled)}")
    if scenario.doubles == "reported":
        result.reported_doubled = result.duplicates
        if not judgement.copies:
            say("nothing was doubled, though plain pushes were repeated")
    if judgement.unknown:
        say(f"{len(judgement.unknown)} records were never logged: {_some(judgement.unknown)}")
    if judgement.changed:
        say(f"{len(judgement.changed)} records are not as they were logged: {_some(judgement.changed)}")
    if judgement.raised:
        say(f"{judgement.raised} calls raised an exception")
    if judgement.refused and not scenario.may_refuse:
        say(f"{judgement.refused} calls were refused by Loguru")
    if scenario.in_order and judgement.out_of_order:
        say(f"{judgement.out_of_order} records overtook earlier ones of their thread")
    if scenario.p999_ms is not None and result.p999_us > scenario.p999_ms * 1000:
        say(f"one call in a thousand took {result.p999_us / 1000:.0f} ms or more")
    rate = float(scenario.settings.get("REPLAY_RATE", "inf"))
    if (replayed := oracle.replayed_per_second(stage.timeline.as_dict())) > rate * _RATE_SLACK:
        say(f"{replayed:.0f} records a second were replayed, of {rate:.0f}")
    for bounds in map(oracle.broken_bounds, samples):
        result.violations.extend(bounds)
    for path in sorted({*stage.betrayed_in, *stage.find_secrets()}):
        say(f"the password stands in {path.relative_to(stage.folder)}")
    if any(stage.secret.encode() in value for value in values):
        say("the password stands in the list")


def _logged_within(stage: Stage, scenario: Scenario) -> tuple[float, float]:
    """When the programs lived, in epoch milliseconds, as far as their clocks are right."""
    if "clock" in scenario.orders.get("options", {}).get("world", ()):
        return -math.inf, math.inf
    return stage.timeline.began_at * 1000 - 1, time.time() * 1000 + 1


def _judge_peer(judgement: oracle.Judgement, say: Callable[[str], object]) -> None:
    """Of another sink only the records count."""
    for what, found in (
        ("lost", judgement.lost),
        ("doubled", judgement.doubled),
        ("not as they were logged", judgement.changed),
    ):
        if found:
            say(f"{len(found)} records are {what}")


def _values_of(server: RedisServer) -> list[bytes]:
    """All that lies in a server's list; one that is down is started for it."""
    with contextlib.suppress(ServerError):
        server.start()
    return server.values(KEY)


def _was_felt(stage: Stage, scenario: Scenario) -> bool:
    if scenario.felt == "died":
        return any(application.process.returncode for application in stage.applications)
    return any(
        scenario.felt in oracle.felt(application.samples(), begin, end)
        for application in stage.applications
        for begin, end in stage.timeline.faults_at
    )


def _some(ids: tuple[str, ...]) -> str:
    return ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
