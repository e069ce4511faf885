"""What a program is to do, and where its books lie; shared by the program and by those who judge it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos.latencies import Latencies
from lab.calls import CallBook


@dataclass(frozen=True)
class Orders:
    """What one program does."""

    folder: str  # where books and samples are kept
    tag: str  # its ids begin with it; no two programs share one
    seed: str
    sink: str = "plumelog-loguru"  # a name in `sinks.SINKS`
    behaviour: str = "steady"  # a name in `behaviours.BEHAVIOURS`
    threads: int = 4
    records_per_second: float = 150.0  # of each thread
    calls: int = 30_000  # room for so many calls of each thread
    content: str = "plain"
    options: Mapping[str, Any] = field(default_factory=dict)  # of its behaviour

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    def announce(self) -> None:
        """Tell the judge that there is a book."""
        (Path(self.folder) / f"{self.tag}.orders").write_text(self.to_json())

    def open_book(self) -> CallBook:
        """Its calls; the last row is for marks."""
        return CallBook(Path(self.folder) / f"{self.tag}.calls", self.tag, self.threads + 1, self.calls)

    def open_latencies(self) -> Latencies:
        """How long its calls took."""
        return Latencies(Path(self.folder) / f"{self.tag}.latencies", self.threads + 1)

    @property
    def samples_path(self) -> Path:
        """Where it writes how it is."""
        return Path(self.folder) / f"{self.tag}.samples"


def announced_in(folder: Path) -> list[Orders]:
    """The orders of all programs that have begun so far, in the order of their tags."""
    found = []
    for path in sorted(folder.glob("*.orders")):
        text = path.read_text()
        if text:  # else it is being written at this moment
            found.append(Orders(**json.loads(text)))
    return found
