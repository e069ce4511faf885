"""The queue between callers and the loop thread: its bounds, its policies, its wake-ups, its counters."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plumelog_loguru._batch import MAX_BATCH_BYTES
from plumelog_loguru._handoff._queue import Bounds, HandOff, OverflowPolicy
from tests.scale import scaled

POLICIES: tuple[OverflowPolicy, ...] = ("drop_oldest", "drop_newest", "drop_lowest_level", "block")


class FakeOverflow:
    """A spool that takes what it has room for, in bytes, and remembers it."""

    def __init__(self, room_bytes: int = 1 << 40, pause: float = 0.0) -> None:
        self.room_bytes = room_bytes
        self.pause = pause
        self.taken: list[list[bytes]] = []
        self.room_soon = False

    def has_room(self) -> bool:
        return self.room_bytes > 0

    def pause_seconds(self) -> float:
        return self.pause

    def takes_records(self) -> bool:
        return self.room_soon

    def offer(self, values: list[bytes]) -> None:
        self.room_bytes -= sum(map(len, values))
        self.taken.append(values)


def no_wake() -> None:
    pass


def fill(handoff: HandOff, *values: bytes) -> None:
    for value in values:
        handoff.put(value)


# ---------------------------------------------------------------- bounds and policies


def test_it_is_first_in_first_out() -> None:
    """Records leave in the order in which they came."""
    handoff = HandOff(Bounds(10, 1000))
    fill(handoff, b"a", b"b", b"c")
    assert handoff.take() == [b"a", b"b", b"c"]
    assert handoff.take() == []


@pytest.mark.parametrize(("max_records", "max_bytes"), [(3, 1000), (1000, 6)])
def test_the_bounds_hold_from_the_first_record_on(max_records: int, max_bytes: int) -> None:
    """Neither records nor bytes exceed their bound, and a queue that is exactly full has dropped nothing."""
    handoff = HandOff(Bounds(max_records, max_bytes))
    fill(handoff, b"11", b"22", b"33")
    assert (handoff.depth, handoff.queued_bytes, handoff.evicted) == (3, 6, 0)
    fill(handoff, b"44")
    assert (handoff.depth, handoff.queued_bytes, handoff.evicted) == (3, 6, 1)
    assert handoff.take() == [b"22", b"33", b"44"]


def test_drop_oldest_makes_exactly_the_room_that_is_needed() -> None:
    """A large record evicts as many old ones as it needs, and not one more."""
    handoff = HandOff(Bounds(100, 10, "drop_oldest"))
    fill(handoff, b"11", b"22", b"33", b"44", b"55555")
    assert handoff.evicted == 2
    assert handoff.take() == [b"33", b"44", b"55555"]


def test_drop_newest_refuses_until_there_is_room() -> None:
    """A full queue refuses the new record, counts it, and takes the next one when there is room again."""
    handoff = HandOff(Bounds(2, 1000, "drop_newest"))
    fill(handoff, b"a", b"b", b"c")
    assert (handoff.refused_full, handoff.evicted, handoff.put_count) == (1, 0, 2)
    assert handoff.take() == [b"a", b"b"]
    fill(handoff, b"d")
    assert handoff.take() == [b"d"]


def test_block_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that finds no room waits for it, and its record is not lost."""
    handoff = HandOff(Bounds(1, 1000, "block", block_timeout_seconds=10.0))
    fill(handoff, b"a")
    taken: list[list[bytes]] = []
    monkeypatch.setattr(
        "plumelog_loguru._handoff._queue.time.sleep", lambda _seconds: taken.append(handoff.take())
    )
    fill(handoff, b"b")
    assert taken == [[b"a"]]
    assert handoff.take() == [b"b"]
    assert handoff.refused_full == 0


