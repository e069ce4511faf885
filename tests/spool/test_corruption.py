"""A spool that was damaged, by a disk or by an enemy: what is intact is delivered, and nothing else is."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from plumelog_loguru._batch import Batch, BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._journal import DeadJournal, Journal
from plumelog_loguru._spool._database import DATABASE
from plumelog_loguru._spool._facts import FORMATS, read_destination
from plumelog_loguru._spool._failures import SpoolError
from plumelog_loguru._spool._look import look_into
from plumelog_loguru._spool._opener import StoreOpener
from plumelog_loguru._spool._part import Part
from plumelog_loguru._spool._row import RowKey, encode_row
from plumelog_loguru._spool._salvage import is_broken_inside, salvage_entries
from plumelog_loguru._spool._store import Store, schema_of_diskcache
from tests.scale import scaled

from .rig import Rig

Start = Callable[..., Rig]
LANE = "0123456789abcdef" * 2
WAL, SHM = DATABASE + "-wal", DATABASE + "-shm"
SECRET = b"hunter2-Geheimnis"


@dataclass(frozen=True)
class Image:
    """A part as its owner left it, and what is in it."""

    path: Path
    batches: dict[BatchId, Batch]
    delivered: dict[
        BatchId, Batch
    ]  # which an older state of its files still has: Redis knows that it has them

    @property
    def ever(self) -> dict[BatchId, Batch]:
        """All that was ever in it."""
        return {**self.batches, **self.delivered}

    def copy_to(self, spool_dir: Path) -> Path:
        shutil.rmtree(spool_dir, ignore_errors=True)
        spool_dir.mkdir(mode=0o700)
        return Path(shutil.copytree(self.path, spool_dir / self.path.name))


def batch_of(seq: int, records: int, size: int) -> Batch:
    text = b"x" * size
    values = (b'{"dtTime":%d,"seq":%d,"x":"%b"}' % (1_795_305_614_000 + n, seq, text) for n in range(records))
    return Batch(BatchId(LANE, seq), tuple(values))


def make_image(path: Path, destination: Destination, *, killed: bool, batches: int = 40) -> Image:
    """A part from which some was delivered; ``killed``: with a log that nobody copied back."""
    part = Part.create(path, destination)
    kept, delivered = dict[BatchId, Batch](), dict[BatchId, Batch]()
    for seq in range(1, batches + 1):
        records, size = random.Random(seq).choice([(1, 5), (2, 40), (20, 300), (100, 300), (3, 20_000)])
        batch = batch_of(seq, records, size)
        part.append(batch)
        kept[batch.id] = batch
    for _ in range(batches // 4):
        key = part.peek()
        assert key is not None
        batch = part.read(key).batch
        delivered[batch.id] = kept.pop(batch.id)
        part.ack(key)
    if killed:
        target = path / "killed" / part.path.name
        shutil.copytree(part.path, target)
        part.close()
        return Image(target, kept, delivered)
    part.close()
    return Image(part.path, kept, delivered)


@pytest.fixture(params=[True, False], ids=["killed", "closed"])
def image(tmp_path: Path, destination: Destination, request: pytest.FixtureRequest) -> Image:
    return make_image(tmp_path, destination, killed=request.param)


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def quarantined(part: Path) -> list[Path]:
    return [path for path in (part / "quarantine").rglob("*") if path.is_file()]


def drain(start: Start) -> tuple[Rig, dict[BatchId, Batch]]:
    """Deliver all there is, as the sink does: what comes twice or changed is an error at once."""
    rig = start()
    found: dict[BatchId, Batch] = {}
    for row in rig.rows():
        assert row.row.batch.id not in found, "doubled"
        found[row.row.batch.id] = row.row.batch
    rig.close()
    in_order = sorted(found, key=lambda one: one.seq)
    assert [one for one in found if one.lane == LANE] == [one for one in in_order if one.lane == LANE]
    assert [sentence for kind, sentence in rig.reports if kind == "spool-thread"] == []
    return rig, found


def lost_records(rig: Rig) -> int:
    return sum(records for records, _ in rig.listener.losses)


def test_single_flipped_bits(image: Image, start: Start, spool_dir: Path) -> None:
    """One bit costs at most the batch that it is in; that is put aside and counted, and all else comes."""
    seed = random.randrange(2**32)
    print(f"seed: {seed}")
    dice = random.Random(seed)
    names = [name for name in (DATABASE, WAL) if (image.path / "spool" / name).exists()]
    for _ in range(scaled(20, 250)):
        part = image.copy_to(spool_dir)
        path = part / dice.choice([f"spool/{dice.choice(names)}"] * 4 + ["part.json", "age"])
        at, bit = dice.randrange(path.stat().st_size), dice.randrange(8)
        if dice.random() < 0.4:  # the headers of pages are small, and matter most
            at = min(at // 4096 * 4096 + dice.randrange(120), path.stat().st_size - 1)
        where = f"bit {bit} of byte {at} of {path.name}"
        flip(path, at, bit)
        rig, found = drain(start)
        assert found.items() <= image.ever.items(), f"changed: {where}"
        missing = image.batches.keys() - found.keys()
        assert len(missing) <= 1, f"{len(missing)} lost: {where}"
        assert bool(missing) <= bool(quarantined(part)), f"not put aside: {where}"
        records = sum(len(image.batches[one].values) for one in missing)
        assert lost_records(rig) == records, f"lost {records}, told of {lost_records(rig)}: {where}"


@pytest.mark.parametrize("name", [DATABASE, WAL])
def test_truncated_files(
    name: str, tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """A file that ends early keeps what stands before its end; the next opening goes on with that."""
    image = make_image(tmp_path, destination, killed=True)
    dice = random.Random(1)
    size = (image.path / "spool" / name).stat().st_size
    for length in [0, 1, 31, 100, 4096, size - 1, *(dice.randrange(size) for _ in range(scaled(4, 40)))]:
        part = image.copy_to(spool_dir)
        os.truncate(part / "spool" / name, length)
        _, found = drain(start)
        assert found.items() <= image.ever.items(), length
        if length == size - 1:
            assert len(found) >= len(image.batches) - 1, "only the last commit ends there"


@pytest.mark.parametrize("what", ["garbage", "empty", "missing", "directory"])
@pytest.mark.parametrize("name", [DATABASE, WAL, DATABASE + "-shm"])
def test_files_that_are_none_of_ours(
    name: str, what: str, tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """Whatever stands in a file's place, the spool is used again, and what can be read is delivered."""
    image = make_image(tmp_path, destination, killed=True)
    part = image.copy_to(spool_dir)
    path = part / "spool" / name
    path.unlink(missing_ok=True)
    if what == "garbage":
        path.write_bytes(random.Random(2).randbytes(50_000))
    elif what == "empty":
        path.touch()
    elif what == "directory":
        path.mkdir()
    rig = start()
    rig.store(b'{"new":1}')
    values = [value for row in rig.rows() for value in row.row.batch.values]
    rig.close()
    assert b'{"new":1}' in values
    expected = {value for batch in image.batches.values() for value in batch.values}
    assert set(values) - {b'{"new":1}'} <= {value for batch in image.ever.values() for value in batch.values}
    if name.endswith("-shm") and what != "directory":
        assert set(values) >= expected, "the index of the log is made anew"


