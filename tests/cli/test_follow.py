"""A drain that follows takes what is left whenever somebody leaves it, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.oracle import check, read_list
from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part
from plumelog_loguru.cli import _drainer

from .conftest import KEY, Fill, Replay, Run, Start, assert_schema, batch_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks, and no such signals, on Windows")

Follow = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def follow(start: Start, spool_dir: Path) -> Follow:
    """Starts a drain that follows."""
    return lambda *words: start("drain", "--follow", "--json", *words)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 20 s"
        time.sleep(0.005)


def _ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[Run, float]:
    """End it by a signal; what came of it, and after how many seconds."""
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return Run(process.returncode, out, err), time.monotonic() - begun


def test_what_is_left_later_is_delivered_too(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, follow: Follow
) -> None:
    """It delivers what is there, waits, delivers what comes, and ends on SIGTERM with 0 within a second."""
    ids = fill(destination)
    process = follow()
    for parts in (1, 2, 3):
        _wait_until(lambda n=6 * parts: server.cli("LLEN", KEY) == n)  # type: ignore[misc]
        _wait_until(lambda: not list(spool_dir.iterdir()))
        if parts < 3:
            ids += fill(destination)
    run, seconds = _ended(process, signal.SIGTERM)
    assert (run.code, seconds < 1) == (0, True)
    said = run.err.splitlines()
    assert len(said) == 4 and "following" in said[0], said
    assert all("6 records delivered" in line for line in said[1:])
    assert_schema("drain", run.json)
    assert (run.json["delivered"], run.json["remaining"]) == (18, 0)
    verdict = check(ids, read_list(server, KEY))
    assert verdict.exactly_once and verdict.in_order, verdict


def test_it_waits_for_a_directory_that_is_not_there(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, follow: Follow
) -> None:
    """A sidecar may start first: it says what it waits for, delivers what comes, and ends by SIGTERM."""
    spool_dir.rmdir()
    process = follow()
    assert process.stderr is not None
    assert "is not there yet" in process.stderr.readline()
    spool_dir.mkdir(mode=0o700)
    fill(destination)
    _wait_until(lambda: server.cli("LLEN", KEY) == 6)
    assert _ended(process, signal.SIGTERM)[0].code == 0
    spool_dir.rmdir()
    process = follow()
    assert process.stderr is not None and process.stderr.readline()
    run, seconds = _ended(process, signal.SIGTERM)
    assert (run.code, seconds < 1) == (0, True)


def test_it_takes_a_part_when_its_owner_ends(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, follow: Follow
) -> None:
    """A living owner's rows are left alone; once it has let go of them, they are delivered."""
    part = Part.create(spool_dir, destination)
    part.append(batch_of(b'{"content":"of the living"}'))
    process = follow()
    fill(destination)
    _wait_until(lambda: server.cli("LLEN", KEY) == 6)
    assert part.records == 1 and part.is_there()
    part.close()
    _wait_until(lambda: server.cli("LLEN", KEY) == 7)
    assert _ended(process, signal.SIGTERM)[0].code == 0


def test_an_interrupt_is_told_from_an_end(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, follow: Follow
) -> None:
    """Ctrl-C while it waits ends it with 130, at once."""
    fill(destination)
    process = follow()
    _wait_until(lambda: not list(spool_dir.iterdir()))
    run, seconds = _ended(process, signal.SIGINT)
    assert (run.code, seconds < 1) == (130, True)
    assert run.err.endswith("\nplumelog-replay: interrupted; nothing is lost\n")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_end_before_it_has_begun_is_one_too(server: RedisServer, follow: Follow) -> None:
    """SIGTERM that comes while it is still starting ends it with 0 as well."""
    process = follow()
    status = Path(f"/proc/{process.pid}/status")

    def heeds_it() -> bool:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))

    _wait_until(heeds_it)
    assert _ended(process, signal.SIGTERM)[0].code == 0


