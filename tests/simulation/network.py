"""What becomes of a request between a process and Redis.

A request that was sent lives on by itself: it may arrive long after the caller has given it up, after later
requests, and after the process that sent it is gone.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import redis.exceptions
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from plumelog_loguru._delivery._connections import NotSent

from .server import Word

if TYPE_CHECKING:
    from .world import Process, World

LATEST_SECONDS = 150.0  # how late a request may arrive
POISON = b'"poison"'


class Fate(Enum):
    """What happens to one request."""

    FINE = "fine"
    REFUSED = "refused"  # no connection
    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"  # executed soon, perhaps after the caller has seen the connection break
    LATE = "late"  # executed long after the caller has given it up
    TWICE = "twice"  # executed and answered, and executed once more, late
    TURNED_AWAY = "turned away"  # the server answers with an error, and does nothing
    MUDDLED = "muddled"  # something on the way answers with an error, and perhaps passes the request on
    POISON = "poison"  # what stands in the request breaks the connection; no mood draws this


# What the network is like for a while: how likely each fate is.
MOODS: dict[str, dict[Fate, float]] = {
    "calm": {Fate.FINE: 1},
    "down": {Fate.REFUSED: 1},
    "black hole": {Fate.REQUEST_LOST: 3, Fate.LATE: 2},
    "deaf": {Fate.REPLY_LOST: 3, Fate.LATE: 1},
    "turned away": {Fate.TURNED_AWAY: 1},
    "flaky": {
        Fate.FINE: 6,
        Fate.REFUSED: 1,
        Fate.REQUEST_LOST: 1,
        Fate.REPLY_LOST: 2,
        Fate.LATE: 1,
        Fate.TWICE: 1,
    },
    "wild": {fate: 1 for fate in Fate if fate is not Fate.POISON},
}

_ERRORS = (
    lambda: redis.exceptions.ConnectionError("Connection closed by server."),
    lambda: redis.exceptions.TimeoutError("Timeout reading from socket"),
    lambda: ConnectionResetError(104, "Connection reset by peer"),
    lambda: IndexError("deque index out of range"),  # an error of the client's own, in the middle of a reply
)
_REPLIES = (
    lambda: BusyLoadingError("Redis is loading the dataset in memory"),
    lambda: ReadOnlyError("You can't write against a read only replica."),
    lambda: OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    lambda: ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's unable to"),
    lambda: NoPermissionError("this user has no permissions to access one of the keys"),
    lambda: AuthenticationError("Authentication required."),
)


class Network:
    """Decides what becomes of each request."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.mood = "calm"
        self.fates_met: set[Fate] = set()

    def draw(self, words: tuple[Word, ...]) -> Fate:
        """The fate of the next request."""
        weights = MOODS[self.mood]
        fate = self._world.dice.choices(list(weights), list(weights.values()))[0]
        if fate is not Fate.REFUSED and any(isinstance(word, bytes) and POISON in word for word in words):
            fate = Fate.POISON
        self.fates_met.add(fate)
        return fate


class _Settings(Protocol):
    @property
    def socket_timeout_seconds(self) -> float: ...


class SimulatedConnections:
    """Stands for the library's `Connections`: one request out, one reply or an exception back."""

    def __init__(self, settings: _Settings) -> None:
        from .world import PROCESS

        self._process: Process = PROCESS.get()
        self._world = self._process.world
        self._patience = settings.socket_timeout_seconds

    async def call(self, *words: Word) -> object:
        """Send one request, and wait for the reply as long as the time-out says."""
        world, process, dice = self._world, self._process, self._world.dice
        _may_die(process, "before a request")
        fate = world.network.draw(words)
        world.tell(f"{process} sends {_described(words)}: {fate.value}")
        if fate is Fate.REFUSED:
            await asyncio.sleep(dice.uniform(0, 0.05))
            raise NotSent from ConnectionRefusedError(111, "Connection refused")
        reply: asyncio.Future[object] = world.loop.create_future()

        def fail() -> None:
            if not reply.done():
                reply.set_exception(dice.choice(_ERRORS)())

        def turn_away() -> None:
            if not reply.done():
                reply.set_exception(dice.choice(_REPLIES)())

        def muddle() -> None:
            if not reply.done():
                reply.set_exception(ResponseError("ERR upstream failure"))

        def arrive(answering: bool) -> None:
            world.arriving -= 1
            try:
                answer = world.redis.execute(words)
            except ResponseError as error:
                if answering and not reply.done():
                    reply.set_exception(error)
                return
            world.tell(f"  {_described(words)} arrives: {answer}")
            if answering and not reply.done():
                reply.set_result(answer)

        def arrive_after(seconds: float, *, answering: bool = False) -> None:
            world.arriving += 1
            world.loop.call_later(seconds, arrive, answering)

        soon, late = dice.uniform(0, 0.05), dice.uniform(0, 1) ** 2 * LATEST_SECONDS
        patience = self._patience
        if fate in (Fate.FINE, Fate.TWICE):
            arrive_after(soon, answering=True)
        if fate in (Fate.LATE, Fate.TWICE):
            arrive_after(soon + late)
        if fate is Fate.REPLY_LOST:
            arrive_after(soon)
            patience = dice.choice((patience, dice.uniform(0, 0.1)))
        if fate is Fate.MUDDLED:
            if dice.random() < 0.7:
                arrive_after(dice.choice((soon, late)))
            world.loop.call_later(dice.uniform(0, 0.1), muddle)
        if fate is Fate.TURNED_AWAY:
            world.loop.call_later(soon, turn_away)
        if fate is Fate.POISON:
            patience = soon
        timer = world.loop.call_later(patience, fail)
        try:
            _may_die(process, "with a request under way")
            answer = await reply
        finally:
            timer.cancel()
        _may_die(process, "with the reply in hand")
        return answer

    async def open(self) -> None:
        await asyncio.sleep(0)

    async def drop_idle(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        await asyncio.sleep(0)


def _may_die(process: Process, where: str) -> None:
    from .world import Killed

    try:
        process.may_die(where)
    except Killed:
        raise asyncio.CancelledError from None  # which is all that a task may end by


def _described(words: tuple[Word, ...]) -> str:
    if words[0] == "GET":
        return " ".join(map(str, words))
    command, lane, mode, seq, values = str(words[0]), str(words[4]), str(words[5]), words[6], words[8:]
    name = lane.partition(":lane:")[2]
    return f"{command} {mode} {name[:6]}…:{seq!s} {' '.join(map(_number, values))}"


def _number(value: Word) -> str:
    assert isinstance(value, bytes)
    return value.partition(b",")[0].rpartition(b":")[2].decode()
