"""What happened when: ten times a second, how much was logged, delivered, spooled and in memory."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from chaos.application.orders import Orders, announced_in
from lab.calls import CallBook

if TYPE_CHECKING:
    from typing_extensions import Self

    from chaos.stage import Stage

_SECONDS_BETWEEN = 0.1
_FRESH_SECONDS = 1.0
_TAIL_BYTES = 8192  # more than any sample


class Timeline:
    """Watches a stage in a thread of its own. Where nobody answers, the place stays empty."""

    def __init__(self, stage: Stage) -> None:
        """Watch this stage, once entered."""
        self._stage = stage
        self._began = time.monotonic()
        self.began_at = time.time()  # by the wall clock
        self._points: list[tuple[float, int, int | None, int | None, int | None]] = []
        self._faults: list[tuple[float, float]] = []
        self._books: dict[str, tuple[Orders, CallBook]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chaos-timeline", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextlib.contextmanager
    def shaded(self) -> Iterator[None]:
        """Something is broken meanwhile."""
        began = self._now()
        try:
            yield
        finally:
            self._faults.append((began, self._now()))

    @property
    def faults_at(self) -> list[tuple[float, float]]:
        """When something was broken, in monotonic seconds."""
        return [(self._began + begin, self._began + end) for begin, end in self._faults]

    def as_dict(self) -> dict[str, Any]:
        """As the report wants it: columns, in seconds since the stage was set."""
        columns: list[list[float | int | None]] = [list(column) for column in zip(*self._points, strict=True)]
        names = ("seconds", "logged", "delivered", "spooled", "in_memory")
        return {
            **dict(zip(names, columns or [[] for _ in names], strict=True)),
            "faults": [[round(begin, 2), round(end, 2)] for begin, end in self._faults],
        }

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN):
            try:
                delivered: int | None = self._stage.delivered()
            except Exception:  # away, frozen, or refusing: that is what these scenarios are about
                delivered = None
            for orders in announced_in(self._stage.books_folder):
                if orders.tag not in self._books:
                    self._books[orders.tag] = orders, orders.open_book()
            logged = sum(book.count for _, book in self._books.values())
            last = [sample for orders, _ in self._books.values() if (sample := _fresh_sample(orders))]
            spooled = sum(sample["spooled"] for sample in last if "spooled" in sample) if last else None
            in_memory = sum(sample["in_memory"] for sample in last if "in_memory" in sample) if last else None
            self._points.append((round(self._now(), 2), logged, delivered, spooled, in_memory))

    def _now(self) -> float:
        return time.monotonic() - self._began


def _fresh_sample(orders: Orders) -> dict[str, Any] | None:
    """The last whole line that a program wrote of itself; None where it is gone, or stands still."""
    try:
        with open(orders.samples_path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    sample: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return sample if sample and time.monotonic() - sample["at"] < _FRESH_SECONDS else None
