"""One record that Redis never takes holds up nobody, is lost nowhere, and is found in the dead letters."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer
from plumelog_loguru import DurableRedisSink, SinkEvent
from plumelog_loguru._dissection import CONNECTION_LOST, Dissection
from plumelog_loguru._spool import DeadLetter, DeadLetters, SpoolError, _reader
from tests.scale import scaled

from .conftest import MakeSink, verdict, wait_until

if TYPE_CHECKING:
    import pytest

POISON = "poison!"
AIM = b'"poison!"'  # its content as it goes over the wire


def _url(proxy: FaultProxy) -> str:
    return f"redis://{HOST}:{proxy.port}"


def _letters(spool_dir: Path) -> list[DeadLetter]:
    letters = DeadLetters(spool_dir)
    return [letters.read(name) for name in letters.names()]


def _contents(letters: list[DeadLetter]) -> list[str]:
    return [json.loads(letter.value)["content"] for letter in letters]


def _thousand(poison: str = POISON) -> list[str]:
    messages = [str(n) for n in range(1000)]
    messages[613] = poison
    return messages


class Watched:
    """A sink's events, as they come."""

    def __init__(self, sink: DurableRedisSink) -> None:
        self.events: list[SinkEvent] = []
        sink.add_hook(self.events.append)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_one_poisonous_record_among_a_thousand(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """Its neighbours are delivered once, it lies in the dead letters, and Redis never counts as away."""
    sink = make_sink(_url(proxy), batch_interval_seconds=0.5)
    watched = Watched(sink)
    wait_until(lambda: sink.stats().redis_state == "up")
    fault = proxy.reset_requests(after=AIM)
    logger.add(sink, format="{message}")
    for message in _thousand():
        logger.info(message)
    wait_until(lambda: sink.stats().dead_lettered == 1)
    states = {sink.stats().redis_state}
    wait_until(lambda: sink.stats().delivered == 999)
    logger.info("afterwards")
    assert sink.drain(10).complete
    neighbours = [message for message in _thousand() if message != POISON]
    found = verdict(redis_server, [*neighbours, "afterwards"])
    assert found.exactly_once, found
    assert fault.count > 4
    assert states == {"up"} and "down" not in watched.kinds()
    (letter,) = _letters(tmp_path / "spool")
    assert (letter.reason, letter.destination) == (CONNECTION_LOST, sink.settings.destination)
    assert _contents([letter]) == [POISON]
    wait_until(lambda: "dead_lettered" in watched.kinds())
    (event,) = [event for event in watched.events if event.kind == "dead_lettered"]
    assert (event.records, event.reason) == (1, CONNECTION_LOST)
    assert sink.stats().possibly_doubled == 0


def test_the_letter_holds_the_bytes_that_redis_would_have(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """Byte for byte what was encoded, so that it can be sent after all."""
    sink = make_sink(_url(proxy))
    logger.add(sink, format="{message}")
    logger.info("first")
    assert sink.drain(10).complete
    fault = proxy.reset_requests(after=AIM)
    put: list[bytes] = []
    take = sink._pipeline.handoff.put

    def noting(value: bytes) -> None:
        put.append(value)
        take(value)

    sink._pipeline.handoff.put = noting  # type: ignore[method-assign]
    logger.info(POISON)
    wait_until(lambda: sink.stats().dead_lettered == 1)
    assert fault.count >= 4
    assert [letter.value for letter in _letters(tmp_path / "spool")] == put


def test_live_records_pass_a_batch_that_is_suspected(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink
) -> None:
    """While the refused batch is tried and divided, what is logged after it arrives at once."""
    sink = make_sink(_url(proxy), retry_backoff_base_seconds=0.25, retry_count=1)
    watched = Watched(sink)
    wait_until(lambda: sink.stats().redis_state == "up")
    proxy.reset_requests(after=AIM)
    logger.add(sink, format="{message}")
    for message in _thousand():
        logger.info(message)
    wait_until(lambda: sink.stats().spooled)  # the batch with the poison has left the way
    for n in range(10):
        logger.info(f"live-{n}")
        assert sink.drain(10).complete
    wait_until(lambda: b'"live-9"' in b"".join(redis_server.values("plume_log_list")))
    assert not sink.stats().dead_lettered, "it was too quick to say anything about live records"
    wait_until(lambda: sink.stats().dead_lettered == 1)
    wait_until(lambda: not sink.stats().spooled)
    assert "down" not in watched.kinds()


def test_a_poisonous_row_of_an_outage(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """Spooled while Redis was away: the rows behind it are delivered, and Redis does not flap."""
    proxy.refuse()
    sink = make_sink(_url(proxy))
    watched = Watched(sink)
    logger.add(sink, format="{message}")
    messages = _thousand()
    for n, message in enumerate(messages):
        logger.info(message)
        if n % 100 == 99:
            assert sink.drain(10).complete
    assert sink.stats().spooled == 1000
    proxy.heal()
    proxy.reset_requests(after=AIM)
    wait_until(lambda: sink.stats().delivered == 999 and sink.stats().dead_lettered == 1)
    found = verdict(redis_server, [message for message in messages if message != POISON])
    assert found.exactly_once and found.in_order, found
    assert _contents(_letters(tmp_path / "spool")) == [POISON]
    assert "down" not in watched.kinds()[watched.kinds().index("up") :]


def test_all_of_a_batch_may_be_poisonous(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """Every record of it becomes a letter, and the sink goes on."""
    sink = make_sink(_url(proxy), retry_count=0)
    wait_until(lambda: sink.stats().redis_state == "up")
    proxy.reset_requests(after=b"poison-")
    logger.add(sink, format="{message}")
    for n in range(7):
        logger.info(f"poison-{n}")
    wait_until(lambda: sink.stats().dead_lettered == 7)
    logger.info("afterwards")
    assert sink.drain(10).complete
    assert verdict(redis_server, ["afterwards"]).exactly_once
    assert sorted(_contents(_letters(tmp_path / "spool"))) == [f"poison-{n}" for n in range(7)]


def test_a_fence_beats_a_late_request(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """A request that is held until its record is a dead letter does nothing when it arrives."""
    sink = make_sink(_url(proxy), socket_timeout_seconds=0.15)
    wait_until(lambda: sink.stats().redis_state == "up")
    held = proxy.hold_requests(times=None, after=AIM)
    logger.add(sink, format="{message}")
    for message in ("before", POISON, "after"):
        logger.info(message)
    wait_until(lambda: sink.stats().dead_lettered == 1 and sink.stats().delivered == 2, 60)
    assert held.release(20) > 0
    found = verdict(redis_server, ["before", "after"])
    assert found.exactly_once, found
    assert _contents(_letters(tmp_path / "spool")) == [POISON]


def test_a_sink_that_stops_half_way_leaves_the_rest_to_another(
    redis_server: RedisServer,
    proxy: FaultProxy,
    make_sink: MakeSink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped again and again in the middle of the tree: each neighbour once, the poison a letter."""
    proxy.refuse()
    sink = make_sink(_url(proxy))
    logger.add(sink, format="{message}")
    for message in _thousand():
        logger.info(message)
    assert sink.drain(10).spooled == 1000
    sink.close()
    proxy.heal()
    proxy.reset_requests(after=AIM)
    for stop_after in range(1, 9):
        parted, go_behind = [0], Dissection._go_behind
        with monkeypatch.context() as patch:

            def counting(
                self: Dissection,
                node: object,
                count: list[int] = parted,
                wrapped: Callable[..., object] = go_behind,
            ) -> object:
                count[0] += 1
                return wrapped(self, node)

            patch.setattr(Dissection, "_go_behind", counting)
            successor = make_sink(_url(proxy))
            wait_until(lambda count=parted, most=stop_after: count[0] >= most)  # type: ignore[misc]
            successor.close(0.5)
        if successor.stats().dead_lettered:
            break
    last = make_sink(_url(proxy))
    wait_until(lambda: DeadLetters(tmp_path / "spool").names() and not last.stats().spooled)
    assert last.drain(10).complete
    found = verdict(redis_server, [message for message in _thousand() if message != POISON])
    assert found.exactly_once, found
    assert _contents(_letters(tmp_path / "spool")) == [POISON]


def test_without_scripts_the_batch_is_divided_plainly(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """No fence can tell; so what was in doubt is delivered, and counted as possibly doubled."""
    sink = make_sink(_url(proxy), delivery="at_least_once", retry_count=1)
    wait_until(lambda: sink.stats().redis_state == "up")
    proxy.reset_requests(after=AIM)
    logger.add(sink, format="{message}")
    for message in ("a", "b", POISON, "c"):
        logger.info(message)
    wait_until(lambda: sink.stats().dead_lettered == 1)
    wait_until(lambda: sink.stats().delivered == 3)
    assert verdict(redis_server, ["a", "b", "c"]).exactly_once
    assert 0 < sink.stats().possibly_doubled <= 3
    assert _contents(_letters(tmp_path / "spool")) == [POISON]


def test_without_a_spool_directory_a_refused_record_is_dropped(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, tmp_path: Path
) -> None:
    """There is no place for a letter: its neighbours are delivered, and the loss is counted and told."""
    (tmp_path / "file").write_text("in the way")
    sink = make_sink(_url(proxy), spool_dir=tmp_path / "file" / "spool")
    watched = Watched(sink)
    wait_until(lambda: sink.stats().redis_state == "up" and sink.stats().durability == "degraded")
    proxy.reset_requests(after=AIM)
    logger.add(sink, format="{message}")
    messages = _thousand()[600:700]
    for message in messages:
        logger.info(message)
    wait_until(lambda: sink.stats().dropped.get("refused") == 1)
    logger.info("afterwards")
    assert sink.drain(10).complete
    found = verdict(redis_server, [*(message for message in messages if message != POISON), "afterwards"])
    assert found.exactly_once, found
    wait_until(lambda: "dropped" in watched.kinds())
    assert "down" not in watched.kinds()


def test_a_full_disk_keeps_the_record_and_lets_the_rows_behind_it_pass(
    redis_server: RedisServer,
    proxy: FaultProxy,
    make_sink: MakeSink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No letter can be written: the refused row waits in the spool, all else is delivered, then it too."""
    works, prepare = [False], DeadLetters.prepare

    def full(self: DeadLetters, letter: DeadLetter) -> None:
        if not works[0]:
            raise SpoolError("no space left on device")
        prepare(self, letter)

    monkeypatch.setattr(DeadLetters, "prepare", full)
    monkeypatch.setattr(_reader, "_LEFT_SECONDS", 0.2)
    proxy.refuse()
    sink = make_sink(_url(proxy), retry_count=1)
    logger.add(sink, format="{message}")
    for message in ("a", POISON, "b", "c"):
        logger.info(message)
        assert sink.drain(10).complete
    proxy.heal()
    proxy.reset_requests(after=AIM)
    wait_until(lambda: sink.stats().delivered == 3)
    assert (sink.stats().spooled, sink.stats().dead_lettered) == (1, 0)
    works[0] = True
    wait_until(lambda: sink.stats().dead_lettered == 1)
    assert sink.stats().spooled == 0
    assert verdict(redis_server, ["a", "b", "c"]).exactly_once
    assert _contents(_letters(tmp_path / "spool")) == [POISON]


RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_process_killed_in_the_middle_leaves_the_rest_to_the_next(
    redis_server: RedisServer, proxy: FaultProxy, make_sink: MakeSink, run_script: RunScript, tmp_path: Path
) -> None:
    """Killed at each step of the tree in turn: nothing lost, nothing doubled, one letter."""
    proxy.refuse()
    sink = make_sink(_url(proxy))
    logger.add(sink, format="{message}")
    messages = _thousand()[600:640]
    for message in messages:
        logger.info(message)
    assert sink.drain(10).spooled == 40
    sink.close()
    proxy.heal()
    proxy.reset_requests(after=AIM)
    script = """
        import os, signal, sys, time
        from plumelog_loguru import DurableRedisSink
        from plumelog_loguru._dissection import Dissection
        step, steps = Dissection.step, int(os.environ["STEPS"])

        async def counted(self, sender, disk):
            global steps
            result = await step(self, sender, disk)
            steps -= 1
            if not steps:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Dissection.step = counted
        sink = DurableRedisSink(
            retry_count=0, retry_backoff_base_seconds=0.005, health_check_interval_seconds=0.1
        )
        deadline = time.monotonic() + 20
        while not (sink.stats().delivered or sink.stats().dead_lettered) and time.monotonic() < deadline:
            time.sleep(0.01)
    """
    killed = 0
    for steps in range(2, 40, scaled(3, 2)):
        result = run_script(script, _url(proxy), STEPS=str(steps))
        killed += result.returncode == -9
        if result.returncode == 0:
            break
    assert killed >= 5, "the tree was hardly begun"
    last = make_sink(_url(proxy))
    wait_until(lambda: DeadLetters(tmp_path / "spool").names() and not last.stats().spooled)
    assert last.drain(10).complete
    found = verdict(redis_server, [message for message in messages if message != POISON])
    assert found.exactly_once, found
    assert _contents(_letters(tmp_path / "spool")) == [POISON]
