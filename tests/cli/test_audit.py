"""``audit`` finds what is missing and what is doubled, and takes nothing out of the list."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._batch import BatchId
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part
from plumelog_loguru.cli._auditor import Auditor
from plumelog_loguru.cli._trail import Trail

from .conftest import KEY, Replay, Run, assert_schema, batch_of
from .test_drain import _files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")


def _record(seq: int, producer: str | None = "p1", **more: str) -> bytes:
    facts: dict[str, object] = {"appName": "shop", "env": "prod", "content": f"{producer} {seq}", "seq": seq}
    if producer is not None:
        facts["producer"] = producer
    return json.dumps({**facts, **more}).encode()


def _push(server: RedisServer, *values: bytes) -> None:
    for begin in range(0, len(values), 5000):
        server.cli("LPUSH", KEY, *values[begin : begin + 5000])


def _audited(replay: Replay, *words: str) -> Run:
    run = replay("audit", "--json", *words)
    assert_schema("audit", run.json)
    return run


def _only(run: Run) -> dict[str, Any]:
    (producer,) = run.json["producers"]
    return producer


def test_a_list_in_which_all_is_well(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Every number once, of two producers: nothing is wrong, and nothing was taken out."""
    _push(server, *(_record(n) for n in range(1, 3001)), *(_record(n, "p2") for n in range(7, 12)))
    before = server.values(KEY)
    run = _audited(replay)
    assert (run.code, run.err) == (0, "")
    assert (run.json["values"], run.json["missing"], run.json["doubled"]) == (3005, 0, 0)
    assert [
        (p["producer"], p["app"], p["env"], p["first"], p["last"], p["records"])
        for p in run.json["producers"]
    ] == [("p1", "shop", "prod", 1, 3000, 3000), ("p2", "shop", "prod", 7, 11, 5)]
    assert server.values(KEY) == before
    assert "nothing is missing, and nothing is doubled" in replay("audit").out


