"""What the spool may take: each policy exact to one batch, and every drop told."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from plumelog_loguru._batch import Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import RowKey, SpoolDirectory, _writer
from plumelog_loguru._spool._part import Part, PartOptions
from plumelog_loguru._spool._row import encode_row
from plumelog_loguru._spool._store import Store
from tests.spool.rig import Rig, values_of

Start = Callable[..., Rig]

MIB = 1 << 20
POLICIES = ("drop_oldest", "drop_newest", "drop_lowest_level")


def record(number: int, level: str = "INFO", size: int = 100) -> bytes:
    """A line as the sink makes it, of about this size in bytes."""
    start = b'{"dtTime":%d,"logLevel":"%s","seq":%d,"content":"' % (1000 + number, level.encode(), number)
    return start + b"x" * max(0, size - len(start) - 2) + b'"}'


def numbers_of(rig: Rig) -> list[int]:
    return [int(value.split(b'"seq":')[1].split(b",")[0]) for value in values_of(rig.rows())]


# ---------------------------------------------------------------- the whole directory


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [3_000, 40_000, MIB])
def test_all_files_stay_within_the_limit(
    start: Start, spool_dir: Path, destination: Destination, policy: str, size: int
) -> None:
    """Whatever comes, the directory takes the limit and no more, and no more is dropped than must be."""
    limit = 24 * MIB
    rig = start(limit, policy)
    directory = SpoolDirectory(spool_dir, destination)
    count = 30 * MIB // size
    most = 0
    for first in range(0, count, 500):
        blocks = [rig.offer(record(n, size=size)) for n in range(first, min(first + 500, count))]
        rig.listener.wait_for(partial(operator.contains, rig.listener.done, blocks[-1]))
        most = max(most, directory.disk_bytes())
    batch = min(size * 500, MIB)  # small ones share rows
    kept = rig.keeper.spool_bytes
    print(f"{policy}, records of {size}: at most {most - limit:+} bytes over the limit, {kept} are rows")
    log = MIB  # is reckoned with, and is not always as large
    assert limit - log - batch <= most <= limit + batch
    fixed = 6 * MIB  # an empty database and its log, and the ballast
    assert kept >= limit - fixed - 2 * batch
    lost = sum(records for records, _ in rig.listener.losses) + rig.listener.refused
    numbers = numbers_of(rig)
    assert len(numbers) == count - lost
    oldest_kept = policy == "drop_newest"
    assert numbers == sorted(numbers)
    assert (numbers[0] == 0) == oldest_kept
    assert oldest_kept or numbers[-1] == count - 1


def test_what_others_take_counts(start: Start, spool_dir: Path, destination: Destination) -> None:
    """Parts of other processes leave less room, whatever list they are meant for."""
    elsewhere = Destination("other:6379", 0, "plume_log_list", "left")
    spool_dir.mkdir()
    other = Part.create(spool_dir, elsewhere)
    for number in range(10):
        other.append(Batch(other.next_spool_id(), (record(number, size=MIB),)))
    rig = start(32 * MIB, "drop_newest")
    for number in range(30):
        rig.store(record(number, size=MIB))
    taken = SpoolDirectory(spool_dir, destination).disk_bytes()
    assert 32 * MIB - 3 * MIB < taken <= 32 * MIB + MIB
    other.close()


def test_nothing_is_dropped_where_it_cannot_help(
    start: Start, spool_dir: Path, destination: Destination
) -> None:
    """Others take all of the limit: a row of ours goes for each that comes, and none for nothing."""
    rig = start(8 * MIB)
    for number in range(5):
        rig.store(record(number, size=MIB))
    (spool_dir / "part-0123456789abcdef" / "spool").mkdir(parents=True)
    with open(spool_dir / "part-0123456789abcdef" / "spool" / "cache.db", "wb") as file:
        file.truncate(64 * MIB)
    for number in range(5, 8):
        rig.store(record(number, size=MIB))
    assert rig.listener.losses == [(1, "spool_full")] * 3
    assert numbers_of(rig) == [3, 4, 5, 6, 7]


def test_a_small_limit_is_for_rows_and_that_is_said_once(start: Start) -> None:
    """What is there whatever waits comes on top of a limit that it would fill."""
    rig = start(2 * MIB, "drop_newest")
    for number in range(30):
        rig.store(record(number, size=100_000))
    assert 2 * MIB - 2 * 100_000 < rig.keeper.spool_bytes <= 2 * MIB + 100_000
    told = [sentence for kind, sentence in rig.reports if kind == "spool-small"]
    assert len(told) == 1 and "spool_max_bytes" in told[0]


# ---------------------------------------------------------------- the disk


@pytest.mark.parametrize("policy", POLICIES)
def test_a_disk_that_others_fill_costs_a_row_for_a_row(
    start: Start, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Where less is free than must stay free, the spool grows no more, and loses no more than must be."""
    rig = start(min_free_bytes=64 * MIB, full_policy=policy)
    for number in range(6):
        rig.store(record(number, size=50_000))
    monkeypatch.setattr(SpoolDirectory, "free_bytes", lambda _: 10 * MIB)
    before = rig.keeper.spool_bytes
    for number in range(6, 10):
        rig.store(record(number, size=50_000))
    assert abs(rig.keeper.spool_bytes - before) < 1000
    lost = sum(records for records, _ in rig.listener.losses) + rig.listener.refused
    assert lost == 4
    assert numbers_of(rig) == ([0, 1, 2, 3, 4, 5] if policy == "drop_newest" else [4, 5, 6, 7, 8, 9])


