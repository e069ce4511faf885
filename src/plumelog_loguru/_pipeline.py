"""One sink's machinery in one process: the queue, the two threads, and their life.

    IDLE ──start()──> RUNNING ──stop()──> IDLE        (a sink that is added again starts anew)
                         └─────close()──> CLOSED      (final)

The queue, the accounts and the courier live as long as the process; loop thread, spool thread and connections
live from a start to the next stop. After a fork the child makes a whole new pipeline and touches nothing of
this one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Literal

from ._clock import SYSTEM_CLOCK, Clock
from ._courier import Courier
from ._delivery import AsyncRedisClient, Sender
from ._errors import WrongThreadError
from ._facts import DrainReport, EventKind, SinkEvent, SinkStats
from ._handoff import Bounds, HandOff
from ._hooks import Hooks
from ._journal import Journals
from ._ledger import Ledger
from ._loss_marker import Loss
from ._runtime import LoopThread, start_unawaited
from ._settings import PlumelogSettings
from ._spool import Block, KeeperOptions, SpoolKeeper

_RESTART_SECONDS = 1.0
# Of the time that closing may take, this share, at most this long, is kept for writing to the spool.
_SPOOLING_SHARE, _SPOOLING_SECONDS_MAX = 0.3, 1.5
# Releasing threads and connections takes a moment beyond the deadline at worst; then they are left to die.
_RELEASE_SECONDS = 0.5
_LAST_SECONDS = 0.2  # for what is left when the time is up
_POLL_SECONDS = 0.002
_CANCEL_AGAIN_SECONDS = 0.05


class PipelineState(Enum):
    """``IDLE -> RUNNING -> IDLE``, and from both to ``CLOSED``."""

    IDLE = "idle"
    RUNNING = "running"
    CLOSED = "closed"


class _Overflow:
    """The spool's door as the queue sees it."""

    def __init__(self, keeper: SpoolKeeper, courier: Courier) -> None:
        self.has_room = keeper.has_room
        self.pause_seconds = keeper.pause_seconds
        self.takes_records = keeper.takes_records
        self._keeper = keeper
        self._courier = courier
        self._last = Block(())

    def offer(self, values: list[bytes]) -> None:
        if values:
            # The same list makes the same block, which is taken once: see `HandOff`.
            if self._last.values is not values:
                self._last = Block(values)
            self._courier.expect(self._last)
            self._keeper.offer(self._last, from_loop=False)


