"""Threads that take calls from before the first until the process is gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from plumelog_loguru._runtime._executor import PrestartedExecutor


@pytest.fixture
def executor() -> Iterator[PrestartedExecutor]:
    executor = PrestartedExecutor(2, "helper")
    yield executor
    executor.end()


def test_calls_run_in_its_threads(executor: PrestartedExecutor) -> None:
    """A call runs in one of the threads that were there from the start, under its name."""

    def where() -> tuple[int, str, bool]:
        thread = threading.current_thread()
        return threading.get_ident(), thread.name, thread.daemon

    ident, name, daemon = executor.submit(where).result(10)
    assert ident in executor.thread_ids
    assert len(executor.thread_ids) == 2
    assert name in ("helper-1", "helper-2")
    assert daemon


def test_one_call_that_hangs_does_not_hold_up_the_next(executor: PrestartedExecutor) -> None:
    """While one thread is stuck in a look-up, the other takes calls."""
    release = threading.Event()
    stuck = executor.submit(release.wait, 10)
    assert executor.submit(lambda: "done").result(10) == "done"
    assert not stuck.done()
    release.set()
    assert stuck.result(10)


def test_an_exception_goes_to_the_one_who_asked(executor: PrestartedExecutor) -> None:
    """Whatever a call raises is its future's, and the thread takes the next call."""

    def fail() -> None:
        raise SystemExit(3)

    for _ in range(3):
        with pytest.raises(SystemExit):
            executor.submit(fail).result(10)
    assert executor.submit(len, "ab").result(10) == 2


def test_a_cancelled_call_does_not_run(executor: PrestartedExecutor) -> None:
    """A call that was cancelled while it waited is passed by."""
    release = threading.Event()
    for _ in range(2):
        executor.submit(release.wait, 10)
    ran: list[int] = []
    waiting = executor.submit(ran.append, 1)
    assert waiting.cancel()
    release.set()
    executor.submit(int).result(10)
    executor.submit(int).result(10)
    assert ran == []


def test_a_loop_that_closes_leaves_the_threads(executor: PrestartedExecutor) -> None:
    """Two loops, one after the other, share the threads: a loop shuts its executor down as it closes."""
    for _ in range(2):
        loop = asyncio.SelectorEventLoop()
        loop.set_default_executor(executor)
        assert loop.run_until_complete(
            asyncio.wait_for(loop.run_in_executor(None, threading.get_ident), 10)
        ) in (executor.thread_ids)
        loop.close()


def test_it_works_while_the_interpreter_ends() -> None:
    """After `concurrent.futures` was shut down, and threads can no longer be started, names are resolved."""
    code = """
import asyncio, atexit, concurrent.futures, threading
from plumelog_loguru._runtime._executor import PrestartedExecutor

executor = PrestartedExecutor(1, "helper")

def late():
    try:
        concurrent.futures.ThreadPoolExecutor(1).submit(int)
        print("the ordinary one works too")
    except RuntimeError as error:
        print("the ordinary one:", error)
    loop = asyncio.SelectorEventLoop()
    loop.set_default_executor(executor)
    found = loop.run_until_complete(loop.getaddrinfo("localhost", 6379))
    loop.close()
    print("ours:", bool(found))

atexit.register(late)  # runs after `threading` has ended, which shuts `concurrent.futures` down
concurrent.futures.ThreadPoolExecutor(1).submit(int).result()
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "the ordinary one: cannot schedule new futures after interpreter shutdown",
        "ours: True",
    ]
