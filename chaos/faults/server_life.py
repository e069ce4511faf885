"""The life of a server: it is killed, begins anew, forgets, loads for long, or another takes its place."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from chaos.faults.server import refusals
from chaos.stage import KEY, Stage, StageError, wait_until
from lab.servers import HOST, RedisServer

_MEMORY = "chaos-memory"  # a key of ours: does the server still know it?
_NOBODY = ("refused", "closed", "reset")  # a proxy listens even where nobody is behind it


@dataclass(frozen=True)
class Killed:
    """SIGKILL, and later a start with what is on the disk."""

    times: int = 1
    empty: bool = False  # it comes back without data: the disk is lost too, or there was nothing on it

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be dead for so long; where it dies several times, it lives as long in between."""
        each_seconds = seconds / (2 * self.times - 1)
        for turn in range(self.times):
            if turn:
                time.sleep(each_seconds)
            pid = stage.server.pid
            stage.server.cli("SET", _MEMORY, turn)
            stage.server.kill()
            stage.saw("the server's process is gone", not os.path.exists(f"/proc/{pid}"))
            stage.probe_for(each_seconds, _NOBODY, "nobody answers")
            if self.empty:
                shutil.rmtree(stage.server.directory / "appendonlydir", ignore_errors=True)
            stage.server.start()
            if stage.server.cli("EXISTS", _MEMORY) == self.empty:
                raise StageError(f"the server came back {'with' if self.empty else 'without'} its data")


@dataclass(frozen=True)
class Flushed:
    """`FLUSHALL`, by mistake: the server runs on, and has forgotten everything."""

    times: int = 1
    after_outage: bool = False  # in which nothing is lost: the spool fills, and is emptied

    def strike(self, stage: Stage, seconds: float) -> None:
        """Forget, then wait for so long; and again."""
        if self.after_outage:
            with stage.proxy.down():
                time.sleep(seconds)
            wait_until(lambda: not stage.application.spooled(), "the spool is empty again")
        for _ in range(self.times):
            wait_until(lambda: stage.delivered() > 0, "there is something to lose")
            stage.server.cli("FLUSHALL")
            time.sleep(seconds / self.times)
        stage.saw("a flush stands in its statistics", int(_calls(stage.server, "flushall")))


@dataclass(frozen=True)
class LongLoading:
    """SIGKILL, and a start with so much on the disk that it takes long to load."""

    milliseconds_each: int = 5

    def strike(self, stage: Stage, seconds: float) -> None:
        """Load for so long."""
        filler = (
            "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'filler-' .. i, string.rep('x', 1100)) end"
        )
        stage.server.cli("EVAL", filler, 0, int(seconds * 1000 / self.milliseconds_each))
        stage.server.cli("BGREWRITEAOF")
        wait_until(lambda: _rewritten(stage.server), "the append-only file is rewritten")
        stage.server.kill()
        with ThreadPoolExecutor(1) as pool:
            started = pool.submit(stage.server.start)
            while not started.done():
                stage.probe_for(0.1, ("LOADING",), "the server says LOADING")
            started.result()


@dataclass(frozen=True)
class ReplicaPromoted:
    """A replica takes over that was behind; what only the old server acknowledged is gone with it."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let both servers think that they lead for so long; then the old one dies."""
        old, new = stage.server, _add_replica(stage)
        new.cli("REPLICAOF", "NO", "ONE")
        time.sleep(seconds)
        stage.saw(
            "values were in the old server alone", int(old.cli("LLEN", KEY)) - int(new.cli("LLEN", KEY))
        )
        old.kill()
        stage.servers[:] = [new]
        stage.proxy.repoint(f"{HOST}:{new.port}")


@dataclass(frozen=True)
class FailedOver:
    """A planned failover: the replica is up to date when it takes over, and clients learn of it late."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let clients talk to the wrong server for so long."""
        old, new = stage.server, _add_replica(stage)
        old.cli("FAILOVER", "TO", HOST, new.port)
        wait_until(lambda: new.info("replication")["role"] == "master", "the replica leads")
        stage.servers[:] = [new]
        time.sleep(seconds)
        stage.saw("the server that leads no more turned pushes away", refusals(old, "READONLY"))
        stage.proxy.repoint(f"{HOST}:{new.port}")
        old.kill()


def _add_replica(stage: Stage) -> RedisServer:
    """A second server that follows the first, and is up to date; it stays until the stage is closed."""
    first = stage.server
    folder = stage.folder / "replica"
    folder.mkdir()
    stage.folders_with_secrets.append(folder)
    first.cli("CONFIG", "SET", "masterauth", stage.secret)  # it may have to follow later
    first.cli("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    replica = RedisServer(folder, password=stage.secret, extra_args=("--masterauth", stage.secret))
    replica.start()
    stage.also_close(replica.close)
    replica.cli("REPLICAOF", HOST, first.port)
    wait_until(lambda: "state=online" in first.info("replication").get("slave0", ""), "the replica follows")
    return replica


def _calls(server: RedisServer, command: str) -> int:
    facts = server.info("commandstats").get(f"cmdstat_{command}", "calls=0")
    return int(facts.partition("calls=")[2].partition(",")[0])


def _rewritten(server: RedisServer) -> bool:
    facts = server.info("persistence")
    return facts["aof_rewrite_in_progress"] == "0" and int(facts["aof_rewrites"]) > 0
