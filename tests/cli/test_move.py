"""``export --move``: what is in the file is not in the spool, and what may be in Redis is not in the file."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from lab.oracle import check, content_of, decode_value, read_list
from lab.servers import HOST, RedisServer
from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._clock import SYSTEM_CLOCK
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import DeadLetter, DeadLetters, Part, SpoolDamaged, SpoolFull

from ..scale import scaled
from .conftest import KEY, Fill, Replay, RunCode, assert_schema
from .test_drain import _files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks on Windows")

Put = Callable[..., Batch]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "moved.jsonl"


@pytest.fixture
def put(spool_dir: Path, destination: Destination) -> Put:
    """Leaves one batch in a part of its own, as an ended process does that attempted it a moment ago."""

    def put(
        *names: str,
        batch_id: BatchId | None = None,
        attempted_by: AttemptedBy = AttemptedBy.SCRIPT,
        at_ms: int | None = None,
        to: Destination = destination,
    ) -> Batch:
        values = tuple(b'{"content":"%s"}' % name.encode() for name in names)
        at_ms = SYSTEM_CLOCK.epoch_ms() if at_ms is None else at_ms
        batch = Batch(batch_id or BatchId(new_lane_id(), 1), values, attempted_by, at_ms)
        part = Part.create(spool_dir, to)
        part.append(batch)
        part.close()
        return batch

    return put


def _lane(server: RedisServer, batch_id: BatchId, state: str) -> None:
    server.cli("SET", f"{{{KEY}}}:lane:{batch_id.lane}", state)


def _names(path: Path) -> list[str]:
    return [content_of(decode_value(line)) for line in path.read_bytes().splitlines()]


def test_what_nobody_attempted_needs_no_redis(
    spool_dir: Path, output: Path, replay: Replay, fill: Fill, destination: Destination
) -> None:
    """It goes into a file that only its owner can read, byte for byte and in order, and out of the spool."""
    ids = [name for _ in range(2) for name in fill(destination, batches=3)]
    words = ("export", "--move", "--output", str(output), "--redis-url", f"redis://{destination.server}")
    run = replay(*words, "--json")
    assert_schema("export", run.json)
    assert (run.code, run.err) == (0, "")
    assert (run.json["batches"], run.json["records"]) == (6, 12)
    assert set(run.json["moved"].values()) == {0}
    assert sorted(_names(output)) == sorted(ids)
    assert output.stat().st_mode & 0o777 == 0o600
    assert list(spool_dir.iterdir()) == []
    assert replay(*words[:3], str(output) + "2").out == f"0 records in 0 batches moved to {output}2\n"


def test_only_a_file_will_do(spool_dir: Path, output: Path, replay: Replay) -> None:
    """A pipe takes what nobody may ever see; a file that is there is not written over; and so on."""
    (spool_dir.parent / "there").write_text("mine")
    for words, complaint in (
        ((), "--move needs a file"),
        (("--output", "-"), "--move needs a file"),
        (("--output", str(spool_dir.parent / "there")), "is there already"),
        (("--output", str(spool_dir / "inside")), "would lie in the spool directory"),
        (("--output", str(output), "--from", "any"), "leave out --from"),
    ):
        run = replay("export", "--move", *words)
        assert (run.code, run.out, run.err.count("\n")) == (2, "", 1)
        assert complaint in run.err
    assert (spool_dir.parent / "there").read_text() == "mine"
    spool_dir.rmdir()
    assert replay("export", "--move", "--output", str(output)).code == 2
    assert not output.exists() and not spool_dir.exists()


def test_what_redis_has_is_not_written(
    server: RedisServer, spool_dir: Path, output: Path, replay: Replay, put: Put
) -> None:
    """A batch in doubt that is in the list is deleted from the spool; one that is not is moved."""
    applied, lost = put("a", "b"), put("c")
    _lane(server, applied.id, "1")
    run = replay("export", "--move", "--output", str(output), "--json")
    assert_schema("export", run.json)
    assert (run.code, run.json["records"], run.json["moved"]["in_redis"]) == (0, 1, 2)
    assert _names(output) == ["c"]
    assert list(spool_dir.iterdir()) == []
    assert (
        server.cli("GET", f"{{{KEY}}}:lane:{lost.id.lane}") == b"1 1"
    )  # a request that is late finds the fence


def test_what_somebody_began_to_divide_is_led_to_its_end(
    server: RedisServer, spool_dir: Path, output: Path, replay: Replay, put: Put, destination: Destination
) -> None:
    """Halves that Redis has, and records that are letters, are not written; the rest is."""
    batch = put("a", "b", "c", "d")
    first, second = batch.id.child(1), batch.id.child(2)
    _lane(server, batch.id, "1 1")  # fenced
    _lane(server, first, "1")  # the first half is in the list; the second was fenced, and its first a letter
    _lane(server, second, "2 2")
    _lane(server, second.child(1), "1 1")
    DeadLetters(spool_dir).write(DeadLetter(second.child(1), batch.values[2], destination, "too large", 1))
    run = replay("export", "--move", "--output", str(output), "--json")
    assert run.code == 0
    assert (run.json["moved"]["in_redis"], run.json["moved"]["dead_letters"]) == (2, 1)
    assert _names(output) == ["d"]


def test_a_redis_that_is_away_keeps_what_is_in_doubt(
    output: Path, spool_dir: Path, replay: Replay, put: Put
) -> None:
    """Only what may be in Redis stays, and it is said why; afterwards it can be moved, or drained."""
    away = Destination("localhost:1", 0, KEY, "left")
    lane = new_lane_id()
    for number in (1, 2):
        put(f"doubt-{number}", to=away, batch_id=BatchId(lane, number))
    put("fresh", to=away, attempted_by=AttemptedBy.NOBODY)
    run = replay("export", "--move", "--output", str(output), "--json", "--redis-url", "redis://localhost:1")
    assert (run.code, run.json["records"], run.json["moved"]["remaining"]) == (1, 1, 2)
    assert run.err.count("does not say what it has") == 1 and "2 records remain in" in run.err
    assert _names(output) == ["fresh"]


def test_what_cannot_be_fenced_is_written_and_counted(
    server: RedisServer, output: Path, replay: Replay, put: Put
) -> None:
    """A plain push may have put it into Redis, and Redis may have forgotten a script's: that is said."""
    put("plain", attempted_by=AttemptedBy.PLAIN)
    put("forgotten", at_ms=1)
    put("fresh", at_ms=None)
    run = replay("export", "--move", "--output", str(output))
    assert run.code == 0
    assert "2 records in the file may be in Redis, too" in run.err
    assert sorted(_names(output)) == ["forgotten", "fresh", "plain"]


