"""A proxy: a listener, its connections, and the toxics in them."""

from __future__ import annotations

import asyncio
from typing import get_args

from chaos.standin._links import Link, has_reset, reset_on_close
from chaos.standin._toxics import Stream, Toxic

STREAMS: tuple[str, ...] = get_args(Stream)


class Proxy:
    """All of it is used in the loop's thread; whoever changes it, changes nothing else of it meanwhile."""

    def __init__(self, name: str, listen: str, upstream: str) -> None:
        """Describe it; `start` lets it listen."""
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self._server: asyncio.Server | None = None
        self._toxics: dict[str, list[Toxic]] = {stream: [] for stream in STREAMS}
        self._links: dict[Link, str] = {}  # and its stream

    @property
    def enabled(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    @property
    def toxics(self) -> list[Toxic]:
        """Upstream ones first, each in the order in which they were added."""
        return [toxic for stream in STREAMS for toxic in self._toxics[stream]]

    def as_json(self) -> dict[str, object]:
        """What the HTTP interface says of it."""
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "toxics": [toxic.as_json() for toxic in self.toxics],
        }

    # Listening

    async def start(self) -> None:
        """Listen; does nothing when it does already.

        Raises:
            OSError: the address is in use, or nonsense.
        """
        if self._server is None:
            host, port = split_address(self.listen)
            self._server = await asyncio.start_server(self._connect, host, port)
            self.listen = "{}:{}".format(*self._server.sockets[0].getsockname())

    def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
            for link in list(self._links):
                link.end()

    async def _connect(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        listener = self._server
        try:
            answers, server = await asyncio.open_connection(*split_address(self.upstream))
        except OSError:
            client.transport.abort()
            return
        if self._server is not listener:  # stopped meanwhile
            client.transport.abort()
            server.transport.abort()
            return
        for stream, source, destination in (("upstream", reader, server), ("downstream", answers, client)):
            toxics = self._toxics[stream]
            if has_reset(toxics):
                reset_on_close(client, server)
            self._links[Link(source, destination, toxics, self._forget)] = stream

    def _forget(self, link: Link) -> None:
        self._links.pop(link, None)

    # Toxics

    def find(self, name: str) -> Toxic | None:
        """The toxic of this name."""
        return next((toxic for toxic in self.toxics if toxic.name == name), None)

    async def add(self, toxic: Toxic) -> None:
        """Add a toxic to open and future connections."""
        self._toxics[toxic.stream.lower()].append(toxic)
        await asyncio.gather(*(link.add(toxic) for link in self._links_of(toxic)))

    async def update(self, toxic: Toxic) -> None:
        """Let open connections notice that a toxic has changed."""
        await asyncio.gather(*(link.update(toxic) for link in self._links_of(toxic)))

    async def remove(self, toxic: Toxic) -> None:
        """Take a toxic out of open and future connections."""
        self._toxics[toxic.stream.lower()].remove(toxic)
        await asyncio.gather(*(link.remove(toxic) for link in self._links_of(toxic)))

    def _links_of(self, toxic: Toxic) -> list[Link]:
        return [link for link, stream in self._links.items() if stream == toxic.stream.lower()]


def split_address(address: str) -> tuple[str, int]:
    """``host:port``, where no host is the loopback interface, and no port a free one.

    Raises:
        OSError: it is neither.
    """
    host, _, port = address.rpartition(":")
    if port and not port.isdecimal():
        raise OSError(f"address {address}: no port number")
    return host or "127.0.0.1", int(port or 0)
