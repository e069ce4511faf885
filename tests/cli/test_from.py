"""--from: what was meant for another list goes to this one, and what may be doubled by that is counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.oracle import check, read_list
from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer
from plumelog_loguru._batch import AttemptedBy
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part, SpoolDirectory
from plumelog_loguru._spool._facts import read_destination
from tests.scale import scaled

from .conftest import KEY, Fill, Replay, RunCode

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks on Windows")

OLD = Destination("redis-b:6379", 0, KEY, "left")
OTHER = Destination("redis-c:6379", 0, KEY, "left")

_RECORDS = 6  # of a part


@pytest.fixture
def old(server: RedisServer) -> Destination:
    """Another list of the same server: where records were meant to go."""
    return Destination(f"{HOST}:{server.port}", 0, "old_list", "left")


def test_what_is_meant_for_one_other_list_comes_too(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """The parts of that destination and the configured one are delivered; those of a third stay."""
    ids = [*fill(destination), *fill(OLD)]
    fill(OTHER)
    run = replay("drain", "--json", "--from", str(OLD))
    assert run.code == 0
    assert (run.json["delivered"], run.json["remaining"], run.json["elsewhere"]) == (12, 0, 6)
    assert "twice" not in run.err and f"--from '{OTHER}'" in run.err
    assert check(ids, read_list(server, KEY)).exactly_once
    assert [read_destination(path) for path in spool_dir.iterdir()] == [OTHER]


def test_what_is_meant_for_any_list_comes(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """With 'any' nothing is elsewhere, whatever it was meant for."""
    ids = [*fill(OLD), *fill(OTHER), *fill(destination)]
    dry = replay("drain", "--json", "--from", "any", "--dry-run")
    assert (dry.code, dry.json["remaining"], dry.json["elsewhere"]) == (1, 18, 0)
    run = replay("drain", "--json", "--from", "any")
    assert (run.code, run.err, run.json["delivered"], run.json["elsewhere"]) == (0, "", 18, 0)
    assert check(ids, read_list(server, KEY)).exactly_once
    assert list(spool_dir.iterdir()) == []


def test_what_was_in_doubt_counts_as_possibly_doubled(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """Rows that were attempted, by their own word or by the part's mark, and no others."""
    ids = fill(OLD, attempted_by="nobody")
    ids += fill(OLD, attempted_by="script")
    ids += fill(OLD, attempted_by="plain")
    marked = Part.create(spool_dir, OLD)  # its owner is killed while the first row is on its way
    marked.close()
    ids += fill(OLD)
    (path,) = (path for path in spool_dir.iterdir() if ids[-1].startswith(path.name.removeprefix("part-")))
    part = Part.try_take(path, OLD)
    assert part is not None
    first = part.peek()
    assert first is not None
    part.hand_out(first, AttemptedBy.SCRIPT)
    part.close()
    run = replay("drain", "--json", "--from", "any")
    assert (run.code, run.json["delivered"], run.json["already_applied"]) == (0, 24, 0)
    assert "14 of the records may be in Redis twice" in run.err
    assert check(ids, read_list(server, KEY)).exactly_once


