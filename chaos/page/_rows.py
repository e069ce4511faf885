"""What the runner wrote, read and checked: what is read is whole, or `ReportError` says what is wrong.

Texts come from scenarios about hostile texts, so half a character is to be expected; it is shown as "?".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

if TYPE_CHECKING:
    from typing_extensions import Self

RESULTS = "results.json"
TIMELINES = "timelines.json"
COMPARISON = "comparison.json"
MUTANTS = "mutants.json"

Verdict = Literal["green", "red", "not run"]

_Read = TypeVar("_Read")


class ReportError(Exception):
    """There is no report to show; the message says which file, and what is wrong with it."""


class Row(BaseModel):
    """One scenario, run once."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    scenario: str
    group: str
    fault: str
    seed: int
    seconds: float
    logged: int  # owed: the call had returned
    delivered: int
    duplicates: int
    lost: int
    out_of_order: int
    faults_injected: int
    recovery_seconds: float | None
    p999_us: float | None
    proxy: str
    server: str
    verdict: Verdict
    promise: str = ""
    proofs: tuple[str, ...] = ()
    violations: tuple[str, ...] = ()
    refused: int = 0
    reported_lost: int = 0
    reported_doubled: int = 0
    drained_by_command: int = 0  # delivered by `plumelog-replay`, of what a killed program had left
    sink: str = ""
    repeat: str = ""
    profile: str = ""

    @property
    def key(self) -> str:
        """What names it among all rows, and its timeline."""
        return f"{self.scenario} {self.seed}"

    @property
    def ran(self) -> bool:
        """Whether its figures mean anything."""
        return self.verdict != "not run"

    @property
    def doubled_unsaid(self) -> int:
        """How many records are there twice where none may be, or without a word of the library's."""
        return max(0, self.duplicates - self.reported_doubled)

    @property
    def lost_unsaid(self) -> int:
        """How many records are missing without a word of the library's."""
        return max(0, self.lost - self.reported_lost)


class Timeline(BaseModel):
    """What was where, sample by sample; None where there was nobody to ask."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    seconds: tuple[float, ...]
    logged: tuple[int | None, ...]
    delivered: tuple[int | None, ...]
    spooled: tuple[int | None, ...]
    in_memory: tuple[int | None, ...]
    faults: tuple[tuple[float, float | None], ...] = ()  # (from, to) in seconds; to is None: to the end

    @model_validator(mode="after")
    def _as_many_values_as_samples(self) -> Self:
        for name in ("logged", "delivered", "spooled", "in_memory"):
            if len(getattr(self, name)) != len(self.seconds):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} values for {len(self.seconds)} seconds"
                )
        return self


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is known of a run."""

    rows: tuple[Row, ...]
    timelines: dict[str, Timeline]  # by `Row.key`
    comparison: tuple[Row, ...]  # empty where nothing was compared
    finished: datetime  # in UTC


def read_report(folder: Path) -> Report:
    """Read a run's files.

    Raises:
        ReportError: a file is missing, or is not what the runner writes.
    """
    results = folder / RESULTS
    rows = _read(results, tuple[Row, ...])
    return Report(
        rows,
        _read(folder / TIMELINES, dict[str, Timeline]),
        _read(folder / COMPARISON, tuple[Row, ...]) if (folder / COMPARISON).exists() else (),
        datetime.fromtimestamp(results.stat().st_mtime, timezone.utc),
    )


def _read(path: Path, shape: type[_Read]) -> _Read:
    try:
        # Through bytes: what is no text ("\ud800" in a JSON string) becomes "?" before anything meets it.
        whole = json.dumps(json.loads(path.read_bytes()), ensure_ascii=False).encode("utf-8", "replace")
        return TypeAdapter(shape).validate_json(whole)
    except FileNotFoundError:
        raise ReportError(f"{path} is not there; `make chaos` writes it") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ReportError(f"{path}: {place}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: {error}") from None
