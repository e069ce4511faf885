"""What the programs log, and how a record tells that it arrived as it was logged.

Program and oracle share this module and nothing else. A message begins with the id of its call and the digest
of the rest, so the oracle needs no copy of what was logged.
"""

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


def _plain(record_id: str, dice: random.Random) -> Call:
    return Call(signed(record_id, "x" * dice.choice((0, 20, 100, 400))), {"order": dice.randrange(10**6)})


CONTENTS: dict[str, Content] = {
    "plain": Content(_plain, problem_of_signed),
}
