"""Processes made of the real code, in a world that a seed decides; and what is owed to each record.

What is owed: a record that was logged must come into the list, once; whatever becomes of its process, if it
was in a journal when its call returned. Where there is no journal, a record that is in memory when its
process is killed is owed no more; nor is one that somebody deletes, or whose call was interrupted. It may
still come, but never twice. What a process drops, it tells of: which records is seen here for most reasons,
and for the others no more may be missing than were told of.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, NoReturn, TypeVar
from unittest import mock

from plumelog_loguru import PlumelogSettings, _batch, _courier, _pipeline
from plumelog_loguru._delivery import _backoff, _client
from plumelog_loguru._handoff import HandOff, _batcher, _queue
from plumelog_loguru._hooks import Hooks
from plumelog_loguru._journal import Journal, Run, _file, _journal, _recovery, runs_of, value_of
from plumelog_loguru._pipeline import Pipeline, PipelineState
from plumelog_loguru._spool import (
    Block,
    CorruptRow,
    NewerFormat,
    Part,
    RowKey,
    SpoolKeeper,
    _holder,
    _keeper,
    _opener,
    _part,
    _part_directory,
    _reader,
    _recoverer,
    _repair,
    _writer,
)
from plumelog_loguru._spool._quota import Quota
from plumelog_loguru._spool._writer import SpoolWriter

from .clock import VirtualClock, VirtualLoop
from .disk import Disk, Files, SimulatedDirectory, SimulatedLetters, remove_files
from .files import (
    SIMULATED_MMAP,
    SPOOL_DIR,
    SimulatedJournal,
    SimulatedOs,
    current_process,
    make_simulated_file,
)
from .network import POISON, Network, SimulatedConnections
from .server import SimulatedRedis

_T = TypeVar("_T")

PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("PROCESS")

# Reports that none of our worlds gives a reason for: no process was copied, Redis forgot nothing, and
# whatever goes wrong outside must not end a task or a thread of the library's.
_NEVER_REPORTED = ("courier", "loop", "spool-thread", "lane-shared", "server-lost")


class Violation(AssertionError):
    """The library broke a promise."""


_RESOLUTION_SECONDS = 1e-9  # the loop's: a timer may be due a little before its time

# Reasons for which a loss is told of in numbers only.
_TOLD_IN_NUMBERS = ("closed", "corrupt", "refused", "spool_lost")


class Killed(BaseException):
    """The process that was running is dead; raised through its code, whose doings no longer matter."""


class World:
    """One schedule's universe. Everything random in it comes from ``dice``."""

    def __init__(self, seed: int, *, telling: bool = False) -> None:
        self.dice = random.Random(seed)
        self.clock = VirtualClock()
        self.clock.sleep = self.sleep
        self.loop = VirtualLoop(self.clock)
        self.loop.set_exception_handler(self._on_loop_exception)
        self.redis = SimulatedRedis(self.clock.epoch_ms, self._on_push)
        self.network = Network(self)
        self.disk = Disk(self)
        self.os = SimulatedOs(self)
        self.processes: list[Process] = []  # the dead ones too
        self.arriving = 0  # requests on their way
        self.death_rate = 0.0  # at each point where a process may die
        self.torn_rate = 0.0  # the same, at each write to a journal: before, in the middle or after
        self.interrupt_rate = 0.0  # at each call that logs
        self.thread_rate = 0.0  # how often another thread logs while the sink stops
        self.max_batch_bytes = 1 << 20
        self.rewind_bytes = 64 << 10
        self.story: list[str] | None = [] if telling else None
        self.poison_rate = 0.0  # of the records
        self._in_list: set[bytes] = set()
        self._in_letters: set[bytes] = set()
        self._records = 0
        self.owed: set[bytes] = set()
        self._forgiven = 0  # for what was told of in numbers only
        self.told_exactly = True  # no account died with its process, and no disk has lost anything
        # How often it came to pass.
        self.killed = 0  # processes
        self.adopted = 0  # parts of processes that had ended, with rows
        self.recovered = 0  # the same, with journals
        self.torn = 0  # writes to a journal
        self.interrupted = 0  # calls
        self.dropped = 0  # records
        self._violation: BaseException | None = None
        self._meanwhile: Callable[[], None] | None = None

    def met(self) -> Counter[str]:
        """How often each kind of fault was met."""
        met = Counter({fate.value: 1 for fate in self.network.fates_met})
        met["disk"] = self.disk.faults_met
        met["killed"] = self.killed
        met["adopted"] = self.adopted
        met["recovered"] = self.recovered
        met["torn"] = self.torn
        met["interrupted"] = self.interrupted
        met["dropped"] = self.dropped
        met["dead letters"] = len(self._in_letters)
        return met

    def tell(self, what: str) -> None:
        """Note what happens, for whoever repeats the schedule."""
        if self.story is not None:
            self.story.append(f"{self.clock.now - 1000:10.4f}  {what}")

    @property
    def living(self) -> list[Process]:
        """Processes that run."""
        return [process for process in self.processes if process.alive]

    # ---------------------------------------------------------------- records

    def new_record(self) -> bytes:
        """A record that is in the world once."""
        self._records += 1
        text = b'"%b"' % (b"x" * self.dice.choice((1, 1, 40, 200)))
        if self.dice.random() < self.poison_rate:
            text = POISON
        # The number at both ends: half of a record on top of an earlier one must not make a whole one.
        n = self._records
        value = b'{"n":%d,"dtTime":%d,"x":%b,"end":%d}' % (n, self.clock.epoch_ms(), text, n)
        self.owed.add(value)
        return value

    def _on_push(self, value: bytes) -> None:
        if value in self._in_list or value in self._in_letters:
            raise Violation(f"doubled: {value!r:.40}")
        self._in_list.add(value)

    def on_letter(self, value: bytes) -> None:
        """A record is given up."""
        if value in self._in_list:
            raise Violation(f"doubled: {value!r:.40}, in the list and as a dead letter")
        self._in_letters.add(value)

    @property
    def _settled(self) -> set[bytes]:
        return self._in_list | self._in_letters

    def kill(self, process: Process, where: str) -> None:
        """End a process as kill -9 does: what is in memory only is gone, what it wrote and sent is not."""
        self.tell(f"{process} is killed {where}")
        self.told_exactly = False
        self.killed += 1
        self._end(process)
        self.owed -= process.records - process.safe - self._settled - self.disk.values()
        self._check_ended()

    def _end(self, process: Process) -> None:
        process.alive = False
        for files in self.disk.parts.values():
            if files.owner is process:
                files.owner = None
        for loop in process.loops:
            loop.cancel()

    def _check_ended(self) -> None:
        """Whatever is owed for a process that has ended is somewhere, or was told of."""
        ended = [process.records for process in self.processes if not process.alive]
        missing = self.owed & set().union(*ended) - self._settled
        missing -= self.disk.values()
        if missing:
            missing -= self.disk.journaled()
        told = sum(process.told_in_numbers() for process in self.processes)
        if self._forgiven + len(missing) > told:
            raise Violation(
                f"lost: {len(missing)} records are nowhere, and the loss of {told - self._forgiven} was told "
                f"of; {sorted(missing)[:3]!r}"
            )
        self._forgiven += len(missing)
        self.owed -= missing

    def drop(self, values: Iterable[bytes], reason: str) -> None:
        """The library has decided to lose these records, and will say so."""
        values = set(values)
        self.tell(f"{len(values)} records are dropped: {reason}")
        self.dropped += len(values)
        self.owed -= values

    def delete_spool(self) -> bool:
        """Somebody removes the database of a part; whether there was one with records."""
        parts = [files for files in self.disk.parts.values() if files.rows]
        if not parts:
            return False
        files = self.dice.choice(parts)
        self.tell(f"the database of part {files.name[-4:]} is deleted")
        self._lose_rows(files)
        return True

    def delete_part(self) -> bool:
        """Somebody removes a part with all that is in it; whether there was one."""
        if not self.disk.parts:
            return False
        files = self.dice.choice(list(self.disk.parts.values()))
        self.tell(f"part {files} is deleted")
        self._lose_rows(files)
        del self.disk.parts[files.name]
        in_use = files.owner.journal_names() if files.owner is not None else set()
        for name, data in files.journals.items():
            lost = set(self.disk.values_in(data)) - self.disk.journaled() - self._settled - self.disk.values()
            for process in self.processes:
                process.safe -= lost
            if name not in in_use:  # what is in the others is in memory too
                self.owed -= lost
        return True

    def _lose_rows(self, files: Files) -> None:
        before = self.disk.values()
        files.rows.clear()
        files.has_database = False
        files.replaced += 1
        self.told_exactly = False
        self.owed -= before - self.disk.values() - self._settled

    def flip_a_bit(self) -> bool:
        """A row rots; whether there was one."""
        rows = [(files, key) for files in self.disk.parts.values() for key in files.rows]
        if not rows:
            return False
        files, key = self.dice.choice(rows)
        before = self.disk.values()
        row = bytearray(files.rows[key])
        row[self.dice.randrange(len(row))] ^= 1 << self.dice.randrange(8)
        files.rows[key] = bytes(row)
        self.tell(f"a bit flips in part {files.name[-4:]}, row {key.counter}")
        self.told_exactly = False
        self.owed -= before - self.disk.values() - self._settled
        return True

    def retire(self, process: Process) -> None:
        """A process ends by itself, after it has closed its sink: what it lost it has told."""
        self._end(process)
        self._check_ended()

    def check_end(self) -> None:
        """Everything that is owed is in the list, and the accounts agree with it."""
        if missing := self.owed - self._settled:
            raise Violation(f"lost: {len(missing)} records; {sorted(missing)[:3]!r}")
        if left := self.disk.left_behind():
            raise Violation(f"not drained: parts {left}")
        if (
            self.told_exactly
            and not self.disk.faults_met
            and not any(process.dropped() for process in self.processes)
        ):
            delivered = sum(process.stats().delivered for process in self.processes)
            if delivered != len(self._in_list):
                raise Violation(f"{delivered} records are said to be delivered, {len(self._in_list)} are")
            letters = sum(process.stats().dead_lettered for process in self.processes)
            if letters != len(self._in_letters):
                raise Violation(f"{letters} records are said to be dead letters, {len(self._in_letters)} are")

    # ---------------------------------------------------------------- time

    def turn(self) -> None:
        """Let the next thing happen, and hold the accounts against what is there."""
        self.loop.turn()
        if self._violation is not None:
            raise self._violation
        for process in self.processes:
            if process.alive:
                process.check_accounts()

    def run_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Let things happen until ``done``, at most for so long; whether it is."""
        end = self.clock.now + seconds
        timer = self.loop.call_at(end, lambda: None)
        while not (ended := done()) and self.clock.now + _RESOLUTION_SECONDS < end:
            self.turn()
            if self._meanwhile is not None:
                self._meanwhile()
        timer.cancel()
        return ended

    @contextmanager
    def meanwhile(self, do: Callable[[], None]) -> Iterator[None]:
        """Another thread of the application does this, over and over."""
        before, self._meanwhile = self._meanwhile, do
        try:
            yield
        finally:
            self._meanwhile = before

    def sleep(self, seconds: float) -> None:
        """The application's thread sleeps, and the others run."""
        process = PROCESS.get()
        self.run_until(lambda: not process.alive, seconds)
        if not process.alive:
            raise Killed

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Killed):
            return  # in a callback
        self._violation = error or Violation(str(context.get("message")))

    # ---------------------------------------------------------------- the seams

    @contextmanager
    def entered(self) -> Iterator[World]:
        """Put the simulated things in the place of the real ones."""
        random_bytes = SimpleNamespace(urandom=self.dice.randbytes)
        default = HandOff.take.__defaults__
        with ExitStack() as stack:

            def put(module: object, **names: object) -> None:
                for name, value in names.items():
                    stack.enter_context(mock.patch.object(module, name, value))

            put(_batch, os=random_bytes)
            put(_backoff, os=random_bytes)
            put(_client, Connections=SimulatedConnections)
            put(_pipeline, LoopThread=SimulatedLoopThread, start_unawaited=start_simulated, time=self.clock)
            put(_pipeline, Future=PumpedFuture)
            put(_keeper, DeadLetters=SimulatedLetters, time=self.clock)
            put(_holder, SpoolDirectory=SimulatedDirectory, Journal=SimulatedJournal)
            for module in (_holder, _reader, _recoverer, _repair):
                put(module, time=self.clock)
            put(_keeper, queue=SimpleNamespace(SimpleQueue=SimulatedInbox, Empty=queue.Empty))
            put(_writer, time=self.clock)
            put(_queue, time=self.clock, runs_of=_runs_of_evicted)
            put(_journal, make_file=make_simulated_file, mmap=SIMULATED_MMAP, _REWIND_BYTES=self.rewind_bytes)
            for module in (_file, _journal, _opener, _part, _part_directory, _recovery):
                put(module, os=self.os)
            put(_part, remove_files=remove_files)
            put(Quota, _drop=_dropping)
            put(SpoolWriter, _book=_booking)
            for module in (_courier, _batcher, _queue, _recovery, _writer):
                put(module, MAX_BATCH_BYTES=self.max_batch_bytes)
            HandOff.take.__defaults__ = (self.max_batch_bytes,)
            stack.callback(setattr, HandOff.take, "__defaults__", default)
            asyncio._set_running_loop(self.loop)
            stack.callback(asyncio._set_running_loop, None)
            yield self

    def close(self) -> None:
        """End every task, so that none is left to the garbage collector."""
        asyncio._set_running_loop(self.loop)
        try:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            for _ in range(10):
                self.loop.call_soon(lambda: None)
                self.loop.turn()
        finally:
            asyncio._set_running_loop(None)
            self.loop.close()


