"""What can happen to a spool on a disk: parts, letters, and each way to damage them."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import Journal, runs_of
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part

ROWS, RECORDS_A_ROW, JOURNALED = 12, 3, 4
RECORDS = ROWS * RECORDS_A_ROW + JOURNALED
DATABASE = "spool/cache.db"


def value(name: str) -> bytes:
    """A record that the oracle and Redis take, and that is known by its name."""
    return b'{"content":"%s","threadName":"t","dtTime":1795305614000,"pad":"%s"}' % (
        name.encode(),
        b"x" * 300,
    )


def left_by_a_killed_process(path: Path, destination: Destination) -> tuple[Path, set[bytes]]:
    """A part with a log that nobody copied back, and a journal; and its records."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = Part.create(path, destination)
    values: list[bytes] = []
    for row in range(ROWS):
        batch = tuple(value(f"{part.id}-{row}-{n}") for n in range(RECORDS_A_ROW))
        part.append(Batch(part.next_spool_id(), batch))
        values += batch
    journal = Journal.create(part.new_journal_path(), 1 << 14, mapped=False)
    frames = []
    for n in range(JOURNALED):
        values.append(value(f"{part.id}-journal-{n}"))
        frames.append(journal.append(values[-1]))
    journal.cut(runs_of([f for f in frames[:2] if f]), BatchId(new_lane_id(), 1), AttemptedBy.SCRIPT, 1)
    journal.close()
    killed = shutil.copytree(part.path, path / "killed")
    part.close()
    shutil.rmtree(part.path)
    killed.rename(part.path)
    return part.path, set(values)


def left_by_an_ended_process(path: Path, destination: Destination) -> tuple[Path, set[bytes]]:
    """The same, but for the log and the journal."""
    part_path, values = left_by_a_killed_process(path, destination)
    part = Part.try_take(part_path, destination)
    assert part is not None
    part.close()
    for journal in part_path.glob("journal-*"):
        journal.unlink()
    return part_path, {one for one in values if b"journal" not in one}


def letter_in(spool_dir: Path, destination: Destination, seq: int = 1) -> Path:
    """A dead letter; where it lies."""
    letters = DeadLetters(spool_dir)
    letters.write(DeadLetter(BatchId("a" * 32, seq), value(f"letter {seq}"), destination, "too large", 1))
    return letters.path / letters.name_of(BatchId("a" * 32, seq))


def flip(path: Path, at: int, bit: int = 0) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def flip_in(path: Path, text: bytes) -> None:
    """One bit of this text, which is in the file."""
    flip(path, path.read_bytes().index(text) + len(text) // 2)


def replace_with_link(path: Path) -> None:
    """What was there is somewhere else now, and a link leads to it."""
    away = path.parents[2] / f"away-{path.name}"
    if path.is_dir():
        shutil.move(path, away)
    elif path.exists():
        shutil.copy(path, away)
        path.unlink()
    path.symlink_to(away)


def change(part: Path, statement: str) -> None:
    """By SQLite itself, as an enemy would."""
    with closing(sqlite3.connect(part / DATABASE, isolation_level=None)) as database:
        database.execute(statement)


def old(path: Path) -> Path:
    """As if it had lain there for long."""
    os.utime(path, (1, 1))
    return path


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(50_000))


Damage = Callable[[Path], object]
Leave = Callable[[Path, Destination], tuple[Path, set[bytes]]]


def one_by_one(*damages: Damage) -> Damage:
    def all_of_it(part: Path) -> None:
        for damage in damages:
            damage(part)

    return all_of_it