def test_living_owners_and_other_lists_keep_theirs(
    server: RedisServer, spool_dir: Path, output: Path, replay: Replay, fill: Fill, destination: Destination
) -> None:
    """What is owned, meant for another list, or of a newer version is left as it is."""
    fill(Destination("redis-b:6379", 0, KEY, "left"))
    newer = Part.create(spool_dir, destination)
    newer.close()
    (newer.path / "part.json").write_bytes(b'{"format":99}')
    before = _files(spool_dir)
    living = Part.create(spool_dir, destination)
    try:
        living.append(Batch(living.next_spool_id(), (b"{}",)))
        ids = fill(destination)
        run = replay("export", "--move", "--output", str(output), "--json")
        assert (run.json["records"], living.records) == (6, 1)
        assert run.code == 1 and run.err.count("format 99") == 1
        assert _names(output) == ids
    finally:
        living.close()
    living.remove()
    assert {name: data for name, data in _files(spool_dir).items() if living.id not in name} == before


def test_damage_is_put_aside_and_told(
    server: RedisServer, spool_dir: Path, output: Path, replay: Replay, fill: Fill, destination: Destination
) -> None:
    """A damaged batch goes into quarantine, the others into the file, and the exit code says so."""
    ids = fill(destination, batches=4)
    (database,) = spool_dir.glob("part-*/spool/cache.db")
    data = bytearray(database.read_bytes())
    data[data.index(ids[2].encode())] ^= 1
    database.write_bytes(data)
    run = replay("export", "--move", "--output", str(output))
    assert run.code == 1
    assert "a damaged batch of 2 records was put into" in run.err
    assert _names(output) == ids[:2] + ids[4:]
    assert len(list(spool_dir.glob("part-*/quarantine/*.row"))) == 1


