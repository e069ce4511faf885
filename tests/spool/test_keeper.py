"""The spool thread, on a real folder: what it promises when the disk does not do what it should."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import plumelog_loguru._spool._row as row_module
import plumelog_loguru._spool._writer as writer_module
from plumelog_loguru._batch import AttemptedBy, Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool._failures import SpoolDamaged, SpoolError
from plumelog_loguru._spool._keeper import KeeperState
from plumelog_loguru._spool._part import Part
from tests.spool.rig import Rig, values_of

MakeBatch = Callable[..., Batch]
PASSING_ERROR = SpoolError("the disk is full")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_RETRY_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(writer_module, "_FULL_POLL_SECONDS", 0.005)


def fail_appends(
    monkeypatch: pytest.MonkeyPatch, errors: list[Exception], *, after: bool = False
) -> list[Batch]:
    """Have the next writes raise these errors, before or after the row is written; returns the attempts."""
    real = Part.append
    attempts: list[Batch] = []

    def append(part: Part, batch: Batch) -> None:
        attempts.append(batch)
        if not errors:
            real(part, batch)
            return
        if after:
            real(part, batch)
        raise errors.pop(0)

    monkeypatch.setattr(Part, "append", append)
    return attempts


# ---------------------------------------------------------------- order


def test_rows_come_out_in_the_order_in_which_blocks_went_in(
    start: Callable[..., Rig], make_batch: MakeBatch
) -> None:
    """Attempted batches and fresh records keep their order among each other, each row under one identity."""
    rig = start()
    batch = make_batch(7, attempted_by=AttemptedBy.SCRIPT)
    rig.store(b"a", b"b")
    rig.store(batch=batch)
    rig.store(b"c")
    rows = rig.rows()
    assert values_of(rows) == [b"a", b"b", *batch.values, b"c"]
    assert rows[1].row.batch == batch
    lanes = [row.row.batch.id for row in rows if row is not rows[1]]
    assert lanes[0].lane == lanes[1].lane != batch.id.lane
    assert [batch_id.seq for batch_id in lanes] == [1, 2]
    assert rig.next_row() is None


def test_what_is_offered_while_the_spool_opens_is_written(start: Callable[..., Rig]) -> None:
    """Nobody has to wait for the spool to be open."""
    rig = start(wait=False)
    rig.store(b"a")
    assert values_of(rig.rows()) == [b"a"]


def test_small_blocks_share_rows_and_large_ones_are_split(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row holds up to a mebibyte of fresh records, whatever blocks they came in; each block is told of."""
    monkeypatch.setattr(writer_module, "MAX_BATCH_BYTES", 10)
    rig = start()
    with rig.keeper.sqlite_lock:  # so that nothing is written before all of it is there
        small = [rig.offer(b"%d%d" % (n, n)) for n in range(4)]
        large = rig.offer(b"x" * 7, b"y" * 7, b"z" * 30)
    rig.listener.wait_for(lambda: large in rig.listener.done)
    rows = rig.rows()
    assert values_of(rows) == [b"00", b"11", b"22", b"33", b"x" * 7, b"y" * 7, b"z" * 30]
    assert all(sum(map(len, row.row.batch.values)) <= 10 or row.records == 1 for row in rows)
    assert rig.listener.done == [*small, large]
    assert sum(told[1] for told in rig.listener.told if told[0] == "stored") == 7
    assert rig.keeper.pending_bytes == 0


def test_a_row_is_handed_out_once_until_a_rewind(start: Callable[..., Rig]) -> None:
    """Rows are handed out one after the other; after `rewind` those that nobody acknowledged come again."""
    rig = start()
    for value in (b"1", b"2", b"3"):
        rig.store(value)
    first, second, third = rig.rows(acknowledge=False)
    assert rig.next_row() is None
    rig.keeper.acknowledge(second)
    rig.keeper.rewind()
    assert [row.key for row in rig.rows()] == [first.key, third.key]


