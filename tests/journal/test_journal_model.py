"""The journal against a list: whatever is done, and at whatever byte it ends, each record arrives once."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId
from plumelog_loguru._journal import DeadJournal, Journal, _journal, _recovery, look_at, runs_of, value_of
from tests.scale import scaled

from .failpoints import FailPoint, Killed

# Small enough that laps end often, and large enough for a few batches.
CAPACITY = 5000

CRASHES = st.none() | st.tuples(st.integers(0, 6), st.floats(0, 1))


class Server:
    """Redis, as far as lanes go."""

    def __init__(self) -> None:
        self.values: Counter[bytes] = Counter()
        self.lanes: dict[str, int] = {}
        self.applied: dict[BatchId, tuple[bytes, ...]] = {}

    def push(self, batch: Batch) -> None:
        # What is repeated is the same to the byte: a row of the spool would be replaced by it.
        assert self.applied.setdefault(batch.id, batch.values) == batch.values
        if batch.id.seq > self.lanes.get(batch.id.lane, 0):
            self.lanes[batch.id.lane] = batch.id.seq
            self.values.update(batch.values)


class JournalMachine(RuleBasedStateMachine):
    mapped: bool

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.server = Server()
        self.journals = 0
        self.owed: list[bytes] = []  # their call returned: to arrive once
        self.excused: set[bytes] = set()  # dropped, or their call never returned: to arrive at most once
        self.number = 0
        self.seq = 0

    @initialize()
    def begin(self) -> None:
        self.journals += 1
        path = Path(self.directory.name) / f"journal-{self.journals}"
        self.journal = Journal.create(path, CAPACITY, mapped=self.mapped)
        self.queue: list[bytes] = []
        self.stray: list[bytes] = []
        self.batches: list[tuple[list[bytes], BatchId]] = []  # cut
        self.lane = os.urandom(16).hex()

    def teardown(self) -> None:
        self.crash()
        self.recover([])
        self.journal.remove()
        assert self.server.values == Counter(self.owed) + Counter(
            {value: count for value, count in self.server.values.items() if value in self.excused}
        )
        assert all(count == 1 for count in self.server.values.values())
        self.directory.cleanup()

    def watched(self, crash: tuple[int, float] | None) -> None:
        if crash is not None:
            FailPoint(*crash).watch(self.journal)

    # ---------------------------------------------------------------- the living

    @rule(size=st.integers(0, 700), lost=st.booleans(), crash=CRASHES)
    def append(self, size: int, lost: bool, crash: tuple[int, float] | None) -> None:
        """A record; lost: its caller is interrupted before the queue has it."""
        self.number += 1
        value = b'{"seq":%d,"pad":"%s"}' % (self.number, b"x" * size)
        self.watched(crash)
        try:
            frame = self.journal.append(value)
        except Killed:
            self.excused.add(value)
            self.die()
            return
        if frame is None:
            assert self.journal.used_bytes + size > CAPACITY // 2 - 1000
        elif lost:
            self.excused.add(value)
            self.stray.append(frame)
        else:
            self.owed.append(value)
            self.queue.append(frame)
        self.unwatched()

    @rule(count=st.integers(1, 8), gap=st.booleans(), crash=CRASHES)
    def cut(self, count: int, gap: bool, crash: tuple[int, float] | None) -> None:
        """The oldest of the queue become a batch, perhaps with some left out."""
        taken = self.queue[: 2 * count : 2] if gap else self.queue[:count]
        if not taken:
            return
        self.queue = [frame for frame in self.queue if frame not in taken]
        self.seq += 1
        batch_id = BatchId(self.lane, self.seq)
        self.watched(crash)
        try:
            self.journal.cut(runs_of(taken), batch_id, AttemptedBy.NOBODY, 0)
        except Killed:
            self.die()
            return
        self.batches.append((taken, batch_id))
        self.unwatched()

    @rule(applied=st.booleans(), crash=CRASHES)
    def attempt(self, applied: bool, crash: tuple[int, float] | None) -> None:
        """The oldest batch is attempted; nobody hears whether it was applied."""
        if not self.batches:
            return
        frames, batch_id = self.batches[0]
        self.watched(crash)
        try:
            self.journal.cut(runs_of(frames), batch_id, AttemptedBy.SCRIPT, 1)
        except Killed:
            if applied:
                self.server.push(Batch(batch_id, tuple(map(value_of, frames))))  # the attempt before
            self.die()
            return
        if applied:
            self.server.push(Batch(batch_id, tuple(map(value_of, frames))))
        self.unwatched()

    @rule(crash=CRASHES)
    def deliver(self, crash: tuple[int, float] | None) -> None:
        if not self.batches:
            return
        frames, batch_id = self.batches.pop(0)
        self.server.push(Batch(batch_id, tuple(map(value_of, frames))))
        self.settle(frames, crash)

    @rule(count=st.integers(1, 4), crash=CRASHES)
    def drop(self, count: int, crash: tuple[int, float] | None) -> None:
        """A full queue loses its oldest."""
        frames, self.queue = self.queue[:count], self.queue[count:]
        for frame in frames:
            self.owed.remove(value_of(frame))
            self.excused.add(value_of(frame))
        self.settle(frames, crash)

    def settle(self, frames: list[bytes], crash: tuple[int, float] | None) -> None:
        self.watched(crash)
        try:
            self.journal.settle(runs_of(frames))
            self.journal.advance()
        except Killed:
            self.die()
            return
        self.unwatched()

    @rule()
    def fetch(self) -> None:
        """The loop thread finds the frames that are nowhere, and no others."""
        in_flight = [*self.queue, *(frame for frames, _ in self.batches for frame in frames)]
        newest = max((run.upto for run in runs_of(in_flight)), default=0)
        due = [frame for frame in self.stray if runs_of([frame])[0].start < newest]
        assert self.journal.strays(runs_of(in_flight)) == due
        self.stray = self.stray[len(due) :]
        for frame in due:
            self.excused.discard(value_of(frame))
            self.owed.append(value_of(frame))
        self.queue += due

    @invariant()
    def the_file_tells_what_is_unsettled(self) -> None:
        alive = [*self.queue, *self.stray, *(frame for frames, _ in self.batches for frame in frames)]
        facts = look_at(self.journal.path)
        assert facts.records == len(alive)
        assert facts.bytes == sum(len(value_of(frame)) for frame in alive)

    # ---------------------------------------------------------------- the dead

    @rule(crashes=st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), max_size=3))
    def crash_and_recover(self, crashes: list[tuple[int, float]]) -> None:
        self.crash()
        self.recover(crashes)
        self.begin()

    def crash(self) -> None:
        self.path = self.journal.path
        self.journal.close()

    def die(self) -> None:
        self.crash()
        self.recover([])
        self.begin()

    def unwatched(self) -> None:
        """The fail point was not reached: the process lives on."""
        for name in ("_ring", "_file"):
            inner = getattr(self.journal, name)
            while hasattr(inner, "_fail_point"):
                inner = inner._mapping if name == "_ring" else inner._file
            setattr(self.journal, name, inner)

    def recover(self, crashes: list[tuple[int, float]]) -> None:
        for crash in [*crashes, None]:
            dead = DeadJournal.open(self.path)
            if crash is not None:
                FailPoint(*crash).watch(dead)
            try:
                records = dead.records
                found = list(dead.batches())
                assert records == sum(len(one.batch.values) for one in found)
                for one in found:
                    self.server.push(one.batch)
                    one.settle()
            except Killed:
                dead.close()
                continue
            dead.close()
            assert sum(stretch.records for stretch in dead.corrupt) == 0
            assert look_at(self.path).records == 0
            dead.remove()
            break


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "written"])
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no journal on this system")
@pytest.mark.timeout(600)
def test_the_journal_is_a_list(mapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done, killed at any byte of any write, and killed in recovery: each record once."""
    # So that both happen often in a journal this small.
    monkeypatch.setattr(_recovery, "MAX_BATCH_BYTES", 600)
    monkeypatch.setattr(_journal, "_REWIND_BYTES", 1000)
    machine = type("Machine", (JournalMachine,), {"mapped": mapped})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=scaled(60, 3000),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
