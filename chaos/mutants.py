"""`python -m chaos.mutants`: the library is broken on purpose, and each time a scenario must go red.

A suite that is always green proves nothing. Each mutation is one shortcut that a hurried author might take,
as an exact replacement in a copy of the library's source; the scenarios beside it are those that must see it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from chaos.choices import ChoiceError, Choices, read_choices
from chaos.page import MUTANTS
from chaos.requirements import have_mounts_of_our_own
from chaos.result import Result
from chaos.runner import run
from chaos.scenario import Scenario
from chaos.scenarios import scenarios_for
from chaos.setting import Setting, open_setting
from chaos.stage import ROOT

_PACKAGE = "plumelog_loguru"
_LIVE = "_live_delivery.py"
_SEEDS = 5  # what strikes at a drawn moment may miss


class MutationError(Exception):
    """The source is no longer what a mutation replaces."""


@dataclass(frozen=True)
class Mutation:
    """One shortcut, and the scenarios that must see it."""

    name: str
    file: str
    old: str
    new: str
    scenarios: tuple[str, ...]

    def apply(self, source: Path) -> None:
        """Put it into a copy of the source.

        Raises:
            MutationError: the text to replace does not stand there exactly once.
        """
        path = source / _PACKAGE / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise MutationError(f"{self.name}: in {self.file} there is not exactly one {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


MUTATIONS = [
    Mutation(
        "forget the lane: it is used on, though one of its batches waits in the spool",
        "_delivery/_live_lane.py",
        'delivered from there."""\n        self._draw()',
        'delivered from there."""',
        ("network/flapping-with-a-backlog",),
    ),
    Mutation(
        "repeat under a new identity",
        _LIVE,
        "        head.suspicion.attempt_failed(failure)\n",
        "        head.batch = Batch(self._lane.next_id(), head.batch.values)\n"
        "        head.suspicion.attempt_failed(failure)\n",
        ("network/lost-reply",),
    ),
    Mutation(
        "acknowledge a live batch before its delivery",
        _LIVE,
        "        self._sending = True\n        try:\n            outcome = await self.sender.send(attempted)",
        "        self._sending = True\n        self._journals.settle(head.runs)\n"
        "        self._journals.advance()\n"
        "        try:\n            outcome = await self.sender.send(attempted)",
        ("process/killed-between-reply-and-booking", "process/kill-9-again-and-again"),
    ),
    Mutation(
        "delete a row of the spool before its delivery",
        "_replayer.py",
        "        step = await dissection.step(self._sender, self._source)\n"
        "        if isinstance(step, Settled):\n"
        "            self._book(row, step)\n"
        "            self._source.acknowledge(row)\n",
        "        self._source.acknowledge(row)\n"
        "        await asyncio.sleep(0.05)\n"
        "        step = await dissection.step(self._sender, self._source)\n"
        "        if isinstance(step, Settled):\n"
        "            self._book(row, step)\n",
        ("process/killed-in-a-replay",),
    ),
    Mutation(
        "skip the journal",
        "_handoff/_queue.py",
        "            journal = self._journals.current\n            if journal",
        "            journal = None\n            if journal",
        ("process/kill-9-again-and-again",),
    ),
    Mutation(
        "drop when the queue is full",
        "_handoff/_queue.py",
        "        while self._is_full_for(size_bytes):\n            if self._shift_locked():",
        "        while self._is_full_for(size_bytes):\n            if False:",
        ("network/queue-pressure",),
    ),
    Mutation(
        "let a lower layer retry, as redis-py does unless told otherwise",
        "_delivery/_connections.py",
        "                await connection.send_packed_command(_packed(words), check_health=False)\n"
        "                reply = await connection.read_response()\n"
        "                reusable = True\n",
        "                try:\n"
        "                    await connection.send_packed_command(_packed(words), check_health=False)\n"
        "                    reply = await connection.read_response()\n"
        "                except (ConnectionError, OSError, __import__('redis').exceptions.ConnectionError,\n"
        "                        __import__('redis').exceptions.TimeoutError):\n"
        "                    await _discard(connection)\n"
        "                    connection = await self._take()\n"
        "                    await connection.send_packed_command(_packed(words), check_health=False)\n"
        "                    reply = await connection.read_response()\n"
        "                reusable = True\n",
        ("network/lost-reply-plain",),
    ),
    Mutation(
        "push plainly, and call it exactly once",
        "_delivery/_sender.py",
        "            outcome = await self._client.send_batch(batch)\n",
        "            outcome = await self._client.push_plain(batch.values)\n",
        ("network/lost-reply",),
    ),
    Mutation(
        "wait for Redis inside of the call",
        "_sink.py",
        "            pipeline.handoff.put(self._extractor.line(record, self._record_max_bytes))\n",
        "            pipeline.handoff.put(self._extractor.line(record, self._record_max_bytes))\n"
        "            while pipeline.handoff.put_count > 1000 and self.stats().redis_state == 'down':\n"
        "                __import__('time').sleep(0.01)\n",
        ("network/refused", "network/black-hole"),
    ),
    Mutation(
        "believe a row without looking at its checksum",
        "_spool/_row.py",
        '    if data[:_PREFIX_BYTES] != b"PLS1 %08x "',
        '    if False and data[:_PREFIX_BYTES] != b"PLS1 %08x "',
        ("disk/bits-flip-in-the-database",),
    ),
    Mutation(
        "believe a journal without looking at its checksums",
        "_journal/_recovery.py",
        "return size if crc32(value, position ^ self._key) == checksum else 0",
        "return size",
        ("disk/bits-flip-in-the-journal",),
    ),
    Mutation(
        "keep quiet about what the server has lost",
        "_losses.py",
        "        self._ledger.server_lost += records\n",
        "",
        ("server/killed-without-data",),
    ),
    Mutation(
        "write the password beside the server's name",
        "_destination.py",
        'else f"{host}:{self.port}"\n',
        'else f"{self.password}@{host}:{self.port}"\n',
        ("network/refused",),
    ),
]