def test_block_gives_up_once_for_all_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out is waited out once; the next callers are refused at once, until there was room."""
    now = [0.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("plumelog_loguru._handoff._queue.time.sleep", sleep)
    monkeypatch.setattr("plumelog_loguru._handoff._queue.time.monotonic", lambda: now[0])
    handoff = HandOff(Bounds(1, 1000, "block", block_timeout_seconds=0.5))
    fill(handoff, b"a", b"b")
    assert now[0] == pytest.approx(0.5, abs=0.01)
    assert handoff.refused_full == 1
    slept.clear()
    fill(handoff, b"c", b"d")
    assert (slept, handoff.refused_full) == ([], 3)
    handoff.take()
    fill(handoff, b"e")
    assert handoff.refused_full == 3
    fill(handoff, b"f")  # full again: this one waits its time out anew
    assert sum(slept) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_overflow_goes_before_every_policy(policy: OverflowPolicy) -> None:
    """While the spool has room, no policy loses or refuses anything: the oldest records move there."""
    overflow = FakeOverflow()
    handoff = HandOff(Bounds(3, 1000, policy))
    handoff.attach(no_wake, overflow)
    fill(handoff, b"1", b"2", b"3", b"4")
    assert overflow.taken == [[b"1", b"2", b"3"]]
    assert handoff.take() == [b"4"]
    assert (handoff.evicted, handoff.refused_full, handoff.shifting) == (0, 0, False)


def test_the_overflow_gets_about_a_mebibyte_at_a_time() -> None:
    """A caller hands over one batch of bytes, not the whole queue: its call must stay short."""
    overflow = FakeOverflow()
    value = b"x" * 1024
    handoff = HandOff(Bounds(100_000, 4 * MAX_BATCH_BYTES))
    handoff.attach(no_wake, overflow)
    fill(handoff, *[value] * (4 * 1024 + 1))
    assert [len(values) for values in overflow.taken] == [1024]


@pytest.mark.parametrize(
    ("policy", "evicted", "refused"),
    [("drop_oldest", 1, 0), ("drop_lowest_level", 1, 0), ("drop_newest", 0, 1)],
)
def test_the_policy_decides_when_the_overflow_is_full(
    policy: OverflowPolicy, evicted: int, refused: int
) -> None:
    """Once the spool has no room either, the policy says which record goes, and it is counted."""
    handoff = HandOff(Bounds(2, 1000, policy))
    handoff.attach(no_wake, FakeOverflow(room_bytes=0))
    fill(handoff, b"1", b"2", b"3")
    assert (handoff.evicted, handoff.refused_full) == (evicted, refused)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_policy_that_drops_waits_a_moment_for_a_spool_that_is_only_behind(
    monkeypatch: pytest.MonkeyPatch, policy: OverflowPolicy
) -> None:
    """A burst on a busy disk loses nothing that a tenth of a second could save; and nobody waits twice."""
    handoff = HandOff(Bounds(2, 1000, policy))
    overflow = FakeOverflow(room_bytes=0)
    overflow.room_soon = True
    handoff.attach(no_wake, overflow)
    fill(handoff, b"a", b"b")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            overflow.room_bytes = 1000

    monkeypatch.setattr("plumelog_loguru._handoff._queue.time.sleep", sleep)
    handoff.put(b"c")
    assert (handoff.evicted, handoff.refused_full, overflow.taken) == (0, 0, [[b"a", b"b"]])
    overflow.room_bytes = 0
    monkeypatch.setattr("plumelog_loguru._handoff._queue._PATIENCE_SECONDS", 0.0)
    fill(handoff, b"d", b"e")
    assert handoff.evicted + handoff.refused_full == 1
    monkeypatch.setattr("plumelog_loguru._handoff._queue._PATIENCE_SECONDS", 1e9)
    handoff.put(b"f")
    assert handoff.evicted + handoff.refused_full == 2
    assert len(slept) == 3


def test_a_caller_pauses_for_a_spool_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hands records over to a spool that is behind sleeps as long as it says, once."""
    slept: list[float] = []
    monkeypatch.setattr("plumelog_loguru._handoff._queue.time.sleep", slept.append)
    handoff = HandOff(Bounds(2, 1000))
    handoff.attach(no_wake, FakeOverflow(pause=0.01))
    fill(handoff, b"1", b"2", b"3")
    assert slept == [0.01]


def test_records_wait_again_after_a_detach() -> None:
    """A queue without a loop wakes nobody and offers nothing, and keeps its bounds."""
    overflow, woken = FakeOverflow(), []
    handoff = HandOff(Bounds(2, 1000))
    handoff.attach(lambda: woken.append(1), overflow)
    handoff.detach()
    fill(handoff, b"1", b"2", b"3")
    assert (woken, overflow.taken, handoff.take()) == ([], [], [b"2", b"3"])


def test_an_offer_that_fails_does_not_leave_the_queue_shifting() -> None:
    """An exception in the overflow passes to the caller, and a drain does not wait for ever."""

    class Broken(FakeOverflow):
        def offer(self, values: list[bytes]) -> None:
            raise MemoryError

    handoff = HandOff(Bounds(1, 1000))
    handoff.attach(no_wake, Broken())
    fill(handoff, b"1")
    with pytest.raises(MemoryError):
        handoff.put(b"2")
    assert handoff.shifting is False


# ---------------------------------------------------------------- taking


