"""What a call logs, and what names a record; the words that all contents are made of."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of `logger.info`."""

    message: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | bool | None = None  # as `logger.opt(exception=…)` takes it
    afterwards: Callable[[], object] = lambda: None  # done when the call has returned


@dataclass(frozen=True)
class Content:
    """One kind of records: how they are made, and how one is judged."""

    make: Callable[[str, random.Random], Call]
    problem: Callable[[Record], str | None]  # what is wrong with a record, if anything


def id_of(record: Record) -> str:
    """The id of the call that a record came from."""
    return str(record["content"]).partition(" ")[0]


def signed(record_id: str, payload: str) -> str:
    """A message that tells what it should be."""
    return f"{record_id} {_digest(payload)} {payload}"


def problem_of_signed(record: Record) -> str | None:
    """Whether a message is still what was signed."""
    _, _, rest = str(record["content"]).partition(" ")
    digest, _, payload = rest.partition(" ")
    return None if digest == _digest(payload) else f"its digest is not {digest}"


def _digest(payload: str) -> str:
    return hashlib.blake2s(payload.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