def test_an_outage_is_waited_out(server: RedisServer, proxy: FaultProxy, fill: Fill, follow: Follow) -> None:
    """Redis may go away for as long as it likes: that is told once, so is its return, and nothing doubles."""
    ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
    proxy.refuse()
    process = follow(
        *("--redis-url", f"redis://{HOST}:{proxy.port}"),
        *("--retry-count", "0", "--retry-backoff-max-seconds", "0.05"),
    )
    assert process.stderr is not None and "following" in process.stderr.readline()
    assert "does not take records" in (told := process.stderr.readline()) and "tried again" in told
    proxy.heal()
    assert process.stderr.readline() == "plumelog-replay: Redis takes records again\n"
    _wait_until(lambda: server.cli("LLEN", KEY) == 6)
    run, _ = _ended(process, signal.SIGTERM)
    assert (run.code, run.json["remaining"]) == (0, 0)
    assert check(ids, read_list(server, KEY)).exactly_once


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_redis_that_hangs_holds_up_no_end(
    number: signal.Signals,
    own_server: RedisServer,
    spool_dir: Path,
    fill: Fill,
    follow: Follow,
    replay: Replay,
) -> None:
    """With a push in flight that nobody answers it ends within a second all the same, and doubles nothing."""
    with FaultProxy(own_server.port) as proxy:
        ids = fill(Destination(f"{HOST}:{proxy.port}", 0, KEY, "left"))
        held = proxy.hold_requests(times=None, after=b"content")
        words = ("--redis-url", f"redis://{HOST}:{proxy.port}", "--socket-timeout-seconds", "60")
        process = follow(*words)
        assert held.wait(20)
        run, seconds = _ended(process, number)
        assert (run.code, seconds < 1) == (0 if number is signal.SIGTERM else 130, True)
        assert run.json["remaining"] == 6
        held.release()
        proxy.heal()
        assert replay("drain", *words).code == 0
    assert check(ids, read_list(own_server, KEY)).exactly_once


def test_a_part_that_could_not_be_emptied_is_tried_again(
    server: RedisServer,
    destination: Destination,
    spool_dir: Path,
    fill: Fill,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stays behind, here for want of a place for a letter, is taken again later, and told of once."""
    fill(destination, batches=1, records=1)
    server.cli("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    part = Part.create(spool_dir, destination)
    part.append(batch_of(b'{"content":"%s"}' % (b"x" * 1_100_000)))
    part.close()
    in_the_way = spool_dir / "dead-letters"
    in_the_way.write_text("in the way")
    takes = 0
    take = _drainer.Drainer._take

    async def count(self: _drainer.Drainer) -> Part | None:
        nonlocal takes
        taken = await take(self)
        takes += taken is not None and taken.id == part.id
        if takes == 3 and in_the_way.is_file():
            in_the_way.unlink()
        elif takes >= 3 and taken is None:
            os.kill(os.getpid(), signal.SIGTERM)
        return taken

    monkeypatch.setattr(_drainer, "_RETRY_PART_SECONDS", 0.01)
    monkeypatch.setattr(_drainer, "_FOLLOW_SECONDS", 0.02)
    monkeypatch.setattr(_drainer.Drainer, "_take", count)
    try:
        run = replay("drain", "--follow", "--json", "--retry-count", "0")
    finally:
        server.cli("CONFIG", "SET", "proto-max-bulk-len", "512mb")
    assert (run.code, run.json["delivered"], run.json["dead_lettered"], run.json["remaining"]) == (0, 1, 1, 0)
    assert run.err.count("stays spooled") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_hardly_works_while_it_waits(
    server: RedisServer, destination: Destination, spool_dir: Path, fill: Fill, follow: Follow
) -> None:
    """A second of waiting takes less than 20 ms of a processor."""
    fill(destination)
    process = follow()
    _wait_until(lambda: not list(spool_dir.iterdir()))

    def worked_ns() -> int:
        threads = Path(f"/proc/{process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)

    def rests() -> bool:
        before = worked_ns()
        time.sleep(0.05)
        return worked_ns() == before

    _wait_until(rests)  # it is done with what it found
    before = worked_ns()
    time.sleep(1)
    assert worked_ns() - before < 20e6
    assert _ended(process, signal.SIGTERM)[0].code == 0


def test_following_and_only_looking_are_two_things(spool_dir: Path, replay: Replay) -> None:
    """--follow with --dry-run is refused in a sentence."""
    run = replay("drain", "--follow", "--dry-run")
    assert (run.code, run.out) == (2, "")
    assert run.err == "plumelog-replay: --follow and --dry-run cannot be had together\n"
