"""What a server does while it runs: it refuses, for each reason that Redis has, is slow, or stands still.

Each fault looks into the server's own statistics for its effect: how many commands it turned away, and why.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from chaos.stage import KEY, Stage, StageError, wait_until
from lab.servers import HOST, RedisServer, ReplyError

Command = tuple[str, ...]

_PUSHES = ("evalsha", "eval")  # and no watcher of ours uses one of them
_ASIDE = f"{KEY}-aside"


def refusals(server: RedisServer, code: str) -> int:
    """How many scripts failed or were turned away, if the server ever answered with this code; else 0."""
    if f"errorstat_{code}" not in server.info("errorstats"):
        return 0
    stats = server.info("commandstats")
    counts = ",".join(stats.get(f"cmdstat_{name}", "") for name in _PUSHES)
    return sum(map(int, re.findall(r"(?:rejected|failed)_calls=(\d+)", counts)))


@contextlib.contextmanager
def refusing(stage: Stage, code: str) -> Iterator[None]:
    """Count how many pushes are turned away with this code meanwhile."""
    stage.server.cli("CONFIG", "RESETSTAT")
    yield
    stage.saw(f"the server turned pushes away with {code}", refusals(stage.server, code))


@dataclass(frozen=True)
class Refusing:
    """Commands after which the server refuses pushes with this code, and commands that cure it."""

    code: str
    breaking: tuple[Command, ...]
    healing: tuple[Command, ...]

    def strike(self, stage: Stage, seconds: float) -> None:
        """Refuse for so long."""
        with refusing(stage, self.code):
            for command in self.breaking:
                stage.server.cli(*command)
            time.sleep(seconds)
            for command in self.healing:
                stage.server.cli(*command)


@dataclass(frozen=True)
class Evicting:
    """Memory is full to the last byte, and the server gives up what its policy lets it."""

    policy: str

    def strike(self, stage: Stage, seconds: float) -> None:
        """Give up all that may go, and take nothing for so long."""
        with refusing(stage, "OOM"):
            stage.server.cli("CONFIG", "SET", "maxmemory-policy", self.policy)
            stage.server.cli("CONFIG", "SET", "maxmemory", 1)
            time.sleep(seconds)
            stage.server.cli("CONFIG", "SET", "maxmemory", 0)
        evicted = int(stage.server.info("stats")["evicted_keys"])
        stage.saw("a key was evicted", evicted)
        if not evicted:
            raise StageError("the server evicted nothing")


@dataclass(frozen=True)
class FailingSnapshots:
    """A snapshot cannot be written, and the server takes no more: MISCONF."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Refuse for so long."""
        in_the_way = stage.folder / "server" / "dump.rdb"
        with refusing(stage, "MISCONF"):
            in_the_way.mkdir()  # what is renamed to this name fails, for root too
            stage.server.cli("CONFIG", "SET", "save", "3600 1000000")
            self._snapshot(stage.server, "err")
            time.sleep(seconds)
            in_the_way.rmdir()
            self._snapshot(stage.server, "ok")

    def _snapshot(self, server: RedisServer, status: str) -> None:
        server.cli("BGSAVE")
        wait_until(
            lambda: server.info("persistence")["rdb_last_bgsave_status"] == status, f"a snapshot is {status}"
        )


@dataclass(frozen=True)
class PasswordRotated:
    """The password changes, and connections that know the old one are closed; later it changes back."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have another password for so long."""
        self._change(stage, f"{stage.secret}-new")
        stage.probe_for(seconds, ("WRONGPASS",), "the password of old is refused")
        self._change(stage, stage.secret)

    def _change(self, stage: Stage, password: str) -> None:
        stage.server.cli("CONFIG", "SET", "requirepass", password)
        stage.server.password = password
        stage.server.cli("CLIENT", "KILL", "TYPE", "normal")


@dataclass(frozen=True)
class Frozen:
    """SIGSTOP: connections stay open, and nothing is answered until SIGCONT."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be frozen for so long."""
        stage.server.freeze()
        try:
            stage.probe_for(seconds, ("no answer",), "it does not answer")
        finally:
            stage.server.thaw()


@dataclass(frozen=True)
class NoScripts:
    """The user may run no scripts, from the start: the program has to do without, and says so."""

    frozen: bool = False  # and then the server's time stands still: what was sent is done late, and again

    def strike(self, stage: Stage, seconds: float) -> None:
        """Start a program that may run no scripts, and let it log for so long."""
        with refusing(stage, "NOPERM"):
            stage.server.cli("ACL", "SETUSER", "default", "-@scripting")
            application = stage.start_application()
            wait_until(lambda: stage.delivered() >= 60, "records arrive without scripts")
            if self.frozen:
                Frozen().strike(stage, seconds)
            else:
                time.sleep(seconds)
        if application.samples()[-1]["delivery"] != "at_least_once":
            raise StageError("the program does not say that it delivers without scripts")


@dataclass(frozen=True)
class ListReplaced:
    """Somebody writes a string under the list's name; what was in the list is put back later."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have a string there for so long."""
        with refusing(stage, "WRONGTYPE"):
            # In one step: what came in between would be overwritten.
            swap = "redis.call('RENAME', KEYS[1], KEYS[2]) redis.call('SET', KEYS[1], 'not a list')"
            stage.server.cli("EVAL", swap, 2, KEY, _ASIDE)
            time.sleep(seconds)
            stage.server.cli("RENAME", _ASIDE, KEY)  # the string is replaced: no moment without a key


