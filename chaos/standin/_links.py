"""One direction of one connection: bytes from a source, through a stage for each toxic, to a destination.

    source ─> input ─> no toxic ─> first toxic ─> … ─> last toxic ─> tail ─> destination

Toxiproxy knows no half-open connection: where either side ends, or a toxic ends the stream, the destination
is closed, and that ends the other direction in turn, after what is still on its way there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence

from chaos.standin._toxics import Channel, Chunk, Noop, ResetPeer, Stage, Toxic

_READ_BYTES = 32 * 1024  # as Go copies: it is what toxics see as one chunk

_NO_TOXIC = Toxic("", "noop", "", 1.0, Noop())


class Link:
    """The stages, and the two tasks at their ends."""

    def __init__(
        self,
        source: asyncio.StreamReader,
        destination: asyncio.StreamWriter,
        toxics: Sequence[Toxic],
        ended: Callable[[Link], None],
    ) -> None:
        """Start it.

        Args:
            source: what to read.
            destination: what to write, and to close in the end.
            toxics: the stages, in order.
            ended: called when the destination is closed.
        """
        self._source = source
        self._destination = destination
        self._call_when_ended = ended
        self._is_over = False
        self._tail = Channel()
        self._stages: list[Stage] = []
        output = self._tail
        for toxic in reversed([_NO_TOXIC, *toxics]):
            stage = Stage(toxic, output)
            self._stages.insert(0, stage)
            output = stage.input
        # Writing waits until the kernel has it all: then closing at once loses nothing.
        destination.transport.set_write_buffer_limits(0)
        for stage in self._stages:
            stage.run()
        self._reading = asyncio.create_task(self._read())
        self._writing = asyncio.create_task(self._write())

    # Each of these leaves the stages running, or the link ended.

    async def add(self, toxic: Toxic) -> None:
        """Append a stage."""
        last = self._stages[-1]
        added = Stage(toxic, self._tail)
        self._stages.append(added)
        if await last.interrupt():
            last.output = added.input
            self._run(added, last)
        else:
            added.closed = True

    async def update(self, toxic: Toxic) -> None:
        """Let a stage notice that its toxic has changed."""
        stage = self._stage_of(toxic)
        if await stage.interrupt():
            self._run(stage)

    async def remove(self, toxic: Toxic) -> None:
        """Take a stage out; what it holds goes on."""
        stage = self._stage_of(toxic)
        before = self._stages[self._stages.index(stage) - 1]
        self._stages.remove(stage)
        if not await stage.interrupt():
            return
        if toxic.effect.ends_connections_when_removed:
            stage.close()
            return
        await before.interrupt()
        for chunk in stage.input.take_all():
            stage.pass_on(chunk)
        if stage.input.closed:
            stage.close()
            return
        before.output = stage.output
        self._run(before)

    def end(self) -> None:
        """Close the destination now; what is on its way is dropped."""
        if not self._is_over:
            self._is_over = True
            self._reading.cancel()
            self._writing.cancel()
            for stage in self._stages:
                stage.drop()
            self._destination.transport.abort()
            self._call_when_ended(self)

    def _run(self, *stages: Stage) -> None:
        if not self._is_over:  # it may have ended while a stage was being interrupted
            for stage in stages:
                stage.run()

    def _stage_of(self, toxic: Toxic) -> Stage:
        return next(stage for stage in self._stages if stage.toxic is toxic)

    async def _read(self) -> None:
        first, loop = self._stages[0].input, asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await self._source.read(_READ_BYTES):
                chunk = Chunk(data, loop.time())
                await first.wait_for_room()
                first.put(chunk)
        first.close()

    async def _write(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := await self._tail.get():
                self._destination.write(chunk.data)
                await self._destination.drain()
        self.end()


def reset_on_close(*ends: asyncio.StreamWriter) -> None:
    """Let these connections end with a reset, whoever closes them: no time to linger."""
    for end in ends:
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def has_reset(toxics: Sequence[Toxic]) -> bool:
    """Whether one of them resets, however rarely."""
    return any(isinstance(toxic.effect, ResetPeer) for toxic in toxics)
