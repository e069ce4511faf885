"""One scenario from the first record to the verdict."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
import traceback
from pathlib import Path

from chaos import oracle
from chaos.application.orders import announced_in
from chaos.latencies import quantile_us
from chaos.result import Result, Setting
from chaos.scenario import Scenario
from chaos.stage import KEY, Stage, wait_until
from lab.servers import RedisServer, ServerError

_WARM_RECORDS = 60


def perform(scenario: Scenario, seed: int, setting: Setting) -> Result:
    """Play one scenario. Whatever goes wrong is in the result; nothing is raised but an interrupt."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    result = Result.of(scenario, seed, setting)
    began = time.monotonic()
    try:
        stage = Stage(
            folder,
            setting.toxiproxy,
            f"{seed} {scenario.name}",
            settings=scenario.settings,
            server=scenario.server,
            disk=scenario.disk,
            source=setting.source,
            python=setting.python,
            orders={"sink": setting.sink, "content": scenario.content, **scenario.orders},
        )
        with stage:
            _play(stage, scenario, setting, result)
    except Exception:
        result.violations.append("the scenario itself failed: " + traceback.format_exc(limit=-4))
    finally:
        result.seconds = round(time.monotonic() - began, 2)
        if result.violations:
            result.verdict = "red"
            if setting.keep is not None:
                shutil.copytree(
                    folder, setting.keep / f"{scenario.name.replace('/', '-')}-{seed}", dirs_exist_ok=True
                )
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _play(stage: Stage, scenario: Scenario, setting: Setting, result: Result) -> None:
    """The acts: warm, break, heal, recover, end, judge."""
    version = stage.server.info("server")
    result.server = f"{stage.server.binary.name} {version.get('valkey_version') or version['redis_version']}"
    try:
        if scenario.starts_program:
            stage.start_application()
            wait_until(lambda: stage.delivered() >= _WARM_RECORDS, "the first records arrive")
        with stage.in_force():
            scenario.fault.strike(stage, scenario.seconds * setting.stretch)
        _recover(stage, scenario, result)
        _end(stage, result)
    except Exception:
        result.violations.append("it did not come to its end: " + traceback.format_exc(limit=-4))
        for application in stage.applications:
            application.close()
    stage.timeline.stop()
    _judge(stage, scenario, result)
    if result.violations:
        result.violations.append("standard error ended with: " + stage.errors()[-2000:])
    result.timeline = stage.timeline.as_dict()


def _recover(stage: Stage, scenario: Scenario, result: Result) -> None:
    """A fresh record comes through, and the spool empties by itself."""
    healed_at = time.monotonic()
    for application in [each for each in stage.applications if each.is_running]:
        mark = application.mark().encode()
        left_seconds = healed_at + scenario.recovery_seconds - time.monotonic()
        wait_until(lambda mark=mark: _has_arrived(stage, mark), "a fresh record arrives", left_seconds)
        result.recovery_seconds = round(time.monotonic() - healed_at, 2)
        left_seconds = healed_at + scenario.recovery_seconds - time.monotonic()
        wait_until(lambda each=application: not each.spooled(), "the spool is empty", max(left_seconds, 1.0))


def _has_arrived(stage: Stage, record_id: bytes) -> bool:
    """Whether a record lies among the youngest."""
    needle = b'"' + record_id + b" "
    newest = [value for server in stage.servers for value in server.cli("LRANGE", KEY, 0, 2000)]
    return any(needle in value for value in newest)


def _end(stage: Stage, result: Result) -> None:
    """All programs end in good order; what the killed ones left is delivered by the command."""
    for application in stage.applications:
        if application.is_running:
            code = application.stop()
            if code:
                result.violations.append(f"the program {application.orders.tag} ended with {code}")
    if stage.spool_parts():
        drained = stage.run_replay("drain", "--json")
        if drained.returncode:
            result.violations.append(f"plumelog-replay drain: exit {drained.returncode}, {drained.stdout}")
        else:
            facts = json.loads(drained.stdout)
            result.drained_by_command = facts["delivered"]
    if left := stage.spool_parts():
        result.violations.append(f"the spool is not empty at the end: {[path.name for path in left]}")


def _judge(stage: Stage, scenario: Scenario, result: Result) -> None:
    values = [value for server in stage.servers for value in _values_of(server)]
    judgement = oracle.judge(stage.books(), values, scenario.content)
    samples = [application.samples() for application in stage.applications]
    result.logged, result.delivered = judgement.owed, judgement.delivered
    result.lost, result.duplicates = len(judgement.lost), len(judgement.doubled)
    result.out_of_order, result.refused = judgement.out_of_order, judgement.refused
    result.reported_lost = sum(map(oracle.reported_lost, samples))
    result.proofs, result.faults_injected = stage.proofs, stage.faults_injected
    announced = announced_in(stage.books_folder)
    latencies = [orders.open_latencies() for orders in announced]
    result.p999_us = round(quantile_us(latencies, 0.999), 1)
    say = result.violations.append

    if not stage.faults_injected:
        say("nothing shows that the fault happened")
    if scenario.felt != "nothing" and not _was_felt(stage, scenario):
        say(f"the programs never showed that they felt it: {scenario.felt}")
    if judgement.owed == 0:
        say("nothing was logged")
    if scenario.loss == "none" and judgement.lost:
        say(f"{len(judgement.lost)} records are lost: {_some(judgement.lost)}")
    if scenario.loss == "reported" and len(judgement.lost) != result.reported_lost:
        say(f"{len(judgement.lost)} records are lost, and {result.reported_lost} are reported as lost")
    doubles_reported = sum(map(oracle.possibly_doubled, samples)) if scenario.doubles == "reported" else 0
    if judgement.copies > doubles_reported:
        say(f"{len(judgement.doubled)} records are doubled: {_some(judgement.doubled)}")
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
    for bounds in map(oracle.broken_bounds, samples):
        result.violations.extend(bounds)
    for path in oracle.files_with(stage.secret, stage.folder, besides=stage.folders_with_secrets):
        say(f"the password stands in {path.relative_to(stage.folder)}")
    if any(stage.secret.encode() in value for value in values):
        say("the password stands in the list")


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
