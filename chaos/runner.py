"""Runs scenarios, a few at a time, and writes down what came of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path

from chaos.performance import perform
from chaos.requirements import missing
from chaos.result import Result
from chaos.scenario import Scenario
from chaos.setting import Setting

Turn = tuple[Scenario, int]  # a scenario, and its seed


def run(turns: Iterable[Turn], setting: Setting, jobs: int) -> Iterator[Result]:
    """Play all turns, so many at a time, and give results as they come; those under way always end."""
    waiting = iter(turns)
    with ThreadPoolExecutor(jobs, thread_name_prefix="chaos") as pool:
        under_way: set[Future[Result]] = set()
        try:
            while True:
                while len(under_way) < jobs and (turn := next(waiting, None)):
                    under_way.add(pool.submit(_play, *turn, setting))
                if not under_way:
                    return
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)


def _play(scenario: Scenario, seed: int, setting: Setting) -> Result:
    if tools := missing(scenario.needs):
        return Result.not_run(scenario, seed, setting, f"needs {', '.join(tools)}")
    return perform(scenario, seed, setting)


def write_results(results: Sequence[Result], folder: Path) -> None:
    """Write ``results.json`` and ``timelines.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(results, key=lambda result: (result.scenario, result.seed))
    rows = [asdict(replace(result, timeline={})) for result in ordered]
    for row in rows:
        del row["timeline"]
    timelines = {f"{result.scenario} {result.seed}": result.timeline for result in ordered if result.timeline}
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "timelines.json").write_text(json.dumps(timelines) + "\n")