def test_a_database_that_is_truncated_under_its_owner(start: Start, spool_dir: Path) -> None:
    """The keeper goes on: what can still be read is delivered, and what comes later is kept."""
    for length in (0, 5000, 40_000):
        rig = start()
        for n in range(30):
            rig.store(b'{"n":%d,"x":"%b"}' % (n, b"y" * 5000))
        path = rig.part_path(spool_dir)
        with closing(sqlite3.connect(path / "spool" / DATABASE)) as other:
            other.execute("PRAGMA wal_checkpoint")
        os.truncate(path / "spool" / DATABASE, length)
        for n in range(30, 40):
            rig.store(b'{"n":%d}' % n)
        values = [value for row in rig.rows() for value in row.row.batch.values]
        rig.close()
        assert len(values) == len(set(values))
        assert {b'{"n":%d}' % n for n in range(31, 40)} <= set(values), length
        assert "spool-thread" not in {kind for kind, _ in rig.reports}
        shutil.rmtree(spool_dir)


@pytest.mark.parametrize("what", ["spool", ""])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_directory_that_goes_under_its_owner(
    what: str, replaced: bool, start: Start, spool_dir: Path, tmp_path: Path
) -> None:
    """Deleted, or replaced by another: it is noticed, what was in it is told, and a new one is begun."""
    rig = start()
    rig.store(b"1", b"2")
    path = rig.part_path(spool_dir) / what
    path.rename(tmp_path / "away")
    if replaced:
        shutil.copytree(tmp_path / "away", path)
    rig.store(b"3")
    assert rig.listener.losses == [(2, "spool_lost")]
    rig.store(b"4")
    assert [value for row in rig.rows() for value in row.row.batch.values][-1:] == [b"4"]


