"""What a call logs, and what names a record; the words that all contents are made of."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import re
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


def signed(record_id: str, payload: str, *fields: object) -> str:
    """A message that tells what it should be, and what some other fields of the record should be."""
    return f"{record_id} {_digest(payload, *fields)} {payload}"


def problem_of_signed(record: Record, *names: str) -> str | None:
    """Whether a message, and the fields of these names, are still what was signed."""
    _, _, rest = str(record["content"]).partition(" ")
    digest, _, payload = rest.partition(" ")
    expected = _digest(payload, *(record.get(name) for name in names))
    return None if digest == expected else f"its digest is not {digest}"


_ZONE_STEP_MS = 15 * 60_000  # zones differ from one another by a multiple of it

# Fields that every record has, whatever was logged: a text is matched whole.
_STANDARD: dict[str, str | type] = {
    "serverName": ".+",
    "appName": "chaos",
    "env": "dev",
    "appNameWithEnv": "chaos-_-dev",
    "logLevel": "INFO",
    "method": r".+\(.+:\d+\)",
    "className": r"chaos\.application\.(program|shop)",
    "threadName": ".+",
    "dateTime": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}",
    "dtTime": int,
    "seq": int,
    "producer": "[0-9a-f]{16}",
}


def problem_of_standard_fields(record: Record, begin_ms: float, end_ms: float) -> str | None:
    """Whether every field of Plumelog's is there, and the record was logged between two moments (epoch)."""
    for name, form in _STANDARD.items():
        found = record.get(name)
        if name == "producer" and "extrasCut" in record:
            continue  # it goes over the wire as an extra, and there were too many of them
        if isinstance(form, type):
            is_well = type(found) is form
        else:
            is_well = isinstance(found, str) and re.fullmatch(form, found) is not None
        if not is_well:
            return f"{name} is {str(found)[:80]!r}"
    if record["seq"] < 1 or record.get("logType", "") is not None or "traceId" not in record:
        return "seq, logType or traceId is not Plumelog's"
    told = dt.datetime.fromisoformat(record["dateTime"]).replace(tzinfo=dt.timezone.utc)
    told_ms = round(told.timestamp() * 1000)
    if (told_ms - record["dtTime"]) % _ZONE_STEP_MS:
        return f"dateTime {record['dateTime']} is not dtTime {record['dtTime']} in any zone"
    if not begin_ms <= record["dtTime"] <= end_ms:
        return f"dtTime {record['dtTime']} is not within the scenario"
    return None


def _digest(payload: str, *fields: object) -> str:
    whole = "\0".join([payload, *map(str, fields)])
    return hashlib.blake2s(whole.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