@dataclass(frozen=True)
class Paused:
    """`CLIENT PAUSE`: connections are open, and what they ask is answered when the pause is over."""

    what: Literal["ALL", "WRITE"]

    def strike(self, stage: Stage, seconds: float) -> None:
        """Pause for so long."""
        stage.server.cli("CLIENT", "PAUSE", str(int(seconds * 1000)), self.what)
        for _ in stage.ticks(seconds - 0.5):
            stage.saw("a write is not answered", self._is_paused(stage))
        wait_until(lambda: not self._is_paused(stage), "the pause is over")

    def _is_paused(self, stage: Stage) -> bool:
        try:
            stage.server.cli("SETEX", "chaos-probe", 60, "", timeout=0.2)
        except TimeoutError:
            return True
        return False


@dataclass(frozen=True)
class ScriptsForgotten:
    """`SCRIPT FLUSH`, again and again: the server must be told the script anew."""

    every_seconds: float = 0.05

    def strike(self, stage: Stage, seconds: float) -> None:
        """Forget scripts for so long."""
        with refusing(stage, "NOSCRIPT"):
            for _ in stage.ticks(seconds, self.every_seconds):
                stage.server.cli("SCRIPT", "FLUSH")


@dataclass(frozen=True)
class BusyWithScript:
    """Somebody's script runs for ever; it is killed later."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be busy for so long."""
        stage.server.cli("CONFIG", "SET", "lua-time-limit", 50)
        with ThreadPoolExecutor(1) as pool:
            loop = pool.submit(self._loop, stage.server, seconds)
            stage.probe_for(seconds, ("BUSY",), "the server says BUSY")
            stage.server.cli("SCRIPT", "KILL")
            loop.result()

    def _loop(self, server: RedisServer, seconds: float) -> None:
        with contextlib.suppress(ReplyError):  # that it was killed
            server.cli("EVAL", "while true do end", 0, timeout=seconds + 10)


@dataclass(frozen=True)
class Slow:
    """The server does something that takes long, again and again, and answers in between."""

    each_seconds: float
    pause_seconds: float = 0.05

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be slow for so long."""
        stage.server.cli("CONFIG", "SET", "slowlog-log-slower-than", int(self.each_seconds * 900_000))
        for _ in stage.ticks(seconds, self.pause_seconds):
            stage.server.cli("DEBUG", "SLEEP", self.each_seconds)
        stage.saw("a command stands in the slow log", int(stage.server.cli("SLOWLOG", "LEN")))


@dataclass(frozen=True)
class ConnectionsKilled:
    """All clients are disconnected, many times a second."""

    every_seconds: float = 0.02

    def strike(self, stage: Stage, seconds: float) -> None:
        """Disconnect for so long."""
        for _ in stage.ticks(seconds, self.every_seconds):
            stage.saw("a client was disconnected", int(stage.server.cli("CLIENT", "KILL", "TYPE", "normal")))


@dataclass(frozen=True)
class NoConnectionLeft:
    """Others hold all connections that the server allows."""

    held: int = 12

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let nobody in for so long."""
        with contextlib.ExitStack() as holding:
            for _ in range(self.held):
                holding.enter_context(socket.create_connection((HOST, stage.server.port)))
            stage.server.cli("CONFIG", "SET", "maxclients", self.held)
            with stage.proxy.down():
                pass  # closes the program's connection: it needs another one
            stage.probe_for(seconds, ("ERR",), "the server has no room for a client")
        wait_until(lambda: _lets_in(stage), "the connections are free again")
        stage.server.cli("CONFIG", "SET", "maxclients", 1000)
        stage.saw(
            "the server counts clients that it turned away",
            int(stage.server.info("stats")["rejected_connections"]),
        )


def _lets_in(stage: Stage) -> bool:
    return stage.probe() == "answered"


@dataclass(frozen=True)
class SmallestLimits:
    """The server takes no value above its smallest limit, a mebibyte, and buffers no more for a client."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be so strict for so long."""
        for limit in ("proto-max-bulk-len", "client-query-buffer-limit"):
            stage.server.cli("CONFIG", "SET", limit, 1 << 20)
        before = self._large(stage.server)
        for _ in stage.ticks(seconds):
            stage.saw("a longer value is refused", self._refuses(stage.server, (1 << 20) + 1))
        wait_until(lambda: self._large(stage.server) > before, "a record of almost a mebibyte arrives")

    def _large(self, server: RedisServer) -> int:
        return sum(len(value) > 1_000_000 for value in server.values(KEY))

    def _refuses(self, server: RedisServer, value_bytes: int) -> bool:
        try:
            server.cli("ECHO", b"x" * value_bytes)
        except (ReplyError, OSError):
            return True
        return False


@dataclass(frozen=True)
class LargeRefused:
    """Something before the server closes a connection that carries too much; later the letters are sent."""

    limit_bytes: int

    def strike(self, stage: Stage, seconds: float) -> None:
        """Refuse for so long, and until something was refused for good; then do as an operator does."""
        letters = stage.spool_dir / "dead-letters"
        with stage.proxy.toxic("limit_data", stream="upstream", bytes=self.limit_bytes):
            for _ in stage.ticks(seconds):
                stage.saw("too long a value closes the connection", self._closes(stage, self.limit_bytes + 1))
            wait_until(lambda: any(letters.glob("*.letter")), "a record is put aside", 20)
        retried = stage.run_replay("dead-letters", "retry", "--all")
        if retried.returncode:
            raise StageError(f"dead-letters retry ended with {retried.returncode}: {retried.stdout}")

    def _closes(self, stage: Stage, value_bytes: int) -> bool:
        with socket.create_connection((stage.proxy.host, stage.proxy.port), 1.0) as connection:
            connection.settimeout(1.0)
            with contextlib.suppress(ConnectionError):
                connection.sendall(
                    b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % value_bytes + b"x" * value_bytes + b"\r\n"
                )
                return not connection.recv(1)
        return True
