"""The spool thread to try: what it tells, and how to ask it for things."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plumelog_loguru._batch import Batch
from plumelog_loguru._clock import Clock
from plumelog_loguru._journal import Journals
from plumelog_loguru._spool import Block, KeeperOptions, SpooledRow, SpoolKeeper


class Listener:
    """Writes down what it is told, and does the sums that the loop thread would do."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.spooled: dict[str, int] = {}
        self.returned: list[Block] = []
        self.losses: list[tuple[int, str]] = []
        self.spans: list[tuple[int, int]] = []  # of what was lost or refused
        self.refused = 0
        self.done: list[Block] = []
        self.changed = threading.Condition()

    def tell(self, callback: Callable[[], None]) -> None:
        with self.changed:
            callback()
            self.changed.notify_all()

    def wait_for(self, true: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(true, 10), f"it did not come true; told: {self.told}"

    def book(self, part_id: str, records: int) -> None:
        self.spooled[part_id] = self.spooled.get(part_id, 0) + records

    def on_recovered(self, part_id: str, records: int, possibly_doubled: int) -> None:
        self.told.append(("recovered", part_id, records, possibly_doubled))
        self.book(part_id, records)

    def on_spool_opened(self, part_id: str, adopted: int) -> None:
        self.told.append(("opened", adopted))
        self.book(part_id, adopted)

    def on_returned(self, returned: list[Block]) -> None:
        self.returned += returned

    def on_spool_unusable(self, reason: str, returned: list[Block]) -> None:
        self.told.append(("unusable", sum(len(block.values) - block.written for block in returned)))
        self.returned += returned

    def on_stored(self, part_id: str, block: Block, records: int, done: bool) -> None:
        self.told.append(("stored", records, done))
        self.book(part_id, records)
        if done:
            self.done.append(block)

    def on_spool_loss(self, part_id: str, records: int, reason: str, first_ms: int, last_ms: int) -> None:
        self.told.append(("lost", records, reason))
        self.losses.append((records, reason))
        self.spans.append((first_ms, last_ms))
        self.book(part_id, -records)

    def on_refused(
        self, part_id: str, block: Block, records: int, done: bool, first_ms: int, last_ms: int
    ) -> None:
        self.told.append(("refused", records, done))
        self.refused += records
        self.spans.append((first_ms, last_ms))
        if done:
            self.done.append(block)

    def on_part_lost(self, part_id: str, reason: str) -> None:
        self.told.append(("part lost", reason))
        self.losses.append((self.spooled.pop(part_id, 0), reason))


@dataclass
class Rig:
    """A keeper in its thread, and what it tells."""

    keeper: SpoolKeeper
    listener: Listener
    reports: list[tuple[str, str]]
    thread: threading.Thread
    blocks: list[Block] = field(default_factory=list)

    def offer(self, *values: bytes, batch: Batch | None = None) -> Block:
        block = Block(batch.values if batch else values, batch)
        self.blocks.append(block)
        self.keeper.offer(block, from_loop=True)
        return block

    def store(self, *values: bytes, batch: Batch | None = None) -> Block:
        """Offer a block, and wait until it is written or refused."""
        block = self.offer(*values, batch=batch)
        self.listener.wait_for(lambda: block in self.listener.done)
        return block

    def next_row(self) -> SpooledRow | None:
        given: list[SpooledRow | None] = []
        self.keeper.request_row(given.append)
        self.listener.wait_for(lambda: given)
        return given[0]

    def rows(self, *, acknowledge: bool = True) -> list[SpooledRow]:
        """All rows there are, in the order in which they are handed out."""
        rows = []
        while (row := self.next_row()) is not None:
            rows.append(row)
            if acknowledge:
                self.keeper.acknowledge(row)
        return rows

    def settle(self) -> None:
        """Wait until everything that was asked before is done."""
        settled = threading.Event()
        self.keeper._inbox.put(settled.set)
        assert settled.wait(10)

    def close(self, within_seconds: float = 5.0) -> None:
        self.keeper.close(within_seconds)
        assert self.keeper.join(10)
        self.thread.join(10)
        self.keeper.release()

    def part_path(self, spool_dir: Path) -> Path:
        assert self.keeper._holder.own is not None
        return spool_dir / f"part-{self.keeper._holder.own.id}"


def values_of(rows: list[SpooledRow]) -> list[bytes]:
    return [value for row in rows for value in row.row.batch.values]


def start_keeper(options: KeeperOptions, clock: Clock, *, wait: bool) -> Rig:
    """A keeper that runs; with ``wait`` its spool is open, or known not to be."""
    listener = Listener()
    reports: list[tuple[str, str]] = []
    keeper = SpoolKeeper(
        options,
        listener=listener,
        post=listener.tell,
        report=lambda kind, sentence: reports.append((kind, sentence)),
        clock=clock,
        journals=Journals(),
    )
    thread = threading.Thread(target=keeper.run, daemon=True)
    thread.start()
    if wait:
        listener.wait_for(lambda: listener.told)
    return Rig(keeper, listener, reports, thread)
