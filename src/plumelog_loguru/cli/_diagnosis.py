"""What a doctor says of one thing: a verdict, what is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail", "unknown"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line of the doctor's.

    ``fail``: records do not come through, or nothing keeps them. ``warn``: they can be lost, doubled or out
    of sight. ``unknown``: it could not be asked.
    """

    verdict: Verdict
    subject: str
    what: str
    cure: str | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether somebody should do something about it."""
        return self.verdict in ("warn", "fail")

    def to_json(self) -> dict[str, str | None]:
        """What ``--json`` prints of it."""
        return {"verdict": self.verdict, "subject": self.subject, "what": self.what, "cure": self.cure}


def in_bytes(number: int) -> str:
    """A size as a person reads it: ``64 MiB``."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} bytes"