def mutated(mutation: Mutation, folder: Path) -> Path:
    """A copy of the library's source with the mutation in it; gives the folder to import from."""
    shutil.copytree(ROOT / "src" / _PACKAGE, folder / _PACKAGE)
    mutation.apply(folder)
    return folder


def main() -> int:
    """Break the library in each of the ways; 0 if every one is seen. CHAOS_ONLY chooses among their names."""
    try:
        choices = read_choices()
        chosen = choices.among(MUTATIONS)
    except ChoiceError as error:
        print(error, file=sys.stderr)
        return 2
    known = {scenario.name: scenario for scenario in scenarios_for("full", choices.seed)}
    print(f"chaos mutants: seed {choices.seed}, {len(chosen)} mutations", flush=True)
    with open_setting("mutants") as setting:
        names = sorted({name for mutation in chosen for name in mutation.scenarios})
        sound = list(run([(known[name], choices.seed) for name in names], setting, choices.jobs))
        for result in (each for each in sound if each.verdict != "green"):
            print(f"{result.scenario} is {result.verdict} without any mutation: {_why(result)}")
            return 1
        seen = [_look_for(mutation, known, choices, setting) for mutation in chosen]
    if chosen == MUTATIONS:  # a look at a few does not replace what is known of all
        (choices.report / MUTANTS).write_text(json.dumps(seen, indent=1) + "\n")
    survived = sum(not row["seen_by"] for row in seen)
    print(f"chaos mutants: {len(seen) - survived} of {len(seen)} were seen")
    return 1 if survived else 0


def _look_for(
    mutation: Mutation, known: dict[str, Scenario], choices: Choices, setting: Setting
) -> dict[str, object]:
    """Play its scenarios, with one seed after the other, until one of them is red."""
    red: list[Result] = []
    with tempfile.TemporaryDirectory(dir=setting.guardian.folder) as folder:
        broken = replace(setting, source=mutated(mutation, Path(folder)))
        for seed in range(choices.seed, choices.seed + _SEEDS):
            results = run([(known[name], seed) for name in mutation.scenarios], broken, choices.jobs)
            if red := [result for result in results if result.verdict == "red"]:
                break
    print(f"{'seen' if red else 'SURVIVED':<9} {mutation.name}", flush=True)
    for result in red:
        print(f"          {result.scenario}, seed {result.seed}: {_why(result)}", flush=True)
    return {"mutation": mutation.name, "seen_by": [result.scenario for result in red]}


def _why(result: Result) -> str:
    """What is worst about it, in a line."""
    reasons = [violation.strip().splitlines()[-1] for violation in result.violations]
    return next((reason for reason in reasons if "lost" in reason or "doubled" in reason), reasons[0])


if __name__ == "__main__":
    have_mounts_of_our_own()
    sys.exit(main())