def test_gaps_and_duplicates_are_found(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Numbers that are nowhere, and numbers that are there twice or more, are told as ranges."""
    numbers = [n for n in range(1, 101) if n not in (5, 6, 7, 50)]
    _push(server, *(_record(n) for n in [*numbers, 10, 11, 12, 60, 60]))
    run = _audited(replay)
    found = _only(run)
    assert run.code == 1 and "missing: 4 records of 1 producer" in run.err
    assert "5 copies too many" in run.err
    assert (found["gaps"], found["missing"]) == ([{"first": 5, "last": 7}, {"first": 50, "last": 50}], 4)
    assert found["duplicates"] == [
        {"first": 10, "last": 12, "copies": 2},
        {"first": 60, "last": 60, "copies": 3},
    ]
    text = replay("audit").out
    assert "missing   5-7, 50: 4 records" in text and "doubled   10-12 2 times, 60 3 times" in text


def test_a_list_that_is_pushed_on_the_right_reads_the_same(
    server: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """Which end is the newest is a setting."""
    server.cli("RPUSH", KEY, *(_record(n) for n in range(1, 1001) if n != 500))
    run = _audited(replay, "--redis-push-side", "right")
    assert _only(run)["gaps"] == [{"first": 500, "last": 500}]


@pytest.mark.parametrize("living", [True, False])
def test_what_is_in_the_spool_is_no_gap(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay, living: bool
) -> None:
    """Rows of the living and the dead, and dead letters, are where they are; the spool is not changed."""
    _push(server, *(_record(n) for n in (*range(1, 11), *range(31, 41))))
    part = Part.create(spool_dir, destination)
    part.append(batch_of(*(_record(n) for n in range(11, 21))))
    part.append(batch_of(*(_record(n) for n in range(21, 30))))
    if not living:
        part.close()
    DeadLetters(spool_dir).write(DeadLetter(BatchId("a", 1), _record(30), destination, "too large", 0))
    before = _files(spool_dir)
    run = _audited(replay)
    assert (run.code, run.err) == (0, "")
    assert (run.json["spooled"], run.json["dead_letters"], _only(run)["spooled"]) == (19, 1, 20)
    after = _files(spool_dir)
    # Readers of a database that is in use note in this file how far they read.
    assert all(after[name] == data for name, data in before.items() if not name.endswith("-shm"))
    assert after.keys() == before.keys()
    assert _audited(replay, "--no-spool").json["missing"] == 20
    part.close()


_VICTIM = """
import os, signal
from loguru import logger
from plumelog_loguru import DurableRedisSink
logger.remove()
logger.add(DurableRedisSink(redis_url="redis://127.0.0.1:1/0", batch_interval_seconds=60))
for n in range(20):
    logger.info(n)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_in_memory_is_no_gap(
    server: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """Records in the journal of a process that was killed are where they are."""
    assert subprocess.run([sys.executable, "-c", _VICTIM], check=False).returncode == -signal.SIGKILL
    before = _files(spool_dir)
    run = _audited(replay)
    assert (run.code, run.json["spooled"]) == (0, 20)
    producer = _only(run)["producer"]
    _push(server, _record(1, producer), _record(40, producer))
    found = _only(_audited(replay))
    assert (found["first"], found["last"], found["gaps"]) == (1, 40, [{"first": 21, "last": 39}])
    assert _files(spool_dir) == before


def test_what_a_living_process_has_spooled_makes_no_gap(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """Before it there may be records in that process's memory; before a dead one's there are none."""
    _push(server, *(_record(n) for n in range(1, 11)))
    part = Part.create(spool_dir, destination)
    part.append(batch_of(*(_record(n) for n in range(15, 21))))
    run = _audited(replay)
    assert (run.code, _only(run)["last"]) == (0, 20)
    part.close()
    run = _audited(replay)
    assert _only(run)["gaps"] == [{"first": 11, "last": 14}]


def test_a_row_that_is_delivered_meanwhile_is_neither(
    server: RedisServer,
    destination: Destination,
    spool_dir: Path,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records that go from memory to the spool, and from there to the list, while both are read, are met."""
    _push(server, *(_record(n) for n in (*range(1, 11), *range(21, 31))))
    read_spool, rounds = Auditor.read_spool, iter(range(2))

    def moving(self: Auditor, directory: Any) -> None:
        part = Part.create(spool_dir, destination)
        values = [_record(n) for n in ((11, 12, 13), (14, 15, 16, 17, 18, 19, 20))[next(rounds)]]
        part.append(batch_of(*values))
        read_spool(self, directory)
        part.close()
        shutil.rmtree(part.path)
        _push(server, *values)

    monkeypatch.setattr(Auditor, "read_spool", moving)
    run = _audited(replay)
    assert (run.code, run.json["missing"], run.json["doubled"]) == (0, 0, 0)


def test_losses_that_were_marked_are_told_with_the_gap(
    server: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """What a producer said of its losses stands beside what is missing; a marker's copy says it once."""
    marker = _record(8, lostReason="queue_full", lostRecords="4", lostInAll="4")
    _push(server, *(_record(n) for n in (1, 2, 3)), marker, marker)
    run = _audited(replay)
    assert (run.code, _only(run)["losses"], _only(run)["missing"]) == (1, {"queue_full": 4}, 4)
    assert "the producers themselves said that 4 were lost" in run.err
    assert "4 records lost, queue_full" in replay("audit").out


def test_values_of_others_are_counted(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """Java's records have no producer, and are no fault; what is no JSON object is one."""
    _push(server, _record(1, None), _record(1, None), b'{"producer":5,"seq":"x"}', b'{"producer":"a"}')
    run = _audited(replay)
    assert (run.code, run.json["without_producer"], run.json["producers"]) == (0, 4, [])
    _push(server, b"[]", b"{", b"\xff", _record(2**70), _record(-1))
    run = _audited(replay)
    assert (run.code, run.json["not_records"]) == (1, 3)
    assert "3 values that no Plumelog server can read" in run.err


def test_a_file_is_read_like_the_list(server: RedisServer, tmp_path: Path, replay: Replay) -> None:
    """Lines of a file are records; Redis is not asked, and a spool need not be there."""
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"\n".join(_record(n) for n in (1, 2, 4, 4)))
    run = _audited(replay, str(file), "--redis-url", "redis://127.0.0.1:1/0")
    assert (run.code, run.json["source"]) == (1, str(file))
    assert (run.json["missing"], run.json["doubled"]) == (1, 1)


def test_what_the_spool_holds_is_no_gap_in_a_file(
    destination: Destination, spool_dir: Path, tmp_path: Path, replay: Replay
) -> None:
    """Where the spool is there it is looked into."""
    part = Part.create(spool_dir, destination)
    part.append(batch_of(_record(3)))
    part.close()
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"\n".join(_record(n) for n in (1, 2, 4)))
    assert _audited(replay, str(file)).code == 0


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path, spool_dir: Path, replay: Replay) -> None:
    """A missing file is one sentence and the exit code 2."""
    run = replay("audit", str(tmp_path / "missing"))
    assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)


def test_a_redis_that_is_away_is_told(spool_dir: Path, replay: Replay) -> None:
    """A list that cannot be read is not empty: it is said, the exit code is 1."""
    run = _audited(replay, "--redis-url", "redis://127.0.0.1:1/0")
    assert (run.code, run.json["complete"]) == (1, False)
    assert "cannot be read" in run.err and run.err.count("\n") == 1


def test_a_key_that_is_no_list_is_told(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """So is a key of another type."""
    server.cli("SET", KEY, "no list")
    run = _audited(replay)
    assert run.code == 1 and "WRONGTYPE" in run.err


def test_without_a_producer_field_there_is_nothing_to_audit(
    spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that do not say whose they are cannot be judged."""
    monkeypatch.setenv("PLUMELOG_PRODUCER_FIELD", "")
    run = replay("audit")
    assert (run.code, run.out) == (2, "") and "producer_field is empty" in run.err


def test_a_missing_spool_is_wrong_usage(server: RedisServer, tmp_path: Path, replay: Replay) -> None:
    """A directory that is not there may be a slip: 2, unless it is said that there is none."""
    assert replay("audit").code == 2
    assert replay("audit", "--no-spool").code == 0
    assert not (tmp_path / "spool").exists()


def test_damage_in_the_spool_is_told(
    server: RedisServer, destination: Destination, spool_dir: Path, replay: Replay
) -> None:
    """What cannot be read of the spool may be what is missing: it is said, and the rest is read."""
    part = Part.create(spool_dir, destination)
    part.append(batch_of(_record(2)))
    part.close()
    letters = DeadLetters(spool_dir)
    letters.write(DeadLetter(BatchId("a", 1), _record(3), destination, "too large", 0))
    (letter,) = letters.path.iterdir()
    letter.write_bytes(b"PLD1 garbage")
    broken = Part.create(spool_dir, destination)
    broken.append(batch_of(_record(4)))
    broken.close()
    (broken.path / "spool" / "cache.db").write_bytes(b"garbage")
    _push(server, _record(1), _record(5))
    run = _audited(replay)
    assert (run.code, _only(run)["gaps"]) == (1, [{"first": 3, "last": 4}])
    assert len(run.json["problems"]) == 2


def test_a_list_that_others_read_and_write_is_followed(
    server: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushes at one end and pops at the other, between any two pages, make no gap and no duplicate."""
    _push_right = iter(range(20_001, 10**9))
    server.cli("RPUSH", KEY, *(_record(n) for n in range(1, 20_001)))
    wanted, pages = Trail.wanted, iter(range(12))

    def busy(self: Trail) -> tuple[int, int]:
        if next(pages, None) is not None:
            server.cli("RPUSH", KEY, *(_record(next(_push_right)) for _ in range(500)))
            server.cli("LTRIM", KEY, 60, -1)
        return wanted(self)

    monkeypatch.setattr(Trail, "wanted", busy)
    run = _audited(replay, "--redis-push-side", "right")
    found = _only(run)
    assert (run.code, run.json["missing"], run.json["doubled"]) == (0, 0, 0), run.err
    assert (found["first"], found["last"]) == (61, next(_push_right) - 1)
    assert run.json["taken_meanwhile"] >= 60
    assert "were taken from the list while it was read" in run.err


def test_a_list_that_cannot_be_followed_says_so(
    server: RedisServer, spool_dir: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a reader is faster than the audit, it says so instead of reporting gaps that it made itself."""
    server.cli("RPUSH", KEY, *(_record(n) for n in range(1, 20_001)))
    wanted = Trail.wanted

    def busy(self: Trail) -> tuple[int, int]:
        server.cli("LTRIM", KEY, 3000, -1)
        return wanted(self)

    monkeypatch.setattr(Trail, "wanted", busy)
    run = _audited(replay, "--redis-push-side", "right")
    assert (run.code, run.json["complete"], run.json["missing"]) == (1, False, 0)
    assert "faster than they could be looked at" in run.err


def test_beside_a_sink_that_logs(server: RedisServer, spool_dir: Path, replay: Replay) -> None:
    """A real sink logs all the while: nothing of its is missing or doubled at any look."""
    from loguru import logger

    over = threading.Event()
    sink = DurableRedisSink(app_name="shop", batch_interval_seconds=0.01, batch_size=10)
    number = logger.add(sink, filter=lambda record: record["extra"].get("audited", False), format="{message}")
    thread = threading.Thread(target=lambda: _log(logger.bind(audited=True), over))
    thread.start()
    try:
        for _ in range(10):
            run = _audited(replay)
            assert (run.code, run.json["missing"], run.json["doubled"]) == (0, 0, 0), run.err
    finally:
        over.set()
        thread.join()
        logger.remove(number)
    run = _audited(replay)
    assert run.code == 0 and _only(run)["records"] == _only(run)["last"] == server.cli("LLEN", KEY)


def _log(log: Any, over: threading.Event) -> None:
    while not over.wait(0.0005):
        log.info("still here")


def test_what_a_hostile_list_says_cannot_steer_the_terminal(
    server: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """Control characters of a record are shown, not sent."""
    _push(server, _record(1, "evil\x1b[2J\nfaked"))
    run = replay("audit")
    assert "\x1b" not in run.out and "\nfaked" not in run.out