def test_a_write_that_fails_again_and_again_costs_one_row(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was dropped for a batch is remembered until it is written: its repetitions drop nothing more."""
    monkeypatch.setattr(_writer, "_RETRY_FIRST_SECONDS", 0.01)
    rig = start(min_free_bytes=64 * MIB)
    for number in range(6):
        rig.store(record(number, size=50_000))
    monkeypatch.setattr(SpoolDirectory, "free_bytes", lambda _: 0)
    real, left = Store.put, [OSError(28, "no space left on device")] * 5

    def put(store: Store, key: RowKey, row: bytes) -> None:
        if left:
            raise left.pop()
        real(store, key, row)

    monkeypatch.setattr(Store, "put", put)
    rig.store(record(6, size=50_000))
    assert left == []
    assert rig.listener.losses == [(1, "spool_full")]


# ---------------------------------------------------------------- levels


def test_the_lowest_level_goes_first_and_then_the_oldest(start: Start) -> None:
    """Rows whose highest level is lowest make room, oldest first; nothing goes for something lower."""
    rig = start(8 * MIB, "drop_lowest_level")
    levels = ["ERROR", "DEBUG", "INFO", "DEBUG", "WARN", "INFO", "ERROR"]
    for number, level in enumerate(levels):
        rig.store(record(number, "DEBUG", 100), record(number, level, MIB - 5000))
    for number, level in ((10, "WARN"), (11, "ERROR"), (12, "INFO"), (13, "INFO"), (14, "INFO")):
        rig.store(record(number, level, MIB - 5000))
    assert [told[0] for told in rig.listener.spans] == [1001, 1003, 1002, 1005]
    rig.store(record(15, "DEBUG", MIB - 5000))
    assert rig.listener.refused == 1
    assert sorted(set(numbers_of(rig))) == [0, 4, 6, 10, 11, 12, 13, 14]


def test_rows_of_an_earlier_version_open_and_go_last(
    start: Start, spool_dir: Path, destination: Destination
) -> None:
    """Their keys do not say the level: they are delivered as ever, and dropped for an error only."""
    spool_dir.mkdir()
    part = Part.create(spool_dir, destination)
    row = encode_row(Batch(part.next_spool_id(), (record(0, "INFO", MIB),)))
    part._store.put(part._store.new_key(1, len(row)), row)
    part.close()
    rig = start(3 * MIB, "drop_lowest_level")
    rig.store(record(1, "WARN", MIB - 5000))
    rig.store(record(2, "WARN", MIB - 5000))
    rig.store(record(3, "WARN", MIB - 5000))
    assert rig.listener.spans == [(1001, 1001)]
    assert numbers_of(rig) == [0, 2, 3]


@pytest.mark.parametrize(
    ("text", "level", "age_ms"),
    [("0000000000000007.3.500", None, None), ("0000000000000007.3.500.4.12345", "ERROR", 12345)],
)
def test_both_forms_of_a_key_are_read_and_kept(text: str, level: str | None, age_ms: int | None) -> None:
    """A key says the same after it was read, for it is the place of the row in the database."""
    key = RowKey.parse(text)
    assert key is not None
    assert (key.counter, key.records, key.size, key.level, key.age_ms) == (7, 3, 500, level, age_ms)
    assert str(key) == text


# ---------------------------------------------------------------- what is told, and what stays


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_lowest_level"])
def test_a_row_in_flight_is_never_dropped(start: Start, policy: str) -> None:
    """What was handed out may be in Redis: it stays, though it is the oldest and of the lowest level."""
    rig = start(2 * MIB, policy)
    rig.store(record(0, "DEBUG", 900_000))
    handed_out = rig.next_row()
    rig.store(record(1, "INFO", 900_000))
    rig.store(record(2, "INFO", 900_000))
    assert rig.listener.spans == [(1001, 1001)]
    assert handed_out is not None
    rig.keeper.rewind()
    rig.store(record(3, "INFO", 900_000))
    assert rig.listener.spans == [(1001, 1001), (1000, 1000)]
    assert numbers_of(rig) == [2, 3]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_drop_is_told_with_its_time_span(start: Start, policy: str) -> None:
    """Reason, number of records, and the times of the first and the last of them."""
    rig = start(2 * MIB, policy)
    for number in range(0, 30, 10):
        rig.store(*(record(number + n, size=90_000) for n in range(10)))
    span = (1020, 1029) if policy == "drop_newest" else (1000, 1009)
    assert rig.listener.spans == [span]
    assert rig.listener.losses == ([] if policy == "drop_newest" else [(10, "spool_full")])
    assert sum(rig.listener.spooled.values()) == 20


def test_a_batch_without_a_chance_costs_nothing(start: Start) -> None:
    """A batch for which not even everything would make room is refused, and nothing is dropped for it."""
    rig = start(600_000)
    for number in range(3):
        rig.store(record(number, size=100_000))
    rig.store(record(3, size=900_000))
    assert rig.listener.losses == [] and rig.listener.refused == 1
    assert numbers_of(rig) == [0, 1, 2]


# ---------------------------------------------------------------- age


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wall_ms = 1_700_000_000_000

    def monotonic(self) -> float:
        return self.now

    def epoch_ms(self) -> int:
        return self.wall_ms


def test_rows_expire_by_themselves(start: Start) -> None:
    """Nobody asks for them and nothing is written: still they go when their time is up, and not before."""
    rig = start(max_age_seconds=0.3)
    rig.store(record(0))
    assert rig.listener.losses == []
    rig.listener.wait_for(lambda: rig.listener.losses)
    assert rig.listener.losses == [(1, "expired")]
    assert rig.listener.spans == [(1000, 1000)]
    assert rig.keeper.spool_bytes == 0


def test_what_has_expired_is_not_delivered(start: Start) -> None:
    """Redis is back just when a row has become too old: the next one is handed out."""
    clock = SetClock()
    rig = start(max_age_seconds=60.0, clock=clock)
    rig.store(record(0))
    clock.now += 59.0
    rig.store(record(1))
    clock.now += 1.0
    clock.wall_ms -= 10**9  # somebody set the clock: nothing to us
    assert numbers_of(rig) == [1]
    assert rig.listener.losses == [(1, "expired")]


def test_a_row_in_flight_does_not_expire(start: Start) -> None:
    """It may be in Redis already; it is delivered, or counted once it is handed back."""
    clock = SetClock()
    rig = start(max_age_seconds=60.0, clock=clock)
    rig.store(record(0))
    row = rig.next_row()
    clock.now += 100.0
    rig.keeper._expire_at = 0.0
    rig.settle()
    assert row is not None and rig.listener.losses == []
    rig.keeper.rewind()
    assert rig.next_row() is None
    assert rig.listener.losses == [(1, "expired")]


@pytest.mark.parametrize(
    ("between_seconds", "gone"),
    [(20, False), (31, True), (60, True), (61, False), (10**8, False), (-3600, False)],
)
def test_a_row_ages_between_two_owners(
    spool_dir: Path, destination: Destination, start: Start, between_seconds: int, gone: bool
) -> None:
    """By the wall clock, which is believed up to the limit: nobody who sets it can empty the spool."""
    clock = SetClock()
    options: dict[str, Any] = {"max_age_seconds": 60.0, "clock": clock}
    rig = start(**options)
    rig.store(record(0))
    clock.now += 30.0
    clock.wall_ms += 30_000
    rig.close()
    clock.now = 5.0  # another machine since its start
    clock.wall_ms += between_seconds * 1000
    rig = start(**options)
    assert numbers_of(rig) == ([] if gone else [0])
    assert rig.listener.losses == ([(1, "expired")] if gone else [])


def test_the_age_of_a_part_never_goes_back(spool_dir: Path, destination: Destination) -> None:
    """Where the file with the part's clock is lost, its newest row knows what it had shown."""
    clock = SetClock()
    options = PartOptions(clock=clock, max_age_seconds=3600.0)
    spool_dir.mkdir()
    part = Part.create(spool_dir, destination, options=options)
    part.append(Batch(part.next_spool_id(), (record(0),)))
    clock.now += 500.0
    part.append(Batch(part.next_spool_id(), (record(1),)))
    part.close()
    (part.path / "age").write_bytes(b"damaged")
    reopened = Part.try_take(part.path, destination, options=options)
    assert reopened is not None
    first = reopened.peek()
    assert first is not None
    assert reopened.age_ms(first) == 500_000
    reopened.close()


def test_one_damaged_key_does_not_make_all_rows_old(start: Start, spool_dir: Path) -> None:
    """A flipped bit in a row's age: that row is damaged, and the others stay as young as they are."""
    clock = SetClock()
    rig = start(max_age_seconds=60.0, clock=clock)
    for number in range(3):
        rig.store(record(number))
        clock.now += 1.0
    path = rig.part_path(spool_dir)
    rig.close()
    with closing(sqlite3.connect(path / "spool" / "cache.db", isolation_level=None)) as connection:
        key = RowKey.parse(connection.execute("SELECT key FROM Cache WHERE rowid = 2").fetchone()[0])
        assert key is not None and key.age_ms == 1000
        flipped = f"{str(key)[:-4]}9000"
        connection.execute("UPDATE Cache SET key = ? WHERE rowid = 2", (flipped,))
    (path / "age").unlink()  # so that the keys are asked
    rig = start(max_age_seconds=7.0, clock=clock)
    assert {0, 2} <= set(numbers_of(rig))
    assert all(reason != "expired" for _, reason in rig.listener.losses)


def test_a_damaged_row_that_has_expired_is_put_aside(start: Start, spool_dir: Path) -> None:
    """Nothing in it can be believed, its age neither: it goes to quarantine, and counts as corrupt."""
    clock = SetClock()
    rig = start(max_age_seconds=60.0, clock=clock)
    rig.store(record(0))
    path = rig.part_path(spool_dir)
    with closing(sqlite3.connect(path / "spool" / "cache.db", isolation_level=None)) as connection:
        connection.execute("UPDATE Cache SET value = CAST('damaged' AS BLOB)")
    clock.now += 61.0
    assert rig.next_row() is None
    assert rig.listener.losses == [(1, "corrupt")]
    assert [one.read_bytes() for one in (path / "quarantine").iterdir()] == [b"damaged"]
