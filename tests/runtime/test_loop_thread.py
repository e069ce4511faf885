"""A thread with a loop: started without waiting, asked before it runs, restarted, and never silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

import plumelog_loguru._runtime._loop_thread as loop_thread_module
from plumelog_loguru._runtime._loop_thread import LoopEndedError, LoopThread, RuntimeState

Main = Callable[[], Coroutine[Any, Any, None]]


class Served:
    """A `main` that serves until it is told to end."""

    def __init__(self) -> None:
        self.runs = 0
        self.running = threading.Event()
        self._end: asyncio.Event

    async def main(self) -> None:
        self.runs += 1
        self._end = asyncio.Event()
        self.running.set()
        await self._end.wait()

    def end(self) -> None:
        self._end.set()

    async def answer(self, value: object) -> object:
        return value


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def make(served: Served, reports: list[str]) -> Iterator[Callable[..., LoopThread]]:
    """Makes runtimes, and ends those that run when the test does."""
    made: list[LoopThread] = []

    def make(main: Main = served.main) -> LoopThread:
        made.append(LoopThread(main, name="test-loop", report=reports.append))
        return made[-1]

    yield make
    for runtime in made:
        if runtime._state is RuntimeState.RUNNING and served.running.is_set():
            runtime.post(served.end)
            assert runtime.join(10)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread_module, "_RESTART_SECONDS", 0.0)


def test_start_does_not_wait_for_the_thread(
    make: Callable[..., LoopThread], monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    """`start` returns while the new threads have not made their first step, and what is asked is kept."""
    held: list[Callable[[], None]] = []

    def start_later(run: Callable[[], None], name: str) -> int:
        held.append(run)
        return -len(held)

    monkeypatch.setattr("plumelog_loguru._runtime._loop_thread.start_unawaited", start_later)
    runtime = make()
    runtime.start()
    assert repr(runtime) == "<LoopThread test-loop running>"
    posted = threading.Event()
    runtime.post(posted.set)
    answer = runtime.call(lambda: served.answer(1))
    assert not posted.is_set() and not answer.done()
    threading.Thread(target=held[0], daemon=True).start()
    assert answer.result(10) == 1
    assert posted.is_set()


def test_what_is_asked_before_the_start_is_done_in_order(make: Callable[..., LoopThread]) -> None:
    """Posts and calls before `start` are kept, and done in their order once the loop runs."""
    done: list[int] = []
    runtime = make()
    for n in range(5):
        runtime.post(partial(done.append, n))
    last = runtime.call(lambda: _thread_id())
    assert (done, last.done()) == ([], False)
    runtime.start()
    assert last.result(10) in runtime.thread_ids
    assert done == [0, 1, 2, 3, 4]


async def _thread_id() -> int:
    return threading.get_ident()


def test_posts_are_done_in_order_in_one_thread(make: Callable[..., LoopThread], served: Served) -> None:
    """Many threads post: each one's posts are done in its order, all of them in the loop's thread."""
    runtime = make()
    runtime.start()
    done: list[tuple[int, int]] = []
    where: set[int] = set()

    def do(caller: int, n: int) -> None:
        done.append((caller, n))
        where.add(threading.get_ident())

    def post_all(caller: int) -> None:
        for n in range(200):
            runtime.post(partial(do, caller, n))

    callers = [threading.Thread(target=post_all, args=(caller,)) for caller in range(3)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(10)
    runtime.call(lambda: served.answer(None)).result(10)
    assert [[n for c, n in done if c == caller] for caller in range(3)] == [list(range(200))] * 3
    assert len(where) == 1 and where < runtime.thread_ids


def test_a_callback_that_fails_does_not_stop_the_others(
    make: Callable[..., LoopThread], reports: list[str], served: Served
) -> None:
    """A post that raises is reported, and those behind it are done, also the ones kept before the start."""

    def fail() -> None:
        raise ValueError("no good")

    runtime = make()
    done = threading.Event()
    runtime.post(fail)
    runtime.post(done.set)
    runtime.start()
    assert done.wait(10)
    assert reports == ["a call in the loop met ValueError: no good"]


def test_a_call_gives_back_what_its_coroutine_raised(make: Callable[..., LoopThread]) -> None:
    """The exception of the coroutine, and of the function that should have made it, is the future's."""

    async def fail() -> None:
        raise KeyError("inside")

    def make_none() -> Coroutine[Any, Any, None]:
        raise IndexError("outside")

    runtime = make()
    runtime.start()
    with pytest.raises(KeyError, match="inside"):
        runtime.call(fail).result(10)
    with pytest.raises(IndexError, match="outside"):
        runtime.call(make_none).result(10)


