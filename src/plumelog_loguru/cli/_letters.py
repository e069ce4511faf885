"""A dead letter as a command sees it, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .._errors import PlumelogError
from .._spool import DeadLetter, DeadLetters
from ._command import counted, local_time

Result = Literal[
    "exported",
    "delivered",  # Redis has it now, and the letter is gone
    "already_delivered",  # Redis had it already, and the letter is gone
    "refused",  # once more; it stays
    "untried",  # Redis is away; it stays
    "elsewhere",  # it is for another list; it stays
    "dropped",
    "failed",  # the letter cannot be read, or not be removed
]


@dataclass(frozen=True, slots=True)
class Seen:
    """A letter, what is known of it, and what became of it."""

    name: str
    at_ms: int | None = None  # when Redis refused its record
    bytes: int | None = None  # of the record
    destination: str | None = None
    reason: str | None = None  # why Redis refused it
    may_be_there: bool = False  # Redis may have the record already, by a plain push
    problem: str | None = None  # what is wrong with the letter itself
    result: Result | None = None  # None: nothing was asked

    def became(self, result: Result, problem: str | None = None) -> Seen:
        """The same, and what became of it."""
        return replace(self, result=result, problem=problem)

    def to_json(self) -> dict[str, object]:
        """What ``--json`` prints of it."""
        return {
            "name": self.name,
            "at": self.at_ms,
            "bytes": self.bytes,
            "destination": self.destination,
            "reason": self.reason,
            "problem": self.problem,
            "result": self.result,
        }

    def __str__(self) -> str:
        if self.at_ms is None or self.bytes is None:
            return f"{self.name}  cannot be read"
        size = counted(self.bytes, "byte")
        doubt = "; it may be in Redis already" if self.may_be_there else ""
        return f"{self.name}  {local_time(self.at_ms)}  {size} for {self.destination}: {self.reason}{doubt}"


def look_at(letters: DeadLetters, name: str) -> tuple[Seen, DeadLetter | None]:
    """Read a letter; None where it cannot be read, and `Seen.problem` says why. Never raises."""
    try:
        letter = letters.read(name)
    except PlumelogError as error:
        return Seen(name, problem=f"{name} cannot be read: {error}"), None
    size, destination = len(letter.value), str(letter.destination)
    return Seen(name, letter.at_ms, size, destination, letter.reason, letter.may_be_there), letter
