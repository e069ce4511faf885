"""What a network does: all of it through Toxiproxy; each fault looks through the proxy for its own effect."""

from __future__ import annotations

import itertools
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from chaos.faults.sights import LateCommands, Sight, answer_is, is_seen
from chaos.stage import Stage, command

Stream = Literal["upstream", "downstream"]
_CLIENTS_COMMANDS = (
    "auth",
    "ping",
    "eval",
    "lpush",
    "rpush",
    "script|load",
)  # no watcher of ours ends with one


@dataclass(frozen=True)
class Toxic:
    """A toxic of Toxiproxy's, in one direction; a probe through the proxy must show ``seen``."""

    type: str
    stream: Stream
    seen: tuple[str, ...] | Sight = field(repr=False)  # words are what `Stage.probe` then gives
    attributes: Mapping[str, int] = field(default_factory=dict)
    toxicity: float = 1.0

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have it in force for so long."""
        sight = self.seen if isinstance(self.seen, Sight) else answer_is(*self.seen)
        with _in_proxy(stage, self.type, self.stream, self.toxicity, **self.attributes):
            sight.watch(stage, seconds)


@dataclass(frozen=True)
class Refused:
    """Nobody listens, and open connections are closed."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be away for so long."""
        with stage.proxy.down():
            stage.probe_for(seconds, ("refused",), "the port refuses connections")


@dataclass(frozen=True)
class BlackHole:
    """Connections are taken, and whatever is said, in either direction, is swallowed."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Swallow for so long."""
        with (
            _in_proxy(stage, "timeout", "upstream", timeout=0),
            _in_proxy(stage, "timeout", "downstream", timeout=0),
        ):
            stage.probe_for(seconds, ("no answer",), "the port takes connections and answers nothing")


@dataclass(frozen=True)
class Flapping:
    """The port closes and opens again, many times, each for a moment drawn between the two lengths."""

    shortest_seconds: float = 0.03
    longest_seconds: float = 0.4

    def strike(self, stage: Stage, seconds: float) -> None:
        """Flap for so long."""
        end_at = time.monotonic() + seconds
        while time.monotonic() < end_at:
            with stage.proxy.down():
                stage.probe_for(self._draw(stage), ("refused",), "the port refuses connections for a moment")
            time.sleep(self._draw(stage))

    def _draw(self, stage: Stage) -> float:
        return stage.dice.uniform(self.shortest_seconds, self.longest_seconds)


@dataclass(frozen=True)
class LostReplies:
    """Batches are carried out and their replies swallowed, one by one, on connections that worked."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Swallow what the server answers until it has taken another batch; let all pass; and again."""
        end_at, lost = time.monotonic() + seconds, 0
        while time.monotonic() < end_at:
            with stage.proxy.toxic("timeout", stream="downstream", timeout=0):
                lost += _grows(stage, seconds=1.0)
            _grows(stage, seconds=2.0)
        stage.saw("the server took a batch whose reply could not come through", lost)


def _grows(stage: Stage, seconds: float) -> bool:
    """Whether the list grows from now on, within so many seconds."""
    before, give_up_at = stage.delivered(), time.monotonic() + seconds
    while stage.delivered() <= before:
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.005)
    return True


@dataclass(frozen=True)
class Late:
    """Requests are held back until their senders have given up, and then let go; again and again.

    Every other time only half of the connections are struck, so that the repetition comes before the request.
    """

    held_seconds: float = 0.8
    pause_seconds: float = 0.4

    def strike(self, stage: Stage, seconds: float) -> None:
        """Hold requests back for so long."""
        end_at = time.monotonic() + seconds
        for toxicity in itertools.cycle((1.0, 0.5)):
            if time.monotonic() > end_at:
                return
            commands = LateCommands(stage)
            with _in_proxy(stage, "latency", "upstream", toxicity, latency=60_000):
                for _ in stage.ticks(self.held_seconds, pause=0.0):
                    commands.send()
            commands.watch()
            time.sleep(self.pause_seconds)


@dataclass(frozen=True)
class HalfOpen:
    """Connections end on the server's side, again and again; the client hears of it late, or never."""

    milliseconds: int  # until the client hears of it
    every_seconds: float = 0.4

    def strike(self, stage: Stage, seconds: float) -> None:
        """Disconnect in silence for so long."""
        with _in_proxy(stage, "slow_close", "downstream", delay=self.milliseconds):
            for _ in stage.ticks(seconds, self.every_seconds):
                unheard = is_seen(partial(self._breaks_unheard, stage))
                stage.saw("a connection whose server has gone hears nothing of it", unheard)

    def _breaks_unheard(self, stage: Stage) -> bool:
        with socket.create_connection((stage.proxy.host, stage.proxy.port), 0.5) as peer:
            peer.sendall(command("AUTH", stage.secret) + command("CLIENT", "ID"))
            with peer.makefile("rb") as replies:
                own = (replies.readline(), replies.readline())[1].strip(b":\r\n").decode()
            for client in stage.server.cli("CLIENT", "LIST").decode().splitlines():
                facts = dict(fact.partition("=")[::2] for fact in client.split())
                if facts["cmd"].startswith(_CLIENTS_COMMANDS):
                    stage.server.cli("CLIENT", "KILL", "ID", facts["id"])
            was_killed: bool = stage.server.cli("CLIENT", "KILL", "ID", own) == 1
            peer.settimeout(min(0.15, self.milliseconds / 2000))
            try:
                peer.sendall(command("PING"))
                peer.recv(100)
            except TimeoutError:
                return was_killed
            return False


def _in_proxy(
    stage: Stage, type_: str, stream: Stream, toxicity: float = 1.0, **attributes: int
) -> AbstractContextManager[str]:
    """Have a toxic under a name of its own: faults may overlap."""
    name = f"{type_}-{secrets.token_hex(4)}"
    return stage.proxy.toxic(type_, name=name, stream=stream, toxicity=toxicity, **attributes)
