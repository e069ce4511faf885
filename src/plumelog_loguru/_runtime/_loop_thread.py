"""A thread with an asyncio loop of its own.

Promises:

- ``start`` never waits, not even for the new thread's first step, so it may be called from ``logger.info()``.
- What is asked of the loop before it runs is kept, and done when it runs.
- ``call`` from a thread of the runtime's own raises at once instead of waiting for ever.
- A loop that ends by an exception is started again, at most once a second, and says so.

States: ``NEW -> RUNNING -> STOPPED``; a stopped runtime is not started again: its owner makes a new one.
"""

from __future__ import annotations

import _thread
import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from enum import Enum
from typing import Any, TypeVar

from ._executor import PrestartedExecutor

_T = TypeVar("_T")
_RESTART_SECONDS = 1.0
_RESOLVER_THREADS = 2  # one look-up that hangs must not hold up the next


class RuntimeState(Enum):
    """``NEW -> RUNNING -> STOPPED``, or ``NEW -> STOPPED``."""

    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"


class LoopThread:
    """Runs one coroutine function, ``main``, in an asyncio loop on a daemon thread."""

    def __init__(
        self,
        main: Callable[[], Coroutine[Any, Any, None]],
        *,
        name: str,
        report: Callable[[str], None],
    ) -> None:
        """``main`` returns when its work is done; ``report`` hears in a sentence why a loop restarted."""
        self._main = main
        self._name = name
        self._report = report
        self._state = RuntimeState.NEW
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mailbox: deque[Callable[[], None]] = deque()
        self._thread_ids: frozenset[int] = frozenset()
        self._stopped = threading.Event()

    def __repr__(self) -> str:
        return f"<LoopThread {self._name} {self._state.value}>"

    @property
    def thread_ids(self) -> frozenset[int]:
        """The threads in which code of the runtime runs."""
        return self._thread_ids

    # ---------------------------------------------------------------- any thread

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where the interpreter starts no more threads.

        `Thread.start` waits until the thread runs, and the garbage collector may run a user's ``__del__``
        there first, which may log, and wait for a lock that the caller of ``logger.info()`` holds. So the
        thread is started by another one, for which nobody waits.
        """
        if self._state is not RuntimeState.NEW:
            return
        self._state = RuntimeState.RUNNING
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            _thread.start_new_thread(thread.start, ())
        except BaseException:
            self._state = RuntimeState.NEW
            raise

    def post(self, callback: Callable[[], None]) -> None:
        """Have the loop call ``callback`` soon; kept until the loop runs. Callable from any thread."""
        self._mailbox.append(callback)
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._empty_mailbox)
            except RuntimeError:
                pass  # the loop was closed meanwhile; a restarted one empties the mailbox first

    def call(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Future[_T]:
        """Run a coroutine in the loop; the future of its result may be waited for in another thread."""
        future: Future[_T] = Future()

        def begin() -> None:
            task = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: _copy_outcome(done, future))

        self.post(begin)
        return future

    def join(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the loop to end; whether it has."""
        return self._stopped.wait(timeout)

    # ---------------------------------------------------------------- the loop thread

    def _run(self) -> None:
        resolver = PrestartedExecutor(_RESOLVER_THREADS, f"{self._name}-resolver")
        self._thread_ids = resolver.thread_ids | {threading.get_ident()}
        try:
            while True:
                try:
                    self._run_loop(resolver)
                    return
                except BaseException as error:
                    self._report(
                        f"the delivery loop ended by {type(error).__name__}: {error}; it is started again"
                    )
                    time.sleep(_RESTART_SECONDS)
        finally:
            resolver.shutdown()
            self._state = RuntimeState.STOPPED
            self._stopped.set()

    def _run_loop(self, resolver: PrestartedExecutor) -> None:
        # Not through the policy: an application may have set one (uvloop, a test plugin) that is not for us.
        loop = asyncio.SelectorEventLoop()
        try:
            # Set on the loop, not on the thread's policy: nothing of ours looks a loop up by its thread.
            loop.set_default_executor(resolver)
            loop.set_exception_handler(self._on_loop_exception)
            main = loop.create_task(self._main())
            self._loop = loop
            loop.call_soon(self._empty_mailbox)  # after the first step of `main`, which prepares for it
            loop.run_until_complete(main)
        finally:
            self._loop = None
            try:
                _cancel_all(loop)
            finally:
                loop.close()

    def _empty_mailbox(self) -> None:
        while self._mailbox:
            self._mailbox.popleft()()

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # asyncio's own handler logs, and through an intercept handler that record would come back to us.
        self._report(f"asyncio reports: {context.get('message')} {context.get('exception')!r}")


def _copy_outcome(task: asyncio.Future[_T], future: Future[_T]) -> None:
    if future.cancelled() or not future.set_running_or_notify_cancel():
        return
    if task.cancelled():
        future.set_exception(RuntimeError("the sink's loop ended before the call was done"))
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
