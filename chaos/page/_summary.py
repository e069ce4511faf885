"""What a run comes to: the sums, the verdict in words, and the sinks side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chaos.page._rows import Row

State = Literal["held", "failed", "nothing ran"]

_MANY = 4  # so many different names are counted, and no longer listed


@dataclass(frozen=True, slots=True)
class Summary:
    """The sums over the rows that ran."""

    green: int
    red: tuple[Row, ...]
    not_run: tuple[Row, ...]
    logged: int
    lost: int  # without the library's saying so
    doubled: int  # where exactly once was promised
    faults: int
    seconds: float  # of all scenarios, added up; several may have run at a time
    slowest_recovery_seconds: float | None
    lost_by_others: tuple[Row, ...]  # where server or disk lost what they had taken, and the library said so
    proxy: str
    server: str
    seed: str
    profile: str

    @property
    def state(self) -> State:
        """What the run comes to, in a word."""
        if self.red:
            return "failed"
        return "held" if self.green else "nothing ran"

    @property
    def scenarios(self) -> str:
        """How many held, in words."""
        ran = self.green + len(self.red)
        left = f", {len(self.not_run):,} did not run" if self.not_run else ""
        if not ran:
            return f"No scenario ran{left}"
        if self.red:
            return f"{len(self.red):,} of {counted(ran, 'scenario')} failed{left}"
        return (f"All {ran:,} scenarios held" if ran > 1 else "The one scenario held") + left

    @property
    def records(self) -> str:
        """What became of the records, in words."""
        return f"{self.lost:,} of {self.logged:,} records lost, {self.doubled:,} doubled"

    @property
    def known_losses(self) -> tuple[int, int]:
        """How many records were lost where others lost them, and how many of those the library reported."""
        lost = sum(row.lost for row in self.lost_by_others)
        return lost, lost - sum(row.lost_unsaid for row in self.lost_by_others)


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 scenario", "2 scenarios"."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def summarize(rows: Sequence[Row]) -> Summary:
    """Add up a run."""
    ran = [row for row in rows if row.ran]
    return Summary(
        green=sum(row.verdict == "green" for row in ran),
        red=tuple(row for row in ran if row.verdict == "red"),
        not_run=tuple(row for row in rows if not row.ran),
        logged=sum(row.logged for row in ran),
        lost=sum(row.lost_unsaid for row in ran),
        doubled=sum(row.doubled_unsaid for row in ran),
        faults=sum(row.faults_injected for row in ran),
        seconds=sum(row.seconds for row in ran),
        slowest_recovery_seconds=max(
            (row.recovery_seconds for row in ran if row.recovery_seconds is not None), default=None
        ),
        lost_by_others=tuple(row for row in ran if row.lost and row.reported_lost),
        proxy=_names(row.proxy for row in ran),
        server=_names(row.server for row in ran),
        seed=_names(str(row.seed) for row in ran),
        profile=_names(row.profile for row in ran),
    )


def _names(values: Iterable[str]) -> str:
    different = list(dict.fromkeys(value for value in values if value))
    return f"{len(different)} different" if len(different) > _MANY else ", ".join(different) or "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one sink made of one scenario, or of all of them."""

    logged: int
    lost: int
    reported: int
    doubled: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scenarios against sinks; None where a scenario was not run with a sink, or means nothing for it."""

    sinks: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell | Literal["not run"] | None, ...]], ...]  # (scenario, by sink)
    totals: tuple[Cell, ...]  # by sink; only of scenarios that all sinks ran, so that they can be compared
    shared: int  # how many those are


def compare(rows: Sequence[Row]) -> Comparison:
    """Put the sinks side by side. A scenario that was run several times is added up."""
    sinks = tuple(dict.fromkeys(row.sink for row in rows))
    scenarios = tuple(dict.fromkeys(row.scenario for row in rows))
    of = {
        (scenario, sink): [row for row in rows if (row.scenario, row.sink) == (scenario, sink)]
        for scenario in scenarios
        for sink in sinks
    }
    shared = [name for name in scenarios if all(any(row.ran for row in of[name, sink]) for sink in sinks)]
    return Comparison(
        sinks,
        tuple((scenario, tuple(_cell(of[scenario, sink]) for sink in sinks)) for scenario in scenarios),
        tuple(_add_up(row for scenario in shared for row in of[scenario, sink]) for sink in sinks),
        len(shared),
    )


def _cell(rows: Sequence[Row]) -> Cell | Literal["not run"] | None:
    if not rows:
        return None
    return _add_up(rows) if any(row.ran for row in rows) else "not run"


def _add_up(rows: Iterable[Row]) -> Cell:
    ran = [row for row in rows if row.ran]
    return Cell(
        logged=sum(row.logged for row in ran),
        lost=sum(row.lost for row in ran),
        reported=sum(row.lost - row.lost_unsaid for row in ran),
        doubled=sum(row.duplicates for row in ran),
    )