def test_a_restamped_row_tells_its_next_reader(start: Callable[..., Rig]) -> None:
    """What was noted on a row, that it is in doubt and since when, is there when it is read again."""
    rig = start()
    rig.store(b"1")
    rig.store(b"2")
    row = rig.next_row()
    assert row is not None
    stamped = Batch(row.row.batch.id, row.row.batch.values, AttemptedBy.SCRIPT, 12345)
    rig.keeper.restamp(row, stamped)
    rig.keeper.rewind()
    rows = rig.rows()
    assert rows[0].row.batch == stamped
    assert values_of(rows) == [b"1", b"2"]


# ---------------------------------------------------------------- writes that fail


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
def test_a_failed_write_is_repeated_under_the_same_identity(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """It holds back the later ones, is tried again, and is in the spool once, also if it had worked."""
    attempts = fail_appends(monkeypatch, [PASSING_ERROR, OSError(5, "input/output error")], after=after)
    rig = start()
    rig.offer(b"first")
    rig.store(b"second")
    assert len({batch.id for batch in attempts if b"first" in batch.values}) == 1
    assert [b"first" in batch.values for batch in attempts[:3]] == [True] * 3
    assert values_of(rig.rows()) == [b"first", b"second"]
    assert rig.keeper.state is KeeperState.READY
    assert rig.keeper.last_error == "[Errno 5] input/output error"
    assert [kind for kind, _ in rig.reports] == ["spool-failing"] * 2
    assert sum(rig.listener.spooled.values()) == 2


def test_a_row_is_told_of_before_it_is_handed_out(
    start: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    """A row whose write failed and was done all the same is not delivered before it counts as spooled."""
    monkeypatch.setattr(writer_module, "_RETRY_FIRST_SECONDS", 3600.0)
    fail_appends(monkeypatch, [PASSING_ERROR], after=True)
    rig = start()
    block = rig.offer(b"1")
    wait_until(lambda: rig.keeper.state is KeeperState.FAILING)
    assert not rig.keeper.takes_records()
    assert rig.next_row() is None
    rig.keeper._writer.retry_at = 0.0
    rig.settle()
    rig.listener.wait_for(lambda: block in rig.listener.done)
    assert values_of(rig.rows()) == [b"1"]


def test_an_unforeseen_exception_does_not_end_the_thread(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, the thread goes on after a second, and nothing is lost."""
    slept: list[float] = []
    monkeypatch.setattr("plumelog_loguru._spool._keeper.time.sleep", slept.append)
    attempts = fail_appends(monkeypatch, [RuntimeError("unforeseen")])
    rig = start()
    rig.store(b"1")
    assert (len(attempts), slept) == (2, [1.0])
    assert values_of(rig.rows()) == [b"1"]
    assert rig.reports == [
        ("spool-thread", "the spool thread met RuntimeError: unforeseen; it goes on"),
    ]


# ---------------------------------------------------------------- quota


def test_drop_oldest_drops_the_oldest_rows_that_are_not_under_way(start: Callable[..., Rig]) -> None:
    """A row that was handed out may be in Redis already: it stays, and the next oldest goes."""
    rig = start(max_bytes=900)
    for n in range(4):
        rig.store(b"%d" % n * 50)
    handed_out = rig.next_row()
    assert handed_out is not None and handed_out.row.batch.values == (b"0" * 50,)
    used = rig.keeper.spool_bytes
    rig.store(b"4" * (950 - used))  # needs the room of one row
    assert rig.listener.losses == [(1, "spool_full")]
    assert [value[:1] for value in values_of(rig.rows())] == [b"2", b"3", b"4"]
    assert sum(rig.listener.spooled.values()) == 4


def test_drop_newest_refuses_what_does_not_fit(start: Callable[..., Rig]) -> None:
    """What is in the spool stays; the new block is refused, told of, and its bytes are no longer pending."""
    rig = start(max_bytes=300, full_policy="drop_newest")
    rig.store(b"1" * 50)
    rig.store(b"2" * 250)
    assert rig.listener.refused == 1
    assert rig.keeper.pending_bytes == 0
    assert values_of(rig.rows()) == [b"1" * 50]
    rig.store(b"3" * 100)
    assert values_of(rig.rows()) == [b"3" * 100]


def test_drop_oldest_refuses_what_no_room_can_be_made_for(start: Callable[..., Rig]) -> None:
    """A batch that is larger than the whole quota is refused, and does not hang the spool."""
    rig = start(max_bytes=300)
    rig.store(b"1" * 1000)
    rig.store(b"2" * 50)
    assert rig.listener.refused == 1
    assert values_of(rig.rows()) == [b"2" * 50]


def test_block_waits_for_room(start: Callable[..., Rig]) -> None:
    """A full spool writes on as soon as a row is delivered, loses nothing, and hands rows out meanwhile."""
    rig = start(max_bytes=400, full_policy="block")
    rig.store(b"1" * 200)
    waiting = rig.offer(b"2" * 200)
    row = rig.next_row()
    assert row is not None and waiting not in rig.listener.done
    rig.keeper.acknowledge(row)
    rig.listener.wait_for(lambda: waiting in rig.listener.done)
    assert values_of(rig.rows()) == [b"2" * 200]
    assert (rig.listener.losses, rig.listener.refused) == ([], 0)


# ---------------------------------------------------------------- lost and damaged files


def test_a_vanished_directory_is_noticed_and_begun_anew(start: Callable[..., Rig], spool_dir: Path) -> None:
    """What was in it is told lost; what comes after goes to a new part, and later records are kept."""
    rig = start()
    rig.store(b"1", b"2")
    os.rename(spool_dir, f"{spool_dir}-gone")  # at once: a file may be made in it at this moment
    shutil.rmtree(f"{spool_dir}-gone")
    rig.store(b"3")
    assert rig.listener.losses == [(2, "spool_lost")]
    assert values_of(rig.rows()) == [b"3"]
    assert rig.keeper.state is KeeperState.READY


def test_a_damaged_database_is_put_aside(
    start: Callable[..., Rig], spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to quarantine as it is; what is intact in it goes on in a new one, with the row that met it."""
    rig = start()
    rig.store(b"1", b"2")
    part = rig.part_path(spool_dir)
    fail_appends(monkeypatch, [SpoolDamaged("malformed")])
    rig.store(b"3")
    assert rig.listener.losses == []
    assert [path.name for path in (part / "quarantine").iterdir()] == ["spool"]
    with closing(sqlite3.connect(part / "quarantine" / "spool" / "cache.db")) as connection:
        assert connection.execute("SELECT count(*) FROM Cache").fetchone() == (1,)
    assert values_of(rig.rows()) == [b"1", b"2", b"3"]


def test_a_database_that_is_damaged_again_at_once_is_given_up(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that damages what was just written anew would go on so for ever: what was in it is told."""
    rig = start()
    rig.store(b"1", b"2")
    fail_appends(monkeypatch, [SpoolDamaged("malformed"), SpoolDamaged("malformed")])
    rig.store(b"3")
    assert rig.listener.losses == [(2, "corrupt")]
    assert values_of(rig.rows()) == [b"3"]


def test_a_row_of_files_that_are_gone_means_nothing_to_the_new_ones(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late acknowledgement of an old row does not delete the row that has its key now."""
    rig = start()
    rig.store(b"old")
    old = rig.next_row()
    assert old is not None
    fail_appends(monkeypatch, [SpoolDamaged("malformed"), SpoolDamaged("malformed")])
    rig.store(b"new")
    rig.keeper.acknowledge(old)
    rig.keeper.restamp(old, old.row.batch)
    assert values_of(rig.rows()) == [b"new"]


def test_a_damaged_spool_that_cannot_be_put_aside_is_left_for_a_new_part(
    start: Callable[..., Rig], spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even the rename fails, the spool does not stay closed for good."""
    rig = start()
    rig.store(b"1")

    def refuse(part: Part, *_: object) -> int:
        part._store.close()
        raise SpoolError("it cannot be put aside")

    monkeypatch.setattr(Part, "start_anew", refuse)
    monkeypatch.setattr(Part, "go_on_with_intact", refuse)
    fail_appends(monkeypatch, [SpoolDamaged("malformed")])
    rig.store(b"2")
    assert rig.keeper.state is KeeperState.READY
    assert b"2" in values_of(rig.rows())


def _change_row(spool: Path, change: Callable[[bytes], bytes], nth: int = 0) -> None:
    with closing(sqlite3.connect(spool / "spool" / "cache.db", isolation_level=None)) as connection:
        rowid, value = connection.execute(
            "SELECT rowid, value FROM Cache ORDER BY rowid LIMIT 1 OFFSET ?", (nth,)
        ).fetchone()
        connection.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (change(value), rowid))


def test_a_flipped_row_goes_to_quarantine_byte_for_byte(start: Callable[..., Rig], spool_dir: Path) -> None:
    """It is passed by, counted as corrupt, and kept; the rows round it are delivered."""
    rig = start()
    for value in (b"1", b"2" * 40, b"3"):
        rig.store(value)
    flipped: list[bytes] = []

    def flip(row: bytes) -> bytes:
        flipped.append(row[:-1] + bytes([row[-1] ^ 1]))
        return flipped[0]

    part = rig.part_path(spool_dir)
    _change_row(part, flip, nth=1)
    assert values_of(rig.rows()) == [b"1", b"3"]
    assert rig.listener.losses == [(1, "corrupt")]
    assert [path.read_bytes() for path in (part / "quarantine").iterdir()] == flipped
    assert rig.keeper.spool_bytes == 0


def test_nothing_behind_a_newer_row_is_handed_out(
    start: Callable[..., Rig], spool_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a newer version stops its part: a later one of its lane would make it look applied."""
    rig = start()
    rig.store(b"1")
    monkeypatch.setattr(row_module, "FORMAT", 2)
    rig.store(b"newer")
    monkeypatch.setattr(row_module, "FORMAT", 1)
    rig.store(b"3")
    assert values_of(rig.rows()) == [b"1"]
    assert rig.next_row() is None
    assert ("spool-newer" in {kind for kind, _ in rig.reports}) and rig.listener.losses == []
    rig.close()
    monkeypatch.setattr(row_module, "FORMAT", 2)
    assert values_of(start().rows()) == [b"newer", b"3"]


# ---------------------------------------------------------------- no spool


def test_without_a_spool_blocks_come_back(spool_dir: Path, start: Callable[..., Rig]) -> None:
    """Where there can be no spool, what was offered returns to memory, and it is said once."""
    spool_dir.write_text("a file where the directory should be")
    rig = start()
    assert rig.keeper.state is KeeperState.UNUSABLE
    assert (rig.keeper.degraded, rig.keeper.has_room()) == (True, False)
    block = rig.offer(b"1", b"2")  # it was on its way when the others heard
    rig.listener.wait_for(lambda: rig.listener.returned)
    assert rig.listener.returned == [block]
    assert (block.batch, block.written, rig.keeper.pending_bytes) == (None, 0, 0)
    assert [kind for kind, _ in rig.reports] == ["spool-unusable"]


def test_a_spool_that_becomes_usable_begins_with_what_comes_then(
    spool_dir: Path, start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was being written when the spool went is in memory again, and not in the next spool."""
    rig = start()
    rig.store(b"lost with the directory")
    os.rename(spool_dir, f"{spool_dir}-gone")  # at once: a file may be made in it at this moment
    shutil.rmtree(f"{spool_dir}-gone")
    spool_dir.write_text("a file where the directory should be")
    back = rig.offer(b"1")
    rig.listener.wait_for(lambda: rig.listener.returned)
    assert rig.listener.returned == [back]
    assert rig.keeper.state is KeeperState.UNUSABLE
    spool_dir.unlink()
    rig.keeper._holder.adopt_at = 0.0  # the minute has passed
    rig.settle()
    rig.listener.wait_for(lambda: rig.listener.told[-1][0] == "opened")
    assert not rig.keeper.degraded
    assert repr(rig.keeper) == "<SpoolKeeper ready>"
    rig.store(b"2")
    assert values_of(rig.rows()) == [b"2"]
    assert back not in rig.listener.done


def test_what_comes_back_has_no_number_in_the_spools_lane(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, make_batch: MakeBatch
) -> None:
    """A write that failed to the end comes back free: its lane has rows that are not delivered yet."""
    monkeypatch.setattr(writer_module, "_RETRY_FIRST_SECONDS", 3600.0)
    rig = start()
    rig.store(b"1")
    batch = make_batch(3, attempted_by=AttemptedBy.SCRIPT)
    attempts = fail_appends(monkeypatch, [PASSING_ERROR] * 9)
    fresh = rig.offer(b"2")
    attempted = rig.offer(batch=batch)
    rig.close(0.05)
    assert len(attempts) == 1
    assert rig.listener.returned == [fresh, attempted]
    assert (fresh.batch, fresh.written, attempted.batch) == (None, 0, batch)
    monkeypatch.undo()
    assert values_of(start().rows()) == [b"1"]


# ---------------------------------------------------------------- adoption


def left_by_the_dead(spool_dir: Path, destination: Destination, *batches: Batch) -> Part:
    part = Part.create(spool_dir, destination)
    for batch in batches:
        part.append(batch)
    part.close()
    return part


def test_a_free_part_is_gone_on_with(
    start: Callable[..., Rig], spool_dir: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """A keeper that starts takes what a dead process left, under its identities, and adds its own behind."""
    spool_dir.mkdir()
    left_by_the_dead(spool_dir, destination, make_batch(1), make_batch(2))
    rig = start()
    rig.store(b"mine")
    assert rig.listener.told[0] == ("opened", 4)
    rows = rig.rows()
    assert [row.row.batch.id for row in rows[:2]] == [make_batch(1).id, make_batch(2).id]
    assert rows[2].row.batch.id.lane not in {row.row.batch.id.lane for row in rows[:2]}


def test_a_second_part_is_adopted_delivered_first_and_removed(
    start: Callable[..., Rig], spool_dir: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """Parts that become free are adopted one at a time, go before our own rows, and end removed."""
    rig = start()
    rig.store(b"mine")
    left = [left_by_the_dead(spool_dir, destination, make_batch(1, lane=lane * 32)) for lane in "ab"]
    rig.keeper._holder.adopt_at = 0.0
    rig.settle()
    rig.listener.wait_for(lambda: rig.listener.told.count(("opened", 2)) == 1)
    rows = [row for row in (rig.next_row(),) if row is not None]
    rig.keeper.acknowledge(rows[0])
    while len(rows) < 3:  # the second part is adopted once the first is delivered and asked again
        if (row := rig.next_row()) is not None:
            rows.append(row)
            rig.keeper.acknowledge(row)
    assert sorted(row.records for row in rows) == [1, 2, 2]
    assert rig.next_row() is None
    rig.settle()
    assert not any((spool_dir / f"part-{part.id}").exists() for part in left)


def test_a_part_with_quarantine_only_does_not_stand_before_the_next(
    start: Callable[..., Rig], spool_dir: Path, destination: Destination, make_batch: MakeBatch
) -> None:
    """A part that cannot be removed for its quarantine is let go of, and the next one is taken."""
    rig = start()
    ids = sorted(left_by_the_dead(spool_dir, destination).id for _ in range(2))
    first, second = (spool_dir / f"part-{part_id}" for part_id in ids)
    (first / "quarantine").mkdir(exist_ok=True)
    (first / "quarantine" / "kept.row").write_bytes(b"damaged")
    part = Part.try_take(second, destination)
    assert part is not None
    part.append(make_batch(1))
    part.close()
    rig.keeper._holder.adopt_at = 0.0
    rig.settle()
    rows = []
    for _ in range(5):
        if (row := rig.next_row()) is not None:
            rows.append(row)
            rig.keeper.acknowledge(row)
        rig.settle()
    assert [row.row.batch for row in rows] == [make_batch(1)]
    assert first.exists() and not second.exists()
    opened = rig.listener.told.count(("opened", 0))
    for _ in range(5):
        assert rig.next_row() is None
    rig.settle()
    assert rig.listener.told.count(("opened", 0)) == opened  # not taken and let go of again and again


def test_damage_in_an_adopted_part_leaves_our_own_alone(
    start: Callable[..., Rig],
    spool_dir: Path,
    destination: Destination,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quota meets damage in the adopted part: that one is put aside, and our rows stay."""
    rig = start(max_bytes=900)
    rig.store(b"1" * 100)
    mine = rig.next_row()
    assert mine is not None
    left_by_the_dead(spool_dir, destination, make_batch(1))
    rig.keeper._holder.adopt_at = 0.0
    rig.settle()
    rig.listener.wait_for(lambda: ("opened", 2) in rig.listener.told)
    real = Part.ack
    adopted = rig.keeper._holder.adopted
    assert adopted is not None

    def ack(part: Part, key: Any) -> None:
        if part is adopted:
            raise SpoolDamaged("malformed")
        real(part, key)

    monkeypatch.setattr(Part, "ack", ack)
    rig.store(b"2" * (900 - rig.keeper.spool_bytes + 100))
    assert rig.listener.losses == [(2, "corrupt")]
    rig.keeper.acknowledge(mine)  # it still means something
    rig.keeper.rewind()
    assert [value[:1] for value in values_of(rig.rows())] == [b"2"]


# ---------------------------------------------------------------- ending


def test_close_writes_what_was_offered(start: Callable[..., Rig], spool_dir: Path) -> None:
    """All that was offered before the end is in the spool after it, and the part is free."""
    rig = start()
    for n in range(20):
        rig.offer(b"%d" % n)
    rig.close()
    assert rig.keeper.state is KeeperState.CLOSED
    assert values_of(start().rows()) == [b"%d" % n for n in range(20)]


def test_an_empty_part_is_removed_at_the_end(start: Callable[..., Rig], spool_dir: Path) -> None:
    """A sink that has delivered everything leaves nothing behind."""
    rig = start()
    rig.store(b"1")
    rig.rows()
    rig.close()
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize("obstacle", ["failing", "slow", "full"])
def test_close_ends_within_its_deadline(
    start: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    """A disk that fails, is slow, or full does not hold up the end; what was not written comes back."""
    real = Part.append

    def append(part: Part, batch: Batch) -> None:
        if obstacle == "failing":
            raise PASSING_ERROR
        threading.Event().wait(0.1)
        real(part, batch)

    rig = start(max_bytes=100 if obstacle == "full" else 1 << 30, full_policy="block")
    monkeypatch.setattr(writer_module, "MAX_BATCH_BYTES", 100)
    if obstacle != "full":
        monkeypatch.setattr(Part, "append", append)
    blocks = [rig.offer(b"x" * 101) for _ in range(50)]
    began = time.monotonic()
    rig.close(0.3)
    assert 0.2 < time.monotonic() - began < 2.0
    returned = rig.listener.returned
    assert returned == blocks[len(blocks) - len(returned) :]
    assert len(returned) + len(rig.listener.done) == 50
    assert len(returned) > 40
