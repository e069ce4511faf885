"""`python -m chaos`: break everything, count what is lost, write the report.

What can be asked for is said in `choices`.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator

from chaos.choices import ChoiceError, Choices, read_choices
from chaos.requirements import have_mounts_of_our_own
from chaos.result import Result
from chaos.runner import Turn, run, write_report
from chaos.scenario import Scenario
from chaos.scenarios import scenarios_for
from chaos.setting import open_setting


def main() -> int:
    """Run what the environment asks for; 0 when all is green, 1 when not, 2 for a question without sense."""
    try:
        choices = read_choices()
        chosen = _chosen(choices, choices.seed)
    except ChoiceError as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    how_many = "again and again" if choices.profile == "soak" else f"{choices.jobs} at a time"
    print(
        f"chaos: profile {choices.profile}, seed {choices.seed}, {len(chosen)} scenarios, {how_many}",
        flush=True,
    )
    began = time.monotonic()
    results: list[Result] = []
    with open_setting(choices.profile, keep=choices.report / "red") as setting:
        turns = _again_and_again(choices) if choices.profile == "soak" else _once(chosen, choices.seed)
        try:
            for result in run(turns, setting, choices.jobs):
                results.append(result)
                _tell(result)
        except KeyboardInterrupt:
            write_report(results, choices.report)
            return 130
    write_report(results, choices.report)
    return _sum_up(results, time.monotonic() - began)


def _chosen(choices: Choices, seed: int) -> list[Scenario]:
    """The scenarios of a profile; those asked for by name come from all."""
    return choices.among(scenarios_for("full" if choices.only else choices.profile, seed))


def _once(chosen: list[Scenario], seed: int) -> Iterator[Turn]:
    yield from ((scenario, seed) for scenario in chosen)


def _again_and_again(choices: Choices) -> Iterator[Turn]:
    """All scenarios, then all with the next seed, until the time is up."""
    ends_at = time.monotonic() + choices.minutes * 60
    for seed in itertools.count(choices.seed):
        for scenario in _chosen(choices, seed):
            if time.monotonic() > ends_at:
                return
            yield scenario, seed


def _interrupt(number: int, frame: object) -> None:
    """Let what is under way end; whoever asks a second time does not wait, and the guardian clears up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: os._exit(130))
    print("chaos: interrupted; what is under way ends first, unless you interrupt again", file=sys.stderr)
    raise KeyboardInterrupt


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
    have_mounts_of_our_own()
    sys.exit(main())
