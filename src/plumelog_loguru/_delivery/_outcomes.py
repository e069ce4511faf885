"""What one attempt can come to.

A closed union and not exceptions: a caller that forgets one of them is told by the type checker, and
'refused' can never pass for 'done'.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FailureKind(str, Enum):
    """What there is to do about a failure."""

    TRANSIENT = "transient"  # goes away by itself: try again, then spool
    OPERATOR = "operator"  # stays until somebody changes something: spool, say so, probe slowly
    REFUSED = "refused"  # this very batch is not taken, others are


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed."""

    kind: FailureKind
    code: str  # one word, fit for counting: the server's own code where it sent one
    detail: str  # one line for people; no password and no record in it
    in_doubt: (
        bool  # False only where it is certain that the server did not apply this request, and never will
    )
    scripting_unavailable: bool = False  # the server has no scripts, or none for this user


@dataclass(frozen=True, slots=True)
class Applied:
    """The values are in the list now, and were not before."""

    last_found: int  # the lane's last number before this push; 0 for a lane that Redis does not know
    list_length: int  # values in the list after the push


@dataclass(frozen=True, slots=True)
class AlreadyApplied:
    """An earlier attempt had put the batch into the list; nothing was done."""

    last_found: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """The batch is not in the list, and no request under its identity can put it there any more."""

    last_found: int


@dataclass(frozen=True, slots=True)
class Healthy:
    """The write path works."""

    list_length: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed; see `failure` for whether the server may have applied it all the same."""

    failure: Failure
