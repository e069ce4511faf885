"""The verdict, reached twice: by the application's own ids, and by what any reader of the index can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.oracle import Verdict, check


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found in Redis, held against the application's book."""

    verdict: Verdict  # by the application's ids
    gaps: int  # numbers that no record of their producer bears
    repeats: int  # records whose producer and number another one has too

    @property
    def exactly_once(self) -> bool:
        """Both counts say that every record is there once."""
        return self.verdict.exactly_once and not self.gaps and not self.repeats

    def __str__(self) -> str:
        return f"{self.verdict}; by producer and number: {self.gaps} gaps, {self.repeats} repeats"


def judge(expected_ids: Sequence[str], records: Sequence[dict[str, Any]]) -> Judgement:
    """Compare the ids that the applications used with the records that were taken out of Redis."""
    seen = Counter((record["producer"], record["seq"]) for record in records)
    last: dict[str, int] = {}  # every producer counts from 1
    for producer, seq in seen:
        last[producer] = max(seq, last.get(producer, 0))
    return Judgement(
        verdict=check(expected_ids, records, identify=lambda record: str(record["demo_id"])),
        gaps=sum(last.values()) - len(seen),
        repeats=len(records) - len(seen),
    )
