"""What is wrong in a store is found by looking at it; and nothing where an owner would find nothing."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from plumelog_loguru._destination import Destination
from plumelog_loguru._spool._database import DATABASE
from plumelog_loguru._spool._part import Part
from plumelog_loguru._spool._store_check import CheckedStore, check_store
from tests.scale import scaled

from .rig import Rig
from .test_corruption import (
    LANE,
    ODD_ROWIDS,
    PLANTED,
    SHM,
    WAL,
    Image,
    batch_of,
    change,
    drain,
    flip,
    lost_records,
    make_image,
    quarantined,
    spooled,
)

Start = Callable[..., Rig]
Files = dict[str, tuple[int, int, bytes]]


@pytest.fixture(params=[True, False], ids=["killed", "closed"])
def image(tmp_path: Path, destination: Destination, request: pytest.FixtureRequest) -> Image:
    return make_image(tmp_path, destination, killed=request.param)


def check(part: Path) -> CheckedStore:
    """Check the part's store, and see that nothing is changed."""
    before = files_of(part)
    checked = check_store(part / "spool", held_rows=True)
    assert files_of(part) == before
    return checked


def files_of(path: Path) -> Files:
    return {
        str(one): (one.stat().st_mode, one.stat().st_mtime_ns, one.read_bytes())
        for one in path.rglob("*")
        if one.is_file()
    }


def test_nothing_is_wrong_in_what_an_owner_leaves(image: Image, spool_dir: Path) -> None:
    """Whether it was killed or ended; all there is is counted, also where the index of the log is missing."""
    part = image.copy_to(spool_dir)
    records = sum(len(batch.values) for batch in image.batches.values())
    for _ in range(2):
        assert check(part) == CheckedStore([], len(image.batches), records)
        (part / "spool" / SHM).unlink(missing_ok=True)


def test_nothing_is_wrong_in_an_empty_store(tmp_path: Path, destination: Destination) -> None:
    """Nor in one that its maker has only begun."""
    part = Part.create(tmp_path, destination)
    part.close()
    assert check_store(part.path / "spool", held_rows=False) == CheckedStore([])
    database = part.path / "spool" / DATABASE
    os.truncate(database, 0)
    assert check_store(part.path / "spool", held_rows=False) == CheckedStore([])
    database.unlink()
    assert check_store(part.path / "spool", held_rows=False) == CheckedStore([])