def test_take_stops_at_its_limit_in_bytes() -> None:
    """A batch holds at most so many bytes, and what did not fit is the next batch's first."""
    handoff = HandOff(Bounds(100, 1000))
    fill(handoff, b"111", b"222", b"333")
    assert handoff.take(7) == [b"111", b"222"]
    assert (handoff.depth, handoff.queued_bytes) == (1, 3)
    assert handoff.take(7) == [b"333"]


def test_take_gives_a_record_that_is_larger_than_its_limit() -> None:
    """One record that exceeds the limit alone still goes: it must not block the queue for ever."""
    handoff = HandOff(Bounds(100, 1000))
    fill(handoff, b"1" * 50, b"2")
    assert [handoff.take(10), handoff.take(10)] == [[b"1" * 50], [b"2"]]


def test_a_closed_queue_refuses_and_counts() -> None:
    """After the end every record is counted as refused, and what was there can still be taken."""
    handoff = HandOff(Bounds(100, 1000))
    fill(handoff, b"a")
    handoff.close()
    fill(handoff, b"b", b"c")
    assert (handoff.refused_closed, handoff.put_count, handoff.take()) == (2, 1, [b"a"])


# ---------------------------------------------------------------- wake-ups


def test_the_loop_is_woken_once_for_a_batch() -> None:
    """A thousand records cost one wake-up, which comes when the queue is as deep as was asked."""
    depths: list[int] = []
    handoff = HandOff(Bounds(10_000, 1 << 20))
    handoff.attach(lambda: depths.append(handoff.depth), FakeOverflow())
    handoff.wake_when(records=100)
    fill(handoff, *[b"x"] * 1000)
    assert depths == [100]
    handoff.wake_when(records=1001)
    fill(handoff, b"x", b"x")
    assert depths == [100, 1001]


def test_the_loop_is_woken_by_bytes_too() -> None:
    """Few large records wake the loop as many small ones do."""
    depths: list[int] = []
    handoff = HandOff(Bounds(10_000, 1 << 20))
    handoff.attach(lambda: depths.append(handoff.depth), FakeOverflow())
    handoff.wake_when(records=1000, size_bytes=50)
    fill(handoff, *[b"x" * 20] * 5)
    assert depths == [3]


def test_the_loop_is_woken_after_the_lock_is_free() -> None:
    """A wake-up that stalls holds up its own caller only: another thread's record goes in meanwhile."""
    stalled, released = threading.Event(), threading.Event()
    handoff = HandOff(Bounds(10, 1000))

    def wake() -> None:
        stalled.set()
        assert released.wait(10)

    handoff.attach(wake, FakeOverflow())
    caller = threading.Thread(target=handoff.put, args=(b"a",))
    caller.start()
    assert stalled.wait(10)
    handoff.put(b"b")
    assert handoff.depth == 2
    released.set()
    caller.join(10)


# ---------------------------------------------------------------- re-entrance


class Interrupted(bytes):
    """A record in whose every measurement a signal arrives: its handler logs another record."""

    interrupts: ClassVar[Callable[[], None]] = no_wake

    def __len__(self) -> int:
        size = super().__len__()
        type(self).interrupts()
        return size


@pytest.fixture
def interrupted() -> Iterator[Callable[[HandOff], list[int]]]:
    """Has a handler of a real signal put a record of three bytes, each time an `Interrupted` is measured."""
    before = signal.getsignal(signal.SIGTERM)

    def arm(handoff: HandOff) -> list[int]:
        handled: list[int] = []

        def on_signal(number: int, frame: object) -> None:
            handled.append(number)
            handoff.put(b"sig")

        signal.signal(signal.SIGTERM, on_signal)
        Interrupted.interrupts = lambda: signal.raise_signal(signal.SIGTERM)
        return handled

    yield arm
    Interrupted.interrupts = no_wake
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("max_records", [1000, 4])
def test_a_signal_handler_may_log_inside_put(
    interrupted: Callable[[HandOff], list[int]], max_records: int
) -> None:
    """A handler that logs inside `put` neither hangs nor falsifies a counter, also where records must go."""
    handoff = HandOff(Bounds(max_records, 1 << 20))
    handled = interrupted(handoff)
    for _ in range(20):
        handoff.put(Interrupted(b"record"))
    Interrupted.interrupts = no_wake
    assert len(handled) >= 20
    assert handoff.put_count == 20 + len(handled)
    depth, queued_bytes, taken = handoff.depth, handoff.queued_bytes, handoff.take()
    assert len(taken) == depth == handoff.put_count - handoff.evicted
    assert sum(map(len, taken)) == queued_bytes
    assert (handoff.depth, handoff.queued_bytes) == (0, 0)


