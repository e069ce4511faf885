"""What each toxic does with the bytes that pass its stage.

A toxic's `pipe` runs until the stream ends there (it returns), or until it is interrupted (it is cancelled)
because the toxics of the connection change. Passing a chunk on never waits, so a toxic that is interrupted
with a chunk in hand passes it on at once: nothing is lost by a change, and what was held back is released.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from typing_extensions import Self

Stream = Literal["upstream", "downstream"]

_MS = 1e-3
_US = 1e-6
_STEP_MS = 100  # a slow connection passes a large chunk in pieces, one in this time


@dataclass(slots=True)
class Chunk:
    """Bytes that were read in one piece, and when, by the loop's clock."""

    data: bytes
    born: float


class Channel:
    """Chunks on their way from one stage to the next. Its size is where the writer should pause, no wall."""

    def __init__(self, size: int = 1) -> None:
        self._size = size
        self._chunks: deque[Chunk] = deque()
        self._something = asyncio.Event()  # a chunk, or the end
        self._room = asyncio.Event()
        self._room.set()
        self.closed = False

    def put(self, chunk: Chunk) -> None:
        """Add a chunk; an empty one is nothing."""
        if chunk.data:
            self._chunks.append(chunk)
            self._something.set()
            if len(self._chunks) >= self._size:
                self._room.clear()

    def close(self) -> None:
        """Add nothing more; what is inside can still be taken."""
        self.closed = True
        self._something.set()

    async def wait_for_room(self) -> None:
        """Wait until the other side has taken enough."""
        await self._room.wait()

    async def get(self) -> Chunk | None:
        """Take the next chunk; None is the end."""
        await self._something.wait()
        chunk = self._chunks.popleft() if self._chunks else None
        self._after_taking()
        return chunk

    def take_all(self) -> list[Chunk]:
        """Take what is there, without waiting."""
        chunks = list(self._chunks)
        self._chunks.clear()
        self._after_taking()
        return chunks

    def _after_taking(self) -> None:
        if len(self._chunks) < self._size:
            self._room.set()
        if not self._chunks and not self.closed:
            self._something.clear()


class Stage:
    """One toxic in one connection; iterating takes its chunks, as fast as the next stage does."""

    def __init__(self, toxic: Toxic, output: Channel) -> None:
        self.toxic = toxic
        self.input = Channel(toxic.effect.buffered_chunks)
        self.output = output
        self.passed_bytes = 0
        self.closed = False
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Let the toxic work. Whether it strikes is drawn anew, as it is in Toxiproxy."""
        effect = self.toxic.effect if random.random() < self.toxic.toxicity else Noop()
        self._task = asyncio.create_task(self._pipe(effect))

    async def interrupt(self) -> bool:
        """Stop the toxic with nothing in hand; False if the stream has ended here."""
        if self._task is not None and not self.closed:
            self._task.cancel()
            await asyncio.wait([self._task])
        return not self.closed

    def close(self) -> None:
        """End the stream here."""
        self.closed = True
        self.output.close()

    def drop(self) -> None:
        """Stop the toxic, for the connection is gone."""
        self.closed = True
        if self._task is not None:
            self._task.cancel()

    def pass_on(self, chunk: Chunk) -> None:
        """Give a chunk to the next stage."""
        self.output.put(chunk)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        await self.output.wait_for_room()
        chunk = await self.input.get()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _pipe(self, effect: Effect) -> None:
        await effect.pipe(self)
        self.close()


@dataclass
class Effect:
    """What a type of toxic does; its fields are the attributes of the HTTP interface."""

    buffered_chunks: ClassVar[int] = 1
    ends_connections_when_removed: ClassVar[bool] = False

    async def pipe(self, stage: Stage) -> None:
        """Work until the stream ends at this stage."""
        raise NotImplementedError


@dataclass
class Noop(Effect):
    """Passes everything on; each connection begins with one, and a toxic that does not strike is one."""

    async def pipe(self, stage: Stage) -> None:
        """Pass everything on."""
        async for chunk in stage:
            stage.pass_on(chunk)


@dataclass
class Latency(Effect):
    """Delays each chunk by so many milliseconds, more or less the jitter, in order."""

    buffered_chunks: ClassVar[int] = 1024

    latency: int = 0
    jitter: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Hold each chunk until it is old enough."""
        loop = asyncio.get_running_loop()
        async for chunk in stage:
            jitter = random.randrange(-self.jitter, self.jitter) if self.jitter > 0 else 0
            wait = (self.latency + jitter) * _MS - (loop.time() - chunk.born)
            try:
                await asyncio.sleep(wait)
                chunk.born += wait  # so that a second latency adds its own
            finally:
                stage.pass_on(chunk)


