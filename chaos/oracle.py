"""What became of the records, and whether the programs kept within their bounds.

The oracle knows what the programs wrote into their books, what lies in the lists, and what the system says of
the programs. Of what the library says of itself it believes nothing: it only checks that it adds up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.contents import CONTENTS, id_of
from lab.calls import CallBook
from lab.oracle import MalformedValueError, check, decode_value

_MARKER = re.compile(r"(\d+) records lost, (\w+), from ")

_MEMORY_GROWTH_BYTES = 160 << 20  # the queue may take 64 MiB, and a batch on its way stands there twice
_MORE_THREADS = 12
_MORE_FDS = 40


@dataclass(frozen=True)
class Judgement:
    """What was found in the lists, against what was owed."""

    owed: int  # calls that returned
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    copies: int  # beyond the first of each
    unknown: tuple[str, ...]  # nobody logged them
    changed: tuple[str, ...]  # "id: what is wrong with it"
    out_of_order: int
    refused: int  # calls that Loguru itself refused
    raised: int
    marked_lost: int  # what records in the stream say is lost

    @property
    def delivered(self) -> int:
        """Owed, and there."""
        return self.owed - len(self.lost)


def judge(books: Sequence[CallBook], values: Sequence[bytes], content: str) -> Judgement:
    """Compare the books with what lies in the list, from its left end to its right."""
    records, changed, marked_lost = [], [], 0
    for place, value in enumerate(values):
        try:
            record = decode_value(value, place)
        except MalformedValueError as error:
            changed.append(str(error))
            continue
        if marker := _MARKER.match(record["content"]):
            marked_lost += int(marker[1])
        else:
            records.append(record)
            if problem := CONTENTS[content].problem(record):
                changed.append(f"{id_of(record)[:80]}: {problem}")
    owed = [record_id for book in books for record_id in book.owed()]
    verdict = check(owed, records, identify=id_of)
    begun = {record_id for book in books for record_id in book.begun()}
    return Judgement(
        owed=len(owed),
        lost=verdict.lost,
        doubled=tuple(verdict.doubled),
        copies=sum(verdict.doubled.values()) - len(verdict.doubled),
        unknown=tuple(record_id for record_id in verdict.unknown if record_id not in begun),
        changed=tuple(changed),
        out_of_order=sum(verdict.out_of_order_by_thread.values()),
        refused=sum(book.refused_count for book in books),
        raised=sum(book.raised_count for book in books),
        marked_lost=marked_lost,
    )


def reported_lost(samples: Sequence[dict[str, Any]]) -> int:
    """How many records a program last said that were lost, by whomever."""
    if not samples or "dropped" not in samples[-1]:
        return 0
    dropped: int = sum(samples[-1]["dropped"].values())
    return dropped + int(samples[-1]["server_lost"])


def possibly_doubled(samples: Sequence[dict[str, Any]]) -> int:
    """How many records a program last said may be there twice."""
    return int(samples[-1].get("possibly_doubled", 0)) if samples else 0


def broken_bounds(samples: Sequence[dict[str, Any]]) -> list[str]:
    """What a program did not keep at some moment: the equation, or its bounds of memory, threads, files."""
    found = []
    for sample in samples:
        if "accepted" in sample and (difference := _difference(sample)):
            found.append(f"the equation is wrong by {difference} records: {sample}")
            break
    if samples:
        grown = max(sample["rss_bytes"] for sample in samples) - samples[0]["rss_bytes"]
        if grown > _MEMORY_GROWTH_BYTES:
            found.append(f"memory has grown by {grown >> 20} MiB")
        for what, more in (("threads", _MORE_THREADS), ("fds", _MORE_FDS)):
            most = max(sample[what] for sample in samples)
            if most > samples[0][what] + more:
                found.append(f"{most} {what}, of {samples[0][what]} in the beginning")
    return found


def felt(samples: Sequence[dict[str, Any]], begin: float, end: float) -> set[str]:
    """What a program shows of a fault that was in force meanwhile; "nothing" is always among it."""
    before = [sample for sample in samples if sample["at"] < begin]
    during = [sample for sample in samples if begin <= sample["at"] <= end + 0.5]
    shown = {"nothing"}
    for sample in during:
        if sample["redis_state"] == "down":
            shown.add("down")
        if sample["redis_state"] == "refusing":
            shown |= {"refused", "down"}
        if sample["spooled"]:
            shown.add("spooled")
        if sample["retries"] > (before[-1]["retries"] if before else 0):
            shown.add("retried")
    if shown & {"retried", "down"}:
        shown.add("failed")
    if during and samples[-1]["already_applied"] > (before[-1]["already_applied"] if before else 0):
        shown.add("known")
    return shown


def files_with(secret: str, folder: Path, besides: Iterable[Path] = ()) -> list[Path]:
    """All files below a folder in which the secret stands, but for those below ``besides``."""
    needle, exempt = secret.encode(), tuple(besides)
    return [
        path
        for path in sorted(folder.rglob("*"))
        if not any(path.is_relative_to(place) for place in exempt) and needle in _bytes_of(path)
    ]


def _bytes_of(path: Path) -> bytes:
    """What a file holds; nothing where it is none, or is gone at this moment."""
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except OSError:
        return b""


def _difference(sample: dict[str, Any]) -> int:
    places = ("delivered", "in_memory", "spooled", "dead_lettered")
    arrived: int = sample["accepted"] + sample["adopted"]
    settled: int = sum(sample[place] for place in places) + sum(sample["dropped"].values())
    return arrived - settled
