"""What a network does: all of it through Toxiproxy, and each fault looks through the proxy for its own effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chaos.stage import Stage

Stream = Literal["upstream", "downstream"]


@dataclass(frozen=True)
class Toxic:
    """A toxic of Toxiproxy's, in one direction; a probe through the proxy must show ``seen``."""

    type: str
    stream: Stream
    seen: tuple[str, ...]  # what `Stage.probe` then gives
    attributes: Mapping[str, int] = field(default_factory=dict)
    toxicity: float = 1.0

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have it in force for so long."""
        with stage.proxy.toxic(self.type, stream=self.stream, toxicity=self.toxicity, **self.attributes):
            stage.probe_for(seconds, self.seen, f"through the proxy it is {' or '.join(self.seen)}")


@dataclass(frozen=True)
class Refused:
    """Nobody listens, and open connections are closed."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be away for so long."""
        with stage.proxy.down():
            stage.probe_for(seconds, ("refused",), "the port refuses connections")