class Pipeline:
    """Takes encoded records in, and sees to it that each is in Redis or in the spool."""

    def __init__(
        self,
        settings: PlumelogSettings,
        *,
        hooks: Hooks,
        report: Callable[[str, str], None],
        marker: Callable[[Loss], bytes],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """``report(kind, sentence)`` tells a person; ``marker`` makes a record that tells of a loss."""
        self.settings = settings
        self.state = PipelineState.IDLE
        self._hooks = hooks
        self._report = report
        self._clock = clock
        self._ledger = Ledger()
        self._journals = Journals()
        self.handoff = HandOff(_bounds(settings), self._journals)
        self._courier = Courier(
            settings,
            handoff=self.handoff,
            journals=self._journals,
            ledger=self._ledger,
            clock=clock,
            tell=self._tell,
            report=report,
            marker=marker,
        )
        self._may_use_database = True
        self._loop: LoopThread | None = None
        self._keeper: SpoolKeeper | None = None
        self._sender: Sender | None = None
        self._working: asyncio.Future[None]
        # Taken without waiting only: whoever does not get it need not start what is being started.
        self._starting = threading.Lock()
        self._start_not_before = 0.0
        self.own_thread_ids: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<Pipeline {self.state.value}>"

    # ---------------------------------------------------------------- starting

    def start(self) -> None:
        """Start the threads, unless they run. Never waits; what cannot start is tried again in a second."""
        if self.state is not PipelineState.IDLE or not self._starting.acquire(blocking=False):
            return
        try:
            if self.state is not PipelineState.IDLE or time.monotonic() < self._start_not_before:
                return
            if self._loop is not None and not self._loop.join(0):
                return  # an end that was interrupted, or ran out of time: the courier knows one loop only
            self._start()
        except Exception as error:
            # An interpreter that ends starts no threads; `stop` then writes to the spool in its own thread.
            self._start_not_before = time.monotonic() + _RESTART_SECONDS
            self._courier.redis.last_error = f"no thread could be started: {error}"
        finally:
            self._starting.release()

    def _start(self) -> None:
        loop = LoopThread(
            self._main, name="plumelog-loop", report=lambda sentence: self._report("loop", sentence)
        )
        keeper = self._new_keeper(loop.post)
        before = self._loop, self._keeper
        self._loop, self._keeper = loop, keeper
        self._ledger.released()  # while no thread of ours runs yet that books
        keeper_id: int | None = None
        try:
            # Here and not in the spool thread: the first record must find a journal.
            keeper.claim()
            keeper_id = start_unawaited(keeper.run, "plumelog-spool")
            loop.start()
        except BaseException:
            self._loop, self._keeper = before  # nobody must wait for the end of what never began
            keeper.close(0.0)
            if keeper_id is None or keeper.join(_LAST_SECONDS):
                keeper.release()
            raise
        self.own_thread_ids = loop.thread_ids | {keeper_id}
        self.handoff.attach(lambda: loop.post(self._courier.wake), _Overflow(keeper, self._courier))
        self.state = PipelineState.RUNNING

    def _new_keeper(self, post: Callable[[Callable[[], None]], None]) -> SpoolKeeper:
        settings = self.settings
        return SpoolKeeper(
            KeeperOptions(
                spool_dir=settings.spool_dir,
                destination=settings.destination,
                max_bytes=settings.spool_max_bytes,
                full_policy=settings.spool_full_policy,
                min_free_bytes=settings.spool_min_free_bytes,
                max_age_seconds=settings.spool_max_age_seconds,
                fsync=settings.spool_fsync,
                journal_bytes=settings.journal_max_bytes if settings.durability == "journal" else 0,
                uses_database=self._may_use_database,
            ),
            listener=self._courier.spool_news,
            post=post,
            report=self._report,
            clock=self._clock,
            journals=self._journals,
        )

    async def _main(self) -> None:
        """What the loop thread does, from its start until it is to end."""
        keeper = self._keeper
        assert keeper is not None
        client = AsyncRedisClient(self.settings)
        self._sender = Sender(
            client,
            self.settings.delivery,
            clock=self._clock,
            report=self._report,
            acknowledged=self._courier.acknowledged,
        )
        self._ending, self._ended = False, asyncio.Event()
        try:
            while not self._ending:
                self._working = asyncio.ensure_future(self._courier.run(self._sender, keeper))
                await asyncio.wait([self._working])
                if not self._working.cancelled():
                    self._report(
                        "courier", f"the delivery met {self._working.exception()!r}; it goes on in a second"
                    )
                    await asyncio.sleep(_RESTART_SECONDS)
            await self._ended.wait()
        finally:
            await client.close()

    # ---------------------------------------------------------------- draining and ending

    def drain(self, timeout: float | None) -> DrainReport:
        """Wait until all that came in is settled, or the time is up.

        Raises:
            WrongThreadError: called from a thread of the sink's own, where it would wait for itself.
        """
        self.forbid_own_threads("drain")
        return self.begin_drain(timeout).result()

    def begin_drain(self, timeout: float | None) -> Future[DrainReport]:
        """Start a drain, and give a future for its report."""
        started, before = self._clock.monotonic(), self.stats()
        watermark = self.handoff.put_count
        until = None if timeout is None else started + timeout
        self.start()

        def report(complete: bool) -> DrainReport:
            return self._report_since(started, before, complete)

        async def work() -> bool:
            return await self._courier.settle(watermark, until)

        answer: Future[DrainReport] = Future()
        if self._loop is None or self.state is not PipelineState.RUNNING:
            answer.set_result(report(complete=self._courier.is_idle))
            return answer

        def relay(settling: Future[bool]) -> None:
            # Where the sink stops meanwhile, its end has settled what could be.
            ended = settling.exception() is not None
            if answer.set_running_or_notify_cancel():
                answer.set_result(report(self._courier.is_idle if ended else settling.result()))

        self._loop.call(work).add_done_callback(relay)
        return answer

    def stop(self, timeout: float, *, final: bool) -> DrainReport:
        """Push what is left, spool the rest, and let go of threads, files and connections.

        Args:
            timeout: seconds for all of it.
            final: refuse records from now on, and count as lost what found no place.
        """
        started, before = self._clock.monotonic(), self.stats()
        # Nobody starts threads while we stop them. Not waited for without end: a signal handler may close the
        # sink that its own thread is closing.
        if not self._starting.acquire(timeout=timeout):
            return self._report_since(started, before, complete=False)
        try:
            if final:
                self.handoff.close()
            deadline = started + timeout
            if self.state is PipelineState.RUNNING:
                self._end(started, timeout)
            ended = self._sweep(deadline)
            if ended:
                self._leave_in_journal()
                self._spool_without_threads(max(_LAST_SECONDS, deadline - self._clock.monotonic()))
            left, idle = self._courier.leftovers.records, self._courier.is_idle
            if idle and (interrupted := self.stats().in_memory):
                self.handoff.forget_interrupted(interrupted)
                self._report(
                    "interrupted", f"{interrupted} calls were interrupted before their record was taken"
                )
            if final:
                self._courier.leftovers.abandon("closed")
            elif left > self.handoff.depth or (left and not ended):  # else they have come this very moment
                self._report(
                    "stopped", f"stopped with {left} records that found no place; they are in memory only"
                )
            self.state = PipelineState.CLOSED if final else PipelineState.IDLE
            if ended:
                self._courier.markers.is_due()  # looks at what callers have counted last, and tells of it
            self._hooks.rest()
        finally:
            self._starting.release()
        return self._report_since(started, before, complete=idle)

    def _end(self, started: float, timeout: float) -> None:
        loop, keeper = self._loop, self._keeper
        assert loop is not None and keeper is not None
        deadline = started + timeout
        watermark = self.handoff.put_count
        push_until = deadline - min(timeout * _SPOOLING_SHARE, _SPOOLING_SECONDS_MAX)
        finishing = loop.call(lambda: self._finish(watermark, push_until, deadline))
        try:
            finishing.result(timeout + _RELEASE_SECONDS)
        except Exception as error:
            self._courier.redis.last_error = f"the sink did not end in time: {type(error).__name__}"
        finally:
            # Also when Ctrl-C ends this wait: the threads go on to their end, and what comes from now on is
            # for those of the next start.
            self.handoff.detach()
            self.state = PipelineState.IDLE
        loop.join(max(0.0, deadline + _RELEASE_SECONDS - self._clock.monotonic()))
        self.own_thread_ids = frozenset()

    def _sweep(self, deadline: float) -> bool:
        """After the end: gather what came too late for the threads. False: they have not ended yet."""
        loop, keeper = self._loop, self._keeper
        if loop is not None:
            if not loop.join(max(0.0, deadline - self._clock.monotonic())):
                return False
            loop.do_the_rest()
        self.handoff.wait_for_callers(_LAST_SECONDS)
        if keeper is not None:
            if not keeper.join(0):
                return False
            self._courier.leftovers.take_back(keeper.unclaimed())
        return True

    async def _finish(self, watermark: int, push_until: float, deadline: float) -> None:
        """In the loop thread: settle what can be settled, then end the courier and the spool thread."""
        courier, keeper = self._courier, self._keeper
        assert keeper is not None
        courier.hurry()
        keeper.stop_dropping()
        await courier.settle(watermark, push_until)
        await courier.replay_the_rest(push_until)
        await courier.learn_the_losses(push_until)
        await courier.mark_the_losses(push_until)
        self._ending = True
        while not self._working.done():
            self._working.cancel()  # again: before Python 3.12 what it waits for may swallow a cancellation
            await asyncio.wait([self._working], timeout=_CANCEL_AGAIN_SECONDS)
        while not courier.leftovers.spool(keeper) and self._clock.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        keeper.close(max(0.0, deadline - self._clock.monotonic()))
        # A moment longer than the spool thread takes: what it gives back at the deadline must be heard.
        give_up_at = deadline + _RELEASE_SECONDS / 2
        while not keeper.join(0) and self._clock.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)  # a thread can be joined, not awaited
        await asyncio.sleep(0)  # what the spool thread told last is booked
        self._ended.set()

    def _leave_in_journal(self) -> None:
        """Let go of the part. What the journal has is on disk, and is its next owner's to deliver."""
        keeper, leftovers = self._keeper, self._courier.leftovers
        if keeper is not None:
            # Other threads may log all the while: what comes from now on is in memory alone.
            self._journals.retire()
            self.handoff.wait_for_callers(_LAST_SECONDS)
            if (part_id := keeper.part_id) is not None and (left := leftovers.leave_in_journal()):
                self._ledger.spooled(part_id, left)
            keeper.release()

    def _spool_without_threads(self, timeout: float) -> None:
        """Where no thread can be started any more, this one writes to the spool itself.

        What other threads log meanwhile is for the next start, or the next stop: each round costs a journal
        and a look at all of them, and those who log without a pause would keep it up.
        """
        deadline = self._clock.monotonic() + timeout
        put, before = self.handoff.put_count, -1
        while (left := self._courier.leftovers.records) > self.handoff.put_count - put and left != before:
            before = left
            told: list[Callable[[], None]] = []
            keeper = self._keeper = self._new_keeper(told.append)
            self._ledger.released()
            keeper.stop_dropping()
            self._courier.leftovers.spool(keeper)
            keeper.close(max(0.0, deadline - self._clock.monotonic()))
            keeper.run()
            for tell in told:
                tell()
            self._leave_in_journal()  # it has one too, and others may have logged meanwhile

    def reconfigure(self, settings: PlumelogSettings) -> None:
        """Use other settings from now on, where they can change at run time."""
        self.settings = settings
        self.handoff.bounds = _bounds(settings)
        if self._loop is not None and self.state is PipelineState.RUNNING:
            self._loop.post(lambda: self._courier.apply(settings))
        else:
            self._courier.apply(settings)

    # ---------------------------------------------------------------- facts

    def stats(self) -> SinkStats:
        """A consistent picture of this moment; see `_ledger` for why it needs no lock."""
        courier, keeper, handoff, ledger = self._courier, self._keeper, self.handoff, self._ledger
        settled = ledger.settled
        evicted, refused_full, refused_closed = handoff.evicted, handoff.refused_full, handoff.refused_closed
        accepted = handoff.put_count + refused_full + refused_closed + courier.markers.made
        dropped = dict(settled.dropped)
        for reason, records in (("queue_full", evicted + refused_full), ("closed", refused_closed)):
            if records:
                dropped[reason] = dropped.get(reason, 0) + records
        spooled = settled.spooled
        oldest_ms = keeper.oldest_ms if keeper is not None and spooled else 0
        return SinkStats(
            accepted=accepted,
            adopted=settled.adopted,
            delivered=settled.delivered,
            already_applied=ledger.already_applied,
            in_memory=accepted
            + settled.adopted
            - settled.delivered
            - spooled
            - settled.dead_lettered
            - sum(dropped.values()),
            spooled=spooled,
            dead_lettered=settled.dead_lettered,
            dropped=dropped,
            possibly_doubled=ledger.possibly_doubled,
            server_lost=ledger.server_lost,
            retries=ledger.retries,
            queue_depth=handoff.depth,
            spool_bytes=keeper.spool_bytes if keeper is not None and spooled else 0,
            oldest_spooled_seconds=max(0.0, (self._clock.epoch_ms() - oldest_ms) / 1000)
            if oldest_ms
            else 0.0,
            redis_state=courier.redis.state,
            delivery=self._sender.delivery if self._sender is not None else self.settings.delivery,
            durability=self._durability(),
            last_error=courier.redis.last_error,
        )

    def _durability(self) -> Literal["journal", "memory", "degraded"]:
        keeper, wanted = self._keeper, self.settings.durability
        if keeper is None:
            return wanted
        if wanted == "journal":
            lacks = keeper.journal_degraded or self.handoff.journal_error is not None
        else:
            lacks = keeper.degraded
        return "degraded" if lacks else wanted

    def forbid_own_threads(self, call: str) -> None:
        """Refuse a call that would wait for the thread it is made from."""
        if self.is_own_thread(threading.get_ident()):
            raise WrongThreadError(
                f"{call}() was called from one of the sink's own threads (a hook, or a __del__ that ran "
                "there) and would wait for itself; call it from a thread of the application"
            )

    def is_own_thread(self, thread_id: int) -> bool:
        """Whether this is a thread of ours."""
        return thread_id in self.own_thread_ids or self._hooks.is_own_thread(thread_id)

    def _report_since(self, started: float, before: SinkStats, complete: bool) -> DrainReport:
        now = self.stats()
        return DrainReport(
            delivered=now.delivered - before.delivered,
            spooled=now.spooled,
            dropped=sum(now.dropped.values()) - sum(before.dropped.values()),
            in_memory=now.in_memory,
            seconds=self._clock.monotonic() - started,
            complete=complete,
        )

    def _tell(self, kind: EventKind, *, records: int = 0, reason: str = "", detail: str = "") -> None:
        self._hooks.tell(SinkEvent(kind, self._clock.epoch_ms() / 1000, records, reason, detail))

    # ---------------------------------------------------------------- fork

    @property
    def sqlite_lock(self) -> threading.Lock | None:
        """The lock under which the spool thread calls SQLite; the fork hook takes it first."""
        return self._keeper.sqlite_lock if self._keeper is not None else None

    def forgo_spool(self) -> None:
        """Call no SQLite for as long as this process lives: what cannot be delivered stays in the journal."""
        self._may_use_database = False

    def leave_in_child(self) -> None:
        """After a fork, in the child: give up what belongs to the parent, without touching it."""
        self._journals.forget_in_child()
        if self._keeper is not None:
            self._keeper.release_in_child()


def _bounds(settings: PlumelogSettings) -> Bounds:
    max_bytes = settings.queue_max_bytes
    if settings.durability == "journal":
        # The journal holds the queue, what is on its way to the disk, and what waits for Redis.
        max_bytes = min(max_bytes, settings.journal_max_bytes // 2)
    return Bounds(
        max_records=settings.queue_max_size,
        max_bytes=max_bytes,
        policy=settings.spool_full_policy,
        block_timeout_seconds=settings.block_timeout_seconds,
    )
