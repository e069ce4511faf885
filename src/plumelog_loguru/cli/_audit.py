"""``audit``: what is missing in the list, and what is doubled, by producer; it takes nothing out."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .._delivery import AsyncRedisClient, Failed, import_redis
from .._record import producer_key
from .._spool import SpoolDirectory
from ._auditor import Auditor
from ._command import DONE, LEFT, Call, UsageError, counted, show, show_json, tell
from ._numbers import copies
from ._producers import Producer

_RANGES_SHOWN = 8

_ABOUT = """\
Reads the Redis list in pages, without taking anything out of it, and says for each producer (a sink in a
process) which numbers it saw, which are missing between, and which are there more than once. With FILE it
reads that instead, a record a line; '-' is standard input.

What is in the spool is not missing. What whoever reads the list has taken out does look missing, above all
where it takes the newest first, as from a list that is pushed on the left. So an audit tells of losses where
nobody reads the list, or of a file that holds all that was ever taken from it.

Records without a producer are counted only. It exits with 1 if anything is missing, doubled or unreadable.
"""


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    parser.description = _ABOUT
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="read this file instead of the list: a record a line"
    )
    parser.add_argument("--no-spool", action="store_true", help="do not look into the spool directory")


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found."""

    source: str
    auditor: Auditor
    failure: str | None  # why the list was not read to its end
    oldest_is: str = "the first line"  # from where places are counted

    @property
    def producers(self) -> Sequence[tuple[str, Producer]]:
        """All that were seen."""
        return list(self.auditor.producers)

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        seen, producers = self.auditor, self.producers
        return {
            "source": self.source,
            "complete": self.failure is None and not seen.trail.lost,
            "values": seen.values,
            "without_producer": seen.producers.anonymous,
            "not_records": seen.not_records,
            "taken_meanwhile": seen.trail.taken,
            "spooled": seen.spooled,
            "dead_letters": seen.dead_letters,
            "missing": sum(producer.missing for _, producer in producers),
            "doubled": sum(len(producer.again) for _, producer in producers),
            "problems": seen.problems,
            "producers": [producer.to_json(name) for name, producer in producers],
        }

    def lines(self) -> Iterable[str]:
        """What a person reads."""
        seen = self.auditor
        yield f"source      {self.source}"
        yield (
            f"read        {counted(seen.values, 'value')}, {seen.producers.anonymous:,} without a producer"
        )
        yield f"spool       {counted(seen.spooled, 'record')}, {counted(seen.dead_letters, 'dead letter')}"
        for name, producer in self.producers:
            first, last = producer.span
            yield (
                f"producer    {name}  {producer.app}/{producer.env}  seq {first}-{last}  "
                f"{counted(len(producer.listed) + len(producer.again), 'record')}"
                + (f", {producer.spooled:,} in the spool" if producer.spooled else "")
            )
            if gaps := producer.gaps():
                ranges = _few([_range(*gap) for gap in gaps])
                yield f"  missing   {ranges}: {counted(producer.missing, 'record')}"
            for reason, records in producer.losses.items():
                yield f"  it said   {counted(records, 'record')} lost, {reason}"
            if doubled := copies(producer.again):
                yield f"  doubled   {_few([f'{_range(a, b)} {n} times' for a, b, n in doubled])}"

    def faults(self) -> Iterable[str]:
        """What is wrong, a sentence each."""
        seen = self.auditor
        if self.failure is not None:
            yield self.failure
        if seen.trail.lost:
            yield (
                f"values were taken from the list faster than they could be looked at: only the first "
                f"{seen.values:,} are told of; stop whoever reads the list, or audit a file"
            )
        missing = [producer.missing for _, producer in self.producers if producer.missing]
        if missing:
            said = sum(sum(producer.losses.values()) for _, producer in self.producers)
            yield (
                f"missing: {counted(sum(missing), 'record')} of {counted(len(missing), 'producer')}, "
                "lost or taken out by whoever reads the list"
                + (f"; the producers themselves said that {said:,} were lost" if said else "")
            )
            if seen.living:
                yield (
                    f"{counted(seen.living, 'process', 'processes')} still running may have "
                    "some of them in memory: look again"
                )
        doubled = sum(len(producer.again) for _, producer in self.producers)
        if doubled:
            yield f"{counted(doubled, 'copy', 'copies')} too many: their records are there more than once"
        if seen.not_records:
            places = _few([str(place) for place in seen.unreadable])
            yield (
                f"{counted(seen.not_records, 'value')} that no Plumelog server can read, being no JSON "
                f"object: number {places}, counted from {self.oldest_is}"
            )
        yield from seen.problems


def run(call: Call) -> int:
    """Read, and say what was found."""
    key = producer_key(call.settings)
    if not key:
        raise UsageError(
            "producer_field is empty, so records do not say whose they are; set it as the application had it"
        )
    nowhere = call.arguments.file is not None and call.settings.spool_dir is None
    directory = None if call.arguments.no_spool or nowhere else call.directory
    auditor = Auditor(key)
    if call.arguments.file is None:
        audit = Audit(
            str(call.settings.destination),
            auditor,
            asyncio.run(_read_list(call, auditor, directory)),
            f"the {'right' if call.settings.redis_push_side == 'left' else 'left'} end of the list",
        )
    else:
        _read_file(call.arguments.file, auditor)
        # The spool may be on another machine.
        if directory is not None and directory.path.exists():
            auditor.read_spool(directory)
        audit = Audit(call.arguments.file, auditor, None)
    if call.arguments.json:
        show_json(audit.to_json())
    else:
        for line in audit.lines():
            show(line)
    if auditor.trail.taken:
        tell(
            f"{counted(auditor.trail.taken, 'value')} or more were taken from the list while it was read: "
            "what is taken looks missing afterwards"
        )
    faults = list(audit.faults())
    for fault in faults:
        tell(fault)
    if not faults and not call.arguments.json:
        show("nothing is missing, and nothing is doubled")
    return LEFT if faults else DONE


async def _read_list(call: Call, auditor: Auditor, directory: SpoolDirectory | None) -> str | None:
    """Read the list and the spool; why it could not be read to its end."""
    if directory is not None:
        auditor.read_spool(directory)
    import_redis()
    client = AsyncRedisClient(call.settings)
    try:
        for again in (False, True):
            if again and directory is not None:
                auditor.read_spool(directory)
            failed = await auditor.read_list(client)
            if isinstance(failed, Failed):
                reason = failed.failure.detail or failed.failure.code
                return (
                    f"the list {call.settings.destination} cannot be read ({reason}); "
                    "'plumelog-replay doctor' says what to do"
                )
    finally:
        await client.close()
    return None


def _read_file(name: str, auditor: Auditor) -> None:
    try:
        if name == "-":
            auditor.read(line.rstrip(b"\r\n") for line in sys.stdin.buffer)
            return
        with open(name, "rb") as file:
            auditor.read(line.rstrip(b"\r\n") for line in file)
    except OSError as error:
        raise UsageError(f"the file {name} cannot be read ({error.strerror})") from error


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - _RANGES_SHOWN
    return ", ".join(texts[:_RANGES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
