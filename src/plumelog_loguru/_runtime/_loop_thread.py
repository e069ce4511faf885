"""A thread with an asyncio loop of its own.

Promises:

- ``start`` never waits, not even for the new thread's first step, so it may be called from ``logger.info()``.
- What is asked of the loop before it runs is kept, and done when it runs.
- A ``call`` is always answered: with its outcome, or by `LoopEndedError`.
- A loop that ends by an exception is started again, at most once a second, and says so.

States: ``NEW -> RUNNING -> STOPPED``; a stopped runtime is not started again: its owner makes a new one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from enum import Enum
from typing import Any, TypeVar

from ._executor import PrestartedExecutor
from ._threads import start_unawaited

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
        self.thread_ids: frozenset[int] = frozenset()  # in which code of the runtime runs
        self._unanswered: set[Future[Any]] = set()
        self._stopped = threading.Event()

    def __repr__(self) -> str:
        return f"<LoopThread {self._name} {self._state.value}>"

    # ---------------------------------------------------------------- any thread

    def start(self) -> None:
        """Start the threads, without waiting for them.

        Raises:
            RuntimeError: the process, or an interpreter that ends, starts no more threads.
        """
        if self._state is not RuntimeState.NEW:
            return
        resolver = PrestartedExecutor(_RESOLVER_THREADS, f"{self._name}-resolver")
        try:
            own_id = start_unawaited(lambda: self._run(resolver), self._name)
        except BaseException:
            resolver.end()
            raise
        self.thread_ids = resolver.thread_ids | {own_id}
        self._state = RuntimeState.RUNNING

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
            if future.done():
                return
            try:
                task = asyncio.ensure_future(work())
            except Exception as error:
                future.set_exception(error)
                return
            task.add_done_callback(lambda done: _copy_outcome(done, future))

        self.post(begin)
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        if self._state is RuntimeState.STOPPED:
            self._answer_the_rest()
        return future

    def join(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for the loop to end; whether it has."""
        return self._stopped.wait(timeout)

    def do_the_rest(self) -> None:
        """After the loop has ended: call here what was posted too late for it."""
        if self._state is RuntimeState.STOPPED:
            self._empty_mailbox()

    # ---------------------------------------------------------------- the loop thread

    def _run(self, resolver: PrestartedExecutor) -> None:
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
            resolver.end()
            self._state = RuntimeState.STOPPED
            self._answer_the_rest()
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

    def _answer_the_rest(self) -> None:
        for future in list(self._unanswered):
            _fail(future)

    def _empty_mailbox(self) -> None:
        while self._mailbox:
            callback = self._mailbox.popleft()
            try:
                callback()
            except Exception as error:  # the others must not wait for the next post
                self._report(f"a call in the loop met {type(error).__name__}: {error}")

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # asyncio's own handler logs, and through an intercept handler that record would come back to us.
        self._report(f"asyncio reports: {context.get('message')} {context.get('exception')!r}")


class LoopEndedError(RuntimeError):
    """The loop ended before the call was done."""


def _copy_outcome(task: asyncio.Future[_T], future: Future[_T]) -> None:
    if task.cancelled():
        _fail(future)
    elif future.set_running_or_notify_cancel():
        if (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


def _fail(future: Future[Any]) -> None:
    try:
        if not future.done() and future.set_running_or_notify_cancel():
            future.set_exception(LoopEndedError("the loop ended before the call was done"))
    except (InvalidStateError, RuntimeError):
        pass  # it was answered at this very moment


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
