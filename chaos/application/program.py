"""One program: it logs through Loguru, as an application does, and writes down what came of each call."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from loguru import logger

from chaos.contents import CONTENTS

from .orders import Orders
from .sinks import SINKS, Sink
from .taken import Door

if TYPE_CHECKING:
    from loguru import Logger

_SAMPLES_PER_SECOND = 20
_REFUSED_BY_LOGURU = "deadlock avoided"


class Program:
    """A sink, a book, and threads that log."""

    def __init__(self, orders: Orders, sink: Sink | None = None) -> None:
        """Open the books. Without a sink of somebody else's it makes one."""
        self.orders = orders
        self.book = orders.open_book()
        self.latencies = orders.open_latencies()
        self.stopping = threading.Event()
        self.sink = SINKS[orders.sink]() if sink is None else sink
        self.logger = logger
        self.door: Door | None = None  # where calls are owed only if a sink took them
        self._content = CONTENTS[orders.content]
        self._numbers = [itertools.count() for _ in range(orders.threads + 1)]
        self._dice = [random.Random(f"{orders.seed} {orders.tag} {row}") for row in range(orders.threads + 1)]
        orders.announce()

    def child(self, name: str) -> Program:
        """The same program in a process that was forked from this one; it keeps books of its own.

        The sink is the one that was inherited.
        """
        program = Program(replace(self.orders, tag=f"{self.orders.tag}.{name}"), self.sink)
        program.door = self.door
        return program

    def owe_only_what_is_taken(self) -> None:
        """For a program whose sink comes and goes: what is logged while there is none is not owed."""
        self.door = Door()

    def add_sink(self) -> None:
        """Make the sink, and let Loguru know it and nothing else."""
        logger.remove()
        self.sink.add_to(logger if self.door is None else cast("Logger", self.door))

    def remove_sink(self) -> None:
        """Take it away, as an application does that ends in good order."""
        logger.remove()

    def log(self, row: int) -> str:
        """Log one record, write down what came of it, give its id. Each row of the book has one writer."""
        number = next(self._numbers[row])
        record_id = self.book.id_of(row, number)
        call = self._content.make(record_id, self._dice[row])
        bound = self.logger.bind(**call.extras)
        if call.error is not None:
            bound = bound.opt(exception=call.error)
        self.book.begin(row, number)
        began = time.perf_counter_ns()
        try:
            if self.door is not None:
                self.door.close()
            bound.info(call.message)
        except RuntimeError as error:
            if _REFUSED_BY_LOGURU not in str(error):
                self.book.raised(row, number)
                raise
            self.book.refused(row, number)
        except (MemoryError, SystemError):  # CPython 3.10 forgets at times which exception it meant
            # Loguru's, or the program's own: the call was cut short, unless a sink had it.
            if self.door is None or self.door.was_passed_in_vain:
                self.book.raised(row, number)
            elif self.door.was_passed:
                self.book.returned(row, number)
            raise
        except Exception:
            self.book.raised(row, number)
            raise
        else:
            self.latencies.add(row, time.perf_counter_ns() - began)
            if self.door is None or self.door.was_passed:
                self.book.returned(row, number)
            else:
                self.book.refused(row, number)
        call.afterwards()
        return record_id

    def log_steadily(self, row: int) -> None:
        """Log at the ordered pace until told to stop, or until the row is full."""
        pause_seconds = 1 / self.orders.records_per_second
        due_at = time.monotonic()
        for _ in range(self.orders.calls - 1):
            if self.stopping.is_set():
                return
            self.log(row)
            due_at = max(due_at + pause_seconds, time.monotonic() - 1)  # what was missed is not made up for
            if (wait_seconds := due_at - time.monotonic()) > 0:
                self.stopping.wait(wait_seconds)

    def start_threads(self, *, but: int = 0) -> list[threading.Thread]:
        """Let all threads log steadily, but for so many, whose rows somebody else writes."""
        rows = range(self.orders.threads - but)
        threads = [threading.Thread(target=self.log_steadily, args=(row,), daemon=True) for row in rows]
        for thread in threads:
            thread.start()
        return threads

    def start_sampling(self) -> None:
        """Write down, twenty times a second, how the program is."""
        threading.Thread(target=self._sample, name="chaos-samples", daemon=True).start()

    def sample(self) -> None:
        """Write down how it is now."""
        line = {"at": time.monotonic(), **_usage(), **self.sink.stats()}
        with open(self.orders.samples_path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def obey(self, words: Mapping[str, Callable[..., object]] | None = None) -> None:
        """Do what is ordered on standard input until that says stop; whoever orders may be gone without it.

        Args:
            words: what it can do besides, by name. A word is called with the rest of its line, as texts; what
                it gives is the answer.
        """
        common = {"mark": lambda: self.log(self.orders.threads), "quiet": self.stopping.set}
        known = {**common, **(words or {})}
        print("ready", flush=True)
        for line in sys.stdin:
            word, *rest = line.split()
            if word == "stop":
                return
            print(known[word](*rest), flush=True)
        os._exit(3)

    def _sample(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # no file can be opened: that is what some programs are about
                self.sample()
            time.sleep(1 / _SAMPLES_PER_SECOND)


def _usage() -> dict[str, int]:
    """What the process takes; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            resident_pages = int(file.read().split()[1])
        return {
            "rss_bytes": resident_pages * os.sysconf("SC_PAGE_SIZE"),
            "threads": len(os.listdir("/proc/self/task")),
            "fds": len(os.listdir("/proc/self/fd")),
        }
    except OSError:
        return {"rss_bytes": 0, "threads": threading.active_count(), "fds": 0}
