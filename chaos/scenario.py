"""What a scenario is: a name, what goes wrong and for how long, and what must hold.

Scenarios are data; `scenarios/` holds them. A fault knows how to strike, and how to see that it struck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from chaos.stage import Stage

Group = Literal["network", "server", "process", "disk", "content", "combination"]

# What the program must have shown while the fault was in force; "nothing" where a fault is to pass unnoticed.
# "failed" is retried or down; "known" that the server said of a batch, then or later, that it had it already.
Felt = Literal["failed", "retried", "down", "refused", "spooled", "known", "died", "nothing"]


class Fault(Protocol):
    """Something that goes wrong. Its `repr` is what the report says of it."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be in force for so long, then heal; returns when all is well again.

        What shows that it happened is said with `Stage.saw`: a scenario that saw nothing fails.
        """
        ...


@dataclass(frozen=True)
class Scenario:
    """One way to break something, and what must hold nevertheless."""

    name: str  # "group/what-happens"
    promise: str  # what must hold, in a sentence
    fault: Fault
    seconds: float = 1.5  # how long the fault is in force in the quick profile
    felt: Felt = "down"
    content: str = "plain"  # a name in `contents.CONTENTS`
    orders: Mapping[str, Any] = field(default_factory=dict)  # changes to the program's `Orders`
    settings: Mapping[str, str] = field(default_factory=dict)  # of the sink, without their prefix
    server: Mapping[str, Any] = field(default_factory=dict)  # arguments of `RedisServer`
    disk: str = ""  # options of a tmpfs of its own, on which the spool directory lies
    starts_program: bool = True  # False: the fault starts its programs itself
    loss: Literal["none", "reported"] = "none"  # "reported": what is lost, the library says to the record
    must_lose: bool = False  # where nothing is lost, the fault did not happen
    doubles: Literal["none", "reported"] = (
        "none"  # "reported": at most as many as the library says are possible
    )
    in_order: bool = False  # records of a thread arrive in the order of its calls
    may_refuse: bool = False  # Loguru may refuse calls; they are counted apart
    recovery_seconds: float = 10.0  # a fresh record is through by then, and the spool is empty
    p999_ms: float | None = 250.0  # of a call; None where the fault stops the program itself
    quick: bool = False  # part of the quick profile
    needs: tuple[str, ...] = ()  # "root", "strace", "gunicorn": what the machine must have

    @property
    def group(self) -> Group:
        """The group it belongs to."""
        return self.name.partition("/")[0]  # type: ignore[return-value]
