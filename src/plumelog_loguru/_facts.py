"""Facts that the sink tells: its statistics, the outcome of a drain, and the events that hooks receive.

Everything here is frozen: a reader holds a picture of one moment, never a live view.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

RedisState = Literal["up", "down", "refusing", "held"]
EventKind = Literal[
    "up", "down", "spooling", "replaying", "drained", "dropped", "dead_lettered", "server_lost_data"
]


@dataclass(frozen=True, slots=True)
class SinkStats:
    """A snapshot of one sink, in records unless a field says otherwise.

    ``in_memory``, ``spooled``, ``queue_depth``, ``spool_bytes`` and ``oldest_spooled_seconds`` are the state
    at this moment; everything else counts since the sink was constructed in this process. At every moment
    ``accepted + adopted == delivered + in_memory + spooled + dead_lettered + sum(dropped.values())``.
    """

    accepted: int  # every record that came to the sink's door, refused ones included
    adopted: int  # found in the spool of a process that has ended
    delivered: int  # acknowledged by Redis
    already_applied: int  # batches of which Redis said that it had them: a lost reply, and no double
    in_memory: int
    spooled: int  # on disk, waiting for Redis
    dead_lettered: int
    dropped: Mapping[str, int]  # by reason
    possibly_doubled: int
    server_lost: int  # acknowledged, and then forgotten by Redis: at most this many
    retries: int  # attempts after the first, in batches
    queue_depth: int  # waiting in memory, without the batch in flight
    spool_bytes: int  # bytes
    oldest_spooled_seconds: float  # seconds, 0.0 when nothing is spooled
    redis_state: RedisState
    delivery: Literal["exactly_once", "at_least_once"]
    durability: Literal["journal", "memory", "degraded"]
    last_error: str | None  # one sentence, without secrets


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain or a close achieved. Awaited, it gives itself: ``await sink.close()`` works too."""

    delivered: int  # records that Redis took during this call
    spooled: int  # records in the spool at its end
    dropped: int  # records lost during this call
    in_memory: int  # records in memory at its end
    seconds: float  # how long the call took
    complete: bool  # all that was accepted before the call is in Redis or in the spool

    def __await__(self) -> Generator[Any, None, DrainReport]:
        return self
        yield  # makes this a generator, as `__await__` must be


@dataclass(frozen=True, slots=True)
class SinkEvent:
    """A change of the sink's state, or a loss, as a hook receives it."""

    kind: EventKind
    at: float  # epoch seconds
    records: int = 0  # how many records it concerns
    reason: str = ""
    detail: str = ""


class Hook(Protocol):
    """Called for each event, in a thread of the hooks' own, never in the application's."""

    def __call__(self, event: SinkEvent, /) -> object: ...
