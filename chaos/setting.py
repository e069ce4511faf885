"""What is the same for all scenarios of a run: the proxy, how long faults last, and who clears up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from chaos.choices import STRETCH
from chaos.guardian import Guardian
from chaos.scenario import Scenario
from chaos.toxiproxy import Toxiproxy, start_toxiproxy

OURS = "plumelog-loguru"


@dataclass(frozen=True)
class Setting:
    """How scenarios are played."""

    toxiproxy: Toxiproxy
    guardian: Guardian
    profile: str
    stretch: float = 1.0  # faults are in force so many times longer
    source: Path | None = None  # import the library from here
    sink: str = OURS  # a name in `application.sinks.SINKS`
    settings: Mapping[str, str] = field(default_factory=dict)  # of that sink, beside the scenario's
    python: Path | None = None  # the interpreter of that sink's environment
    keep: Path | None = None  # keep the folders of red scenarios here

    def content_of(self, scenario: Scenario) -> str:
        """What its programs log; of another sink, which may not send each field, the message counts."""
        is_bare = self.sink != OURS and scenario.content == "plain"
        return "message only" if is_bare else scenario.content


@contextmanager
def open_setting(profile: str, *, keep: Path | None = None) -> Iterator[Setting]:
    """Have a Toxiproxy and a guardian for a run."""
    with Guardian() as guardian, start_toxiproxy() as toxiproxy:
        print(f"chaos: the proxy is {toxiproxy.description}", flush=True)
        yield Setting(toxiproxy, guardian, profile, STRETCH.get(profile, 1.0), keep=keep)