def test_a_flipped_bit_is_found_where_an_owner_would_find_it(
    image: Image, start: Start, spool_dir: Path
) -> None:
    """And never is it said that all is well where records are lost or anything is put aside."""
    seed = random.randrange(2**32)
    print(f"seed: {seed}")
    dice = random.Random(seed)
    names = [name for name in (DATABASE, WAL) if (image.path / "spool" / name).exists()]
    found_some = 0
    for _ in range(scaled(25, 400)):
        part = image.copy_to(spool_dir)
        path = part / "spool" / dice.choice(names)
        at, bit = dice.randrange(path.stat().st_size), dice.randrange(8)
        if dice.random() < 0.4:  # the headers of pages are small, and matter most
            at = min(at // 4096 * 4096 + dice.randrange(120), path.stat().st_size - 1)
        where = f"bit {bit} of byte {at} of {path.name}"
        flip(path, at, bit)
        checked = check(part)
        rig, found = drain(start)
        missing = image.batches.keys() - found.keys()
        harmed = bool(missing or quarantined(part))
        assert checked.flaws or not harmed, where
        if missing and not any(flaw.spoils_all for flaw in checked.flaws):
            assert sum(flaw.records for flaw in checked.flaws) == lost_records(rig), where
        found_some += bool(checked.flaws)
    assert found_some


@pytest.mark.parametrize("name", [DATABASE, WAL])
def test_truncated_files_are_found(
    name: str, tmp_path: Path, destination: Destination, start: Start, spool_dir: Path
) -> None:
    """Wherever they end, if anything is lost by it; of a log, the index knows how long it was."""
    image = make_image(tmp_path, destination, killed=True)
    dice = random.Random(1)
    size = (image.path / "spool" / name).stat().st_size
    for length in [0, 1, 31, 100, 4096, size - 1, *(dice.randrange(size) for _ in range(scaled(6, 60)))]:
        part = image.copy_to(spool_dir)
        os.truncate(part / "spool" / name, length)
        flaws = check(part).flaws
        assert flaws or drain(start)[1] == image.batches, length
        assert flaws or length > 4096, length


@pytest.mark.parametrize("what", ["garbage", "empty", "missing", "directory", "link"])
@pytest.mark.parametrize("name", [DATABASE, WAL, SHM])
def test_files_that_are_none_of_ours_are_found(
    name: str, what: str, tmp_path: Path, destination: Destination, spool_dir: Path
) -> None:
    """But for an index of the log that is missing or empty: that says nothing that the log does not."""
    part = make_image(tmp_path, destination, killed=True).copy_to(spool_dir)
    path = part / "spool" / name
    shutil.copy(path, tmp_path / "elsewhere")
    path.unlink()
    if what == "garbage":
        path.write_bytes(random.Random(2).randbytes(50_000))
    elif what == "empty":
        path.touch()
    elif what == "directory":
        path.mkdir()
    elif what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    assert bool(check(part).flaws) == (name != SHM or what not in ("empty", "missing"))


def test_a_database_that_is_gone_after_a_proper_end_is_found(
    tmp_path: Path, destination: Destination, spool_dir: Path
) -> None:
    """There is no log then; but the part knows that it held rows."""
    part = make_image(tmp_path, destination, killed=False).copy_to(spool_dir)
    os.truncate(part / "spool" / DATABASE, 0)
    assert [flaw.what for flaw in check(part).flaws] == ["the database is gone, and rows were in it"]
    (part / "spool" / DATABASE).unlink()
    assert check(part).flaws


@pytest.mark.parametrize("what", PLANTED)
def test_planted_schemas_are_found(what: str, destination: Destination, spool_dir: Path) -> None:
    """And nothing of them is run; the rows are counted all the same."""
    part, batches = spooled(spool_dir, destination, LANE, rows=5)
    change(part.path, PLANTED[what])
    checked = check(part.path)
    assert [flaw.what for flaw in checked.flaws] == ["it holds what no owner puts there"]
    assert checked.batches == len(batches)


@pytest.mark.parametrize(
    "statement",
    [
        *ODD_ROWIDS,
        "UPDATE Cache SET rowid = -1 WHERE rowid = 1",
        "UPDATE Cache SET key = '9999999999999999' || substr(key, 17) WHERE rowid = 1",
        "UPDATE Cache SET key = '0000000000000099' || substr(key, 17) WHERE rowid = 2",
        "UPDATE Cache SET key = replace(key, '.1.', '.2.') WHERE rowid = 2",
        "UPDATE Cache SET expire_time = 1 WHERE rowid = 2",
        "UPDATE Cache SET raw = 0 WHERE rowid = 2",
        "UPDATE Cache SET mode = 4 WHERE rowid = 2",
        "UPDATE Cache SET value = 'text' WHERE rowid = 2",
        "UPDATE Cache SET value = NULL WHERE rowid = 2",
        "UPDATE Settings SET value = 99 WHERE key = 'count'",
    ],
)
def test_planted_entries_are_found(statement: str, destination: Destination, spool_dir: Path) -> None:
    """Whatever column says what no owner writes."""
    part, _ = spooled(spool_dir, destination, LANE, rows=5)
    change(part.path, statement)
    assert check(part.path).flaws


@pytest.mark.parametrize("name", [f"{DATABASE}-journal", "odd"])
def test_planted_files_beside_the_database_are_found(
    name: str, destination: Destination, spool_dir: Path
) -> None:
    """And SQLite never sees them."""
    part, batches = spooled(spool_dir, destination, LANE, rows=5)
    change(part.path, "PRAGMA journal_mode = delete")
    (part.path / "spool" / name).write_bytes(b"hot")
    checked = check(part.path)
    assert [flaw.path.name for flaw in checked.flaws] == [name]
    assert checked.batches == len(batches)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [DATABASE, WAL, SHM])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(image: Image, spool_dir: Path, name: str) -> None:
    """Nobody writes to it: it is told of, and never opened."""
    part = image.copy_to(spool_dir)
    path = part / "spool" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    flaws = check_store(part / "spool", held_rows=True).flaws
    assert (path, "it is no plain file") in [(flaw.path, flaw.what) for flaw in flaws]


def test_a_row_of_a_newer_version_is_no_damage(
    spool_dir: Path, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and not counted as lost."""
    spool_dir.mkdir()
    part = Part.create(spool_dir, destination)
    part.append(batch_of(1, 2, 3))
    monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 2)
    part.append(batch_of(2, 2, 3))
    monkeypatch.setattr("plumelog_loguru._spool._row.FORMAT", 1)
    part.close()
    checked = check(part.path)
    assert [(flaw.is_newer, flaw.records) for flaw in checked.flaws] == [(True, 0)]
    assert checked.records == 2


def test_a_live_store_is_checked_row_by_row(start: Start, spool_dir: Path) -> None:
    """Beside its owner, which goes on; a damaged row is found, and nothing else is said."""
    rig = start()
    for n in range(5):
        rig.store(b'{"n":%d}' % n)
    path = rig.part_path(spool_dir) / "spool"
    assert check_store(path, held_rows=True, is_live=True) == CheckedStore([], 5, 5)
    with closing(sqlite3.connect(path / DATABASE, isolation_level=None)) as other:
        other.execute("UPDATE Cache SET value = x'00' WHERE rowid = 3")
    checked = check_store(path, held_rows=True, is_live=True)
    assert [(flaw.what, flaw.records) for flaw in checked.flaws] == [("the batch is damaged", 1)]
    rig.store(b'{"n":5}')
    assert len(rig.rows()) == 5
    rig.close()
