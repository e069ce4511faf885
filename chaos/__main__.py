"""`python -m chaos`: break everything, count what is lost, write the report.

CHAOS_PROFILE   quick (minutes), full (all scenarios, long faults), soak (again and again)
CHAOS_SEED      of everything that is drawn; printed by every run
CHAOS_ONLY      scenarios whose names contain this, or match it as a pattern; several with commas
CHAOS_MINUTES   how long a soak goes on
CHAOS_JOBS      how many scenarios at a time
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from chaos.result import Result, Setting
from chaos.runner import Turn, jobs, run, write_results
from chaos.scenario import Scenario
from chaos.scenarios import ALL, scenarios_for
from chaos.toxiproxy import start_toxiproxy

REPORT = Path(__file__).parent / "report"
_STRETCH = {"quick": 1.0, "full": 2.0, "soak": 2.0}


def main() -> int:
    """Run what the environment asks for; 0 when all is green, 1 when not, 2 for a question without sense."""
    profile = os.environ.get("CHAOS_PROFILE") or "quick"
    if profile not in _STRETCH:
        print(f"CHAOS_PROFILE is {profile!r}; it can be {', '.join(_STRETCH)}", file=sys.stderr)
        return 2
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**9))
    chosen = _chosen(profile, seed)
    if not chosen:
        print(
            f"CHAOS_ONLY={os.environ.get('CHAOS_ONLY')} names none of {len(ALL)} scenarios", file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"chaos: profile {profile}, seed {seed}, {len(chosen)} scenarios, {jobs()} at a time", flush=True)
    began, results = time.monotonic(), []
    with start_toxiproxy() as toxiproxy:
        print(f"chaos: the proxy is {toxiproxy.description}", flush=True)
        setting = Setting(toxiproxy, profile, _STRETCH[profile], keep=REPORT / "red")
        turns = _for_minutes(profile, seed) if profile == "soak" else [(each, seed) for each in chosen]
        try:
            for result in run(turns, setting, jobs()):
                results.append(result)
                _tell(result)
        except KeyboardInterrupt:
            print("chaos: interrupted; what has ended so far is in the report", file=sys.stderr)
            write_results(results, REPORT)
            return 130
    write_results(results, REPORT)
    return _sum_up(results, time.monotonic() - began)


def _chosen(profile: str, seed: int) -> list[Scenario]:
    """The scenarios of a profile, or those that were asked for by name."""
    wanted = [word.strip() for word in os.environ.get("CHAOS_ONLY", "").split(",") if word.strip()]
    every = scenarios_for("full" if wanted else profile, seed)
    return [each for each in every if not wanted or any(_names(word, each.name) for word in wanted)]


def _names(word: str, name: str) -> bool:
    return word in name or fnmatch(name, word)


def _for_minutes(profile: str, seed: int) -> Iterator[Turn]:
    """All scenarios, then all with the next seed, until the time is up."""
    minutes = float(os.environ.get("CHAOS_MINUTES") or 60)
    ends_at = time.monotonic() + minutes * 60
    for next_seed in itertools.count(seed):
        for scenario in _chosen(profile, next_seed):
            if time.monotonic() > ends_at:
                return
            yield scenario, next_seed


def _tell(result: Result) -> None:
    """One line for each scenario, and why it is red."""
    print(
        f"{result.verdict:<8} {result.scenario:<44} {result.logged:>7} logged {result.lost:>5} lost "
        f"{result.duplicates:>3} doubled {result.faults_injected:>5} faults {result.seconds:>6.1f} s",
        flush=True,
    )
    for violation in result.violations:
        print("    " + violation.replace("\n", "\n    "), flush=True)
    if result.verdict == "red":
        print(f"    again: {result.repeat}", flush=True)


def _sum_up(results: list[Result], seconds: float) -> int:
    count = {
        verdict: sum(each.verdict == verdict for each in results) for verdict in ("green", "red", "not run")
    }
    print(
        f"chaos: {count['green']} green, {count['red']} red, {count['not run']} not run; "
        f"{sum(each.lost for each in results)} lost and {sum(each.duplicates for each in results)} doubled "
        f"of {sum(each.logged for each in results)} records, of the lost "
        f"{sum(each.reported_lost for each in results)} reported; {seconds:.0f} s"
    )
    return 1 if count["red"] else 0


if __name__ == "__main__":
    sys.exit(main())
