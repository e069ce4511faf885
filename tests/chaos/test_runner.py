"""A run tells the truth about itself, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from chaos.application.orders import Orders
from chaos.choices import read_choices
from chaos.faults.network import Refused
from chaos.guardian import Guardian
from chaos.performance import perform
from chaos.result import Result
from chaos.runner import run, write_results
from chaos.scenario import Fault, Scenario
from chaos.setting import Setting, open_setting
from chaos.stage import Stage

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Nothing:
    """A fault that does not happen, and may say that it does."""

    says: str = ""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let some time go by."""
        for _ in stage.ticks(seconds):
            pass
        if self.says:
            stage.saw(self.says)


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    """As `make chaos` has it."""
    with open_setting("quick") as setting:
        yield setting


def scenario(fault: Fault, **changes: object) -> Scenario:
    """A short one."""
    named = Scenario("network/test", "Nothing is lost.", fault, seconds=0.5)
    return replace(named, **changes)  # type: ignore[arg-type]


def test_a_fault_that_did_not_happen_is_no_success(setting: Setting) -> None:
    """Neither one that nothing shows, nor one that nobody felt."""
    unseen, unfelt, felt = run(
        [
            (scenario(Nothing(), name="network/1", felt="nothing"), 1),
            (scenario(Nothing("I say so"), name="network/2"), 1),
            (scenario(Refused(), name="network/3"), 1),
        ],
        setting,
        jobs=1,
    )
    assert unseen.verdict == "red" and "nothing shows that the fault happened" in unseen.violations
    assert unfelt.verdict == "red" and "never showed that they felt it" in unfelt.violations[0]
    assert felt.verdict == "green" and felt.faults_injected > 0, felt.violations
    for result in (unseen, unfelt, felt):
        assert result.logged > 100
        assert result.lost == result.duplicates == 0
        assert result.timeline["faults"] and max(result.timeline["logged"]) > 0


@dataclass(frozen=True)
class InParts:
    """A fault whose second part is looked for twice, and happens or does not."""

    second: int

    def strike(self, stage: Stage, seconds: float) -> None:
        """Say what is seen."""
        stage.saw("the first part")
        stage.saw("the second part", 0)
        stage.saw("the second part", self.second)


@pytest.mark.parametrize("second", [0, 3])
def test_a_part_of_a_fault_that_never_showed_is_no_success(second: int, setting: Setting) -> None:
    """However often the other parts were seen."""
    result = perform(scenario(InParts(second), felt="nothing"), 1, setting)
    assert result.faults_injected == 1 + second
    if second:
        assert result.verdict == "green", result.violations
        assert result.proofs == ["the first part", "the second part (3 times)"]
    else:
        assert "a part of the fault never showed: the second part" in result.violations
        assert result.proofs == ["the first part"]


def test_a_scenario_that_breaks_down_is_red_and_ends(setting: Setting) -> None:
    """An error of the suite's own is never taken for good news."""
    result = perform(scenario(Refused(), orders={"behaviour": "no such thing"}), 1, setting)
    assert result.verdict == "red"
    assert "it did not come to its end" in result.violations[0]


