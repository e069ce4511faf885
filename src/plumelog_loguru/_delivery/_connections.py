"""A few connections to one Redis server: time-outs on everything, retries on nothing.

Why not redis-py's client on its pool: its retries double what they repeat, and it does not tell whether an
error came before the request left or after. That difference decides whether a batch is in doubt. Its
connections alone are the part that is needed.

Assumes one event loop. A connection on which anything but an error reply happened is never used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from .._settings import PlumelogSettings

Word = bytes | str | int


class NotSent(Exception):
    """No byte of the request has left; `__cause__` says why."""


class NoTransactions(Exception):
    """The server begins no transaction for this user; `__cause__` says why."""


class _Connection(Protocol):
    """The part of redis-py's connection that is used."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...
    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...
    async def read_response(self) -> object: ...


def import_redis() -> None:
    """Import redis now, in this thread.

    To be called before the event loop needs it: the import takes some 50 ms, fails in a thread that first
    needs it while the interpreter shuts down, and leaves a child half a module when the process forks in the
    middle of it.
    """
    import redis.asyncio
    import redis.asyncio.retry
    import redis.backoff
    import redis.exceptions  # noqa: F401


def connection_factory(settings: PlumelogSettings) -> Callable[[], _Connection]:
    """Prepare what makes connections to the configured server."""
    from redis.asyncio.connection import (
        AbstractConnection,
        Connection,
        SSLConnection,
        UnixDomainSocketConnection,
    )
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    endpoint = settings.endpoint
    options: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": endpoint.password,
        "socket_connect_timeout": settings.connect_timeout_seconds,
        "socket_timeout": settings.socket_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "protocol": 2,  # HELLO is unknown to Redis 5 and to some proxies
    }
    # CLIENT SETINFO costs two round trips and a right; redis-py 8 has another name for switching it off.
    modern = "driver_info" in inspect.signature(AbstractConnection.__init__).parameters
    options |= {"driver_info": None} if modern else {"lib_name": None, "lib_version": None}

    connection_class: type[AbstractConnection] = Connection
    if endpoint.unix_path is not None:
        connection_class = UnixDomainSocketConnection
        options["path"] = endpoint.unix_path
    else:
        options |= {"host": endpoint.host, "port": endpoint.port}
    if endpoint.tls:
        connection_class = SSLConnection
        options |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,  # False by default in redis-py 5
            "ssl_ca_certs": _path(settings.redis_ssl_ca_file),
            "ssl_certfile": _path(settings.redis_ssl_cert_file),
            "ssl_keyfile": _path(settings.redis_ssl_key_file),
        }
    return lambda: cast("_Connection", connection_class(**options))


class Connections:
    """At most `max_connections` connections, opened when needed; a call beyond that waits for its turn."""

    def __init__(self, settings: PlumelogSettings) -> None:
        self._settings = settings
        self._make: Callable[[], _Connection] | None = None
        self._idle: list[_Connection] = []
        self._turns = asyncio.Semaphore(settings.max_connections)
        self._closed = False

    async def call(self, *words: Word) -> object:
        """Send one request and wait for its reply.

        Raises:
            NotSent: the connection could not be had.
            Exception: whatever else redis-py raises; `classify` knows.
        """
        async with self._turns:
            connection = await self._take()
            reusable = False
            try:
                await connection.send_packed_command(_packed(words), check_health=False)
                reply = await connection.read_response()
                reusable = True
                return reply
            except Exception as error:
                reusable = _is_error_reply(error)
                raise
            finally:
                await (self._put if reusable else _discard)(connection)

    async def rehearse(self, *words: Word) -> None:
        """Have a request checked, and not done: it is queued in a transaction that is never executed.

        Raises:
            NotSent: as `call`.
            NoTransactions: it cannot be tried.
            Exception: as `call`.
        """
        async with self._turns:
            connection = await self._take()
            try:
                # Outside of a transaction the request would be done: it is sent only once this is answered.
                await connection.send_packed_command(_packed(("MULTI",)), check_health=False)
                try:
                    reply = await connection.read_response()
                except Exception as error:
                    if not _is_error_reply(error):
                        raise
                    raise NoTransactions("the server begins no transaction") from error
                if reply != b"OK":
                    raise NoTransactions("the server begins no transaction")
                await connection.send_packed_command(_packed(words), check_health=False)
                await connection.read_response()
            finally:
                await _discard(connection)  # with which the transaction ends

    async def open(self) -> None:
        """Have a connection ready.

        Raises:
            NotSent: as `call`.
        """
        async with self._turns:
            await self._put(await self._take())

    async def drop_idle(self) -> None:
        """Close what is not in use, so that the next call looks the server's name up again."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await _discard(connection)

    async def close(self) -> None:
        """Close everything, calls under way as they end; waits for the idle ones to be gone."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.disconnect() for connection in idle), return_exceptions=True)

    async def _put(self, connection: _Connection) -> None:
        if self._closed:
            await _discard(connection)
        else:
            self._idle.append(connection)

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            fresh = False
            try:
                fresh = await _is_fresh(connection)
            finally:
                if not fresh:
                    await _discard(connection)
            if fresh:
                return connection
        try:
            if self._make is None:
                self._make = connection_factory(self._settings)
            connection = self._make()
            try:
                await connection.connect()
            except BaseException:
                await _discard(connection)
                raise
        except Exception as error:
            raise NotSent from error
        return connection


def _packed(words: Sequence[Word]) -> bytes:
    """One request as it goes over the wire; redis-py's own packing takes three times as long."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


async def _is_fresh(connection: Any) -> bool:
    """Whether the server has neither closed the connection nor said anything unasked."""
    # redis-py 8 has renamed it, and warns of the old name.
    has_input = getattr(connection, "can_read", None) or connection.can_read_destructive
    try:
        return not await has_input()
    except Exception:
        return False


async def _discard(connection: _Connection) -> None:
    # Without waiting: the peer may never answer, and this runs while a cancellation is under way.
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)


def _is_error_reply(error: Exception) -> bool:
    from redis.exceptions import ResponseError

    return isinstance(error, ResponseError)


def _path(file: object) -> str | None:
    return None if file is None else str(file)
