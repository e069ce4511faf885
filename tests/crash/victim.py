"""The program that is killed: threads log numbered records through Loguru, and keep book of what returned.

    python -m tests.crash.victim '<its orders, as JSON>'

It is started by `Scene.start_victim`.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from loguru import logger

from lab.calls import CallBook
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._journal import Journal, _file, _journal
from plumelog_loguru._spool._keeper import KeeperState

End = Literal["wait", "close", "_exit", "abort", "SIGTERM"]

# Most records are small; one in fifty is larger than a page, one in two hundred larger than many.
_PADDINGS = [0] * 150 + [100] * 45 + [5_000] * 4 + [60_000]


@dataclass(frozen=True)
class Orders:
    """What a victim does until it is killed."""

    tag: str  # its ids begin with it
    book: str  # path of its `CallBook`
    settings: dict[str, Any] = field(default_factory=dict)  # of its sink, beside those in the environment
    threads: int = 3
    records: int = 200  # of each thread
    pause_seconds: float = 0.0005  # between two records of a thread, on average
    seed: str = ""
    end: End = "wait"  # "wait": for the kill. All but "close" come in the middle, while other threads log
    end_at: int = 0  # so many records of the first thread
    starve_at: int = 0  # one thread alone logs, from this record on without memory, and kills itself
    journal_bytes: int = 0  # of its ring; 0: as usual
    journal_mapped: bool | None = None  # None: as the file system allows
    die_at_write: int = -1  # at the n-th write into the ring, which is no system call; 0: only count them
    die_half_way: bool = False  # in the middle of it, else before
    new_part: str = ""  # 16 hex digits: what a new part is called, so that its files can be traced

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    def open_book(self) -> CallBook:
        """The book of its calls."""
        return CallBook(Path(self.book), self.tag, self.threads, self.records)


def main() -> None:
    """Log as ordered, and end as ordered."""
    orders = Orders(**json.loads(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what `abort` leaves is nobody's to read
    if orders.new_part:
        _name_new_parts(orders.new_part)
    ring_writes = _tamper_with_journals(orders)
    book = orders.open_book()
    logger.remove()
    if orders.starve_at:  # a limit, however far off, tells that memory can end
        resource.setrlimit(resource.RLIMIT_AS, (1 << 46, -1))
    sink = DurableRedisSink(**orders.settings)
    logger.add(sink, format="{message}")
    if orders.starve_at:
        # In a thread of its own: where the stack of the first one cannot grow, the process ends at once.
        starving = threading.Thread(target=_log_starving, args=(orders, book, sink))
        starving.start()
        starving.join()
        os.kill(os.getpid(), signal.SIGKILL)  # it ended before it could
    threads = [
        threading.Thread(target=_log, args=(orders, book, number)) for number in range(1, orders.threads)
    ]
    for thread in threads:
        thread.start()
    _log(orders, book, 0)
    for thread in threads:
        thread.join()
    if orders.end == "close":
        logger.remove()
        print(next(ring_writes) - 1)
    else:
        threading.Event().wait()


def _log(orders: Orders, book: CallBook, thread: int) -> None:
    dice = random.Random(f"{orders.seed} {thread}")
    for number in range(orders.records):
        if thread == 0 and number == orders.end_at:
            _end(orders.end)
        padded = logger.bind(padding="x" * dice.choice(_PADDINGS))
        book.begin(thread, number)
        padded.info(book.id_of(thread, number))
        book.returned(thread, number)
        if orders.pause_seconds and dice.random() < 0.1:
            time.sleep(dice.expovariate(0.1 / orders.pause_seconds))


def _log_starving(orders: Orders, book: CallBook, sink: DurableRedisSink) -> None:
    """Log where any step, in any thread, may fail for want of memory; then die.

    Loguru's call returns whatever the sink met, so what is owed is what the queue counted.
    """
    handoff, keeper = sink._pipeline.handoff, sink._pipeline._keeper
    while keeper is None or keeper.state is KeeperState.OPENING:
        time.sleep(0.001)
    taken: list[bytearray] = []
    numbers = iter(range(orders.records))
    while True:
        try:
            for number in numbers:
                if number == orders.starve_at:
                    size_bytes = int(Path("/proc/self/stat").read_text().split()[22])
                    resource.setrlimit(resource.RLIMIT_AS, (size_bytes, -1))
                if number > orders.starve_at and number % 50 == 0:
                    _take_all_memory(taken)
                before = handoff.put_count
                book.begin(0, number)
                logger.info(book.id_of(0, number))
                if handoff.put_count > before:
                    book.returned(0, number)
                if number % 50 == 40:
                    taken.clear()  # so that our threads get somewhere, too
            os.kill(os.getpid(), signal.SIGKILL)
        except MemoryError:
            continue


def _take_all_memory(taken: list[bytearray]) -> None:
    size_bytes = 1 << 24
    while size_bytes > 256:
        try:
            taken.append(bytearray(size_bytes))
        except MemoryError:
            size_bytes //= 2


def _end(how: End) -> None:
    if how == "_exit":
        os._exit(0)
    elif how == "abort":
        os.abort()
    elif how == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)


def _tamper_with_journals(orders: Orders) -> Iterator[int]:
    """Make journals as ordered. Gives the number that the next write into a ring will have."""
    numbers = itertools.count(1)

    def create(path: Path, capacity: int, *, mapped: bool | None = None) -> Journal:
        return as_usual(path, orders.journal_bytes or capacity, mapped=orders.journal_mapped)

    def make_file(path: Path, size: int, mapped: bool | None) -> tuple[Any, Any]:
        ring, file = _file.make_file(path, size, mapped)
        return _MortalRing(ring, numbers, orders) if orders.die_at_write >= 0 else ring, file

    as_usual = Journal.create
    patch.object(Journal, "create", create).start()
    patch.object(_journal, "make_file", make_file).start()
    return numbers


class _MortalRing:
    """The memory of a journal, in which some write is the last."""

    def __init__(self, ring: mmap.mmap, numbers: Iterator[int], orders: Orders) -> None:
        self._ring, self._numbers, self._orders = ring, numbers, orders
        self.close = ring.close

    def __len__(self) -> int:
        return len(self._ring)

    def __getitem__(self, place: slice) -> bytes:
        return self._ring[place]

    def __setitem__(self, place: slice, data: bytes) -> None:
        if next(self._numbers) == self._orders.die_at_write:
            if self._orders.die_half_way:
                half = len(data) // 2
                self._ring[place.start : place.start + half] = data[:half]
            os.kill(os.getpid(), signal.SIGKILL)
        self._ring[place] = data


def _name_new_parts(name: str) -> None:
    """A part draws its name; everything else that is drawn is longer."""
    drawn = os.urandom
    known = bytes.fromhex(name)
    patch.object(os, "urandom", lambda size: known if size == len(known) else drawn(size)).start()


if __name__ == "__main__":
    main()
