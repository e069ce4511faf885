"""One scenario from the first record to the verdict."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

from chaos.application_handle import Application
from chaos.arrivals import Arrivals
from chaos.result import Result
from chaos.scenario import Scenario
from chaos.setting import OURS, Setting
from chaos.stage import Stage, wait_until
from chaos.verdict import pronounce

_WARM_RECORDS = 60
_CLOSE_SECONDS = 5.0  # as the library has it
_GRACE_SECONDS = 2.0  # to end, beside what closing may take
_PEER_SECONDS = 20.0  # to deliver what it kept, once all is well again


def perform(scenario: Scenario, seed: int, setting: Setting) -> Result:
    """Play one scenario. Whatever goes wrong is in the result; nothing is raised but an interrupt."""
    folder = Path(tempfile.mkdtemp(prefix="stage-", dir=setting.guardian.folder))
    result = Result.of(scenario, seed, setting)
    began = time.monotonic()
    try:
        stage = Stage(
            folder,
            setting.toxiproxy,
            setting.guardian,
            f"{seed} {scenario.name}",
            settings={**scenario.settings, **setting.settings},
            server=scenario.server,
            disk=scenario.disk,
            source=setting.source,
            python=setting.python,
            orders={"sink": setting.sink, "content": setting.content_of(scenario), **scenario.orders},
        )
        with stage:
            _play(stage, scenario, setting, result)
            if result.violations and scenario.disk:  # which is gone with the stage
                _keep(stage.disk, scenario, seed, setting, below=stage.disk.name)
    except Exception:
        result.violations.append("the scenario itself failed: " + traceback.format_exc(limit=-4))
    finally:
        result.seconds = round(time.monotonic() - began, 2)
        if result.violations:
            result.verdict = "red"
            _keep(folder, scenario, seed, setting)
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _keep(folder: Path, scenario: Scenario, seed: int, setting: Setting, below: str = "") -> None:
    if setting.keep is not None:
        target = setting.keep / f"{scenario.name.replace('/', '-')}-{seed}" / below
        shutil.copytree(folder, target, dirs_exist_ok=True)


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
        stage.betrayed_in = stage.find_secrets()  # a part in the spool goes with its program
        if setting.sink == OURS:
            _recover(stage, scenario, result)
            _end(stage, scenario, result)
        else:
            _end_peer(stage)
    except Exception:
        result.violations.append("it did not come to its end: " + traceback.format_exc(limit=-4))
        for application in stage.applications:
            application.close()
        with contextlib.suppress(Exception):  # what is only late is not to be taken for lost
            stage.run_replay("drain", "--json")
    stage.timeline.stop()
    pronounce(stage, scenario, setting, result)
    if result.violations:
        result.violations.append("standard error ended with: " + stage.errors()[-2000:])
    result.timeline = stage.timeline.as_dict()


def _recover(stage: Stage, scenario: Scenario, result: Result) -> None:
    """A fresh record comes through, and the spool empties by itself."""
    healed_at, arrivals = time.monotonic(), Arrivals(stage)
    for application in [each for each in stage.applications if each.is_running]:
        left_seconds = healed_at + scenario.recovery_seconds - time.monotonic()
        fresh = partial(_a_fresh_record_arrives, arrivals, application, scenario, [], time.monotonic())
        wait_until(fresh, "a fresh record arrives", left_seconds)
        result.recovery_seconds = round(time.monotonic() - healed_at, 2)
        left_seconds = healed_at + scenario.recovery_seconds - time.monotonic()
        wait_until(partial(_has_an_empty_spool, application), "the spool is empty", max(left_seconds, 1.0))


def _has_an_empty_spool(application: Application) -> bool:
    return not application.spooled()


def _a_fresh_record_arrives(
    arrivals: Arrivals, application: Application, scenario: Scenario, marks: list[str], began: float
) -> bool:
    """Whether one of the marks has arrived; where records may be lost one may be, and another is logged."""
    if not marks or (scenario.loss == "reported" and time.monotonic() - began > len(marks)):
        marks.append(application.mark())
    return any(arrivals.has(mark) for mark in marks)


def _end(stage: Stage, scenario: Scenario, result: Result) -> None:
    """All programs end in good order; what the killed ones left is delivered by the command."""
    close_seconds = float(stage.settings.get("CLOSE_TIMEOUT_SECONDS", _CLOSE_SECONDS))
    for application in stage.applications:
        if application.is_running:
            began = time.monotonic()
            code = application.stop()
            took = time.monotonic() - began
            if code:
                result.violations.append(f"the program {application.orders.tag} ended with {code}")
            if took > close_seconds + _GRACE_SECONDS:
                result.violations.append(
                    f"the program {application.orders.tag} took {took:.1f} s to end, of {close_seconds}"
                )
    if stage.spool_parts():
        if scenario.loss == "reported":
            _repair(stage, result)
        drained = stage.run_replay("drain", "--json")
        if drained.returncode:
            result.violations.append(f"plumelog-replay drain: exit {drained.returncode}, {drained.stdout}")
        else:
            facts = json.loads(drained.stdout)
            result.drained_by_command = facts["delivered"]
    if left := stage.spool_parts():
        result.violations.append(f"the spool is not empty at the end: {[path.name for path in left]}")


def _repair(stage: Stage, result: Result) -> None:
    """As an operator does who expects damage: ask what is lost, have it mended, look at it, remove it."""
    repaired = json.loads(stage.run_replay("repair", "--apply", "--adopt-unknown", "--json").stdout)
    result.reported_lost = sum(finding["records"] for finding in repaired["findings"])
    if left := repaired["left"]:
        result.violations.append(f"plumelog-replay repair leaves {left}")
    for path in stage.spool_dir.glob("part-*/quarantine/*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _end_peer(stage: Stage) -> None:
    """Another sink has time to deliver what it kept, without load; a next process of it too; then it ends."""
    if not any(application.is_running for application in stage.applications):
        stage.start_application()
    for application in stage.applications:
        if application.is_running:
            application.quiet()
    give_up_at = time.monotonic() + _PEER_SECONDS
    while sum(book.count for book in stage.books()) > stage.delivered() and time.monotonic() < give_up_at:
        time.sleep(0.1)
    for application in stage.applications:
        if application.is_running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                application.stop(_PEER_SECONDS)