def test_what_a_process_had_in_memory_is_moved(spool_dir: Path, output: Path, replay: Replay) -> None:
    """The journal of a killed sink is emptied, each record once, in order, and no Redis is asked."""
    code = """
import os, signal
from loguru import logger
from plumelog_loguru import DurableRedisSink
logger.remove()
sink = DurableRedisSink(redis_url="redis://localhost:1", batch_size=1000, batch_interval_seconds=60)
logger.add(sink, format="{message}")
for number in range(200):
    logger.info(f"r-{number}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    run = replay("export", "--move", "--output", str(output), "--redis-url", "redis://localhost:1")
    assert (run.code, run.err) == (0, "")
    assert _names(output) == [f"r-{number}" for number in range(200)]
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize("call", ["write", "sync", "ack"])
def test_a_disk_that_takes_no_more_loses_and_doubles_nothing(
    server: RedisServer,
    output: Path,
    replay: Replay,
    fill: Fill,
    destination: Destination,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """What is not surely in the file is not in it at all, and is in the spool; what stays in both is told."""
    from plumelog_loguru.cli import _records

    ids, calls = fill(destination, batches=4), [0]
    target, name = (Part, "ack") if call == "ack" else (_records.Records, call)
    real = getattr(target, name)

    def failing(self: object, *words: object) -> object:
        calls[0] += 1
        if calls[0] == 3:
            if call == "write":
                real(self, *words)
            raise SpoolFull("full") if call == "ack" else OSError(28, "No space left on device")
        return real(self, *words)

    with monkeypatch.context() as patched:
        patched.setattr("plumelog_loguru.cli._mover.MAX_BATCH_BYTES", 1)
        patched.setattr(target, name, failing)
        run = replay("export", "--move", "--output", str(output), "--json")
    assert run.code == 1
    moved = _names(output)
    if call == "ack":
        assert (moved, run.json["moved"]["twice"], run.json["moved"]["remaining"]) == (ids, 2, 2)
        return
    assert "No space left on device); what is not in it is still spooled" in run.err
    assert moved == ids[:4]
    rest = output.with_name("rest")
    assert replay("export", "--move", "--output", str(rest)).code == 0
    assert _names(rest) == ids[4:]


def test_an_interrupt_ends_it_between_two_batches(
    server: RedisServer, output: Path, replay: Replay, fill: Fill, destination: Destination
) -> None:
    """What is in the file is not in the spool, and the rest is."""
    ids = fill(destination, batches=50)
    code = """
import os, signal, sys
from plumelog_loguru.cli import main
from plumelog_loguru.cli._records import Records
write, calls = Records.write, 0
def counted(self, values):
    global calls
    calls += 1
    write(self, values)
    if calls == 20:
        os.kill(os.getpid(), signal.SIGINT)
Records.write = counted
sys.exit(main())
"""
    words = ("export", "--move", "--output", str(output))
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 130, ended.stderr
    moved = _names(output)
    assert 40 <= len(moved) < 100 and moved == ids[: len(moved)]
    assert f"{100 - len(moved)} records remain in" in ended.stderr
    assert "interrupted; nothing is lost" in ended.stderr
    assert replay("drain").code == 0
    assert check(ids[len(moved) :], read_list(server, KEY)).exactly_once


@pytest.mark.timeout(600)
def test_killed_anywhere_nothing_is_lost(
    server: RedisServer, spool_dir: Path, tmp_path: Path, replay: Replay, run_code: RunCode
) -> None:
    """Killed at any call, then moved or drained: each record is in a file or in Redis, few in both."""
    code = """
import os, random, signal, sys
from plumelog_loguru.cli import _mover, main
from plumelog_loguru._spool import Part, Recovery
from plumelog_loguru._delivery import Sender
from plumelog_loguru.cli._records import Records
_mover.MAX_BATCH_BYTES = int(sys.argv.pop())
steps = int(sys.argv.pop())
def step():
    global steps
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)
def killing(kind, name):
    function = getattr(kind, name)
    def call(*words):
        step()
        return function(*words)
    async def later(*words):
        step()
        outcome = await function(*words)
        step()
        return outcome
    setattr(kind, name, later if name == "fence" else call)
