"""What a run is asked for, through the environment; a question without sense is refused with a sentence.

CHAOS_PROFILE   quick (minutes), full (all scenarios, faults twice as long), soak (again and again)
CHAOS_SEED      of everything that is drawn; each run prints its own
CHAOS_ONLY      scenarios whose names contain this, or match it as a pattern; several with commas
CHAOS_MINUTES   how long a soak goes on (60)
CHAOS_JOBS      how many scenarios at a time (twice the number of processors)
CHAOS_REPORT    where the report is written (chaos/report)
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from chaos.scenario import Scenario

# How much longer than they say the faults of a profile are in force.
STRETCH = {"quick": 1.0, "full": 2.0, "soak": 2.0}
_REPORT = Path(__file__).parent / "report"

T = TypeVar("T", int, float)


class ChoiceError(Exception):
    """A variable makes no sense; the message names it, its value, and what it can be."""


@dataclass(frozen=True)
class Choices:
    """What was asked for."""

    profile: str
    seed: int
    only: tuple[str, ...]
    minutes: float
    jobs: int
    report: Path

    def wants(self, name: str) -> bool:
        """Whether a scenario was asked for by name, as all are where none is named."""
        return not self.only or any(word in name or fnmatch(name, word) for word in self.only)

    def among(self, scenarios: Iterable[Scenario]) -> list[Scenario]:
        """Those that were asked for.

        Raises:
            ChoiceError: none of them was.
        """
        chosen = [scenario for scenario in scenarios if self.wants(scenario.name)]
        if not chosen:
            raise ChoiceError(f"CHAOS_ONLY={','.join(self.only)} names none of the scenarios")
        return chosen


def read_choices() -> Choices:
    """Read the environment.

    Raises:
        ChoiceError: a variable makes no sense.
    """
    profile = os.environ.get("CHAOS_PROFILE") or "quick"
    if profile not in STRETCH:
        raise ChoiceError(f"CHAOS_PROFILE is {profile!r}; it can be {', '.join(STRETCH)}")
    words = os.environ.get("CHAOS_ONLY", "").split(",")
    return Choices(
        profile,
        seed=_number("CHAOS_SEED", int, random.SystemRandom().randrange(10**9), least=0),
        only=tuple(word.strip() for word in words if word.strip()),
        minutes=_number("CHAOS_MINUTES", float, 60.0, least=0.1),
        jobs=_number("CHAOS_JOBS", int, 2 * (os.cpu_count() or 1), least=1),
        report=Path(os.environ.get("CHAOS_REPORT") or _REPORT),
    )


def _number(name: str, kind: Callable[[str], T], otherwise: T, *, least: T) -> T:
    text = os.environ.get(name)
    if not text:
        return otherwise
    try:
        number = kind(text)
    except ValueError:
        number = least - 1
    if not number >= least:
        raise ChoiceError(f"{name} is {text!r}; it can be a number from {least} on")
    return number