def test_doubt_outlives_a_lost_reply(
    server: RedisServer, proxy: FaultProxy, fill: Fill, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may be in the old list counts as possibly doubled, also where the new one is asked twice."""
    monkeypatch.setenv("PLUMELOG_REDIS_URL", f"redis://{HOST}:{proxy.port}")
    ids = fill(OLD, attempted_by="script")
    proxy.drop_replies(after=b"content", times=1)
    run = replay("drain", "--json", "--from", "any")
    assert (run.code, run.json["delivered"], run.json["already_applied"]) == (0, 6, 1)
    assert "6 of the records may be in Redis twice" in run.err
    assert check(ids, read_list(server, KEY)).exactly_once


def test_a_slip_is_told(server: RedisServer, destination: Destination, fill: Fill, replay: Replay) -> None:
    """What cannot be a destination is refused; one that no part has is told, and the rest is done."""
    fill(destination)
    fill(OLD)
    said = "no part is meant for {}; 'plumelog-replay status' shows which there are"
    run = replay("drain", "--json", "--from", "redis-b:6379")
    assert (run.code, run.out) == (2, "") and said.format("redis-b:6379") in run.err
    run = replay("drain", "--json", "--from", str(OTHER))
    assert (run.code, run.json["delivered"], run.json["elsewhere"]) == (0, 6, 6)
    assert said.format(OTHER) in run.err


def test_a_living_owner_keeps_what_it_has(
    server: RedisServer, spool_dir: Path, fill: Fill, replay: Replay
) -> None:
    """A part that a living process owns is left alone, wherever it is meant to go."""
    fill(OLD)
    part = SpoolDirectory(spool_dir, OLD).take_free()
    assert part is not None
    try:
        run = replay("drain", "--json", "--from", "any")
        assert (run.code, run.json["delivered"], run.json["remaining"]) == (0, 0, 0)
        assert (part.records, read_destination(part.path)) == (_RECORDS, OLD)
    finally:
        part.close()


def test_a_row_of_a_newer_version_keeps_its_part_where_it_is(
    server: RedisServer, spool_dir: Path, fill: Fill, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is in doubt cannot be told, so the part is left for the newer version, and told."""
    from plumelog_loguru._spool import NewerFormat

    fill(OLD)

    def refuse(self: Part, key: object) -> object:
        raise NewerFormat("a spooled batch has format 2; this version reads 1")

    with monkeypatch.context() as patch:
        patch.setattr(Part, "read", refuse)
        run = replay("drain", "--json", "--from", "any")
    assert (run.code, run.json["delivered"], run.json["remaining"]) == (1, 0, 6)
    assert "cannot be given another destination: a spooled batch has format 2" in run.err
    assert [read_destination(path) for path in spool_dir.iterdir()] == [OLD]


# Kills itself at the n-th of the steps by which a part is given another destination.
_KILLED = """
import os, signal, sys
from plumelog_loguru._spool import Part, _part_directory, _readdress
from plumelog_loguru.cli import main
steps = int(sys.argv.pop())
def counted(call):
    def step(*args, **options):
        global steps
        for _ in range(2):  # before it and after it
            steps -= 1
            if not steps:
                os.kill(os.getpid(), signal.SIGKILL)
            if _ == 0:
                result = call(*args, **options)
        return result
    return step
Part.replace = counted(Part.replace)
_part_directory.write_new = counted(_part_directory.write_new)
os.replace = counted(os.replace)
_readdress.replace_facts = counted(_readdress.replace_facts)
sys.exit(main())
"""


@pytest.mark.parametrize("goes_on", ["here", "there"])
def test_killed_anywhere_it_can_be_repeated_or_left(
    goes_on: str,
    server: RedisServer,
    old: Destination,
    destination: Destination,
    spool_dir: Path,
    fill: Fill,
    replay: Replay,
    run_code: RunCode,
) -> None:
    """Each record is in one of the lists, once, whoever goes on; and the doubt is counted where it ends."""
    step, killed = 0, True
    while killed:
        step += scaled(2, 1)
        server.cli("DEL", KEY, old.list_key)
        ids = fill(old, attempted_by="script")
        done = run_code(_KILLED, "drain", "--from", str(old), str(step))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed = done.returncode == -signal.SIGKILL
        meant_for = [read_destination(path) for path in spool_dir.iterdir()]
        assert meant_for in ([old], [destination]) if killed else not meant_for
        words = ["--from", str(old)]
        if goes_on == "there":
            words = ["--redis-key", old.list_key] if meant_for == [old] else []
        run = replay("drain", "--json", *words)
        assert run.code == 0
        if killed and goes_on == "here":
            assert "6 of the records may be in Redis twice" in run.err
        lists = server.values(KEY) + server.values(old.list_key)
        assert len(lists) == len(ids)
        verdict = check(ids, read_list(server, KEY if server.values(KEY) else old.list_key))
        assert verdict.exactly_once and verdict.in_order, verdict
        assert list(spool_dir.iterdir()) == []
    assert step > 8


_LOG_AND_DIE = """
import os
from loguru import logger
from plumelog_loguru import DurableRedisSink
sink = DurableRedisSink()
logger.remove()
logger.add(sink, format="{message}")
for number in range(20):
    logger.info(f"left-{number}")
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_had_in_memory_comes_too(
    server: RedisServer, spool_dir: Path, replay: Replay
) -> None:
    """Its journal becomes rows first, so that these are given the new destination with the others."""
    environ = {**os.environ, "PLUMELOG_REDIS_HOST": "127.0.0.1", "PLUMELOG_REDIS_PORT": "1"}
    environ.pop("PLUMELOG_REDIS_URL")
    subprocess.run(
        [sys.executable, "-c", _LOG_AND_DIE], env=environ, capture_output=True, timeout=30, check=False
    )
    run = replay("drain", "--json", "--from", "any")
    assert (run.code, run.json["delivered"], run.json["remaining"]) == (0, 20, 0)
    assert check([f"left-{number}" for number in range(20)], read_list(server, KEY)).exactly_once
    assert list(spool_dir.iterdir()) == []