def _runs_of_evicted(evicted: list[bytes]) -> list[Run]:
    """The queue asks only for what had to make room."""
    current_process().drops("queue_full", list(map(value_of, evicted)))
    return runs_of(evicted)


_drop, _book = Quota._drop, SpoolWriter._book


def _dropping(quota: Quota, part: Part, key: RowKey, reason: str) -> None:
    process = current_process()
    owed = process.world.owed
    try:
        values = part.read(key).batch.values
    except (CorruptRow, NewerFormat):
        values = ()
    owed_before = owed.intersection(values)
    owed -= owed_before
    try:
        _drop(quota, part, key, reason)
    except BaseException:
        # It may be gone all the same, which is then told of, in numbers, by whoever looks for it.
        if key in part._files.rows:  # type: ignore[attr-defined]
            owed |= owed_before
        raise
    process.drops(reason, values)


def _booking(writer: SpoolWriter, part: Part, row: Any, told: Callable[..., None]) -> None:
    if told.__name__ == "on_refused":
        current_process().drops("spool_full", row.batch.values)
    _book(writer, part, row, told)


class Process:
    """A process of the application, with one sink's pipeline."""

    def __init__(self, world: World, settings: PlumelogSettings) -> None:
        self.world = world
        self.name = f"P{len(world.processes) + 1}"
        self.alive = True
        self.records: set[bytes] = set()
        self.safe: set[bytes] = set()  # of these: in a journal, when their call returned
        self._calls = 0  # that log, and have not returned
        self._checked: object = None
        self._interrupted = 0  # calls
        self._dropped: Counter[str] = Counter()
        self._refused = 0
        self.loops: list[SimulatedLoopThread] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)
        world.processes.append(self)
        self.pipeline = Pipeline(
            settings,
            hooks=Hooks(self._report),
            report=self._report,
            marker=self._new_record,
            clock=self.world.clock,
        )

    def __repr__(self) -> str:
        return self.name

    def stats(self) -> Any:
        return self.pipeline.stats()

    def dropped(self) -> int:
        return sum(self.stats().dropped.values())

    def drops(self, reason: str, values: Iterable[bytes]) -> None:
        """These records are lost, by a decision of this process."""
        values = list(values)
        self._dropped[reason] += len(values)
        self.world.drop(values, reason)

    def told_in_numbers(self) -> int:
        """Records whose loss was told of, and nobody has seen which they were."""
        dropped = self.stats().dropped
        return sum(dropped.get(reason, 0) for reason in _TOLD_IN_NUMBERS) - self._dropped["closed"]

    def journal_names(self) -> set[str]:
        """The journals that this process writes."""
        return {journal.path.name for journal in self.pipeline._journals._by_key.values()}

    def _is_safe_in(self, journal: Journal | None) -> bool:
        """Whether what has just been logged is in this journal, and this in its place."""
        if journal is None or self.pipeline.handoff.journal_error is not None:
            return False
        files = self.world.disk.part_at(journal.path.parent)
        return files is not None and journal.path.name in files.journals

    # --- what the application does; each raises `Killed` if the process dies meanwhile

    def start(self) -> None:
        self.world.tell(f"{self} starts")
        self.context.copy().run(self.pipeline.start)

    def log(self, records: int) -> None:
        if not self.alive:
            raise Killed
        self.world.tell(f"{self} logs {records}")
        for _ in range(records):
            self.context.copy().run(self._put, self._new_record())

    def _put(self, value: bytes) -> None:
        handoff = self.pipeline.handoff
        refused = handoff.refused_full + handoff.refused_closed - self._refused
        journal = self.pipeline._journals.current
        self._calls += 1
        try:
            handoff.put(value)
        except KeyboardInterrupt:
            self.world.owed.discard(value)
            self.world.interrupted += 1
            self._interrupted += 1
            return
        finally:
            self._calls -= 1
        if handoff.refused_full + handoff.refused_closed - self._refused > refused:
            self._refused += 1
            self.drops("closed" if handoff._closed else "queue_full", [value])
        elif self._is_safe_in(journal):
            self.safe.add(value)

    def _new_record(self, *_: object) -> bytes:
        value = self.world.new_record()
        self.records.add(value)
        return value

    def _log_now_and_then(self) -> None:
        if self.world.thread_rate and self.world.dice.random() < self.world.thread_rate:
            with self.world.meanwhile(lambda: None):
                self.log(1)

    def drain(self, timeout: float) -> None:
        self.world.tell(f"{self} drains, {timeout:.1f} s")
        report = self.context.copy().run(self.pipeline.drain, timeout)
        self.world.tell(f"{self} has drained: {report}")

    def stop(self, timeout: float, *, final: bool) -> None:
        # A loop that breaks just before the end ends late, and may meet the next start: known, and left out.
        self.world.run_until(lambda: not (self.alive and self.loops and self.loops[-1].is_down), 2.0)
        if not self.alive:
            raise Killed
        self.world.tell(f"{self} {'closes' if final else 'stops'}, {timeout:.1f} s")
        with self.world.meanwhile(self._log_now_and_then):
            report = self.context.copy().run(self.pipeline.stop, timeout, final=final)
        self.world.tell(f"{self} has ended: {report}")

    def break_loop(self) -> None:
        """The event loop ends by an exception, and is started again a second later."""
        if self.pipeline.state is PipelineState.RUNNING and not self.loops[-1].is_down:
            self.world.tell(f"the loop of {self} breaks")
            self.loops[-1].restart()

    # --- what the world does

    def may_die(self, when: str, what: str = "") -> None:
        """A point at which a process may be killed."""
        if not self.alive:
            raise Killed
        if self.world.death_rate and self.world.dice.random() < self.world.death_rate:
            self.die(f"{when} {what}")

    def die(self, where: str) -> NoReturn:
        """The process is killed, by what it did last."""
        self.world.kill(self, where)
        raise Killed

    def draws_last_write(self) -> float | None:
        """How much of the next write to a journal is done before the process dies; None: it lives on."""
        if not self.alive:
            raise Killed
        if self.world.torn_rate and self.world.dice.random() < self.world.torn_rate:
            return self.world.dice.choice((0.0, 0.5, 1.0))
        return None

    def may_be_interrupted(self, where: str) -> None:
        """A point in a call that logs at which a signal may arrive."""
        dice = self.world.dice
        if not self.world.interrupt_rate or dice.random() >= self.world.interrupt_rate:
            return
        if dice.random() < 0.7:
            self.world.tell(f"a call of {self} is interrupted {where}")
            raise KeyboardInterrupt
        self.world.tell(f"a signal handler of {self} logs {where}")
        for _ in range(dice.choice((0, 1, 3))):
            self._put(self._new_record())
        self.world.sleep(dice.choice((0.0, 0.1, 3.0)))

    def check_accounts(self) -> None:
        """The equation holds, and what it says of the memory is what is there."""
        loop = self.loops[-1] if self.loops else None
        handoff, courier = self.pipeline.handoff, self.pipeline._courier
        settled = self.pipeline._ledger.settled
        state = settled, handoff.put_count, handoff.depth, courier._on_the_way.head
        if state == self._checked:
            return
        if any(count < 0 for count in settled.spooled_by_part.values()):
            raise Violation(f"{self} has a negative account: {settled}")
        if loop is not None and (loop.mailbox or loop.is_down):
            return  # what has happened is not yet known to the loop thread
        keeper = self.pipeline._keeper
        if keeper is not None and keeper._inbox.thread is None and not keeper.join(0):  # type: ignore[attr-defined]
            return  # it runs in the caller's thread, and is heard when it has ended
        self._checked = state
        in_memory, there = self.stats().in_memory, self.in_memory()
        # A call that was interrupted may be counted till the end; what it left in the journal, or brings
        # late, may be in memory twice.
        if not -self._strays <= in_memory - there <= self._interrupted + self._calls:
            raise Violation(
                f"{self} accounts for {in_memory} records in memory; there are {there}; {settled}"
            )

    def in_memory(self) -> int:
        """Records in the queue, in hand, and on their way to the disk."""
        courier = self.pipeline._courier
        head = courier._on_the_way.head
        blocks = [block for block in courier._on_the_way if isinstance(block, Block)]
        if head is not None and head.origin is not None:
            blocks.remove(head.origin)
        return (
            self.pipeline.handoff.depth
            + (head.records if head is not None else 0)
            + sum(len(block.values) - block.written for block in blocks)
        )

    @property
    def journal_is_clear(self) -> bool:
        """Whether nothing holds up the ring."""
        journal = self.pipeline._journals.current
        return journal is None or journal.is_clear

    @property
    def _strays(self) -> int:
        journals = self.pipeline._journals
        fetched = [*(journal.fetched for journal in journals._by_key.values()), *journals._fetched.values()]
        return sum(map(len, fetched))

    @property
    def settled(self) -> bool:
        """Whether nothing waits in this process, as far as it knows."""
        stats = self.stats()
        return stats.spooled == 0 and stats.in_memory <= self._interrupted

    def _report(self, kind: str, sentence: str) -> None:
        self.world.tell(f"{self} reports: {sentence}")
        if kind in _NEVER_REPORTED and self.alive:
            raise Violation(f"{self} reports {kind}: {sentence}")