for kind, name in ((Part, "ack"), (Records, "write"), (Records, "sync"), (Sender, "fence"), (Part, "remove")):
    killing(kind, name)
sys.exit(main())
"""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    destination = Destination(f"{HOST}:{server.port}", 0, KEY, "left")
    killed = 0
    for round_ in range(scaled(3, 50)):
        names: list[str] = []
        for _ in range(2):
            part, lane = Part.create(spool_dir, destination), new_lane_id()
            for seq in range(1, 5):
                here = [f"{round_}-{part.id}-{seq}-{number}" for number in range(dice.choice((1, 3)))]
                values = tuple(b'{"content":"%s"}' % name.encode() for name in here)
                by = dice.choice((AttemptedBy.SCRIPT, AttemptedBy.SCRIPT, AttemptedBy.NOBODY))
                part.append(Batch(BatchId(lane, seq), values, by, SYSTEM_CLOCK.epoch_ms()))
                names += here
            part.close()
            if dice.random() < 0.5:  # its owner had delivered some
                done = replay("drain", "--json", "--limit", str(dice.randrange(1, 6)))
                assert done.code in (0, 1)
        moved: list[str] = []
        kills = 0
        for attempt in range(40):
            output = tmp_path / f"{round_}-{attempt}"
            if dice.random() < 0.2:
                replay("drain", "--json", "--limit", "1")
            words = ("export", "--move", "--output", str(output), str(dice.randrange(1, 15)), "1")
            ended = run_code(code, *words)
            lines = output.read_bytes().split(b"\n") if output.exists() else [b""]
            if ended.returncode == 0:
                moved += [content_of(decode_value(line)) for line in lines[:-1]]
                break
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            kills += 1
            moved += [content_of(decode_value(line)) for line in lines[:-1]]
        else:
            raise AssertionError("it never came to its end")
        in_redis = [content_of(record) for record in read_list(server, KEY)]
        assert set(names) == {*moved, *in_redis}
        assert len(in_redis) == len(set(in_redis))
        assert (
            len(moved) + len(in_redis) - len(names) <= 3 * kills
        )  # a row for each, of three records at most
        killed += kills
        server.cli("DEL", KEY)
        assert [path for path in spool_dir.iterdir() if path.name.startswith("part-")] == []
    assert killed > 3


def test_a_disk_that_damages_what_was_mended_is_told(
    server: RedisServer,
    output: Path,
    replay: Replay,
    fill: Fill,
    destination: Destination,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A part is mended once; that it is damaged again ends it, and is said too."""
    fill(destination)

    def damaged(*_: object) -> NoReturn:
        raise SpoolDamaged("a bit is wrong")

    with monkeypatch.context() as patched:
        patched.setattr(Part, "read", damaged)
        run = replay("export", "--move", "--output", str(output))
    assert run.code == 1
    assert "a bit is wrong; what is intact is exported, and 0 records are lost\n" in run.err
    assert "a bit is wrong\n" in run.err


@pytest.mark.parametrize("call", ["read", "journals"])
def test_what_the_spool_does_not_give_is_not_the_file_s_fault(
    server: RedisServer,
    output: Path,
    replay: Replay,
    fill: Fill,
    destination: Destination,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """An error of the disk that the spool lies on is told of the spool, and the other parts are moved."""
    ids, refused = [*fill(destination), *fill(destination)], list[Part]()
    real = getattr(Part, call)

    def refusing(part: Part, *words: object) -> object:
        if part in refused or not refused:
            refused.append(part)
            raise OSError(5, "Input/output error")
        return real(part, *words)

    with monkeypatch.context() as patched:
        patched.setattr(Part, call, refusing)
        run = replay("export", "--move", "--output", str(output))
    assert run.code == 1
    assert "Input/output error" in run.err and str(output) not in run.err
    moved = _names(output)
    assert len(moved) == (6 if call == "read" else 12)
    assert replay("drain").code == 0
    assert check([name for name in ids if name not in moved], read_list(server, KEY)).exactly_once
