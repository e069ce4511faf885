"""What ended processes left is delivered once, in order, and nothing else is touched."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from lab.oracle import check, read_list
from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer
from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._delivery import Failed, Failure, FailureKind, Sender
from plumelog_loguru._destination import Destination
from plumelog_loguru._dissection import CONNECTION_LOST
from plumelog_loguru._spool import DeadLetters, NewerFormat, Part, SpoolDirectory, SpoolError
from plumelog_loguru.cli import _drain
from tests.scale import ROUNDS, scaled

from .conftest import KEY, Fill, Replay, Run, RunCode, Start, batch_of
from .damage import RECORDS, flip_in, left_by_a_killed_process

unix = pytest.mark.skipif(sys.platform == "win32", reason="no locks, and no such signals, on Windows")
pytestmark = unix

TooLarge = Callable[[], tuple[list[str], bytes]]

JSON_KEYS = ["delivered", "already_applied", "dead_lettered", "remaining", "elsewhere", "seconds"]


def _files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def _counts(run: Run) -> tuple[int, int, int, int]:
    facts = run.json
    return facts["delivered"], facts["already_applied"], facts["remaining"], facts["elsewhere"]


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.001)


def _ended(process: subprocess.Popen[str]) -> Run:
    out, err = process.communicate(timeout=30)
    return Run(process.returncode, out, err)


def test_all_free_parts_are_delivered_in_order(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Every part of the destination is delivered once and in order, and nothing of it stays on the disk."""
    ids = [name for _ in range(2) for name in fill(destination)]
    run = replay("drain", "--json")
    assert (run.code, run.err, list(run.json)) == (0, "", JSON_KEYS)
    assert _counts(run) == (12, 0, 0, 0)
    verdict = check(ids, read_list(server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict
    assert list(spool_dir.iterdir()) == []


def test_drain_is_what_no_command_means(
    server: RedisServer, destination: Destination, fill: Fill, replay: Replay
) -> None:
    """Without a command, and with flags alone, the spool is drained."""
    fill(destination)
    assert replay("--json").json["delivered"] == 6
    fill(destination)
    run = replay()
    assert (run.code, run.err) == (0, "")
    assert run.out.startswith("6 records delivered in ")


def test_the_list_is_pushed_at_its_side(
    server: RedisServer, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Parts for the right end of a list go there, and only if that is asked for."""
    ids = fill(Destination(f"{HOST}:{server.port}", 0, KEY, "right"))
    assert _counts(replay("--json")) == (0, 0, 0, 6)
    assert _counts(replay("--json", "--redis-push-side", "right")) == (6, 0, 0, 0)
    verdict = check(ids, read_list(server, KEY), push_side="right")
    assert verdict.exactly_once and verdict.in_order, verdict


def test_nothing_to_do_needs_no_redis(spool_dir: Path, replay: Replay) -> None:
    """An empty spool is done, whether there is a Redis or not."""
    run = replay("--redis-port", "1", "--json")
    assert (run.code, run.err) == (0, "")
    assert _counts(run) == (0, 0, 0, 0)


def test_a_missing_directory_is_wrong_usage(tmp_path: Path, replay: Replay) -> None:
    """A directory that is not there is said to be missing, and is not made."""
    run = replay("--spool-dir", str(tmp_path / "missing"))
    assert (run.code, run.out) == (2, "")
    assert run.err.startswith("plumelog-replay: the spool directory") and run.err.count("\n") == 1
    assert not (tmp_path / "missing").exists()


def test_other_destinations_are_left_untouched(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Parts for another server or list stay as they are, are counted and named, and are no reason to fail."""
    for other in (
        Destination("redis-b:6379", 0, KEY, "left"),
        Destination(destination.server, 0, "other", "left"),
        Destination(destination.server, 1, KEY, "left"),
    ):
        fill(other)
    before = _files(spool_dir)
    fill(destination)
    run = replay("drain", "--json")
    assert (run.code, _counts(run)) == (0, (6, 0, 0, 18))
    assert "6 records are meant for redis-b:6379/0 cli_list (left)" in run.err
    assert _files(spool_dir) == before
    assert server.cli("EXISTS", "other") == 0


def test_a_living_owner_is_left_untouched(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """What a living process has spooled is its own to deliver, and does not count as left."""
    part = Part.create(spool_dir, destination)
    try:
        part.append(batch_of(b"{}"))
        ids = fill(destination)
        run = replay("drain", "--json")
        assert (run.code, _counts(run)) == (0, (6, 0, 0, 0))
        assert check(ids, read_list(server, KEY)).exactly_once
        assert "; 1 record is with living processes" in replay("drain").out
        part.append(batch_of(b"{}"))
        assert part.records == 2
    finally:
        part.close()


def test_a_sink_goes_on_beside_a_drain(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """A living sink that has spooled keeps its part through a drain, and delivers it when Redis is back."""
    code = """
import sys
from loguru import logger
from plumelog_loguru import DurableRedisSink
sink = DurableRedisSink()
logger.remove()
logger.add(sink, format="{message}")
for number in range(50):
    logger.info(f"live-{number}")
sink.drain(10)
print(sink.stats().spooled, flush=True)
sys.stdin.readline()
"""
    with FaultProxy(server.port) as proxy:
        proxy.refuse()
        environ = {
            **os.environ,
            "PLUMELOG_REDIS_URL": f"redis://{HOST}:{proxy.port}",
            "PLUMELOG_RETRY_COUNT": "0",
            "PLUMELOG_DIAGNOSTICS": "none",
        }
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == "50\n"
            run = replay("--json", "--redis-url", environ["PLUMELOG_REDIS_URL"])
            assert (run.code, _counts(run)) == (0, (0, 0, 0, 0))
            proxy.heal()
            _wait_until(lambda: server.cli("LLEN", KEY) == 50)
            process.communicate("\n", timeout=20)
        finally:
            process.kill()
            process.communicate()
    assert check([f"live-{number}" for number in range(50)], read_list(server, KEY)).exactly_once


def test_a_dry_run_changes_nothing(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """A dry run tells what would be delivered, exits as one that leaves it, and touches neither side."""
    fill(destination)
    before = _files(spool_dir)
    run = replay("drain", "--dry-run", "--json")
    assert (run.code, _counts(run)) == (1, (0, 0, 6, 0))
    assert replay("drain", "--dry-run").out.startswith("6 records would be delivered to ")
    assert _files(spool_dir) == before
    assert server.cli("DBSIZE") == 0


def test_the_limit_ends_it_after_a_whole_batch(
    server: RedisServer, destination: Destination, fill: Fill, replay: Replay
) -> None:
    """Delivery stops with the batch that reaches the limit; the rest stays, is counted, and goes later."""
    ids = fill(destination, batches=4, records=2)
    run = replay("drain", "--limit", "3", "--json")
    assert (run.code, _counts(run)) == (1, (4, 0, 4, 0))
    assert "4 records remain in" in run.err
    assert _counts(replay("drain", "--json")) == (4, 0, 0, 0)
    verdict = check(ids, read_list(server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict


def test_the_rate_is_kept(server: RedisServer, destination: Destination, fill: Fill, replay: Replay) -> None:
    """With a rate, no batch goes before the one ahead has had its time; nothing waits after the last."""
    fill(destination, batches=3, records=10)
    assert 0.2 <= replay("drain", "--rate", "100", "--json").json["seconds"] < 5
    fill(destination, batches=1, records=10)
    assert replay("drain", "--rate", "1", "--json").json["seconds"] < 5


def test_a_lost_reply_doubles_nothing(
    server: RedisServer, proxy: FaultProxy, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """A push whose reply is lost is repeated, and found to be in Redis already."""
    ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    fault = proxy.drop_replies(times=1, after=b"content")
    run = replay("drain", "--json", "--redis-url", f"redis://{HOST}:{proxy.port}")
    assert fault.count == 1
    assert (run.code, _counts(run)) == (0, (6, 1, 0, 0))
    verdict = check(ids, read_list(server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict


def test_an_unreachable_redis_leaves_everything(
    server: RedisServer, proxy: FaultProxy, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """After its retries it says what remains and why, exits with 1, and the next run delivers it."""
    ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    proxy.refuse()
    words = ("drain", "--json", "--retry-count", "2", "--redis-url", f"redis://{HOST}:{proxy.port}")
    run = replay(*words)
    assert (run.code, _counts(run)) == (1, (0, 0, 6, 0))
    told = run.err.splitlines()
    assert len(told) == 2 and "does not take records" in told[0] and "6 records remain" in told[1]
    proxy.heal()
    assert (replay(*words).code, check(ids, read_list(server, KEY)).exactly_once) == (0, True)


def test_an_error_that_needs_an_operator_is_not_repeated(
    server: RedisServer, destination: Destination, fill: Fill, replay: Replay
) -> None:
    """Where the key is no list, one attempt is made, and the sentence says what Redis said."""
    fill(destination)
    server.cli("SET", KEY, "not a list")
    started = time.monotonic()
    run = replay("drain", "--retry-backoff-base-seconds", "30")
    assert (run.code, run.out.split()[0]) == (1, "0")
    assert "WRONGTYPE" in run.err
    assert time.monotonic() - started < 10


def test_a_record_that_redis_refuses_holds_up_no_other(
    server: RedisServer,
    destination: Destination,
    spool_dir: Path,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What Redis will never take becomes a dead letter, is told, and all else is delivered in order."""
    parts = sorted((fill(destination) for _ in range(2)), key=lambda ids: ids[0])
    send = Sender.send

    async def refuse(self: Sender, batch: Batch) -> object:
        if parts[0][0].encode() in batch.values[0]:
            return Failed(Failure(FailureKind.REFUSED, "TOO_LARGE", "invalid bulk length", in_doubt=False))
        return await send(self, batch)

    monkeypatch.setattr(Sender, "send", refuse)
    run = replay("drain", "--json")
    assert (run.code, _counts(run), run.json["dead_lettered"]) == (1, (11, 0, 0, 0), 1)
    assert "invalid bulk length" in run.err
    verdict = check(parts[0][1:] + parts[1], read_list(server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict
    letters = DeadLetters(spool_dir)
    (letter,) = map(letters.read, letters.names())
    assert (letter.reason, letter.destination) == ("invalid bulk length", destination)
    assert parts[0][0].encode() in letter.value
    status = replay("status", "--json")
    assert (status.code, status.json["dead_letters"]) == (1, 1)
    assert "1 record that Redis refuses is in" in status.err
    assert replay("drain").code == 0


@pytest.fixture
def narrow_server(own_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A server that closes the connection at a value of more than a mebibyte; the environment names it."""
    own_server.cli("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    monkeypatch.setenv("PLUMELOG_REDIS_URL", own_server.url)
    return own_server


@pytest.fixture
def too_large(narrow_server: RedisServer, spool_dir: Path) -> TooLarge:
    """Leaves a thousand records in three rows; one is too large for the server."""

    def leave() -> tuple[list[str], bytes]:
        part = Part.create(spool_dir, Destination(f"{HOST}:{narrow_server.port}", 0, KEY, "left"))
        ids = [f"{part.id}-{number}" for number in range(1000)]
        values = [b'{"content":"%s"}' % name.encode() for name in ids]
        values[613] = large = b'{"content":"%s"}' % (b"x" * 1_100_000)
        for first, last in ((0, 500), (500, 900), (900, 1000)):
            part.append(Batch(part.next_spool_id(), tuple(values[first:last])))
        part.close()
        del ids[613]
        return ids, large

    return leave


def test_a_value_too_large_for_the_server_becomes_a_dead_letter(
    narrow_server: RedisServer, spool_dir: Path, too_large: TooLarge, replay: Replay
) -> None:
    """Its 999 neighbours are delivered once and in order, and its bytes lie in the spool directory."""
    ids, large = too_large()
    run = replay("drain", "--json")
    assert (run.code, _counts(run), run.json["dead_lettered"]) == (1, (999, 0, 0, 0), 1)
    assert run.err.count("1 record is refused by Redis") == 1
    verdict = check(ids, read_list(narrow_server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict
    letters = DeadLetters(spool_dir)
    (letter,) = map(letters.read, letters.names())
    assert letter.value == large
    assert letter.reason == CONNECTION_LOST or "bulk length" in letter.reason
    assert [path.name for path in spool_dir.iterdir()] == [letters.path.name]


def test_a_drain_that_is_killed_in_the_middle_of_a_batch(
    narrow_server: RedisServer, spool_dir: Path, too_large: TooLarge, replay: Replay, run_code: RunCode
) -> None:
    """Killed after any step of dividing it, it leaves what the next divides in the same way."""
    ids, large = too_large()
    code = """
import os, signal, sys
from plumelog_loguru._dissection import Dissection
from plumelog_loguru.cli import main
step, steps = Dissection.step, int(sys.argv.pop())
async def counted(self, sender, disk):
    global steps
    result = await step(self, sender, disk)
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
Dissection.step = counted
sys.exit(main())
"""
    killed = 0
    for steps in range(3, 60, 3):
        words = ("drain", "--retry-count", "0", str(steps))
        ended = run_code(code, *words)
        killed += ended.returncode == -signal.SIGKILL
        if ended.returncode >= 0:
            break
    assert killed >= 5, "the batch was hardly divided"
    assert _counts(replay("drain", "--json"))[2] == 0
    verdict = check(ids, read_list(narrow_server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict
    letters = DeadLetters(spool_dir)
    assert [letters.read(name).value for name in letters.names()] == [large]


def test_a_record_without_a_place_for_its_letter_stays_spooled(
    narrow_server: RedisServer, spool_dir: Path, too_large: TooLarge, replay: Replay
) -> None:
    """Where no letter can be written the row waits, the rows behind it do not, and it is told."""
    ids, _ = too_large()
    (spool_dir / "dead-letters").write_text("in the way")
    run = replay("drain", "--json")
    assert (run.code, run.json["delivered"], run.json["remaining"]) == (1, 600, 400)
    assert run.json["dead_lettered"] == 0
    assert "a record that Redis refuses stays spooled: a dead letter cannot be written" in run.err
    (spool_dir / "dead-letters").unlink()
    run = replay("drain", "--json")
    assert (run.code, run.json["delivered"], run.json["dead_lettered"]) == (1, 399, 1)
    assert check(ids, read_list(narrow_server, KEY)).exactly_once


def test_a_damaged_batch_is_put_aside_and_told(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """A row with a flipped bit goes into quarantine, the others into Redis, and the exit code is 1 once."""
    ids = fill(destination)
    (path,) = spool_dir.iterdir()
    with closing(sqlite3.connect(path / "spool" / "cache.db", isolation_level=None)) as database:
        ((rowid, row),) = database.execute("SELECT rowid, value FROM Cache ORDER BY rowid LIMIT 1 OFFSET 1")
        damaged = row[:-1] + bytes([row[-1] ^ 1])
        database.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (damaged, rowid))
    run = replay("drain", "--json")
    assert (run.code, _counts(run)) == (1, (4, 0, 0, 0))
    assert "a damaged batch of 2 records was put into" in run.err
    assert [file.read_bytes() for file in (path / "quarantine").iterdir()] == [damaged]
    assert check(ids[:2] + ids[4:], read_list(server, KEY)).exactly_once
    assert (replay("drain").code, replay("status").code) == (0, 1)


def test_rows_of_a_newer_version_end_their_part(
    server: RedisServer,
    destination: Destination,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row of a newer format is not passed by: what follows it may be of its lane. It stays, and is told."""
    ids = fill(destination)
    read = Part.read

    def refuse(self: Part, key: object) -> object:
        row = read(self, key)  # type: ignore[arg-type]
        if row.batch.id.seq == 2:
            raise NewerFormat("a spooled batch has format 2; this version reads 1")
        return row

    monkeypatch.setattr(Part, "read", refuse)
    run = replay("drain", "--json")
    assert (run.code, _counts(run)) == (1, (2, 0, 4, 0))
    assert "needs that version" in run.err
    assert check(ids[:2], read_list(server, KEY)).exactly_once


def test_a_row_that_cannot_be_removed_is_told(
    server: RedisServer,
    destination: Destination,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the disk refuses to delete, what Redis has stays spooled, and the next run doubles nothing."""
    ids = fill(destination)

    def refuse(self: Part, key: object) -> None:
        raise SpoolError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Part, "ack", refuse)
        run = replay("drain", "--json")
    assert (run.code, _counts(run)) == (1, (6, 0, 6, 0))
    # Three rows, one sentence.
    assert run.err.count("could not be removed from the spool: database or disk is full; drain again") == 1
    assert _counts(replay("drain", "--json")) == (6, 3, 0, 0)
    assert check(ids, read_list(server, KEY)).exactly_once


def test_a_damaged_spool_is_set_aside_and_told(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """A part whose database is garbage does not stop the others, and is not passed over in silence."""
    ids = fill(destination)
    broken = Part.create(spool_dir, destination)
    broken.close()
    (broken.path / "spool" / "cache.db").write_bytes(b"garbage" * 1000)
    run = replay("drain", "--json")
    assert (run.code, run.json["delivered"], run.json["remaining"]) == (1, 6, 0)
    assert "was put aside" in run.err
    assert check(ids, read_list(server, KEY)).exactly_once


@pytest.mark.parametrize("page", [1, 3, 5])
def test_what_is_intact_in_a_damaged_database_is_delivered(
    page: int, server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Schema, settings or rows may be out of reach for SQLite: what is intact comes all the same."""
    ids = fill(destination, batches=20)
    (part,) = spool_dir.iterdir()
    with (part / "spool" / "cache.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 12)
    here = slice((page - 1) * 4096, page * 4096)
    damaged = (part / "spool" / "cache.db").read_bytes()[here]
    run = replay("drain", "--json")
    assert (run.code, _counts(run)) == (1, (40, 0, 0, 0))
    assert "0 are lost" in run.err or "0 records are lost" in run.err
    assert check(ids, read_list(server, KEY)).exactly_once
    assert (part / "quarantine" / "spool" / "cache.db").read_bytes()[here] == damaged
    assert replay("drain").code == 0


def test_a_part_of_a_newer_version_is_told_and_left(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """It stops no other part, and the sentence says what it needs."""
    ids = fill(destination)
    newer = Part.create(spool_dir, destination)
    newer.close()
    (newer.path / "part.json").write_text('{"format":99}')
    before = _files(newer.path)
    run = replay("drain", "--json")
    assert (run.code, run.json["delivered"]) == (1, 6)
    assert "format 99" in run.err and "newer version" in run.err
    assert _files(newer.path) == before
    assert check(ids, read_list(server, KEY)).exactly_once


def test_what_may_be_doubled_is_told(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Records that a plain push may have delivered already are delivered, and said to be in doubt."""
    fill(destination, attempted_by="plain")
    run = replay("drain", "--json")
    assert (run.code, run.json["delivered"]) == (0, 6)
    assert "6 of the records may be in Redis twice" in run.err


@pytest.fixture
def without_scripts(
    server: RedisServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A user, behind the proxy, who may do everything but run scripts."""
    server.cli("ACL", "SETUSER", "shop", "reset", "on", ">pw", "~*", "+@all", "-@scripting")
    monkeypatch.setenv("PLUMELOG_REDIS_URL", f"redis://shop:pw@{HOST}:{proxy.port}")
    yield
    server.cli("ACL", "DELUSER", "shop")


def test_what_a_plain_push_leaves_in_doubt_is_repeated_and_counted(
    server: RedisServer,
    destination: Destination,
    proxy: FaultProxy,
    without_scripts: None,
    fill: Fill,
    replay: Replay,
) -> None:
    """Where there are no scripts, a lost reply doubles a batch, and that is told."""
    ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    proxy.drop_replies(after=b"content", times=1)
    run = replay("drain", "--json")
    assert (run.code, run.json["remaining"]) == (0, 0)
    assert "2 of the records may be in Redis twice" in run.err
    verdict = check(ids, read_list(server, KEY))
    assert not verdict.lost and set(verdict.doubled) == set(ids[:2]), verdict


def test_a_plain_push_that_was_cut_short_by_a_kill_is_known_for_one(
    server: RedisServer, proxy: FaultProxy, without_scripts: None, fill: Fill, replay: Replay, start: Start
) -> None:
    """No row is taken for one that a script attempted before it is known that there are none."""
    ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    held = proxy.hold_requests(after=b"content")
    process = start("drain")
    assert held.wait(20)
    process.kill()
    process.wait()
    tried = [batch["attempted"] for batch in replay("list", "--json").json["batches"]]
    assert tried[0] == "plain" and "script" not in tried
    held.release()
    proxy.heal()
    server.cli("ACL", "SETUSER", "shop", "+@all")  # scripts are allowed from now on
    run = replay("drain", "--json")
    assert (run.code, run.json["remaining"]) == (0, 0) and "may be in Redis twice" in run.err
    verdict = check(ids, read_list(server, KEY))
    assert not verdict.lost and set(verdict.doubled) == set(ids[:2]), verdict


def test_a_plain_push_never_repeats_what_is_in_doubt(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """A batch that a script may have delivered goes by script, whatever delivery is asked for: once."""
    batch = Batch(BatchId(new_lane_id(), 1), (b'{"content":"a"}',), AttemptedBy.SCRIPT, 1)
    for already_applied in (0, 1):
        part = Part.create(spool_dir, destination)
        part.append(batch)
        part.close()
        assert _counts(replay("drain", "--delivery", "at_least_once", "--json")) == (1, already_applied, 0, 0)
    assert server.values(KEY) == list(batch.values)


def test_a_fenced_batch_is_delivered_under_its_next_identity(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """A batch that somebody began to take out of its order, and did not finish, is delivered once."""
    batch = Batch(BatchId(new_lane_id(), 1), (b'{"content":"a"}',), AttemptedBy.SCRIPT, 1)
    server.cli("SET", f"{{{KEY}}}:lane:{batch.id.lane}", "1 1")
    for already_applied in (0, 1):
        part = Part.create(spool_dir, destination)
        part.append(batch)
        part.close()
        assert _counts(replay("drain", "--json")) == (1, already_applied, 0, 0)
    assert server.values(KEY) == list(batch.values)


def test_leftovers_of_dead_makers_are_cleared(spool_dir: Path, replay: Replay) -> None:
    """What a killed maker or remover of a part left behind is removed, and is no reason to fail."""
    for name in ("new-0123456789abcdef", "part-0123456789abcdef"):
        (spool_dir / name).mkdir()
        (spool_dir / name / "lock").touch()
    assert replay("drain").code == 0
    assert list(spool_dir.iterdir()) == []


def test_a_moment_in_which_somebody_looks_loses_no_part(
    server: RedisServer,
    destination: Destination,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part that seemed owned because another process looked at its lock is taken a moment later."""
    fill(destination)
    take_free, misses = SpoolDirectory.take_free, iter([True, False])

    def miss_once(self: SpoolDirectory, *args: Any, **options: Any) -> Part | None:
        return None if next(misses, False) else take_free(self, *args, **options)

    monkeypatch.setattr(SpoolDirectory, "take_free", miss_once)
    assert _counts(replay("drain", "--json")) == (6, 0, 0, 0)


def test_two_drains_share_the_work(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, start: Start
) -> None:
    """Two drains at once deliver every record once, and neither finds fault."""
    ids = [name for _ in range(8) for name in fill(destination, batches=20)]
    runs = [_ended(process) for process in [start("--json"), start("--json")]]
    assert [(run.code, run.err) for run in runs] == [(0, ""), (0, "")]
    assert sum(run.json["delivered"] for run in runs) == len(ids)
    assert check(ids, read_list(server, KEY)).exactly_once
    assert list(spool_dir.iterdir()) == []


@pytest.mark.timeout(60 + 5 * ROUNDS)
def test_a_killed_drain_loses_and_doubles_nothing(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, start: Start, replay: Replay
) -> None:
    """Killed at random moments, again and again, it leaves what the next run delivers once and in order."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ids: list[str] = []
    killed = 0
    for _ in range(scaled(5, 50)):
        ids += fill(destination, batches=150, records=3)
        until = server.cli("LLEN", KEY) + dice.randrange(400)
        process = start("--json")
        _wait_until(lambda p=process, n=until: p.poll() is not None or server.cli("LLEN", KEY) > n)  # type: ignore[misc]
        time.sleep(dice.random() * 0.002)  # a few rows take as long: it is hit anywhere on the way of one
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed, "no drain was killed before it had ended"
    assert replay("drain").code == 0
    verdict = check(ids, read_list(server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_loses_nothing(
    number: signal.Signals,
    server: RedisServer,
    destination: Destination,
    fill: Fill,
    start: Start,
    replay: Replay,
) -> None:
    """Interrupted, it says what remains, exits with 130, and the next run delivers the rest."""
    ids = fill(destination, batches=100)
    process = start("--json", "--rate", "100")
    _wait_until(lambda: server.cli("LLEN", KEY) > 10)
    process.send_signal(number)
    run = _ended(process)
    assert run.code == 130
    assert run.json["delivered"] == server.cli("LLEN", KEY)
    assert run.json["remaining"] == 200 - run.json["delivered"]
    assert run.err.splitlines()[-1] == "plumelog-replay: interrupted; nothing is lost"
    assert _counts(replay("--json")) == (run.json["remaining"], 0, 0, 0)
    assert check(ids, read_list(server, KEY)).exactly_once


def test_a_second_interrupt_does_not_wait(
    own_server: RedisServer, spool_dir: Path, fill: Fill, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first interrupt waits for the reply that is due; the second does not, and still loses nothing."""
    monkeypatch.setenv("PLUMELOG_REDIS_URL", own_server.url)
    monkeypatch.setenv("PLUMELOG_SOCKET_TIMEOUT_SECONDS", "60")
    ids = fill(Destination(f"{HOST}:{own_server.port}", 0, KEY, "left"))
    with FaultProxy(own_server.port) as proxy:
        monkeypatch.setenv("PLUMELOG_REDIS_URL", f"redis://{HOST}:{proxy.port}")
        ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
        held = proxy.hold_requests(times=None, after=b"content")
        process = start("--json")
        assert held.wait(20)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "stopping after the batch in flight" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        run = _ended(process)
        assert (run.code, run.json["remaining"]) == (130, 6)
        held.release()
        proxy.heal()
        assert _ended(start()).code == 0
    assert check(ids, read_list(own_server, KEY)).exactly_once


def test_a_journal_is_let_go_of_by_who_reads_it(
    destination: Destination, spool_dir: Path, run_code: RunCode
) -> None:
    """Interrupted twice while what was in a dead process's memory is brought in: that is not torn apart."""
    left_by_a_killed_process(spool_dir, destination)
    code = """
import os, signal, sys, threading
from plumelog_loguru._spool import Part, Recovery
from plumelog_loguru.cli import main
from plumelog_loguru.cli._drainer import Drainer
append, close, on_disk = Part.append, Recovery.close, Drainer._on_disk
inside, cancelled = [], threading.Event()
def appending(self, batch, *, inherited=False):
    append(self, batch, inherited=inherited)
    if not cancelled.is_set():
        inside.append(self)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert cancelled.wait(20)
        inside.clear()
def closing(self):
    print("torn apart" if inside else "closed", file=sys.stderr)
    close(self)
async def watched(self, work):
    if inside:
        cancelled.set()
    return await on_disk(self, work)
Part.append, Recovery.close, Drainer._on_disk = appending, closing, watched
sys.exit(main())
"""
    ended = run_code(code, "--json")
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.count("closed\n") == 1 and "torn apart" not in ended.stderr
    assert json.loads(ended.stdout)["remaining"] == RECORDS


def test_a_part_that_cannot_be_read_keeps_no_other_waiting(
    server: RedisServer,
    destination: Destination,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the disk does not say which journals a part has, that is told, and the others are delivered."""
    ids, refused = [*fill(destination), *fill(destination)], list[Part]()
    journals = Part.journals

    def refusing(part: Part) -> list[Path]:
        if part in refused or not refused:
            refused.append(part)
            raise OSError(5, "Input/output error")
        return journals(part)

    with monkeypatch.context() as patched:
        patched.setattr(Part, "journals", refusing)
        run = replay("drain", "--json")
    assert (run.code, *_counts(run)) == (1, 6, 0, 6, 0)
    assert "cannot be read for journals (Input/output error)" in run.err
    assert replay("drain").code == 0
    assert check(ids, read_list(server, KEY)).exactly_once


def test_one_damaged_record_is_one(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """What is said of a single record is said in the singular."""
    part, _ = left_by_a_killed_process(spool_dir, destination)
    flip_in(part / "journal-1", b"journal-2")
    assert "1 damaged record was put into" in replay("drain").err


def _others_may_read(file: str) -> bool:
    return all(path.stat().st_mode & 0o005 == 0o005 for path in Path(file).resolve().parents)


@pytest.mark.needs_root
@pytest.mark.skipif(
    not all(map(_others_may_read, (os.__file__, _drain.__file__, orjson.__file__))),
    reason="this Python, or its packages, can be used by root alone",
)
def test_root_leaves_nothing_that_the_application_cannot_use(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, start: Start, tmp_path: Path
) -> None:
    """Killed half-way, a drain by root has left only files of the user whose spool it is."""
    fill(destination, batches=50)
    application, reachable = 65_534, Path(tempfile.mkdtemp(prefix="plumelog-test-"))
    try:
        reachable.chmod(0o755)
        spool_dir = spool_dir.rename(reachable / "spool")
        for path in (spool_dir, *spool_dir.rglob("*")):
            os.chown(path, application, application)
        process = start("--rate", "100", "--spool-dir", str(spool_dir))
        _wait_until(lambda: server.cli("LLEN", KEY) > 10)
        process.kill()
        process.wait()
        found = {path.name: path.stat().st_uid for path in spool_dir.rglob("*")}
        assert {"attempts", "cache.db-wal"} <= found.keys()
        assert set(found.values()) == {application}
    finally:
        shutil.rmtree(reachable)


@pytest.mark.needs_root
def test_root_does_not_go_where_the_application_s_user_cannot(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, start: Start, tmp_path: Path
) -> None:
    """The spool of another user below a directory that only root may enter is left as it is."""
    fill(destination)
    for path in (spool_dir, *spool_dir.rglob("*")):
        os.chown(path, 65_534, 65_534)
    tmp_path.chmod(0o700)
    before = _files(spool_dir)
    run = _ended(start("--json"))
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
    assert "run it as that user, where that is possible: setpriv --reuid 65534" in run.err
    assert _files(spool_dir) == before


def test_a_directory_that_is_deleted_meanwhile(
    server: RedisServer,
    destination: Destination,
    spool_dir: Path,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was delivered is told all the same, and that something is wrong."""
    fill(destination)
    send = Sender.send

    async def sent(self: Sender, batch: Batch) -> Any:
        outcome = await send(self, batch)
        shutil.rmtree(spool_dir, ignore_errors=True)
        return outcome

    monkeypatch.setattr(Sender, "send", sent)
    run = replay("drain", "--json")
    assert run.code == 1
    assert run.json["delivered"] == server.cli("LLEN", KEY) > 0
    assert "what is left cannot be told" in run.err and "No such file or directory" in run.err
