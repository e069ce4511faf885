"""The calls that the rest of the library makes on Redis.

Promises:

- a call never raises, save for the cancellation of its caller; what went wrong is a `Failed`;
- a call is one attempt: it is never repeated behind the caller's back, and it ends within the time-outs;
- after a failure, or a cancelled call, the next one starts on a fresh connection.

Assumes that all calls come from one event loop. Several may be under way at a time; that those of one lane
are not is the caller's part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from .._batch import Batch, BatchId, new_lane_id
from ._connections import Connections, NotSent, Word
from ._failures import classify
from ._lane_script import (
    LANE_SCRIPT,
    LANE_SCRIPT_SHA1,
    Mode,
    lane_key,
    parse_answer,
    parse_lane,
    parse_probe,
)
from ._outcomes import AlreadyApplied, Applied, Failed, Failure, Fenced, Healthy

if TYPE_CHECKING:
    from .._settings import PlumelogSettings

_PROBE_TTL_MS = 60_000

T = TypeVar("T")


class AsyncRedisClient:
    """One server, one list."""

    def __init__(self, settings: PlumelogSettings) -> None:
        """Prepare; nothing is opened before the first call."""
        self._connections = Connections(settings)
        self._list_key = settings.redis_key
        self._push_left = settings.redis_push_side == "left"
        self._lane_ttl_ms = int(settings.lane_ttl_seconds * 1000)
        self._probe_key = lane_key(settings.redis_key, f"probe-{new_lane_id()}")
        self._password = settings.endpoint.password
        self.scripted = settings.delivery == "exactly_once"
        """Whether `health_check` tries the scripted push or the plain one; to be set when falling back."""

    async def connect(self) -> Failed | None:
        """Open a connection ahead of the first batch; None when there is one."""
        return await self._attempt(self._connections.open())

    async def send_batch(self, batch: Batch) -> Applied | AlreadyApplied | Fenced | Failed:
        """Push a batch under its identity, once however often this is called."""
        mode = Mode.PUSH_LEFT if self._push_left else Mode.PUSH_RIGHT
        return await self._attempt(self._in_lane(mode, batch.id, batch.values))

    async def fence(self, batch_id: BatchId) -> AlreadyApplied | Fenced | Failed:
        """End the doubt about a batch: it is in the list, or no request can put it there any more."""
        return await self._attempt(self._fence_lane(batch_id))

    async def last_of(self, lane: str) -> int | Failed:
        """The last number that Redis knows of a lane; 0 where it knows none."""
        return await self._attempt(self._last_of(lane))

    async def push_plain(self, values: Sequence[bytes]) -> Applied | Failed:
        """Push without a lane: repeating it after a failure in doubt may double the values."""
        return await self._attempt(self._plainly(values))

    async def health_check(self) -> Healthy | Failed:
        """Try the write path, without touching the list.

        A PING is answered by a replica, by a full memory, and beside a key of the wrong type.
        """
        return await self._attempt(self._probe_script() if self.scripted else self._probe_plainly())

    async def page(self, distance: int, count: int) -> list[bytes] | Failed:
        """Values of the list, oldest first, from a distance to its oldest end on; none is taken out."""
        return await self._attempt(self._range(distance, count))

    async def ask(self, *words: Word) -> object:
        """Put a question that changes nothing; the reply as it came, or a `Failed`."""
        return await self._attempt(self._connections.call(*words))

    async def would_take(self, *words: Word) -> Failed | None:
        """Ask whether a command would be taken, without its being done; None: it would."""
        return await self._attempt(self._connections.rehearse(*words))

    async def hang_up(self) -> None:
        """Let the next call open a connection."""
        await self._connections.drop_idle()

    async def close(self) -> None:
        """Close all connections; calls under way close theirs as they end."""
        await self._connections.close()

    async def _attempt(self, call: Awaitable[T]) -> T | Failed:
        try:
            return await call
        except NotSent as error:
            failure = classify(error.__cause__ or error, sent=False)
        except Exception as error:
            failure = classify(error)
        await self._connections.drop_idle()
        return Failed(self._without_secrets(failure))

    async def _in_lane(
        self, mode: Mode, batch_id: BatchId, values: Sequence[bytes]
    ) -> Applied | AlreadyApplied | Fenced:
        key = lane_key(self._list_key, batch_id.lane)
        return parse_answer(await self._script(key, mode, batch_id.seq, self._lane_ttl_ms, values))

    async def _fence_lane(self, batch_id: BatchId) -> AlreadyApplied | Fenced:
        outcome = await self._in_lane(Mode.FENCE, batch_id, ())
        if isinstance(outcome, Applied):
            raise ValueError("not an answer of the lane script to a fence")
        return outcome

    async def _last_of(self, lane: str) -> int:
        return parse_lane(await self._connections.call("GET", lane_key(self._list_key, lane)))

    async def _plainly(self, values: Sequence[bytes]) -> Applied:
        length = await self._connections.call(
            "LPUSH" if self._push_left else "RPUSH", self._list_key, *values
        )
        return Applied(last_found=0, list_length=_integer(length))

    async def _range(self, distance: int, count: int) -> list[bytes]:
        first, last = distance, distance + count - 1
        if self._push_left:
            first, last = -1 - last, -1 - first
        reply = await self._connections.call("LRANGE", self._list_key, first, last)
        if not isinstance(reply, list):
            raise ValueError(f"values of a list were expected, not {type(reply).__name__}")
        values = [value for value in reply if isinstance(value, bytes)]
        return values[::-1] if self._push_left else values

    async def _probe_script(self) -> Healthy:
        return Healthy(parse_probe(await self._script(self._probe_key, Mode.PROBE, 0, _PROBE_TTL_MS)))

    async def _probe_plainly(self) -> Healthy:
        try:
            # Onto a list that is not there, which adds nothing, but only where a write would be taken.
            await self._connections.call("LPUSHX" if self._push_left else "RPUSHX", self._probe_key, "probe")
        except Exception as error:
            # A user who may touch this one list only: then reading its length must do.
            if classify(error).code != "NOPERM":
                raise
        return Healthy(_integer(await self._connections.call("LLEN", self._list_key)))

    async def _script(
        self, key: str, mode: Mode, seq: int, ttl_ms: int, values: Sequence[bytes] = ()
    ) -> object:
        words: tuple[Word, ...] = (2, self._list_key, key, mode.value, seq, ttl_ms, *values)
        try:
            return await self._connections.call("EVALSHA", LANE_SCRIPT_SHA1, *words)
        except Exception as error:
            if classify(error).code != "NOSCRIPT":
                raise
        return await self._connections.call("EVAL", LANE_SCRIPT, *words)

    def _without_secrets(self, failure: Failure) -> Failure:
        # A second belt: `classify` cuts off the places where servers are known to repeat what they were sent.
        if not self._password:
            return failure
        return replace(failure, detail=failure.detail.replace(self._password, "***"))


def _integer(reply: object) -> int:
    if not isinstance(reply, int):
        raise ValueError(f"a number was expected, not {type(reply).__name__}")
    return reply
