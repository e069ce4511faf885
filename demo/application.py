"""The demo's application: a shop whose threads log through stock Loguru.

It keeps a book of its own, and owes nothing in it to the sink: every record carries an id (process, thread,
number), and the application says at its end how many numbers each thread has used.

It is told on stdin, a line each, which phase begins; the phase ``end`` or the end of the input ends it. It
tells on stdout, a JSON object each, its statistics, the sink's events, and at the very end its last word.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import sys
import threading
import time
from array import array
from typing import Any


def _last_word() -> None:
    """What remains to be said when Loguru has stopped its sinks."""
    if _shop is not None:
        _shop.tell_last()


# Before Loguru is imported, so that it runs after Loguru's own.
atexit.register(_last_word)

from loguru import logger  # noqa: E402

from plumelog_loguru import DurableRedisSink, SinkEvent  # noqa: E402

THREADS = ("checkout-1", "checkout-2", "stock", "payment")
ORDERS_PER_SECOND = 100  # in each thread; three or four records each
STATS_EVERY_SECONDS = 0.1

_shop: Shop | None = None


class PaymentDeclined(Exception):
    """The bank said no."""


class Worker(threading.Thread):
    """Serves orders at a steady pace, and times every `logger.info()`."""

    def __init__(self, shop: Shop, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.logged = 0
        self.nanoseconds: dict[str, array[int]] = {}  # of each call, by phase
        self._shop = shop

    def run(self) -> None:
        """Work until the shop closes."""
        begun, order = time.perf_counter(), 0
        while not self._shop.closing.is_set():
            order += 1
            self._serve(order)
            pause = begun + order / ORDERS_PER_SECOND - time.perf_counter()
            if pause > 0:
                time.sleep(pause)

    def _serve(self, order: int) -> None:
        log = logger.bind(order=order, user=f"user-{order % 97}", traceId=f"{self.name}-{order}")
        self._info(log, "order {} received", order)
        self._info(log, "已为订单 {} 预留库存：{} 件", order, order % 7 + 1)
        self._info(log, "订单 {} 已支付，金额 {:.2f} 元", order, order % 1000 / 7)
        if order % 20 == 0:
            try:
                raise PaymentDeclined(f"银行拒绝了订单 {order}")
            except PaymentDeclined:
                self._numbered(log).exception("payment of order {} failed", order)
        elif order % 10 == 0:
            self._numbered(log).warning("stock is low for order {}", order)

    def _info(self, log: Any, text: str, *args: object) -> None:
        numbered = self._numbered(log)
        begun = time.perf_counter_ns()
        numbered.info(text, *args)
        took = time.perf_counter_ns() - begun
        self.nanoseconds.setdefault(self._shop.phase, array("q")).append(took)

    def _numbered(self, log: Any) -> Any:
        self.logged += 1
        return log.bind(demo_id=f"{self._shop.name}/{self.name}/{self.logged}")


class Shop:
    """The application in one process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.phase = "start"
        self.closing = threading.Event()
        self._replayed = 0
        self._out = threading.Lock()
        logger.remove()
        self._sink = DurableRedisSink()
        self._sink.add_hook(self._tell_event)
        logger.add(self._sink, format="{message}", backtrace=False, diagnose=False)
        self._workers = [Worker(self, thread) for thread in THREADS]

    def run(self) -> None:
        """Work until told to end."""
        threading.Thread(target=self._listen, daemon=True).start()
        for worker in self._workers:
            worker.start()
        while not self.closing.wait(STATS_EVERY_SECONDS):
            self._tell_stats()
        for worker in self._workers:
            worker.join()
        self._tell_stats()

    def tell_last(self) -> None:
        """Say what the book holds, how long the calls took, and what the sink left behind."""
        phases = {phase for worker in self._workers for phase in worker.nanoseconds}
        self._tell(
            "last",
            logged={worker.name: worker.logged for worker in self._workers},
            calls={phase: self._times(phase) for phase in phases},
            spooled=self._sink.stats().spooled,
            replayed=self._replayed,
        )

    def _times(self, phase: str) -> dict[str, float]:
        took = sorted(ns for worker in self._workers for ns in worker.nanoseconds.get(phase, ()))
        return {
            "calls": len(took),
            "median_us": took[len(took) // 2] / 1000,
            "p999_us": took[len(took) * 999 // 1000] / 1000,
        }

    def _listen(self) -> None:
        for line in sys.stdin:
            self.phase = line.strip()
            if self.phase == "end":
                break
        self.closing.set()

    def _tell_stats(self) -> None:
        stats = self._sink.stats()
        facts = {field.name: getattr(stats, field.name) for field in dataclasses.fields(stats)}
        self._tell("stats", logged=sum(worker.logged for worker in self._workers), **facts)

    def _tell_event(self, event: SinkEvent) -> None:
        if event.kind == "drained":
            self._replayed += event.records
        self._tell("event", event=event.kind, records=event.records, reason=event.reason)

    def _tell(self, kind: str, **facts: object) -> None:
        with self._out:
            try:
                print(json.dumps({"kind": kind, **facts}), flush=True)
            except OSError:
                self.closing.set()  # nobody listens any more


if __name__ == "__main__":
    _shop = Shop(sys.argv[1])
    _shop.run()
