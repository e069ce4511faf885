"""A run as the runner writes it, invented: 70 scenarios, a few red, one that a server lost records in."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Json = dict[str, Any]

SEED = 20261122

_NAMES = {
    "network": "latency-below-time-out latency-above-time-out jitter bandwidth reset black-hole "
    "refused slicer lost-reply reply-cut half-open flapping one-way slow-close late-request name-fails "
    "address-changes",
    "server": "kill-9-keeps-data kill-9-loses-data empty-restart out-of-memory evicts readonly loading "
    "misconf password-rotated no-scripts wrong-type frozen client-pause script-flush right-taken huge-values "
    "busy-script client-kill-storm max-clients",
    "process": "kill-9 fail-points os-exit sigterm sigint-twice fork multiprocessing gunicorn threads-race "
    "atexit signal-handlers finalizers frozen memory-limit descriptor-limit",
    "disk": "full read-only no-rights eio slow flipped-bits torn-wal removed two-processes quota",
    "content": "clock-back huge-records surrogates cycles hostile-repr mutable-extras",
    "combination": "drawn-1 drawn-2 drawn-3",
}
_RED = {
    "server/client-kill-storm": "2 owed records are not in the list: 4711, 4712",
    "disk/torn-wal": "the spool was not empty 10 s after healing: 311 records",
    "combination/drawn-2": "17 records are in the list twice",
}


def row(scenario: str = "network/lost-reply", **changes: Any) -> Json:
    """One green row, but for the changes."""
    return {
        "scenario": scenario,
        "group": scenario.partition("/")[0],
        "fault": "replies are swallowed for 1.5 s, one connection in three",
        "seed": SEED,
        "seconds": 8.25,
        "logged": 12000,
        "delivered": 12000,
        "duplicates": 0,
        "lost": 0,
        "out_of_order": 0,
        "faults_injected": 3,
        "recovery_seconds": 0.8,
        "p999_us": 184.2,
        "proxy": "toxiproxy 2.12.0",
        "server": "redis 7.0.15",
        "verdict": "green",
        "promise": "What was pushed without an answer is pushed again, and stands in the list once.",
        "proofs": ["the proxy swallowed 214 replies", "the program retried 9 times"],
        "violations": [],
        "refused": 0,
        "reported_lost": 0,
        "sink": "plumelog-loguru",
        "repeat": f"CHAOS_SEED={SEED} CHAOS_ONLY={scenario} make chaos",
        "profile": "full",
        **changes,
    }


def timeline(samples: int = 80, tenths: int = 1) -> Json:
    """An outage from a quarter of the time to the half of it, in which the program is dead for a moment."""
    logged, delivered, spooled, in_memory = [], [], [], []
    begin, end = samples // 4, samples // 2
    for number in range(samples):
        owed = 150 * min(number, samples * 3 // 4)
        behind = 150 * (min(number, end) - begin) if number > begin else 0
        behind = max(0, behind - 400 * max(0, number - end))
        dead = begin + 5 < number < begin + 9
        logged.append(owed)
        delivered.append(owed - behind)
        spooled.append(None if dead else max(0, behind - 600))
        in_memory.append(None if dead else min(behind, 600))
    seconds = [number * tenths / 10 for number in range(samples)]
    return {
        "seconds": seconds,
        "logged": logged,
        "delivered": delivered,
        "spooled": spooled,
        "in_memory": in_memory,
        "faults": [[seconds[begin], seconds[end]]],
    }


def rows() -> list[Json]:
    """The 70 rows."""
    dice = random.Random(SEED)
    made = []
    for name in (f"{group}/{name}" for group, names in _NAMES.items() for name in names.split()):
        logged = dice.randrange(2000, 30000)
        figures: Json = {
            "logged": logged,
            "delivered": logged,
            "faults_injected": dice.randrange(1, 30),
            "seconds": round(dice.uniform(4, 20), 2),
            "recovery_seconds": round(dice.uniform(0.1, 4), 2),
            "p999_us": round(dice.uniform(90, 900), 1),
        }
        if name in _RED:
            figures |= {"verdict": "red", "violations": [_RED[name]]}
        if name == "server/client-kill-storm":
            figures |= {"lost": 2, "delivered": logged - 2}
        if name == "combination/drawn-2":
            figures |= {"duplicates": 17}
        if name == "server/kill-9-loses-data":
            figures |= {"lost": 812, "reported_lost": 812, "delivered": logged - 812}
        if name == "disk/eio":
            figures = {**nothing(), "violations": ["needs root, which this machine does not give"]}
        made.append(row(name, **figures))
    return made


def nothing() -> Json:
    """What a row says that was not run."""
    zeros = dict.fromkeys(("seconds", "logged", "delivered", "faults_injected"), 0)
    return {"verdict": "not run", "proofs": [], "recovery_seconds": None, "p999_us": None, **zeros}


def comparison() -> list[Json]:
    """Six scenarios with three sinks; python-logstash-async knows nothing of lanes."""
    made = []
    for name in ("network/reset", "network/lost-reply", "network/flapping", "server/frozen", "process/fork"):
        made += [
            row(name),
            row(name, sink="plumelog-loguru 0.2.3", lost=1840, duplicates=96, verdict="red"),
            row(name, sink="python-logstash-async 4.1.0", duplicates=410, verdict="red"),
        ]
    made += [
        row("server/empty-restart", lost=90, reported_lost=90),
        row("server/empty-restart", sink="plumelog-loguru 0.2.3", **nothing()),
    ]
    return made


def write_run(
    folder: Path, results: Iterable[Json] | None = None, timelines: Json | None = None, compared: bool = True
) -> Path:
    """Write the three files, and return their folder."""
    results = rows() if results is None else list(results)
    if timelines is None:
        ran = [one for one in results if one["verdict"] != "not run"]
        timelines = {f"{one['scenario']} {one['seed']}": timeline() for one in ran}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "timelines.json").write_text(json.dumps(timelines))
    if compared:
        (folder / "comparison.json").write_text(json.dumps(comparison()))
    return folder