# ---------------------------------------------------------------- against a list


class HandOffAgainstList(RuleBasedStateMachine):
    """Every sequence of calls leaves the queue with what a list would hold, and true counters."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        max_records=st.integers(1, 8),
        max_bytes=st.integers(6, 30),
    )
    def begin(self, policy: OverflowPolicy, max_records: int, max_bytes: int) -> None:
        self.bounds = Bounds(max_records, max_bytes, policy, block_timeout_seconds=0.0)
        self.handoff = HandOff(self.bounds)
        self.overflow = FakeOverflow(room_bytes=0)
        self.handoff.attach(no_wake, self.overflow)
        self.model: list[bytes] = []
        self.spooled: list[bytes] = []
        self.put = self.evicted = self.refused = self.refused_closed = self.taken = 0
        self.closed = False

    def full_for(self, value: bytes) -> bool:
        return (
            len(self.model) >= self.bounds.max_records
            or sum(map(len, self.model)) + len(value) > self.bounds.max_bytes
        )

    @rule(value=st.binary(min_size=1, max_size=6))
    def a_record_comes(self, value: bytes) -> None:
        self.handoff.put(value)
        if self.closed:
            self.refused_closed += 1
            return
        if self.full_for(value) and self.overflow.taken:
            # Everything is far less than a mebibyte, so one offer empties the queue.
            assert self.overflow.taken == [self.model]
            self.spooled += self.overflow.taken.pop()
            self.model.clear()
        while self.full_for(value):
            if self.bounds.policy not in ("drop_oldest", "drop_lowest_level"):
                self.refused += 1
                return
            del self.model[0]
            self.evicted += 1
        self.model.append(value)
        self.put += 1

    @rule(max_bytes=st.integers(1, 20))
    def the_loop_takes(self, max_bytes: int) -> None:
        count = size = 0
        for value in self.model:
            size += len(value)
            if count and size > max_bytes:
                break
            count += 1
            if size >= max_bytes:
                break
        assert self.handoff.take(max_bytes) == self.model[:count]
        del self.model[:count]
        self.taken += count

    @rule(room_bytes=st.integers(0, 30))
    def the_spool_gets_room(self, room_bytes: int) -> None:
        self.overflow.room_bytes = room_bytes

    @rule()
    def it_is_closed(self) -> None:
        self.handoff.close()
        self.closed = True

    @invariant()
    def the_counters_are_true(self) -> None:
        if not hasattr(self, "handoff"):
            return
        handoff = self.handoff
        assert handoff.depth == len(self.model)
        assert handoff.queued_bytes == sum(map(len, self.model))
        assert handoff.put_count == self.put
        assert handoff.left_count() == self.taken + self.evicted + len(self.spooled)
        assert (handoff.evicted, handoff.refused_full) == (self.evicted, self.refused)
        assert handoff.refused_closed == self.refused_closed
        assert handoff.depth <= self.bounds.max_records
        assert handoff.queued_bytes <= self.bounds.max_bytes


TestHandOffAgainstList = HandOffAgainstList.TestCase
TestHandOffAgainstList.settings = settings(
    max_examples=scaled(60, 1000), stateful_step_count=40, deadline=None
)


@settings(max_examples=scaled(10, 100), deadline=None)
@given(threads=st.integers(2, 4), records=st.integers(50, 300))
def test_threads_lose_and_double_nothing(threads: int, records: int) -> None:
    """Whatever the interleaving of callers and loop, each record is taken or handed over once, in order."""
    overflow = FakeOverflow()
    handoff = HandOff(Bounds(64, 1 << 20))
    handoff.attach(no_wake, overflow)
    taken: list[bytes] = []
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            taken.extend(handoff.take(100))
        while rest := handoff.take():
            taken.extend(rest)

    callers = [
        threading.Thread(target=fill, args=(handoff, *(b"%d:%06d" % (n, i) for i in range(records))))
        for n in range(threads)
    ]
    taker = threading.Thread(target=take)
    for thread in (taker, *callers):
        thread.start()
    for thread in callers:
        thread.join(30)
    done.set()
    taker.join(30)
    handed_over = [value for values in overflow.taken for value in values]
    expected = sorted(b"%d:%06d" % (n, i) for n in range(threads) for i in range(records))
    assert sorted(taken + handed_over) == expected
    assert handoff.put_count == handoff.left_count() == threads * records
    assert (handoff.depth, handoff.queued_bytes) == (0, 0)
    for n in range(threads):
        own = [value for value in taken if value.startswith(b"%d:" % n)]
        assert own == sorted(own)
