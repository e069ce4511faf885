"""Connections through a proxy, with both of their ends in the test's hands."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from lab.servers import HOST

if TYPE_CHECKING:
    from typing_extensions import Self

    from chaos.toxiproxy import Proxy

FOR_EVER = 3_600_000  # milliseconds, as toxics count
PATIENCE_SECONDS = 10.0  # for what is to come; a test that waits so long fails
SILENCE_SECONDS = 0.15  # for what is not to come

Stream = Literal["upstream", "downstream"]

both_streams = pytest.mark.parametrize("stream", ["upstream", "downstream"])


class Connection(NamedTuple):
    """What the client holds, and what the server behind the proxy holds."""

    client: socket.socket
    server: socket.socket

    def ends(self, stream: Stream) -> tuple[socket.socket, socket.socket]:
        """Who speaks in this direction, and who hears it."""
        return (self.client, self.server) if stream == "upstream" else (self.server, self.client)


class Upstream:
    """A server that does nothing: what it accepts is given to the test."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self._listener.settimeout(PATIENCE_SECONDS)
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._listener.close()

    def connect(self, proxy: Proxy) -> Connection:
        """Connect through a proxy."""
        client = self._open.enter_context(call(proxy))
        server = self._open.enter_context(self._listener.accept()[0])
        server.settimeout(PATIENCE_SECONDS)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(client, server)


def call(proxy: Proxy) -> socket.socket:
    """Connect to a proxy, and to whatever is behind it."""
    client = socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE_SECONDS)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


@contextlib.contextmanager
def saying(speaker: socket.socket, data: bytes) -> Iterator[None]:
    """Say more than buffers hold, beside what the block does."""
    thread = threading.Thread(target=speaker.sendall, args=(data,))
    thread.start()
    yield
    thread.join(PATIENCE_SECONDS)


def hear(hearer: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer if the connection ends in good order."""
    heard = bytearray()
    while len(heard) < count and (data := hearer.recv(min(65536, count - len(heard)))):
        heard += data
    return bytes(heard)


def hear_to_the_end(hearer: socket.socket) -> bytes:
    """Everything until the connection ends, in whatever way."""
    heard = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := hearer.recv(65536):
            heard += data
    return bytes(heard)


def is_silent(*hearers: socket.socket, seconds: float = SILENCE_SECONDS) -> bool:
    """Whether nothing comes, no end either."""
    return not select.select(hearers, [], [], seconds)[0]
