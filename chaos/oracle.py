"""What became of the records, and whether the programs kept within their bounds.

The oracle knows what the programs wrote into their books, what lies in the lists, and what the system says of
the programs. Of what the library says of itself it believes nothing: it only checks that it adds up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.contents import CONTENTS, Record, id_of, problem_of_standard_fields
from lab.calls import CallBook
from lab.oracle import MalformedValueError, check, decode_value

_MARKER = re.compile(r"(\d+) records lost, (\w+), from .+ to .+")
_NOT_MARKED = "closed"  # such a call may come when nobody is left to deliver a marker

_LEAST_SECONDS = 1.0  # to measure a rate

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
    cut_short: int  # calls that did not return, and whose records are not there: they may be lost, or not
    marked: Mapping[str, int]  # what records in the stream say is lost, by reason

    @property
    def marked_lost(self) -> int:
        """What records in the stream say is lost."""
        return sum(self.marked.values())

    @property
    def delivered(self) -> int:
        """Owed, and there."""
        return self.owed - len(self.lost)


def judge(
    books: Sequence[CallBook],
    values: Sequence[bytes],
    content: str,
    logged_within: tuple[float, float] | None = None,
) -> Judgement:
    """Compare the books with what lies in the list, from its left end to its right.

    Args:
        books: of all programs.
        values: what lies in the list.
        content: what was logged, a name in `CONTENTS`.
        logged_within: the records have all fields of Plumelog's, and were logged between these moments, in
            epoch milliseconds. None for a sink that sends other fields.
    """
    records, changed, markers = [], [], []
    for place, value in enumerate(values):
        try:
            record = decode_value(value, place)
        except MalformedValueError as error:
            changed.append(str(error))
            continue
        if _is_marker(record):
            markers.append(record)
        else:
            records.append(record)
            if problem := CONTENTS[content].problem(record):
                changed.append(f"{id_of(record)[:80]}: {problem}")
            if logged_within and (problem := problem_of_standard_fields(record, *logged_within)):
                changed.append(f"{id_of(record)[:80]}: {problem}")
    if logged_within:
        changed.extend(_mixed_up(records))
    owed = [record_id for book in books for record_id in book.owed()]
    verdict = check(owed, records, identify=id_of)
    begun = {record_id for book in books for record_id in book.begun()}
    marked: Counter[str] = Counter()
    for marker in markers:
        marked[marker["lostReason"]] += int(marker["lostRecords"])
    said = Counter(f"marker {marker.get('producer')} {marker.get('seq')}" for marker in markers)
    doubled = verdict.doubled | {name: times for name, times in said.items() if times > 1}
    return Judgement(
        owed=len(owed),
        lost=verdict.lost,
        doubled=tuple(doubled),
        copies=sum(doubled.values()) - len(doubled),
        unknown=tuple(record_id for record_id in verdict.unknown if record_id not in begun),
        changed=tuple(changed),
        out_of_order=sum(verdict.out_of_order_by_thread.values()),
        refused=sum(book.refused_count for book in books),
        raised=sum(book.raised_count for book in books),
        cut_short=len(begun.difference(map(id_of, records))),
        marked=marked,
    )


def false_words(
    judgement: Judgement, programs: Sequence[Sequence[dict[str, Any]]], *, ended_well: bool
) -> list[str]:
    """What was said of losses, in the stream and in the programs' last samples, and is not so.

    Args:
        judgement: what was lost.
        programs: the samples of each.
        ended_well: all who lost anything said their last word. Then the stream has to say it all, unless a
            server lost something: that may have been such a word.
    """
    found, most = [], len(judgement.lost) + judgement.cut_short
    if judgement.marked_lost > most:
        found.append(f"the stream says that {judgement.marked_lost} records are lost, and {most} are")
    last = [samples[-1] for samples in programs if samples and "dropped" in samples[-1]]
    dropped: Counter[str] = Counter()
    for sample in last:
        dropped.update(sample["dropped"])
    if dropped.total() > most:
        found.append(f"{dropped.total()} records are said to be dropped, and {most} are lost")
    del dropped[_NOT_MARKED]
    is_whole = all(judgement.marked.get(reason, 0) == records for reason, records in dropped.items())
    if ended_well and not is_whole and not any(sample["server_lost"] for sample in last):
        found.append(f"dropped is {dict(dropped)}, and the stream says {dict(judgement.marked)}")
    return found


def replayed_per_second(timeline: Mapping[str, Any]) -> float:
    """How fast the backlog on the disk became smaller, from the end of the last fault until it was gone.

    A backlog is what was logged and is not in the list; what waits in memory is no part of it. What took less
    than a second is said to have taken one.
    """
    healed_at = max((end for _, end in timeline["faults"]), default=0.0)
    names = ("seconds", "logged", "delivered", "spooled", "in_memory")
    points = [
        (seconds, logged - delivered - in_memory, spooled)
        for seconds, logged, delivered, spooled, in_memory in zip(*(timeline[n] for n in names), strict=True)
        if seconds > healed_at and None not in (delivered, spooled, in_memory)
    ]
    if not points:
        return 0.0
    began, at_first, _ = points[0]
    ended, at_last, _ = next((point for point in points if not point[2]), points[-1])
    return float((at_first - at_last) / max(ended - began, _LEAST_SECONDS))


def _mixed_up(records: Sequence[Record]) -> list[str]:
    """Numbers that two records of a producer share, and hosts that are not all one."""
    ids: dict[tuple[str, int], str] = {}
    found = []
    for record in records:
        if "producer" in record and "seq" in record:  # of too many extras it may not be there
            record_id = id_of(record)
            if (other := ids.setdefault((record["producer"], record["seq"]), record_id)) != record_id:
                found.append(f"{record_id} has the number of {other}")
    hosts = {str(record.get("serverName")) for record in records}
    return found + ([f"they come from {sorted(hosts)}"] if len(hosts) > 1 else [])


def _is_marker(record: Record) -> bool:
    """Whether the library itself says in a record that others are lost."""
    marker = _MARKER.fullmatch(str(record["content"]))
    return (
        marker is not None
        and record.get("className") == "plumelog_loguru"
        and (record.get("lostRecords"), record.get("lostReason")) == marker.groups()
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