class PumpedFuture(Future[_T]):
    """A future whose `result` turns the world until it is there: a thread waits, and the others run."""

    def result(self, timeout: float | None = None) -> _T:
        if self.done():
            return super().result(0)
        process = PROCESS.get()
        world = process.world
        if not world.run_until(lambda: self.done() or not process.alive, 1e6 if timeout is None else timeout):
            raise TimeoutError
        if not process.alive:
            raise Killed
        return super().result(0)


class SimulatedLoopThread:
    """Stands for the library's `LoopThread`: a task in the world's loop, and a mailbox."""

    thread_ids: frozenset[int] = frozenset()

    def __init__(
        self,
        main: Callable[[], Coroutine[Any, Any, None]],
        *,
        name: str,
        report: Callable[[str], None],
    ) -> None:
        self._main = main
        self._process = PROCESS.get()
        self._world = self._process.world
        self._tasks: set[asyncio.Future[Any]] = set()
        self._unanswered: set[PumpedFuture[Any]] = set()
        self.mailbox: deque[Callable[[], None]] = deque()
        self._stopped = False
        self.is_down = True
        self._process.loops.append(self)

    def start(self) -> None:
        self._begin()

    def _begin(self) -> None:
        if not self._process.alive:
            return
        self.is_down = False
        # At once, as in the thread: what is posted before waits in the mailbox until the first step is done.
        task = self._process.context.run(self._world.loop.create_task, self._main())
        self._tasks.add(task)
        task.add_done_callback(self._main_ended)
        self._world.loop.call_soon(self._empty_mailbox, context=self._process.context.copy())

    def _main_ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()
            self._stopped = True
            for future in list(self._unanswered):
                future.set_exception(RuntimeError("the loop ended before the call was done"))

    def post(self, callback: Callable[[], None]) -> None:
        self.mailbox.append(callback)
        self._world.loop.call_soon(self._empty_mailbox, context=self._process.context.copy())

    def _empty_mailbox(self) -> None:
        # One at a time: between two of them others may look.
        while self.mailbox and self._process.alive and not self.is_down and not self._stopped:
            self.mailbox.popleft()()

    def call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        future: PumpedFuture[_T] = PumpedFuture()

        def begin() -> None:
            task = self._process.context.run(asyncio.ensure_future, work())
            self._tasks.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Future[_T]) -> None:
            self._tasks.discard(task)
            if future.done():
                return
            if task.cancelled():
                future.set_exception(RuntimeError("the loop ended before the call was done"))
            elif (error := task.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        self.post(begin)
        return future

    def do_the_rest(self) -> None:
        while self._stopped and self.mailbox:
            self.mailbox.popleft()()

    def join(self, timeout: float) -> bool:
        return self._world.run_until(lambda: self._stopped or not self._process.alive, timeout)

    def cancel(self) -> None:
        """The thread is gone."""
        working = getattr(self._process.pipeline, "_working", None)
        for task in [*self._tasks, *([working] if working is not None else [])]:
            task.cancel()

    def restart(self) -> None:
        """The loop ends by an exception; the thread starts another after a second."""
        self.is_down = True
        self.cancel()
        self._world.loop.call_later(1.0, self._begin, context=self._process.context.copy())


def start_simulated(run: Callable[[], None], name: str) -> int:
    """Stands for the start of a thread; the only one that is started so is the spool thread."""
    keeper = run.__self__  # type: ignore[attr-defined]
    SimulatedSpoolThread(keeper, PROCESS.get())
    return -1


class _Yielded(BaseException):
    """The spool thread waits for its inbox, and others run."""


_MOST_SPINS = 1000


class SimulatedInbox:
    """Stands for the spool thread's queue.

    Where a keeper runs in the caller's thread, at the end of a process that starts no more threads, waiting
    lets time pass. Where it has a thread, waiting ends the thread's turn.
    """

    def __init__(self) -> None:
        self.thread: SimulatedSpoolThread | None = None
        self.items: deque[Any] = deque()
        self._spins = 0  # looks into the empty queue, without waiting

    def put(self, item: Any) -> None:
        self.items.append(item)
        if self.thread is not None:
            self.thread.wake()

    def get(self, timeout: float) -> Any:
        timeout = max(timeout, 1e-6)  # less may be nothing to a float, and nothing would ever go on
        self._spins = 0
        if self.thread is not None:
            self.thread.may_wait()
        if not self.items:
            if self.thread is not None:
                self.thread.wait(timeout)
            self.world.sleep(timeout)
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self.items:
            self._spins += 1
            if self._spins > _MOST_SPINS:
                raise Violation("the spool thread spins: it has nothing to do, and does not wait")
            raise queue.Empty
        self._spins = 0
        return self.items.popleft()

    @property
    def world(self) -> World:
        return PROCESS.get().world


class SimulatedSpoolThread:
    """Lets the real spool thread run until it waits, and goes on with it later."""

    def __init__(self, keeper: SpoolKeeper, process: Process) -> None:
        self._keeper = keeper
        self._process = process
        self._world = process.world
        self._next: asyncio.TimerHandle | None = None
        self._begun = False
        self._open = keeper._open
        keeper._open = self._open_once  # type: ignore[method-assign]
        self._inbox: SimulatedInbox = keeper._inbox  # type: ignore[assignment]
        self._inbox.thread = self
        self._continue_in(0.0)

    def wake(self) -> None:
        self._continue_in(self._world.dice.choice((0.0, 0.001, 0.02)))

    def wait(self, seconds: float) -> None:
        self._continue_in(seconds)
        raise _Yielded

    def may_wait(self) -> None:
        """Threads are interrupted at any moment."""
        if self._world.dice.random() < 0.1:
            self.wait(self._world.dice.choice((0.0, 0.01, 0.1)))

    def _continue_in(self, seconds: float) -> None:
        at = self._world.clock.now + seconds
        if self._next is None or self._next.when() > at:
            if self._next is not None:
                self._next.cancel()
            self._next = self._world.loop.call_at(at, self._continue, context=self._process.context.copy())

    def _continue(self) -> None:
        self._next = None
        keeper = self._keeper
        if not self._process.alive or keeper.state is _keeper.KeeperState.CLOSED:
            return
        # `_serve` opens the spool before anything else; here it is entered in the middle.
        self._skip_opening = self._begun and keeper._holder.own is None
        self._begun = True
        try:
            keeper._serve()
        except (_Yielded, Killed):
            return
        self._inbox.thread = None
        keeper.state = _keeper.KeeperState.CLOSED
        keeper._ended.set()

    def _open_once(self) -> None:
        if not self._skip_opening:
            self._open()
        self._skip_opening = False


@cache
def some_settings(number: int) -> PlumelogSettings:
    """One of some sets of settings; made once, since checking them takes longer than a schedule.

    Those with even numbers have one destination, and those with odd numbers another.
    """
    dice = random.Random(number // 2)
    settings = PlumelogSettings(
        app_name="simulated",
        env="test",
        redis_host="simulated",
        spool_dir=SPOOL_DIR,
        batch_size=dice.choice((1, 3, 20)),
        batch_interval_seconds=dice.choice((0.05, 0.5)),
        queue_max_size=dice.choice((4, 30, 10_000)),
        retry_count=dice.choice((0, 1, 3)),
        retry_backoff_base_seconds=0.1,
        retry_backoff_max_seconds=1.0,
        health_check_interval_seconds=dice.choice((0.3, 3.0)),
        connect_timeout_seconds=1.0,
        socket_timeout_seconds=2.0,
        redis_push_side=("left", "right")[number % 2],
        replay_rate=dice.choice((0, 0, 40)),
        spool_full_policy=dice.choice(("drop_oldest", "drop_newest", "drop_lowest_level", "block")),
        block_timeout_seconds=0.5,
        durability=dice.choice(("journal", "journal", "journal", "memory")),
        spool_max_age_seconds=dice.choice((0, 0, 0, 0, 60)),
    )
    # Smaller than anybody may ask for, so that a few records are many.
    small = {
        "journal_max_bytes": dice.choice((4097, 4097, 8000, 60_000)),
        "spool_max_bytes": dice.choice((1 << 30, 1 << 30, 1 << 30, 9000)),
        "spool_min_free_bytes": 0,
    }
    return settings.model_copy(update=small)
