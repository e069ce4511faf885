"""`python -m chaos`: break everything, count what is lost, write the report.

What can be asked for is said in `choices`.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from collections.abc import Iterator

from chaos.choices import ChoiceError, Choices, read_choices
from chaos.page import counted, read_report, summarize, write_page
from chaos.requirements import have_mounts_of_our_own
from chaos.result import Result
from chaos.runner import Turn, run, write_results
from chaos.scenarios import scenarios_for
from chaos.setting import open_setting
from chaos.toxiproxy import ToxiproxyError


def main() -> int:
    """Run what the environment asks for; 0 when all is green, 1 when not, 2 for a question without sense."""
    try:
        choices = read_choices()
        chosen = _turns(choices, choices.seed)
    except ChoiceError as error:
        print(error, file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    print(
        f"chaos: profile {choices.profile}, seed {choices.seed}, {counted(len(chosen), 'scenario')}, "
        f"{choices.jobs} at a time",
        flush=True,
    )
    soaks = choices.profile == "soak"
    interrupted = False
    results: list[Result] = []
    try:
        with open_setting(choices.profile, keep=choices.report / "red") as setting:
            turns = _again_and_again(choices) if soaks else iter(chosen)
            try:
                for result in run(turns, setting, choices.jobs):
                    results.append(result)
                    _tell(result)
            except KeyboardInterrupt:
                interrupted = True
            played = {result.scenario for result in results}
            why = "the run was interrupted before" if interrupted else "the time was up before"
            results += [
                Result.not_run(scenario, seed, setting, why)
                for scenario, seed in chosen
                if scenario.name not in played
            ]
    except ToxiproxyError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    write_results(results, choices.report)
    page = write_page(choices.report)
    summary = summarize(read_report(choices.report).rows)
    print(f"chaos: {summary.scenarios}; {summary.records}; the report is {os.path.relpath(page)}")
    return 130 if interrupted else 1 if summary.red else 0


def _turns(choices: Choices, seed: int) -> list[Turn]:
    """The scenarios of a profile, in an order drawn from the seed; those asked for by name come from all."""
    chosen = choices.among(scenarios_for("full" if choices.only else choices.profile, seed))
    random.Random(seed).shuffle(chosen)
    return [(scenario, seed) for scenario in chosen]


def _again_and_again(choices: Choices) -> Iterator[Turn]:
    """All scenarios, then all with the next seed, until the time is up."""
    ends_at = time.monotonic() + choices.minutes * 60
    for seed in itertools.count(choices.seed):
        for turn in _turns(choices, seed):
            if time.monotonic() > ends_at:
                return
            yield turn


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


if __name__ == "__main__":
    have_mounts_of_our_own()
    sys.exit(main())
