"""`python -m chaos.comparison`: what other sinks lose where ours loses nothing, side by side.

The same programs, the same faults and the same oracle. Of a peer only the records are counted: that they are
there, once, and intact. It is not asked to feel anything, to say anything of itself, or to hold our bounds;
what a killed process left behind its next process may deliver, as its authors meant it to.
"""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from chaos.__main__ import REPORT
from chaos.result import OURS, Setting
from chaos.runner import jobs, run
from chaos.scenarios import scenarios_for
from chaos.toxiproxy import start_toxiproxy
from lab.environments import python_with

# Each sink but ours, and what its environment holds beside Loguru and the Redis client.
PEERS = {
    "plumelog-loguru 0.2.3": "plumelog-loguru==0.2.3",
    "python-logstash-async 4.1.0": "python-logstash-async==4.1.0",
}

# Faults that every sink before a Redis list can meet; none asks for a setting that only ours has.
SCENARIOS = (
    "network/latency-below-timeout",
    "network/refused",
    "network/black-hole",
    "network/lost-reply",
    "network/reply-cut",
    "network/flapping",
    "server/kill-with-data",
    "server/out-of-memory",
    "server/sigstop",
    "process/kill-at-random",
    "process/fork-under-load",
)


def main() -> int:
    """Let all sinks meet the same faults; writes ``comparison.json``. 1 if ours is red anywhere."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**9))
    wanted = os.environ.get("CHAOS_ONLY", "")
    scenarios = [each for each in scenarios_for("full", seed) if each.name in SCENARIOS and wanted in each.name]
    print(f"chaos comparison: seed {seed}, {len(scenarios)} scenarios", flush=True)
    rows = []
    with start_toxiproxy() as toxiproxy:
        setting = Setting(toxiproxy, "full", stretch=2.0)
        for peer in (setting, *(of_peer(setting, name) for name in PEERS)):
            if peer is None:
                continue
            for result in run([(scenario, seed) for scenario in scenarios], peer, jobs()):
                rows.append(asdict(replace(result, timeline={})))
                print(
                    f"{result.sink:<28} {result.scenario:<32} {result.logged:>6} logged {result.lost:>6} lost "
                    f"{result.duplicates:>6} doubled",
                    flush=True,
                )
    REPORT.mkdir(exist_ok=True)
    rows.sort(key=lambda row: (row["scenario"], row["sink"]))
    (REPORT / "comparison.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["verdict"] == "red" and row["sink"] == OURS for row in rows) else 0


def of_peer(setting: Setting, name: str) -> Setting | None:
    """The same setting for another sink; None if it cannot be installed, and stderr says why."""
    word = name.replace(" ", "-")
    requirements = [PEERS[name], f"loguru=={version('loguru')}", f"redis=={version('redis')}"]
    python = python_with(word, requirements)
    return None if python is None else replace(setting, sink=name, python=Path(python))


if __name__ == "__main__":
    sys.exit(main())
