"""A TCP proxy that betrays its clients on command.

Between a client and a server it can lose the answer to a request that was carried out, hold a request back
until long after its sender gave up, cut a reply in the middle, swallow everything, refuse, and delay.

Promises:

- a control call returns when the change is in force, for open connections too: nothing is steered by sleeps;
- every fault counts what it did (`Fault.count`) and can be waited for (`Fault.wait`), because a test whose
  fault never struck has tested nothing;
- at most one fault is in force, the last one ordered. Latency is no fault and stands beside it. A request
  that is held stays held whatever is ordered later, until it is released: that is what makes it late.

The proxy runs an asyncio loop in a thread of its own. What a fault *decides* about bytes is a method of the
fault that touches no socket; what is then *done* to sockets is in `_Link`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lab.servers import HOST, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK_BYTES = 65_536
_CONTROL_SECONDS = 10.0  # a control call that takes longer has found a bug of this module

T = TypeVar("T")
FaultT = TypeVar("FaultT", bound="Fault")


class _Decision(NamedTuple):
    """What to do with bytes that arrived: forward these, then cut the connection or not."""

    forward: bytes
    cut: bool = False


class Fault:
    """A fault in force, in the hand of the test that ordered it."""

    def __init__(self, *, times: int | None = None, after: bytes = b"") -> None:
        """Aim at connections.

        Args:
            times: how many connections it strikes before it lets all others pass; None is no limit.
            after: it strikes only connections on which a request with these bytes arrives; empty is any.
        """
        self._times = times
        self._after = after
        self._struck: set[_Link] = set()
        self._tails: dict[_Link, bytes] = {}  # where the bytes looked for may have begun
        self._happened = threading.Condition()
        self._count = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} happened {self._count} times>"

    @property
    def count(self) -> int:
        """How often it has happened."""
        return self._count

    def wait(self, timeout: float = 5.0, *, count: int = 1) -> bool:
        """Wait until it has happened.

        Args:
            timeout: seconds.
            count: this often, since it was ordered.

        Returns:
            False when the time was up first.
        """
        with self._happened:
            return self._happened.wait_for(lambda: self._count >= count, timeout)

    def on_request(self, link: _Link, data: bytes) -> _Decision:
        """Decide about bytes from the client."""
        return _Decision(data)

    def on_reply(self, link: _Link, data: bytes) -> _Decision:
        """Decide about bytes from the server."""
        return _Decision(data)

    def _happen(self) -> None:
        with self._happened:
            self._count += 1
            self._happened.notify_all()

    def _aims_at(self, link: _Link, request: bytes) -> bool:
        """Tell whether a connection is struck, now that this part of a request arrived on it."""
        if link in self._struck:
            return True
        if self._times is not None and len(self._struck) >= self._times:
            return False
        seen = self._tails.get(link, b"") + request
        if self._after not in seen:
            self._tails[link] = seen[-len(self._after) :]
            return False
        self._struck.add(link)
        return True


class _CutReplies(Fault):
    """The request is carried out; of what is answered to it only the first bytes come through."""

    def __init__(self, n_bytes: int, *, times: int | None, after: bytes) -> None:
        super().__init__(times=times, after=after)
        self._n_bytes = n_bytes
        self._passed: dict[_Link, int] = {}

    def on_request(self, link: _Link, data: bytes) -> _Decision:
        self._aims_at(link, data)
        return _Decision(data)

    def on_reply(self, link: _Link, data: bytes) -> _Decision:
        if link not in self._struck:
            return _Decision(data)
        passed = self._passed.get(link, 0)
        if passed + len(data) < self._n_bytes:
            self._passed[link] = passed + len(data)
            return _Decision(data)
        self._happen()
        return _Decision(data[: self._n_bytes - passed], cut=True)


class HeldRequests(Fault):
    """Requests that have left their sender and not reached the server, until `release`."""

    def __init__(self, proxy: FaultProxy, *, times: int | None, after: bytes) -> None:
        super().__init__(times=times, after=after)
        self._proxy = proxy
        self.held = threading.Event()  # set when the first request is held

    def on_request(self, link: _Link, data: bytes) -> _Decision:
        """Hold what it is aimed at; the link itself then holds all that follows."""
        if not self._aims_at(link, data):
            return _Decision(data)
        link.held = bytearray(data)
        self._happen()
        self.held.set()
        return _Decision(b"")

    def release(self, timeout: float = 5.0) -> int:
        """Let the held requests go on to the server, also those whose sender has closed its connection.

        Args:
            timeout: seconds to wait for a request to hold, and then for the server.

        Returns:
            how many bytes were delivered, once the server has answered on every connection that was held (one
            whose sender is gone: has read it all and closed). A request that came alone is then carried out.

        Raises:
            TimeoutError: there was no request, or the server did not answer in time.
        """
        if not self.held.wait(timeout):
            raise TimeoutError(f"no request to hold within {timeout} s")
        return self._proxy._run(self._release(timeout), timeout + _CONTROL_SECONDS)

    async def _release(self, timeout: float) -> int:
        links = [link for link in self._struck if link.held is not None]
        self._struck, self._times = set(), 0  # what arrives from now on passes
        released = sum([link.release() for link in links])
        for link in links:
            try:
                await asyncio.wait_for(link.answered.wait(), timeout)
            except asyncio.TimeoutError:  # not the built-in one before Python 3.11
                raise TimeoutError(f"no answer to a released request within {timeout} s") from None
        return released


class _ResetRequests(Fault):
    """The connection is reset when certain bytes come along; the server never sees the whole request."""

    def on_request(self, link: _Link, data: bytes) -> _Decision:
        if not self._aims_at(link, data):
            return _Decision(data)
        self._happen()
        link.reset()
        return _Decision(b"")


class _BlackHole(Fault):
    """Connections are taken, and every byte in either direction disappears."""

    def on_request(self, link: _Link, data: bytes) -> _Decision:
        return self._swallow(link)

    def on_reply(self, link: _Link, data: bytes) -> _Decision:
        return self._swallow(link)

    def _swallow(self, link: _Link) -> _Decision:
        link.spoiled = True
        self._happen()
        return _Decision(b"")


class _Refuse(Fault):
    """Nobody listens."""


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client_reader, self._client_writer = reader, writer
        self._server_writer: asyncio.StreamWriter | None = None
        self._client_gone = False
        self.held: bytearray | None = None  # requests on their way since a fault held them
        self.answered = asyncio.Event()  # what was released has been carried out
        self.spoiled = False  # bytes are missing from its streams

    async def run(self) -> None:
        """Carry bytes both ways until the server closes the connection, or a fault does."""
        try:
            server_reader, server = await asyncio.open_connection(HOST, self._proxy.upstream_port)
        except OSError:
            self.reset()
            return
        self._server_writer = server
        requests = asyncio.create_task(self._carry_requests(server))
        try:
            await self._carry_replies(server_reader)
        finally:
            self.answered.set()
            server.transport.abort()
            self._client_writer.close()
            requests.cancel()
            await asyncio.wait([requests])

    async def _carry_requests(self, server: asyncio.StreamWriter) -> None:
        while data := await _read(self._client_reader):
            if self.held is not None:
                self.held += data
                continue
            decision = self._proxy.fault.on_request(self, data)
            if decision.forward:
                server.write(decision.forward)
                with contextlib.suppress(OSError):
                    await server.drain()
        self._client_gone = True
        if self.held is None:
            _end_writing(server)

    async def _carry_replies(self, server: asyncio.StreamReader) -> None:
        client = self._client_writer
        while data := await _read(server):
            decision = self._proxy.fault.on_reply(self, data)
            if not self._client_gone:
                self.answered.set()  # else the server's closing is the surer sign: it has read everything
            await asyncio.sleep(self._proxy.latency_seconds)
            if decision.forward and not client.is_closing():
                client.write(decision.forward)
                with contextlib.suppress(OSError):
                    await client.drain()
            if decision.cut:
                return

    def release(self) -> int:
        """Send on what is held; the server then sees the end of a connection whose client is gone."""
        assert self._server_writer is not None
        data, self.held = bytes(self.held or b""), None
        self.answered.clear()
        self._server_writer.write(data)
        if self._client_gone:
            _end_writing(self._server_writer)
        return len(data)

    def reset(self) -> None:
        """Cut the connection so that its client sees a reset and not an orderly end."""
        try:
            connection = self._client_writer.get_extra_info("socket")
        except AttributeError:  # of TLS, in Python 3.11: a transport that has ended knows nothing any more
            connection = None
        if connection is None:
            return  # it ended by itself just now
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client_writer.transport.abort()


class FaultProxy:
    """A proxy in front of one server; a context manager that starts it and leaves nothing behind.

    A fault strikes what arrives after the method that ordered it has returned, on connections old and new,
    until another is ordered or `heal` is called. Order them from any thread but the proxy's own.
    """

    def __init__(
        self, upstream_port: int, *, port: int | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Describe a proxy; `start` starts it.

        Args:
            upstream_port: where the server listens on the loopback interface; it need not, yet.
            port: where the proxy listens; a free one is picked when None.
            tls: what it ends TLS with; its clients speak plainly when None.
        """
        self.port = free_port() if port is None else port
        self.fault = Fault()  # passes everything
        self.latency_seconds = 0.0
        self.upstream_port = upstream_port
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._live, name="lab-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._healed_faults = 0
        self._connected = threading.Condition()
        self._connections = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.port} -> {self.upstream_port} {self.fault!r}>"

    # Faults

    def drop_replies(self, *, times: int | None = None, after: bytes = b"") -> Fault:
        """Let requests pass, swallow what is answered, and close the connection: done, and nobody knows.

        Args:
            times: how many connections lose their reply; None is every one.
            after: only those on which a request with these bytes arrives: that keeps it away from greetings.
        """
        return self.cut_reply_after(0, times=times, after=after)

    def cut_reply_after(self, n_bytes: int, *, times: int | None = None, after: bytes = b"") -> Fault:
        """Let requests pass, and the first bytes of what is answered, then close the connection.

        Args:
            n_bytes: how many bytes of replies come through on each connection, over all its replies.
            times: see `drop_replies`.
            after: see `drop_replies`.
        """
        return self._order(_CutReplies(n_bytes, times=times, after=after))

    def hold_requests(self, *, times: int | None = 1, after: bytes = b"") -> HeldRequests:
        """Take requests and keep them; their sender may give up and succeed over another connection.

        All that follows on a connection is held too, also after `heal`: order is kept within each connection.

        Args:
            times: on how many connections; None is every one.
            after: only from the first request with these bytes on.
        """
        return self._order(HeldRequests(self, times=times, after=after))

    def reset_requests(self, *, times: int | None = None, after: bytes = b"") -> Fault:
        """Reset the connection instead of passing a request on, as firewalls do that read what passes.

        Args:
            times: how many connections are reset; None is every one.
            after: only those on which a request with these bytes arrives.
        """
        return self._order(_ResetRequests(times=times, after=after))

    def black_hole(self) -> Fault:
        """Take connections and lose every byte. `heal` resets the connections that lost some."""
        return self._order(_BlackHole())

    def refuse(self) -> Fault:
        """Stop listening, reset every connection. Counts once: refused calls leave no trace here."""
        return self._order(_Refuse())

    def reset_connections(self) -> int:
        """Reset the connections that are open now, once, and return how many they were."""
        return self._run(self._reset(list(self._links)))

    def latency(self, seconds: float) -> None:
        """Delay every reply by so many seconds, beside whatever fault is in force; 0 ends it."""
        self.latency_seconds = seconds

    def heal(self) -> None:
        """End the fault and the latency. What is held stays held."""
        self.latency_seconds = 0.0
        self._order(Fault())

    # What happened

    @property
    def connections(self) -> int:
        """How many connections were taken since the start."""
        return self._connections

    @property
    def faults_injected(self) -> int:
        """How often a fault happened since the start, over all faults ordered."""
        return self._healed_faults + self.fault.count

    def wait_for_connections(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until so many were taken since the start; False when the time (seconds) was up first."""
        with self._connected:
            return self._connected.wait_for(lambda: self._connections >= count, timeout)

    # Its life

    def start(self) -> Self:
        """Start listening."""
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_report)
        self._thread.start()
        try:
            self._run(self._listen())
        except BaseException:
            self._stop_loop()
            raise
        return self

    def close(self) -> None:
        """Close everything at once, also what is held, and end the thread."""
        if self._thread.is_alive():
            try:
                self._run(self._shut())
            finally:
                self._stop_loop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _run(self, work: Coroutine[Any, Any, T], timeout: float = _CONTROL_SECONDS) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout)

    def _order(self, fault: FaultT) -> FaultT:
        self._run(self._put_in_force(fault))
        return fault

    async def _put_in_force(self, fault: Fault) -> None:
        self._healed_faults += self.fault.count
        self.fault = fault
        if isinstance(fault, _Refuse):
            await self._unlisten()
            await self._reset(list(self._links))
            fault._happen()
        else:
            await self._reset([link for link in self._links if link.spoiled])
            if self._server is None:
                await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, self.port, ssl=self._tls, backlog=512)

    async def _unlisten(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            # What asyncio has taken at this very moment it would drop unclosed if it found the server closed.
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)
            server.close()  # not waited for: newer Pythons would wait for the connections as well

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        task = asyncio.current_task()
        if self._server is None or task is None:  # taken from the kernel's queue just before it was closed
            link.reset()
            return
        self._links[link] = task
        with self._connected:
            self._connections += 1
            self._connected.notify_all()
        try:
            await link.run()
        finally:
            del self._links[link]

    async def _reset(self, links: list[_Link]) -> int:
        tasks = [self._links[link] for link in links]
        for link in links:
            link.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(links)

    def _live(self) -> None:
        self._loop.run_forever()

    async def _shut(self) -> None:
        await self._unlisten()
        await self._reset(list(self._links))
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=1.0)  # a connection that was being taken just then
        await asyncio.sleep(0)  # aborted transports close their sockets one turn later

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what is a surprise; clients that break off, even in a TLS handshake, and what we cut are not."""
    if not isinstance(context.get("exception"), (OSError, asyncio.CancelledError)):
        loop.default_exception_handler(context)


async def _read(stream: asyncio.StreamReader) -> bytes:
    """Some bytes, or none when the stream has ended in whatever way."""
    try:
        return await stream.read(_CHUNK_BYTES)
    except OSError:
        return b""


def _end_writing(writer: asyncio.StreamWriter) -> None:
    """Tell the other side that no more will come, and still hear what it has to say."""
    if not writer.is_closing():
        with contextlib.suppress(OSError):
            writer.write_eof()