# What can be put right, and how many records are lost at most.
ALL_ROWS = ROWS * RECORDS_A_ROW
DAMAGES: dict[str, tuple[Damage, int]] = {
    "bit in a row": (lambda part: flip_in(part / f"{DATABASE}-wal", b"-5-1"), RECORDS_A_ROW),
    "bit in the log's header": (lambda part: flip(part / f"{DATABASE}-wal", 9), ALL_ROWS),
    "log cut short": (lambda part: os.truncate(part / f"{DATABASE}-wal", 30_000), ALL_ROWS),
    "log empty": (lambda part: os.truncate(part / f"{DATABASE}-wal", 0), ALL_ROWS),
    "log missing": (lambda part: (part / f"{DATABASE}-wal").unlink(), ALL_ROWS),
    "log garbage": (lambda part: garbage(part / f"{DATABASE}-wal"), ALL_ROWS),
    "log a link": (lambda part: replace_with_link(part / f"{DATABASE}-wal"), ALL_ROWS),
    "index garbage": (lambda part: garbage(part / f"{DATABASE}-shm"), 0),
    "index a link": (lambda part: replace_with_link(part / f"{DATABASE}-shm"), 0),
    "database cut short": (lambda part: os.truncate(part / DATABASE, 5000), ALL_ROWS),
    "database empty": (lambda part: os.truncate(part / DATABASE, 0), ALL_ROWS),
    "database of one byte": (lambda part: os.truncate(part / DATABASE, 1), ALL_ROWS),
    "database missing": (lambda part: (part / DATABASE).unlink(), ALL_ROWS),
    "database garbage": (lambda part: garbage(part / DATABASE), ALL_ROWS),
    "database a link": (lambda part: replace_with_link(part / DATABASE), ALL_ROWS),
    "database a directory": (
        one_by_one(lambda part: (part / DATABASE).unlink(), lambda part: (part / DATABASE).mkdir()),
        ALL_ROWS,
    ),
    "rows gone": (lambda part: shutil.rmtree(part / "spool"), ALL_ROWS),
    "rows behind a link": (lambda part: replace_with_link(part / "spool"), ALL_ROWS),
    "stranger beside the database": (lambda part: (part / "spool/odd").touch(), 0),
    "hot journal": (lambda part: (part / f"{DATABASE}-journal").write_bytes(b"hot"), 0),
    "planted trigger": (
        lambda part: change(part, "CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache; END"),
        0,
    ),
    "planted entry": (lambda part: change(part, "UPDATE Cache SET raw = 0 WHERE rowid = 2"), RECORDS_A_ROW),
    "row is a text": (
        lambda part: change(part, "UPDATE Cache SET value = 'x' WHERE rowid = 2"),
        RECORDS_A_ROW,
    ),
    "row is a pickle": (
        lambda part: change(part, "UPDATE Cache SET mode = 4 WHERE rowid = 2"),
        RECORDS_A_ROW,
    ),
    "row expires": (lambda part: change(part, "UPDATE Cache SET expire_time = 1 WHERE rowid = 2"), 0),
    "odd number": (lambda part: change(part, f"UPDATE Cache SET rowid = {(1 << 63) - 1} WHERE rowid = 2"), 0),
    "wrong count": (lambda part: change(part, "UPDATE Settings SET value = 9 WHERE key = 'count'"), 0),
    "bit in the first line of part.json": (lambda part: flip(part / "part.json", 20), 0),
    "bit in the second line of part.json": (lambda part: flip(part / "part.json", -20), 0),
    "bit in a line's end": (lambda part: flip(part / "part.json", -1), 0),
    "lock missing": (lambda part: (part / "lock").unlink(), 0),
    "lock a link": (lambda part: replace_with_link(part / "lock"), 0),
    "quarantine a link": (lambda part: replace_with_link(part / "quarantine"), 0),
    "quarantine a file": (lambda part: (part / "quarantine").touch(), 0),
    "bit in the age": (lambda part: flip(part / "age", 30), 0),
    "age a link": (lambda part: replace_with_link(part / "age"), 0),
    "attempts garbage": (lambda part: (part / "attempts").write_bytes(b"garbage"), 0),
    "ballast a directory": (lambda part: (part / "ballast").mkdir(), 0),
    "salvage broken off": (lambda part: shutil.copytree(part / "spool", part / "spool-new"), 0),
    "salvage broken off at its end": (lambda part: (part / "spool").rename(part / "spool-new"), 0),
    "bit in a journaled record": (lambda part: flip_in(part / "journal-1", b"journal-2"), 1),
    "bit in a journal's identity": (lambda part: flip(part / "journal-1", 4096 + 30), 0),
    "bit in a journal's attempt": (lambda part: flip(part / "journal-1", 4096 + 67), 0),
    "bit in a journal's header": (lambda part: flip(part / "journal-1", 2048 + 15), 0),
    "journal cut short": (lambda part: os.truncate(part / "journal-1", 4096 + 700), JOURNALED),
    "journal garbage": (lambda part: garbage(part / "journal-1"), JOURNALED),
    "journal a link": (lambda part: replace_with_link(part / "journal-1"), JOURNALED),
    "journal a directory": (
        one_by_one(lambda part: (part / "journal-1").unlink(), lambda part: (part / "journal-1").mkdir()),
        JOURNALED,
    ),
    "all at once": (
        one_by_one(
            lambda part: flip_in(part / f"{DATABASE}-wal", b"-5-1"),
            lambda part: flip_in(part / "journal-1", b"journal-2"),
            lambda part: flip(part / "part.json", 20),
            lambda part: flip(part / "age", 30),
            lambda part: (part / "lock").unlink(),
            lambda part: (part / "spool/odd").touch(),
            lambda part: (part / "quarantine").touch(),
        ),
        RECORDS_A_ROW + 1,
    ),
}

# The same of a part whose owner ended as it should: there is no log, and no journal.
ENDED_DAMAGES: dict[str, tuple[Damage, int]] = {
    "bit in a row": (lambda part: flip_in(part / DATABASE, b"-5-1"), RECORDS_A_ROW),
    "bit in the database's header": (lambda part: flip(part / DATABASE, 20), 0),
    "bit in a page's header": (lambda part: flip(part / DATABASE, 4096 * 5 + 3), ALL_ROWS),
    "database cut short": (lambda part: os.truncate(part / DATABASE, 20_000), ALL_ROWS),
    "database empty": (lambda part: os.truncate(part / DATABASE, 0), ALL_ROWS),
    "database missing": (lambda part: (part / DATABASE).unlink(), ALL_ROWS),
    "rows gone": (lambda part: shutil.rmtree(part / "spool"), ALL_ROWS),
    "database without its table": (lambda part: change(part, "DROP TABLE Cache"), ALL_ROWS),
}
SCENES = [
    *((left_by_a_killed_process, name, *damage) for name, damage in DAMAGES.items()),
    *((left_by_an_ended_process, name, *damage) for name, damage in ENDED_DAMAGES.items()),
]
each_scene = pytest.mark.parametrize(
    ("leave", "name", "damage", "most_lost"),
    SCENES,
    ids=[f"{scene[0].__name__}-{scene[1]}" for scene in SCENES],
)