@pytest.mark.parametrize(
    "name", ["lock", "part.json", "spool", f"spool/{DATABASE}", f"spool/{WAL}", "quarantine"]
)
def test_planted_links(
    name: str, tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """Nothing is read, written or deleted through a symbolic link, in the place of whatever it stands."""
    image = make_image(tmp_path, destination, killed=True, batches=8)
    part = image.copy_to(spool_dir)
    flip(part / "spool" / DATABASE, 4096 * 3 + 3000, 1)
    target = tmp_path / "target"
    place = part / name
    if place.exists():
        place.rename(target)
    else:
        target.mkdir()
    place.symlink_to(target)
    before = {path: path.read_bytes() for path in (target, *target.rglob("*")) if path.is_file()}
    rig = start()
    rig.store(b'{"new":1}')
    assert b'{"new":1}' in [value for row in rig.rows() for value in row.row.batch.values]
    rig.close()
    after = {path: path.read_bytes() for path in (target, *target.rglob("*")) if path.is_file()}
    assert after == before


class Hostile:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.trace,)


def test_planted_pickles_are_never_read(
    tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """In keys, in values, in settings: nothing that an enemy wrote into the database is run."""
    image = make_image(tmp_path, destination, killed=False, batches=8)
    part = image.copy_to(spool_dir)
    trace = tmp_path / "trace"
    evil = pickle.dumps(Hostile(str(trace)))
    key = str(RowKey(9_000, 1, 10))
    insert = "INSERT INTO Cache (key, raw, store_time, access_time, mode, value) VALUES (?, ?, 0, 0, ?, ?)"
    with closing(sqlite3.connect(part / "spool" / DATABASE, isolation_level=None)) as database:
        database.execute(insert, (evil, 0, 1, evil))  # a pickled key
        database.execute(insert, (key, 1, 4, evil))  # a pickled value under a key like ours
        database.execute(insert, (str(RowKey(9_001, 1, 10)), 1, 1, evil))
        database.execute("UPDATE Settings SET value = ? WHERE key = 'disk_min_file_size'", (evil,))
        database.execute("INSERT OR REPLACE INTO Settings VALUES ('disk_hostile', ?)", (evil,))
    _, found = drain(start)
    assert found.items() <= image.batches.items()
    assert not trace.exists()


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_files_are_for_the_owner_alone_whatever_becomes_of_them(
    mask: int, tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """Directories 0700 and files 0600, whatever the umask: those that were put aside, and made anew, too."""
    image = make_image(tmp_path, destination, killed=True)
    part = image.copy_to(spool_dir)
    for path in (part, *part.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    flip(part / "spool" / WAL, 4000, 1)
    before = os.umask(mask)
    try:
        rig = start()
        rig.store(b'{"new":1}')
        rig.next_row()
        paths = [path for path in spool_dir.rglob("*") if not path.name.endswith(".tmp")]
        modes = {path: path.lstat().st_mode & 0o777 for path in paths}
    finally:
        os.umask(before)
    assert any("quarantine" in path.parts for path in paths)
    assert modes == {path: 0o700 if path.is_dir() else 0o600 for path in modes}


def test_a_part_of_a_newer_format_blocks_no_other(
    tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """It is refused untouched, with a sentence that says what reads it; the others are taken."""
    image = make_image(tmp_path, destination, killed=False, batches=8)
    part = image.copy_to(spool_dir)
    newer = Part.create(spool_dir, destination)
    newer.append(batch_of(1, 1, 1))
    newer.close()
    newer.path = newer.path.rename(spool_dir / "part-0000000000000000")
    (newer.path / "part.json").write_text(json.dumps({"format": FORMATS.stop, "else": 1}))
    before = {path: path.read_bytes() for path in newer.path.rglob("*") if path.is_file()}
    rig, found = drain(start)
    assert found == image.batches
    assert not part.exists()
    assert {path: path.read_bytes() for path in newer.path.rglob("*") if path.is_file()} == before
    sentences = [sentence for _, sentence in rig.reports if str(newer.path) in sentence]
    assert len(sentences) == 1
    assert f"format {FORMATS.stop}" in sentences[0]
    assert "newer version" in sentences[0]


def test_a_part_of_an_older_format_opens(
    tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """The first format had one line without a checksum."""
    image = make_image(tmp_path, destination, killed=False, batches=8)
    part = image.copy_to(spool_dir)
    (part / "part.json").write_text(json.dumps({"format": 1, "destination": destination.to_json()}))
    assert read_destination(part) == destination
    assert drain(start)[1] == image.batches


def test_each_bit_of_part_json(tmp_path: Path, destination: Destination) -> None:
    """Whichever bit flips, the part is still known to be meant for its list, and for no other."""
    part = Part.create(tmp_path, destination)
    part.close()
    path = part.path / "part.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            flip(path, at, bit)
            assert read_destination(part.path) == destination, (at, bit)
            path.write_bytes(whole)


def test_a_log_that_ends_as_after_a_crash_is_not_damaged(tmp_path: Path, destination: Destination) -> None:
    """Half a frame, a frame of which only the header was written, older frames behind: SQLite knows these."""
    image = make_image(tmp_path, destination, killed=True)
    wal = image.path / "spool" / WAL
    whole = wal.read_bytes()
    assert not is_broken_inside(wal)
    for length in (0, 10, 32, 40, 32 + 24, 32 + 4120, len(whole) - 1, len(whole) - 4000):
        wal.write_bytes(whole[:length])
        assert not is_broken_inside(wal), length
    wal.write_bytes(whole + whole[-4120:-4096] + whole[-4096:-2000])
    assert not is_broken_inside(wal)
    assert not is_broken_inside(tmp_path / "none")


def test_a_salvage_that_is_killed_is_begun_again(
    tmp_path: Path, destination: Destination, start: Start, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it had done by then, the next owner finds every intact row, once."""
    image = make_image(tmp_path, destination, killed=True)

    put_aside = StoreOpener.put_aside

    class Killed(BaseException):
        pass

    for step in ("restore", "set aside", "rename"):
        part_path = image.copy_to(spool_dir)
        flip(part_path / "spool" / WAL, 4000, 1)
        with monkeypatch.context() as patch:

            def die(*_: object) -> None:
                raise Killed

            def die_afterwards(opener: StoreOpener, reason: str) -> None:
                put_aside(opener, reason)
                raise Killed

            if step == "restore":
                patch.setattr("plumelog_loguru._spool._store.Store.restore", die)
            elif step == "set aside":
                patch.setattr(StoreOpener, "put_aside", die)
            else:
                patch.setattr(StoreOpener, "put_aside", die_afterwards)
            with pytest.raises(Killed):
                Part.try_take(part_path, destination)
        _, found = drain(start)
        assert len(image.batches.keys() - found.keys()) <= 1, step
        assert found.items() <= image.batches.items()


def test_rows_of_a_newer_version_block_no_other(
    start: Start, spool_dir: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are left where they are; our own rows behind them go on, and so does the adoption of others."""
    spool_dir.mkdir(mode=0o700)
    for name, lane in (("a", "a" * 32), ("b", "b" * 32)):
        part = Part.create(spool_dir, destination)
        monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 2)
        part.append(Batch(BatchId(lane, 1), (b'{"newer":1}',)))
        monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 1)
        part.append(Batch(BatchId(lane, 2), (b'{"behind":1}',)))
        part.close()
        part.path.rename(spool_dir / f"part-{name * 16}")
    good = Part.create(spool_dir, destination)
    good.append(Batch(BatchId("c" * 32, 1), (b'{"good":1}',)))
    good.close()
    good.path.rename(spool_dir / f"part-{'c' * 16}")
    rig = start()
    rig.store(b'{"live":1}')
    values: set[bytes] = set()
    for _ in range(4):
        values |= {value for row in rig.rows() for value in row.row.batch.values}
        rig.keeper._holder.adopt_at = 0.0
        rig.settle()
    assert values == {b'{"live":1}', b'{"good":1}'}
    assert sum(rig.listener.spooled.values()) >= 2
    rig.close()
    monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 2)
    again = start()
    values = set()
    for _ in range(4):
        values |= {value for row in again.rows() for value in row.row.batch.values}
        again.keeper._holder.adopt_at = 0.0
        again.settle()
    assert values == {b'{"newer":1}', b'{"behind":1}'}


def test_salvaged_rows_are_those_that_were_not_deleted(tmp_path: Path, destination: Destination) -> None:
    """In an intact database exactly the rows are found that are in it, byte for byte and in their order."""
    for killed in (True, False):
        (tmp_path / str(killed)).mkdir()
        image = make_image(tmp_path / str(killed), destination, killed=killed)
        found = list(salvage_entries(image.path / "spool" / DATABASE, image.path / "spool" / WAL))
        assert [one.row for one in found] == [encode_row(batch) for batch in image.batches.values()]


def test_a_spool_that_cannot_be_salvaged_now_is_left_as_it_is(
    tmp_path: Path, destination: Destination, spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk without room for the new one, the damaged one waits untouched."""
    image = make_image(tmp_path, destination, killed=True)
    part = image.copy_to(spool_dir)
    flip(part / "spool" / WAL, 4000, 1)
    before = (part / "spool" / WAL).read_bytes(), (part / "spool" / DATABASE).read_bytes()

    def no_room(*_: object) -> None:
        raise SpoolError("the disk is full")

    monkeypatch.setattr("plumelog_loguru._spool._store.Store.restore", no_room)
    with pytest.raises(SpoolError):
        Part.try_take(part, destination)
    assert ((part / "spool" / WAL).read_bytes(), (part / "spool" / DATABASE).read_bytes()) == before
    monkeypatch.undo()
    taken = Part.try_take(part, destination)
    assert taken is not None
    assert taken.batches >= len(image.batches) - 1
    taken.close()


@pytest.mark.parametrize("where", ["_find_places", "_cut_some"])
def test_a_journal_that_nobody_has_thought_of_stops_nothing(
    where: str,
    destination: Destination,
    start: Start,
    spool_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    """Whatever reading it raises, the file is put aside whole, and what lies behind it is delivered."""
    spool_dir.mkdir(mode=0o700)
    part = Part.create(spool_dir, destination)
    part.append(batch_of(1, 3, 5))
    for record in (b'{"odd":1}', b'{"behind":1}'):
        journal = Journal.create(part.new_journal_path(), 1 << 12, mapped=False)
        journal.append(record)
        journal.close()
    odd = (part.path / "journal-1").read_bytes()
    part.close()
    real = getattr(DeadJournal, where)

    def break_off(journal: DeadJournal) -> object:
        if journal.path.name == "journal-1":
            raise struct.error("argument out of range")
        return real(journal)

    monkeypatch.setattr(DeadJournal, where, break_off)
    rig = start()
    wait_until(lambda: not (part.path / "journal-2").exists())
    values = [value for row in rig.rows() for value in row.row.batch.values]
    rig.close()
    assert values == [*batch_of(1, 3, 5).values, b'{"behind":1}']
    assert [sentence for kind, sentence in rig.reports if kind == "spool-thread"] == []
    assert [(path.name, path.read_bytes()) for path in quarantined(part.path)] == [("journal-1", odd)]
    assert sum(str(part.path / "quarantine" / "journal-1") in told for _, told in rig.reports) == 1
    assert lost_records(rig) == (1 if where == "_cut_some" else 0), "what was counted is lost"


def spooled(
    spool_dir: Path, destination: Destination, *lanes: str, rows: int = 40
) -> tuple[Part, list[Batch]]:
    """A part with rows of these lanes in turn."""
    spool_dir.mkdir(mode=0o700, exist_ok=True)
    part = Part.create(spool_dir, destination)
    batches = [
        Batch(BatchId(lanes[n % len(lanes)], n + 1), (b'{"dtTime":%d,"n":%d}' % (n, n),)) for n in range(rows)
    ]
    for batch in batches:
        part.append(batch)
    part.close()
    return part, batches


def change(part: Path, *statements: str) -> None:
    with closing(sqlite3.connect(part / "spool" / DATABASE, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def drained_in_order(start: Start) -> tuple[Rig, list[Batch]]:
    """All there is, in the order in which Redis would see it."""
    rig = start()
    batches = [row.row.batch for row in rig.rows()]
    rig.close()
    assert [sentence for kind, sentence in rig.reports if kind == "spool-thread"] == []
    for lane in {batch.id.lane for batch in batches}:
        seqs = [batch.id.seq for batch in batches if batch.id.lane == lane]
        assert seqs == sorted(set(seqs)), "what comes behind a later one is taken for applied"
    return rig, batches


ODD_ROWIDS = (
    "UPDATE Cache SET rowid = 1 + abs(random() % 4611686018427387904) * 2",
    "UPDATE Cache SET rowid = 9223372036854775807 WHERE rowid = (SELECT max(rowid) FROM Cache)",
)


@pytest.mark.parametrize("lanes", [(LANE,), (LANE, "b" * 32, "c" * 32)])
def test_rows_whose_numbers_are_random_come_in_the_order_of_their_keys(
    lanes: tuple[str, ...], destination: Destination, start: Start, spool_dir: Path
) -> None:
    """So SQLite numbers what comes behind a row with the highest number, which an enemy can plant."""
    part, batches = spooled(spool_dir, destination, *lanes)
    change(part.path, *ODD_ROWIDS)
    rig, found = drained_in_order(start)
    assert found == batches
    assert lost_records(rig) == 0


def test_rows_of_a_lane_come_as_it_numbers_them_whatever_their_keys_say(
    destination: Destination, start: Start, spool_dir: Path
) -> None:
    """Where an enemy exchanged the keys as well, each lane still comes in its own order."""
    part, batches = spooled(spool_dir, destination, LANE, "b" * 32, rows=20)
    change(
        part.path,
        "UPDATE Cache SET key = printf('%016d', 900 - rowid * 7 % 20) || substr(key, 17)",
        *ODD_ROWIDS,
    )
    _, found = drained_in_order(start)
    assert sorted(found, key=lambda batch: batch.id.seq) == batches


@pytest.mark.parametrize("rowid", [(1 << 63) - 1, (1 << 63) - 2, (1 << 62) + 1, -1])
def test_a_planted_number_leaves_room_for_others(
    rowid: int, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """What is spooled behind it is written, read and delivered as it came."""
    part, batches = spooled(spool_dir, destination, LANE, rows=1)
    change(part.path, f"UPDATE Cache SET rowid = {rowid}")
    rig = start()
    for n in range(5):
        rig.store(b'{"later":%d}' % n)
    rig.close()
    _, found = drained_in_order(start)
    values = [value for batch in found for value in batch.values]
    assert values == [*batches[0].values, *(b'{"later":%d}' % n for n in range(5))]


@pytest.mark.parametrize("counter", [10**16 - 1, 10**15 + 1, 10**15 - 1, 10**14 + 1, 10**14 - 1])
@pytest.mark.parametrize("whole", [True, False])
def test_a_planted_key_leaves_room_for_others(
    counter: int, whole: bool, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """The keys behind the highest there is could not be read; and one such key costs one salvage at most."""
    part, batches = spooled(spool_dir, destination, LANE, rows=1 if whole else 3)
    change(part.path, f"UPDATE Cache SET key = '{counter:016d}' || substr(key, 17) WHERE rowid = 1")
    values = []
    for n in range(3):
        rig = start()
        rig.store(b'{"later":%d}' % n)
        rig.store(b'{"later still":%d}' % n)
        if n == 2:
            values = [value for row in rig.rows() for value in row.row.batch.values]
        rig.close()
        assert len(list((part.path / "quarantine").glob("spool*"))) <= 1
    assert len(values) == len(set(values)) == 6 + len(batches)


def test_a_flipped_bit_in_the_number_of_a_row_costs_nothing(
    destination: Destination, start: Start, spool_dir: Path, tmp_path: Path
) -> None:
    """The row comes in its turn, also where another has that number; nothing is counted as lost."""
    part, batches = spooled(tmp_path / "image", destination, LANE, rows=12)
    database = part.path / "spool" / DATABASE
    data = database.read_bytes()
    row = data.index(b"PLS1 ", data.index(encode_row(batches[6])))
    key = data.rindex(b"%016d." % 7, 0, row)
    types = data.rindex(b"\x0e", key - 40, key)  # the length of what tells the types of the columns
    assert data[types - 1] == 7
    for bit in range(7):
        shutil.rmtree(spool_dir, ignore_errors=True)
        shutil.copytree(tmp_path / "image", spool_dir)
        flip(spool_dir / part.path.name / "spool" / DATABASE, types - 1, bit)
        rig, found = drained_in_order(start)
        assert found == batches, bit
        assert lost_records(rig) == 0, bit


PLANTED = {
    "trigger": "CREATE TRIGGER evil AFTER INSERT ON Cache BEGIN DELETE FROM Cache WHERE rowid > 5; END",
    "on settings": "CREATE TRIGGER evil AFTER UPDATE ON Settings BEGIN DELETE FROM Cache; END",
    "view": "CREATE VIEW evil AS SELECT load_extension('evil')",
    "index": "CREATE INDEX evil ON Cache (abs(size))",
    "table": "CREATE TABLE evil (one DEFAULT (randomblob(1000)))",
    "column": "ALTER TABLE Cache ADD COLUMN evil AS (abs(size))",
    "setting": "INSERT INTO Settings VALUES ('sqlite_hard_heap_limit', 1000)",
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_schemas_are_never_used(
    what: str, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """What diskcache did not make in a database makes it a damaged one: all its rows come, from a new one."""
    part, batches = spooled(spool_dir, destination, LANE, rows=5)
    change(part.path, PLANTED[what])
    rig = start()
    rig.store(b'{"new":1}')
    values = [value for row in rig.rows() for value in row.row.batch.values]
    rig.close()
    assert values == [*(value for batch in batches for value in batch.values), b'{"new":1}']
    assert lost_records(rig) == 0
    (aside,) = (part.path / "quarantine").iterdir()
    assert sum(str(aside) in sentence for _, sentence in rig.reports) == 1


def test_a_changed_trigger_of_diskcache_is_planted_as_well(
    destination: Destination, start: Start, spool_dir: Path
) -> None:
    """It is known by what it says, and not by its name."""
    part, batches = spooled(spool_dir, destination, LANE, rows=5)
    change(
        part.path,
        "DROP TRIGGER Settings_count_insert",
        PLANTED["trigger"].replace("evil", "Settings_count_insert"),
    )
    rig = start()
    rig.store(b'{"new":1}')
    assert len(rig.rows()) == len(batches) + 1


def test_a_planted_file_name_deletes_no_file(
    tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """diskcache would delete the file that a row names, when the row is delivered."""
    precious = tmp_path / "here" / "precious"
    precious.parent.mkdir()
    precious.write_text("somebody else's")
    part, batches = spooled(spool_dir, destination, LANE, rows=3)
    change(part.path, f"UPDATE Cache SET filename = '{precious}'")
    assert drained_in_order(start)[1] == batches
    assert precious.read_text() == "somebody else's"


def hot_journal(database: Path, precious: Path) -> bytes:
    """A journal of an unfinished transaction that names another file: SQLite would delete that one."""
    magic, name = bytes.fromhex("d9d505f920a163d7"), str(precious).encode()
    pages = database.stat().st_size // 4096
    head = (magic + struct.pack(">IIIII", 0, 12345, pages, 512, 4096)).ljust(512, b"\0")
    ends = struct.pack(">I", (1 << 30) // 4096 + 1), struct.pack(">II", len(name), sum(name))
    return head + name.join(ends) + magic


@pytest.mark.parametrize("how", ["file", "link", "directory"])
@pytest.mark.parametrize("name", [DATABASE + "-journal", "odd"])
def test_planted_files_beside_the_database_are_put_aside(
    name: str, how: str, tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """SQLite plays back a journal that it finds, and deletes what that names; so it must not find one."""
    precious = tmp_path / "precious"
    precious.write_text("somebody else's")
    part, batches = spooled(spool_dir, destination, LANE, rows=5)
    change(part.path, "PRAGMA journal_mode = delete")
    hot = hot_journal(part.path / "spool" / DATABASE, precious)
    place = part.path / "spool" / name
    if how == "directory":
        place.mkdir()
    elif how == "link":
        (tmp_path / "hot").write_bytes(hot)
        place.symlink_to(tmp_path / "hot")
    else:
        place.write_bytes(hot)
    if name != "odd":
        with pytest.raises(SpoolError, match="journal"):
            look_into(part.path / "spool")
    rig, found = drained_in_order(start)
    assert found == batches
    assert precious.exists()
    assert not os.path.lexists(place)
    (aside,) = (part.path / "quarantine").iterdir()
    assert aside.name == name and aside.is_symlink() == (how == "link")
    if how != "directory":
        assert aside.read_bytes() == hot
    assert sum(str(aside) in sentence for _, sentence in rig.reports) == 1


@pytest.mark.parametrize("size", [0, 4096])
def test_a_maker_that_died_before_the_first_row_leaves_nothing_to_put_aside(
    size: int, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """Until the database has a log, SQLite makes such a journal as well; then no row can be in it."""
    spool_dir.mkdir(mode=0o700)
    part = Part.create(spool_dir, destination)
    part.close()
    database = part.path / "spool" / DATABASE
    (part.path / "spool" / f"{DATABASE}-journal").write_bytes(hot_journal(database, spool_dir / "none"))
    os.truncate(database, size)
    rig = start()
    rig.store(b'{"new":1}')
    assert len(rig.rows()) == 1
    rig.close()
    assert rig.reports == []
    assert quarantined(part.path) == []


def test_the_schema_is_the_one_that_diskcache_makes(tmp_path: Path) -> None:
    """Word by word: else every spool would be taken for damaged at its second opening."""
    Store(tmp_path / "spool").close()
    with closing(sqlite3.connect(tmp_path / "spool" / DATABASE)) as database:
        made = {tuple(row) for row in database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")}
    assert made == schema_of_diskcache().definitions
