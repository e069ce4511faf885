"""One program: it logs through Loguru, as an application does, and writes down what came of each call."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import threading
import time
from dataclasses import replace

from loguru import logger

from chaos.contents import CONTENTS

from .orders import Orders
from .sinks import SINKS

_SAMPLES_PER_SECOND = 20
_REFUSED_BY_LOGURU = "deadlock avoided"


class Program:
    """A sink, a book, and threads that log."""

    def __init__(self, orders: Orders) -> None:
        """Open the books; `add_sink` makes the sink."""
        self.orders = orders
        self.book = orders.open_book()
        self.latencies = orders.open_latencies()
        self.stopping = threading.Event()
        self.sink = SINKS[orders.sink]()
        self._content = CONTENTS[orders.content]
        self._numbers = [itertools.count() for _ in range(orders.threads + 1)]
        self._dice = [random.Random(f"{orders.seed} {orders.tag} {row}") for row in range(orders.threads + 1)]
        orders.announce()

    def child(self, name: str) -> Program:
        """The same program in a process that was forked from this one; it keeps books of its own.

        The sink is the one that was inherited.
        """
        program = Program(replace(self.orders, tag=f"{self.orders.tag}.{name}"))
        program.sink = self.sink
        return program

    def add_sink(self) -> None:
        """Make the sink, and let Loguru know it and nothing else."""
        logger.remove()
        self.sink.add_to(logger)

    def remove_sink(self) -> None:
        """Take it away, as an application does that ends in good order."""
        logger.remove()

    def log(self, row: int) -> str:
        """Log one record, and write down what came of it. Each row of the book has one writer; gives the id."""
        number = next(self._numbers[row])
        record_id = self.book.id_of(row, number)
        call = self._content.make(record_id, self._dice[row])
        bound = logger.bind(**call.extras)
        self.book.begin(row, number)
        began = time.perf_counter_ns()
        try:
            bound.info(call.message)
        except RuntimeError as error:
            if _REFUSED_BY_LOGURU not in str(error):
                self.book.raised(row, number)
                raise
            self.book.refused(row, number)
        except Exception:
            self.book.raised(row, number)
            raise
        else:
            self.latencies.add(row, time.perf_counter_ns() - began)
            self.book.returned(row, number)
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

    def start_threads(self) -> list[threading.Thread]:
        """Let all threads log steadily."""
        rows = range(self.orders.threads)
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

    def obey(self) -> None:
        """Do what is ordered on standard input until that says stop; whoever orders may be gone without it."""
        print("ready", flush=True)
        for line in sys.stdin:
            if line == "mark\n":
                print(self.log(self.orders.threads), flush=True)
            elif line == "stop\n":
                return
        os._exit(3)

    def _sample(self) -> None:
        while True:
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
