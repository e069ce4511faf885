"""What a run is asked for, through the environment; a question without sense is refused with a sentence.

CHAOS_PROFILE   quick (minutes), full (all scenarios, faults twice as long), soak (again and again)
CHAOS_SEED      of everything that is drawn; each run prints its own
CHAOS_ONLY      scenarios whose names contain this, or match it as a pattern; several with commas
CHAOS_MINUTES   how long a soak goes on (60)
CHAOS_JOBS      how many scenarios at a time (twice the number of processors)
CHAOS_PROXY     stand-in: not Toxiproxy, even where that can be had
CHAOS_REPORT    where the report is written (chaos/report)
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol, TypeVar

# How much longer than they say the faults of a profile are in force.
STRETCH = {"quick": 1.0, "full": 2.0, "soak": 2.0}
_MUCH = 10**9
_KNOWN = tuple(f"CHAOS_{name}" for name in ("PROFILE", "SEED", "ONLY", "MINUTES", "JOBS", "REPORT", "PROXY"))
_REPORT = Path(__file__).parent / "report"

T = TypeVar("T", int, float)


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_HasName)


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

    def among(self, known: Iterable[Named]) -> list[Named]:
        """Those that were asked for; all, where none is named.

        Raises:
            ChoiceError: none of them was.
        """
        every = list(known)
        wanted = {name for word in self.only for name in _meant_by(word, [each.name for each in every])}
        chosen = [each for each in every if not self.only or each.name in wanted]
        if not chosen:
            raise ChoiceError(f"CHAOS_ONLY={','.join(self.only)} names none of {len(every)}")
        return chosen


def _meant_by(word: str, names: list[str]) -> list[str]:
    """A whole name means itself alone."""
    return [word] if word in names else [name for name in names if word in name or fnmatch(name, word)]


def read_choices() -> Choices:
    """Read the environment.

    Raises:
        ChoiceError: a variable makes no sense.
    """
    profile = os.environ.get("CHAOS_PROFILE") or "quick"
    if profile not in STRETCH:
        raise ChoiceError(f"CHAOS_PROFILE is {profile!r}; it can be {', '.join(STRETCH)}")
    words = os.environ.get("CHAOS_ONLY", "").split(",")
    if unknown := sorted(name for name in os.environ if name.startswith("CHAOS_") and name not in _KNOWN):
        raise ChoiceError(f"{', '.join(unknown)}: there is no such variable; there are {', '.join(_KNOWN)}")
    return Choices(
        profile,
        seed=_number("CHAOS_SEED", int, random.SystemRandom().randrange(10**9), least=0),
        only=tuple(word.strip() for word in words if word.strip()),
        minutes=_number("CHAOS_MINUTES", float, 60.0, least=0.1),
        jobs=_number("CHAOS_JOBS", int, 2 * (os.cpu_count() or 1), least=1),
        report=_writable(Path(os.environ.get("CHAOS_REPORT") or _REPORT)),
    )


def _writable(folder: Path) -> Path:
    """The folder, made if need be: whoever asks for a report hears before the run that there can be none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ChoiceError(f"CHAOS_REPORT is {str(folder)!r}; nothing can be written there: {error}") from None
    return folder


def _number(name: str, kind: Callable[[str], T], otherwise: T, *, least: T) -> T:
    text = os.environ.get(name)
    if not text:
        return otherwise
    try:
        number = kind(text)
    except ValueError:
        number = least - 1
    if not least <= number < _MUCH:
        whole = "whole " if isinstance(least, int) else ""
        raise ChoiceError(f"{name} is {text!r}; it can be a {whole}number from {least} on, below {_MUCH:,}")
    return number
