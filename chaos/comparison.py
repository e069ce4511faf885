"""`python -m chaos.comparison`: what other sinks lose where ours loses nothing, side by side.

The same programs, the same faults and the same oracle. Of a peer only the records are counted: that they are
there, once, and intact. It is not asked to feel anything, to say anything of itself, or to hold our bounds;
what a killed process left behind its next process may deliver, as its authors meant it to.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from importlib.metadata import version

from chaos.choices import ChoiceError, read_choices
from chaos.requirements import have_mounts_of_our_own
from chaos.runner import run
from chaos.scenarios import scenarios_for
from chaos.setting import OURS, Setting, open_setting
from lab.environments import python_with

# Each sink but ours, and what its environment holds beside Loguru and the Redis client.
PEERS = {
    "plumelog-loguru 0.2.3": "plumelog-loguru==0.2.3",
    "python-logstash-async 4.1.0": "python-logstash-async==4.1.0",
}

# Their delays are shortened as ours are; the names are theirs.
SETTINGS = {
    "plumelog-loguru 0.2.3": {
        "RETRY_DELAY": "0.05",
        "RETRY_COUNT": "3",
        "SOCKET_TIMEOUT": "0.5",
        "SOCKET_CONNECT_TIMEOUT": "0.5",
    },
}

# Of each thread: python-logstash-async sends only when its queue is empty, which a faster program prevents.
PACE = 10.0

# Faults that every sink before a Redis list can meet; none asks for a setting that only ours has.
SCENARIOS = (
    "network/latency-below-timeout",
    "network/refused",
    "network/black-hole",
    "network/lost-reply",
    "network/reply-cut",
    "network/flapping",
    "server/killed",
    "server/out-of-memory",
    "server/frozen",
    "process/kill-9-again-and-again",
    "process/fork-under-load",
)


def main() -> int:
    """Let all sinks meet the same faults; writes ``comparison.json``. 1 if ours is red anywhere."""
    try:
        choices = read_choices()
        chosen = choices.among(each for each in scenarios_for("full", choices.seed) if each.name in SCENARIOS)
    except ChoiceError as error:
        print(error, file=sys.stderr)
        return 2
    turns = [
        (replace(each, orders={**each.orders, "records_per_second": PACE}), choices.seed) for each in chosen
    ]
    print(f"chaos comparison: seed {choices.seed}, {len(turns)} scenarios", flush=True)
    rows = []
    with open_setting("full", keep=choices.report / "red") as setting:
        for each in (setting, *(of_peer(setting, name) for name in PEERS)):
            for result in run(turns, each, choices.jobs) if each else ():
                rows.append(asdict(replace(result, timeline={})))
                print(
                    f"{result.sink:<28} {result.scenario:<32} {result.logged:>6} logged "
                    f"{result.lost:>6} lost {result.duplicates:>6} doubled",
                    flush=True,
                )
    choices.report.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda row: (row["scenario"], row["sink"]))
    (choices.report / "comparison.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row["verdict"] == "red" and row["sink"] == OURS for row in rows) else 0


def of_peer(setting: Setting, name: str) -> Setting | None:
    """The same setting for another sink; None if it cannot be installed, and stderr says why."""
    word = name.replace(" ", "-")
    requirements = [PEERS[name], f"loguru=={version('loguru')}", f"redis=={version('redis')}"]
    python = python_with(word, requirements)
    return (
        None
        if python is None
        else replace(setting, sink=name, python=python, settings=SETTINGS.get(name, {}))
    )


if __name__ == "__main__":
    have_mounts_of_our_own()
    sys.exit(main())
