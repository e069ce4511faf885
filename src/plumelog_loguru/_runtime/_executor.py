"""An executor whose threads exist before they are needed.

While an interpreter ends, no thread can be started and :mod:`concurrent.futures` takes no more work, so
asyncio can no longer resolve a host name: a short script's last records would stay behind. These threads are
started with the loop and take work until the process is gone.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ._threads import start_unawaited

_T = TypeVar("_T")
_Job = Callable[[], None]


class PrestartedExecutor(ThreadPoolExecutor):
    """Runs calls in daemon threads of its own; a `ThreadPoolExecutor` by name only, as asyncio demands."""

    def __init__(self, threads: int, name: str) -> None:
        # The base class is not initialised: nothing of it is used, and its exit hooks would wait for our
        # threads.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.thread_ids: frozenset[int] = frozenset()
        try:
            for n in range(1, threads + 1):
                self.thread_ids |= {start_unawaited(self._work, f"{name}-{n}")}
        except BaseException:
            self.end()
            raise

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        future: Future[_T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._jobs.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Does nothing: a loop calls this as it closes, and the next one needs the threads; see `end`."""

    def end(self) -> None:
        """Let the threads end after their present call. Never waits: a look-up may hang for half a minute."""
        for _ in self.thread_ids:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