@dataclass
class Bandwidth(Effect):
    """Passes so many kilobytes in a second; 0 holds everything back."""

    rate: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Hold each chunk for as long as it takes at this rate, and cut a large one."""
        loop = asyncio.get_running_loop()
        sleep = 0.0
        async for chunk in stage:
            sleep = sleep + len(chunk.data) / self.rate * _MS if self.rate > 0 else 0.0
            try:
                while len(chunk.data) > self.rate * _STEP_MS:
                    await asyncio.sleep(_STEP_MS * _MS)
                    step = self.rate * _STEP_MS
                    stage.pass_on(Chunk(chunk.data[:step], chunk.born))
                    chunk.data = chunk.data[step:]
                    sleep -= _STEP_MS * _MS
                began = loop.time()
                await asyncio.sleep(sleep)
                sleep -= loop.time() - began  # no sleep is exact; the next one makes up for it
            finally:
                stage.pass_on(chunk)


@dataclass
class SlowClose(Effect):
    """Closes so many milliseconds late."""

    delay: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Pass everything on, then wait."""
        async for chunk in stage:
            stage.pass_on(chunk)
        await asyncio.sleep(self.delay * _MS)


@dataclass
class Timeout(Effect):
    """Swallows everything, and closes after so many milliseconds of silence; 0 is never.

    When it is removed it closes its connections, those that it never struck included: so does Toxiproxy's.
    """

    ends_connections_when_removed: ClassVar[bool] = True

    timeout: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Swallow, and close when the time has come; each chunk begins it anew."""
        loop = asyncio.get_running_loop()
        while True:
            alarm = loop.call_later(self.timeout * _MS, stage.close) if self.timeout > 0 else None
            try:
                if await stage.input.get() is None:
                    return
            finally:
                if alarm is not None:
                    alarm.cancel()


@dataclass
class ResetPeer(Effect):
    """Ends the connection so many milliseconds after the first chunk, which is swallowed.

    On a connection that was made while the toxic was there, that is a reset; on an older one a plain close.
    """

    timeout: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Wait for anything, and end."""
        await stage.input.get()
        try:
            await asyncio.sleep(self.timeout * _MS)
        finally:
            stage.close()


@dataclass
class Slicer(Effect):
    """Cuts chunks into slices, about this long, so many microseconds apart."""

    average_size: int = 0
    size_variation: int = 0
    delay: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Pass slice after slice."""
        async for chunk in stage:
            begin = 0
            for end in self._ends(0, len(chunk.data)):
                stage.pass_on(Chunk(chunk.data[begin:end], chunk.born))
                begin = end
                try:
                    await asyncio.sleep(self.delay * _US)
                except asyncio.CancelledError:
                    stage.pass_on(Chunk(chunk.data[begin:], chunk.born))
                    raise

    def _ends(self, begin: int, end: int) -> Iterator[int]:
        """Where slices end: halves of halves, until they are short enough."""
        if end - begin <= max(self.average_size + self.size_variation, 1):
            yield end
            return
        middle = begin + (end - begin) // 2
        if self.size_variation > 0:
            middle += random.randrange(-self.size_variation, self.size_variation)
        yield from self._ends(begin, middle)
        yield from self._ends(middle, end)


@dataclass
class LimitData(Effect):
    """Closes after so many bytes, wherever that is in a chunk."""

    bytes: int = 0

    async def pipe(self, stage: Stage) -> None:
        """Pass what is left of the limit."""
        async for chunk in stage:
            chunk.data = chunk.data[: max(0, self.bytes - stage.passed_bytes)]
            stage.pass_on(chunk)
            stage.passed_bytes += len(chunk.data)
            if stage.passed_bytes >= self.bytes:
                return


EFFECTS: dict[str, type[Effect]] = {
    "bandwidth": Bandwidth,
    "latency": Latency,
    "limit_data": LimitData,
    "noop": Noop,
    "reset_peer": ResetPeer,
    "slicer": Slicer,
    "slow_close": SlowClose,
    "timeout": Timeout,
}


@dataclass(eq=False)
class Toxic:
    """An effect, under a name, in one direction of a share of a proxy's connections."""

    name: str
    type: str
    stream: str
    toxicity: float
    effect: Effect

    def as_json(self) -> dict[str, object]:
        """What the HTTP interface says of it."""
        return {
            "attributes": vars(self.effect),
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }
