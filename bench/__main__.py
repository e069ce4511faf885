"""Compares four sinks: one that does nothing, ours, ours without its journal, and the earlier release's.

Every measurement runs in a process of its own, against one real server, and the variants take turns,
several rounds of them. What counts is the ratio within a round: two processes that ran within seconds of each
other on the same machine. Numbers of different runs or machines say little.

``BENCH_ROUNDS`` sets the number of rounds. The table is printed, and all numbers go to
``bench/results.json``.

``python -m bench drain`` measures the command's drain instead; see ``bench/drain.py``.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import drain, earlier
from lab.servers import RedisServer, ServerError

ROUNDS = 5
CALLS = 10_000
RECORDS = 40_000
KEY = "bench"
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"

Result = dict[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    title: str
    measure: Literal["plain", "bound", "throughput"]
    field: str
    unit_ns: float  # what the numbers are divided by for showing
    other: str = "nothing"  # what it is compared with
    at_most: float | None = None
    at_least: float | None = None
    of: str = "ours"
    as_difference: bool = False  # and not as a ratio

    def compared(self, of: float, other: float) -> float:
        """One round's numbers, compared."""
        return of - other if self.as_difference else of / other

    def verdict(self, ratio: float) -> str:
        """Whether the ratio, or the difference, is what we aim at."""
        if self.at_most is not None:
            return f"aim ≤ {self.at_most:g}: {'met' if ratio <= self.at_most else 'MISSED'}"
        if self.at_least is not None:
            return f"aim ≥ {self.at_least:g}: {'met' if ratio >= self.at_least else 'MISSED'}"
        return ""


ROWS = (
    Row("logger.info() without a journal, median µs", "plain", "median", 1000, of="memory", at_most=1.35),
    Row(
        "  more with the journal, median µs",
        "plain",
        "median",
        1000,
        other="memory",
        at_most=1.0,
        as_difference=True,
    ),
    Row("logger.info(), median µs", "plain", "median", 1000),
    Row("logger.info(), mean µs", "plain", "mean", 1000),
    Row("logger.info(), 99.9th percentile µs", "plain", "p999", 1000),
    Row("  with two bound fields, median µs", "bound", "median", 1000),
    Row("  with two bound fields, mean µs", "bound", "mean", 1000),
    Row("  with two bound fields, 99.9th percentile µs", "bound", "p999", 1000),
    # The do-nothing sink delivers nowhere: its records a second are its calls a second.
    Row("end to end, records a second", "throughput", "records_per_second", 1, at_least=0.55),
    Row(
        "end to end against the earlier release", "throughput", "records_per_second", 1, "earlier", at_least=5
    ),
)


def run_variant(
    sink: str, interpreter: Path, measure: str, server: RedisServer, count: int | None = None
) -> Result:
    """Run one measurement of so many records in a process of its own."""
    count = count or (RECORDS if measure == "throughput" else CALLS)
    server.cli("FLUSHALL")
    with tempfile.TemporaryDirectory(prefix="plumelog-bench-") as directory:
        environment = {
            name: value for name, value in os.environ.items() if not name.upper().startswith("PLUMELOG_")
        }
        environment |= {
            "BENCH_REDIS_URL": server.url,
            "PLUMELOG_REDIS_HOST": "127.0.0.1",
            "PLUMELOG_REDIS_PORT": str(server.port),
            "PLUMELOG_REDIS_KEY": KEY,
        }
        if measure == "throughput":
            # Room for every record: the earlier release drops what it has no room for.
            environment["PLUMELOG_QUEUE_MAX_SIZE"] = str(count * 2)
        given = environment.pop("PYTHONPATH", "")
        if sink == "memory":
            environment["PLUMELOG_DURABILITY"] = "memory"
        if sink in ("ours", "memory"):
            environment["PLUMELOG_SPOOL_DIR"] = directory
            environment["PYTHONPATH"] = os.pathsep.join(
                os.path.abspath(path) for path in given.split(os.pathsep) if path
            )
        done = subprocess.run(
            [str(interpreter), str(HERE / "variants.py"), sink, measure, str(count), KEY],
            cwd=directory,  # away from any .env
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not results:
        raise RuntimeError(f"{sink}, {measure}: exit code {done.returncode}: {done.stderr[-2000:]}")
    result: Result = json.loads(results[0].removeprefix("RESULT "))
    return result


def run_rounds(
    rounds: int, interpreters: dict[str, Path], server: RedisServer
) -> list[dict[str, dict[str, Result]]]:
    """Let the variants take turns.

    Returns:
        for each round: measure, sink, numbers.
    """
    found = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        # A different one begins each time, so that none is always the first after a pause.
        first = number % len(interpreters)
        order = [*interpreters, *interpreters][first : first + len(interpreters)]
        found.append(
            {
                measure: {sink: run_variant(sink, interpreters[sink], measure, server) for sink in order}
                for measure in ("plain", "bound", "throughput")
            }
        )
    return found


def table(found: Sequence[dict[str, dict[str, Result]]], sinks: Sequence[str]) -> list[str]:
    """The numbers' medians over all rounds, and the ratios' range."""
    lines = [f"{'':45}" + "".join(f"{sink:>10}" for sink in sinks) + "   compared (min / median / max)"]
    for row in ROWS:
        if row.of not in sinks or row.other not in sinks:
            continue
        values = {sink: [one[row.measure][sink][row.field] / row.unit_ns for one in found] for sink in sinks}
        pairs = zip(values[row.of], values[row.other], strict=True)
        ratios = [row.compared(of, other) for of, other in pairs]
        middle = statistics.median(ratios)
        decimals = 1 if row.unit_ns > 1 else 0
        cells = "".join(f"{statistics.median(values[sink]):>10,.{decimals}f}" for sink in sinks)
        spread = f"{min(ratios):5.2f} / {middle:5.2f} / {max(ratios):5.2f}"
        lines.append(f"{row.title:45}{cells}   {spread}   {row.verdict(middle)}".rstrip())
    return lines


def main() -> int:
    """Run the bench.

    Returns:
        The exit code: 0 when it could measure, whatever it found; a busy machine is no fault of the code.
    """
    rounds = int(os.environ.get("BENCH_ROUNDS", ROUNDS))
    interpreters = dict.fromkeys(("nothing", "memory", "ours"), Path(sys.executable))
    other = earlier.python()
    if other is not None:
        interpreters["earlier"] = other
    begun = time.monotonic()
    try:
        with RedisServer(appendonly="no") as server:
            where = f"Python {platform.python_version()}, {os.cpu_count()} CPUs"
            about = f"{where}, {server.flavour} {server.version}"
            print(about, flush=True)
            found = run_rounds(rounds, interpreters, server)
    except (ServerError, RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"the bench cannot run: {error}", file=sys.stderr)
        return 2
    print()
    print("\n".join(table(found, list(interpreters))))
    lost = sum(one["throughput"]["ours"]["missing"] + one["throughput"]["ours"]["dropped"] for one in found)
    took = time.monotonic() - begun
    print(f"\n{rounds} rounds, {took:.0f} s; records of ours that did not arrive: {lost:.0f}")
    RESULTS.write_text(json.dumps({"about": about, "rounds": found}, indent=1) + "\n")
    print(f"all numbers: {RESULTS.relative_to(HERE.parent)}")
    return 0 if not lost else 1


if __name__ == "__main__":
    sys.exit(drain.main() if sys.argv[1:] == ["drain"] else main())
