"""``status``: what is spooled, by whom, how old, and whether Redis takes records.

It reads beside living owners and changes nothing in the spool. Of Redis it tries the real write path, as the
sink does, in a lane of its own that is gone after a minute: servers that take no record still answer a PING.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .._clock import SYSTEM_CLOCK
from .._delivery import AsyncRedisClient, Failed, Healthy, Sender, import_redis
from .._settings import PlumelogSettings
from .._spool import DeadLetters, PartInfo, SpoolDirectory, SpoolError
from ._command import DONE, LEFT, Call, counted, local_time, show, show_json, tell


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a spool directory and of its Redis."""

    directory: SpoolDirectory
    parts: list[PartInfo]
    letters: DeadLetters
    dead_letters: int
    letters_problem: str | None  # why they cannot be counted
    redis: Healthy | Failed

    @property
    def quarantined(self) -> int:
        """Files that could not be read."""
        return self.directory.quarantined() + sum(part.quarantined for part in self.parts)

    @property
    def oldest_ms(self) -> int | None:
        """Time of the oldest record, epoch milliseconds."""
        return min((part.oldest_ms for part in self.parts if part.oldest_ms is not None), default=None)

    @property
    def newest_ms(self) -> int | None:
        """Time of the newest record, epoch milliseconds."""
        return max((part.newest_ms for part in self.parts if part.newest_ms is not None), default=None)

    @property
    def error(self) -> str | None:
        """Why Redis takes no records; None: it does."""
        if isinstance(self.redis, Failed):
            return self.redis.failure.detail or self.redis.failure.code
        return None

    def faults(self) -> Iterable[str]:
        """What is wrong, a sentence each."""
        if self.error is not None:
            yield f"Redis at {self.directory.destination.server} does not take records ({self.error})"
        for part in self.parts:
            if part.problem is not None:
                yield part.problem
            if part.quarantined:
                files = counted(part.quarantined, "file")
                yield f"part {part.id} has {files} in quarantine that could not be read"
        if found := self.directory.quarantined():
            yield f"{counted(found, 'file')} that could not be read, and of no part, in quarantine"
        if self.letters_problem is not None:
            yield self.letters_problem
        if self.dead_letters:
            refused = counted(
                self.dead_letters, "record that Redis refuses is", "records that Redis refuses are"
            )
            yield f"{refused} in {self.letters.path}; 'plumelog-replay dead-letters list' tells more"

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "spool_dir": str(self.directory.path),
            "batches": sum(part.batches for part in self.parts),
            "records": sum(part.records for part in self.parts),
            "bytes": sum(part.bytes for part in self.parts),
            "oldest": self.oldest_ms,
            "newest": self.newest_ms,
            "parts": [
                {
                    "id": part.id,
                    "owner": part.owner,
                    "destination": None if part.destination is None else str(part.destination),
                    "records": part.records,
                }
                for part in self.parts
            ],
            "dead_letters": self.dead_letters,
            "quarantined": self.quarantined,
            "redis": {
                "healthy": self.error is None,
                "error": self.error,
                "list_length": self.redis.list_length if isinstance(self.redis, Healthy) else None,
            },
        }

    def _waiting(self) -> str:
        batches, records, journaled, size = (
            sum(getattr(part, name) for part in self.parts)
            for name in ("batches", "records", "journaled", "bytes")
        )
        places = []
        if batches or not journaled:
            places.append(
                f"{counted(records - journaled, 'record')} in {counted(batches, 'batch', 'batches')}"
            )
        if journaled:
            places.append(f"{counted(journaled, 'record')} that ended processes had in memory")
        return f"{', '.join(places)}; {counted(size, 'byte')}"

    def lines(self) -> Iterable[str]:
        """What a person reads."""
        yield f"spool       {self.directory.path}"
        yield f"waiting     {self._waiting()}"
        if self.oldest_ms is not None and self.newest_ms is not None:
            yield f"from, to    {local_time(self.oldest_ms)}, {local_time(self.newest_ms)}"
        for part in self.parts:
            destination = part.destination or "an unknown destination"
            records = counted(part.records, "record")
            yield f"part        {part.id}  owner {part.owner}  {records} for {destination}"
        letters = f"{counted(self.dead_letters, 'record')} that Redis refuses"
        yield f"letters     {letters if self.letters_problem is None else 'cannot be read'}"
        yield f"quarantine  {counted(self.quarantined, 'file')}"
        healthy = (
            f"takes records, {self.redis.list_length:,} in the list"
            if isinstance(self.redis, Healthy)
            else "fails"
        )
        yield f"redis       {self.directory.destination}: {healthy}"


def look(settings: PlumelogSettings, directory: SpoolDirectory, tell: Callable[[str], None]) -> Status:
    """Look at the spool and at Redis; ``tell`` is told what a person should know besides.

    Raises:
        SpoolError: the directory is missing, or cannot be read.
    """
    parts = directory.survey()
    letters, dead_letters, problem = DeadLetters(directory.path), 0, None
    try:
        dead_letters = len(letters.names())
    except SpoolError as error:
        problem = str(error)
    import_redis()
    return Status(directory, parts, letters, dead_letters, problem, asyncio.run(_probe(settings, tell)))


async def _probe(settings: PlumelogSettings, tell: Callable[[str], None]) -> Healthy | Failed:
    client = AsyncRedisClient(settings)
    sender = Sender(
        client, settings.delivery, clock=SYSTEM_CLOCK, report=lambda _kind, sentence: tell(sentence)
    )
    try:
        return await sender.probe()
    finally:
        await client.close()


def add_flags(parser: ArgumentParser) -> None:
    """None but the common ones."""
    parser.epilog = (
        "The spool is read beside living processes, and nothing in it is changed. Redis is asked by the way "
        "that records go, with a lane of its own that is gone after a minute; no record is pushed. Exit code "
        "0: nothing is wrong, whatever is spooled; 1: Redis takes no records, or there is something in the "
        "spool that cannot be read, or that Redis refuses. 'plumelog-replay list' shows the spool batch "
        "by batch."
    )


def run(call: Call) -> int:
    """Look, and say what there is."""
    status = look(call.settings, call.directory, tell)
    if call.arguments.json:
        show_json(status.to_json())
    else:
        for line in status.lines():
            show(line)
    faults = list(status.faults())
    for fault in faults:
        tell(fault)
    return LEFT if faults else DONE
