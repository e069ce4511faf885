"""Ctrl-C, time limits and other exceptions out of signal handlers: they end a call, and no earlier record."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from types import FrameType

import pytest
from loguru import logger

from lab.oracle import read_list
from lab.servers import RedisServer
from plumelog_loguru._spool import Block, SpoolKeeper
from tests.scale import scaled
from tests.sink.conftest import MakeSink, verdict, wait_until


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_while_the_queue_overflows_loses_and_doubles_nothing(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The call that is interrupted hands over records of earlier calls: they get to the spool, once."""
    own_server.stop()
    sink = make_sink(own_server.url, queue_max_size=10, batch_size=1000, batch_interval_seconds=30)
    logger.add(sink, format="{message}")
    wait_until(lambda: sink.stats().last_error)
    offer, interrupts = SpoolKeeper.offer, [1]

    def interrupted(keeper: SpoolKeeper, block: Block, *, from_loop: bool) -> None:
        if from_loop or not interrupts:
            return offer(keeper, block, from_loop=from_loop)
        interrupts.pop()
        if moment == "after":
            offer(keeper, block, from_loop=from_loop)
        raise KeyboardInterrupt

    monkeypatch.setattr(SpoolKeeper, "offer", interrupted)
    returned = [str(n) for n in range(10)]
    for message in returned:
        logger.info(message)
    with pytest.raises(KeyboardInterrupt):
        logger.info("interrupted")
    for n in range(11, 40):
        logger.info(str(n))
        returned.append(str(n))
    report = sink.drain(10)
    assert (report.complete, report.in_memory) == (True, 0)
    own_server.start()
    wait_until(lambda: not sink.stats().spooled)
    assert verdict(own_server, returned).exactly_once


def test_a_storm_of_interrupts(own_server: RedisServer, make_sink: MakeSink) -> None:
    """Hundreds of KeyboardInterrupts strike the logging thread: what returned is delivered once, and soon."""
    sink = make_sink(own_server.url, queue_max_size=300)
    returned, hits, armed, wanted = [], 0, False, scaled(200, 2500)

    def strike(number: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, strike)
    number = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while hits < wanted:
            try:
                armed = True
                for _ in range(500):
                    number += 1
                    message = str(number)
                    sink.write(message)  # type: ignore[arg-type]  # Loguru's own lock would not stand this
                    returned.append(message)
                armed = False
            except KeyboardInterrupt:
                hits += 1
            time.sleep(0.005)  # interrupts cut short the pauses by which the spool thread keeps up
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    sink.write("last")  # type: ignore[arg-type]
    returned.append("last")
    wait_until(lambda: not sink.stats().queue_depth)
    assert sink.drain(10).complete
    wait_until(lambda: not sink.stats().spooled)
    contents = Counter(str(record["content"]) for record in read_list(own_server))
    assert [message for message in returned if message not in contents] == [], sink.stats()
    assert set(contents.values()) == {1}


def test_a_wake_up_that_was_interrupted_is_made_good(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """The loop is woken once for a batch; if that once is lost, the batch goes all the same, and soon."""
    sink = make_sink(redis_server.url, batch_interval_seconds=0.5)
    wait_until(lambda: sink.stats().redis_state == "up")
    handoff = sink._pipeline.handoff
    wake, interrupted = handoff._wake, threading.Event()

    def interrupt() -> None:
        handoff._wake = wake
        interrupted.set()
        raise KeyboardInterrupt

    handoff._wake = interrupt
    with pytest.raises(KeyboardInterrupt):
        sink.write("its wake-up is lost")  # type: ignore[arg-type]
    assert interrupted.is_set()
    sink.write("the next")  # type: ignore[arg-type]
    wait_until(lambda: sink.stats().delivered == 2, 5)
    assert verdict(redis_server, ["its wake-up is lost", "the next"]).exactly_once


def test_a_count_of_bytes_that_was_interrupted_does_not_stop_the_sink(
    redis_server: RedisServer, make_sink: MakeSink
) -> None:
    """An empty queue holds no bytes, whatever was added up: a loop that believed it full spun for ever."""
    sink = make_sink(redis_server.url)
    logger.add(sink, format="{message}")
    logger.info("0")
    assert sink.drain(5).complete
    sink._pipeline.handoff._left_bytes_by_callers -= 3 << 20  # popped, and never subtracted
    logger.info("1")
    assert sink.drain(5).complete
    wait_until(lambda: sink._pipeline.handoff.queued_bytes == 0)
    assert verdict(redis_server, ["0", "1"]).exactly_once


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_stop_ends_all_the_same(
    own_server: RedisServer, make_sink: MakeSink, error: type[BaseException]
) -> None:
    """Ctrl-C while `logger.remove()` waits for a frozen server: the sink can be added again, and delivers."""
    sink = make_sink(own_server.url, close_timeout_seconds=1)
    handler = logger.add(sink, format="{message}")
    logger.info("before")
    assert sink.drain(10).complete
    own_server.freeze()
    logger.info("during")

    def strike(number: int, frame: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(error):
            logger.remove(handler)
    finally:
        signal.signal(signal.SIGALRM, before)
    own_server.thaw()
    loop = sink._pipeline._loop
    assert loop is not None and loop.join(10)
    logger.add(sink, format="{message}")
    logger.info("after")
    assert sink.drain(10).complete
    wait_until(lambda: sink.stats().delivered == 3)
    assert verdict(own_server, ["before", "during", "after"]).exactly_once


def test_offers_that_are_repeated_use_up_no_room(
    own_server: RedisServer, make_sink: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a hand-over is interrupted and repeated, the spool thread has the same room."""
    own_server.stop()
    sink = make_sink(own_server.url, queue_max_size=10, batch_size=1000, batch_interval_seconds=30)
    wait_until(lambda: sink.stats().last_error)
    keeper = sink._pipeline._keeper
    assert keeper is not None
    inbox, puts = keeper._inbox, 0

    class Inbox:
        get, get_nowait = inbox.get, inbox.get_nowait

        def put(self, item: Block) -> None:
            nonlocal puts
            by_caller = threading.current_thread() is threading.main_thread()
            puts += by_caller
            if by_caller and puts % 2:
                raise KeyboardInterrupt
            inbox.put(item)

    monkeypatch.setattr(keeper, "_inbox", Inbox())
    for _ in range(30):
        try:
            sink.write("x" * 60_000)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            continue
    assert puts > 2
    assert sink.drain(10).complete
    assert keeper.pending_bytes == 0
    assert not sink.stats().dropped
    own_server.start()