def test_what_cannot_run_here_is_named(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither green nor red."""
    monkeypatch.setattr("chaos.runner.missing", lambda needs: list(needs))
    (result,) = run([(scenario(Refused(), needs=("gunicorn",)), 1)], setting, jobs=1)
    assert (result.verdict, result.violations) == ("not run", ["needs gunicorn"])


def test_results_are_written_in_order_and_without_their_timelines(tmp_path: Path, setting: Setting) -> None:
    """Timelines have a file of their own."""
    results = [Result.of(scenario(Refused(), name=name), 7, setting) for name in ("server/b", "network/a")]
    results[0].timeline = {"seconds": [0.1]}
    write_results(results, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["scenario"] for row in rows] == ["network/a", "server/b"]
    assert "timeline" not in rows[0]
    assert json.loads((tmp_path / "timelines.json").read_text()) == {"server/b 7": {"seconds": [0.1]}}


def test_orders_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Whoever judges opens the same book."""
    from chaos.application.orders import announced_in

    orders = Orders(str(tmp_path), "p0", "seed", options={"rounds": 3})
    orders.announce()
    assert announced_in(tmp_path) == [orders]


def chaos(**environment: str) -> subprocess.Popen[str]:
    """The command itself."""
    shown = os.pathsep.join(path for path in (os.environ.get("PYTHONPATH", ""), str(ROOT)) if path)
    return subprocess.Popen(
        [sys.executable, "-m", "chaos"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": shown, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CHAOS_PROFILE": "slow"}, "it can be quick, full, soak"),
        ({"CHAOS_ONLY": "no-such-thing"}, "names none of"),
        ({"CHAOS_SEED": "x"}, "CHAOS_SEED is 'x'"),
        ({"CHAOS_MINUTES": "-1", "CHAOS_PROFILE": "soak"}, "CHAOS_MINUTES is '-1'"),
        ({"CHAOS_JOBS": "0"}, "CHAOS_JOBS is '0'"),
        ({"CHAOS_SEEDS": "3"}, "CHAOS_SEEDS: there is no such variable"),
        ({"CHAOS_REPORT": "/proc/nowhere"}, "nothing can be written there"),
        ({"TOXIPROXY_URL": "http://127.0.0.1:9", "CHAOS_ONLY": "network/refused"}, "TOXIPROXY_URL"),
    ],
)
def test_a_question_without_sense_is_refused(environment: dict[str, str], said: str) -> None:
    """Exit 2, and one sentence that says what can be asked."""
    process = chaos(**environment)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert said in err and "Traceback" not in err


def of_run(mark: str) -> list[str]:
    """All processes in whose environment this stands."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only Linux shows who is left")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nobody_behind(how: signal.Signals, tmp_path: Path) -> None:
    """Server, proxy and programs end with it, however it ends, and so do their files."""
    mark = f"MARK_OF_TEST={tmp_path.name}-{how.name}"
    process = chaos(
        CHAOS_ONLY="network/refused",
        CHAOS_REPORT=str(tmp_path / "report"),
        TMPDIR=str(tmp_path),
        MARK_OF_TEST=mark.partition("=")[2],
    )
    while not list(tmp_path.glob("chaos-*/stage-*/books/*.samples")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate(timeout=60)
    give_up_at = time.monotonic() + 20
    while (left := of_run(mark)) or any(tmp_path.glob("chaos-*")):
        assert time.monotonic() < give_up_at, (left, list(tmp_path.iterdir()))
        time.sleep(0.05)
    if how is not signal.SIGKILL:
        assert process.returncode == 130


def test_a_guardian_kills_whoever_is_left_though_it_stands_still(tmp_path: Path) -> None:
    """Those whose end it was told are no longer its business; its folder goes, whatever is in it."""
    guardian = Guardian()
    (guardian.folder / "stage").mkdir()
    left = subprocess.Popen(["sleep", "60"], start_new_session=True)
    forgotten = subprocess.Popen(["sleep", "60"], start_new_session=True)
    for process in (left, forgotten):
        guardian.watch(process.pid)
    guardian.forget(forgotten.pid)
    left.send_signal(signal.SIGSTOP)
    guardian.close()
    assert left.wait(10) == -signal.SIGKILL
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()
    assert not guardian.folder.exists()


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("", ["a/b", "a/b-c", "d/e"]),
        ("a/b", ["a/b"]),
        ("b", ["a/b", "a/b-c"]),
        ("a/*,e", ["a/b", "a/b-c", "d/e"]),
    ],
)
def test_a_whole_name_means_itself_alone(
    monkeypatch: pytest.MonkeyPatch, only: str, names: list[str]
) -> None:
    """A part of a name, or a pattern, means all that it fits."""
    monkeypatch.setenv("CHAOS_ONLY", only)
    known = [scenario(Refused(), name=name) for name in ("a/b", "a/b-c", "d/e")]
    assert [each.name for each in read_choices().among(known)] == names