def test_a_call_that_the_end_overtakes_is_answered(make: Callable[..., LoopThread], served: Served) -> None:
    """Calls under way, calls in the mailbox and calls after the end all get an answer."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    runtime = make()
    runtime.start()
    under_way = runtime.call(for_ever)
    runtime.call(lambda: served.answer(None)).result(10)
    in_mailbox: list[Future[None]] = []

    def end() -> None:
        served.end()
        in_mailbox.append(runtime.call(for_ever))

    runtime.post(end)
    assert runtime.join(10)
    after = runtime.call(for_ever)
    for future in (under_way, *in_mailbox, after):
        with pytest.raises(LoopEndedError):
            future.result(10)
    assert repr(runtime) == "<LoopThread test-loop stopped>"


def test_calls_that_race_with_the_end_are_answered(served: Served, make: Callable[..., LoopThread]) -> None:
    """Whoever calls while the loop ends gets an answer, whichever comes first."""
    runtime = make()
    runtime.start()
    answers: list[Future[object]] = []
    enough, ended = threading.Event(), threading.Event()

    def call_on() -> None:
        after_the_end = 0
        while after_the_end < 100:
            answers.append(runtime.call(lambda: served.answer(1)))
            if len(answers) > 100:
                enough.set()
            after_the_end += ended.is_set()

    caller = threading.Thread(target=call_on)
    caller.start()
    assert enough.wait(10)
    runtime.post(served.end)
    assert runtime.join(10)
    ended.set()
    caller.join(10)
    outcomes = {answer.result(10) if not answer.exception(10) else LoopEndedError for answer in answers}
    assert outcomes == {1, LoopEndedError}


def test_a_loop_that_ends_by_an_exception_starts_again(
    make: Callable[..., LoopThread], served: Served, reports: list[str]
) -> None:
    """The loop starts again in the same thread, says so, answers what was under way, and resolves names."""
    failed = threading.Event()
    may_fail = threading.Event()
    where: list[int] = []

    async def main() -> None:
        where.append(threading.get_ident())
        if len(where) == 1:
            await asyncio.get_running_loop().run_in_executor(None, may_fail.wait, 10)
            failed.set()
            raise ZeroDivisionError("unforeseen")
        await served.main()

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def resolve() -> int:
        loop = asyncio.get_running_loop()
        return len(await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 5))

    runtime = make(main)
    runtime.start()
    under_way = runtime.call(for_ever)
    runtime.call(lambda: served.answer(None)).result(10)
    may_fail.set()
    with pytest.raises(LoopEndedError):
        under_way.result(10)
    assert failed.is_set()
    assert served.running.wait(10)
    assert runtime.call(resolve).result(10) > 0
    assert len(where) == 2 and len(set(where)) == 1
    assert reports == ["the delivery loop ended by ZeroDivisionError: unforeseen; it is started again"]


def test_what_is_posted_between_two_loops_is_kept(
    make: Callable[..., LoopThread], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A post that comes while there is no loop is done by the next one."""
    done = threading.Event()
    runtime: LoopThread

    async def main() -> None:
        if not hasattr(served, "failed"):
            served.failed = True  # type: ignore[attr-defined]
            raise ZeroDivisionError
        await served.main()

    runtime = make(main)
    monkeypatch.setattr(
        "plumelog_loguru._runtime._loop_thread.time.sleep", lambda _seconds: runtime.post(done.set)
    )
    runtime.start()
    assert done.wait(10)


def test_a_start_that_fails_leaves_nothing_behind(
    make: Callable[..., LoopThread], monkeypatch: pytest.MonkeyPatch, served: Served
) -> None:
    """Where a thread cannot be started, `start` says so, and may be tried again."""

    def refuse(run: Callable[[], None], name: str) -> int:
        raise RuntimeError("can't start new thread")

    runtime = make()
    monkeypatch.setattr("plumelog_loguru._runtime._loop_thread.start_unawaited", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        runtime.start()
    assert (repr(runtime), runtime.thread_ids) == ("<LoopThread test-loop new>", frozenset())
    monkeypatch.undo()
    runtime.start()
    assert runtime.call(lambda: served.answer(2)).result(10) == 2


def test_it_does_not_use_the_applications_policy(make: Callable[..., LoopThread], served: Served) -> None:
    """The loop is asyncio's own selector loop, whatever the application has chosen for itself."""

    async def kind() -> type:
        return type(asyncio.get_running_loop())

    runtime = make()
    runtime.start()
    assert runtime.call(kind).result(10) is asyncio.SelectorEventLoop
