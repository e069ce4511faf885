"""What came of one scenario: a row of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from chaos.scenario import Scenario
from chaos.setting import Setting

Verdict = Literal["green", "red", "not run"]


@dataclass
class Result:
    """A row of ``results.json``; the names are those of the file."""

    scenario: str
    group: str
    fault: str
    seed: int
    promise: str
    profile: str
    proxy: str
    server: str
    sink: str
    repeat: str  # the command that does it again
    seconds: float = 0.0
    logged: int = 0  # calls that returned: what is owed
    delivered: int = 0
    duplicates: int = 0
    lost: int = 0
    out_of_order: int = 0
    faults_injected: int = 0
    recovery_seconds: float | None = None
    p999_us: float = 0.0
    refused: int = 0  # calls that Loguru itself refused
    reported_lost: int = 0  # of the lost: those that the library itself said were lost
    reported_doubled: int = 0  # of the doubled: those that plain pushes may double, and that were reported
    drained_by_command: int = 0  # records that a killed program had left, and `plumelog-replay` delivered
    proofs: list[str] = field(default_factory=list)  # what shows that the fault happened
    violations: list[str] = field(default_factory=list)  # why it is red, or was not run
    verdict: Verdict = "green"
    timeline: dict[str, Any] = field(default_factory=dict)  # goes into a file of its own

    @classmethod
    def of(cls, scenario: Scenario, seed: int, setting: Setting) -> Result:
        """The row before anything happened."""
        profile = "full" if setting.profile == "soak" else setting.profile  # once is enough
        return cls(
            scenario=scenario.name,
            group=scenario.group,
            fault=repr(scenario.fault),
            seed=seed,
            promise=scenario.promise,
            profile=setting.profile,
            proxy=setting.toxiproxy.description,
            server="",
            sink=setting.sink,
            repeat=f"make chaos CHAOS_PROFILE={profile} CHAOS_ONLY={scenario.name} CHAOS_SEED={seed}",
        )

    @classmethod
    def not_run(cls, scenario: Scenario, seed: int, setting: Setting, why: str) -> Result:
        """The row of a scenario that was not played."""
        result = cls.of(scenario, seed, setting)
        result.verdict, result.violations = "not run", [why]
        return result
