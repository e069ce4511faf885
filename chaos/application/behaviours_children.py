"""Programs with children: forked ones, which log through the same sink, and workers of `multiprocessing`."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from loguru import logger

from .behaviours import steady
from .orders import Orders
from .program import Program

if TYPE_CHECKING:
    from loguru import Logger

_CHILD_SECONDS = 0.3  # that a child logs
_REAP_SECONDS = 60.0


def forking(program: Program) -> None:
    """Has children that log through its sink, and end in three ways; one of them has a child itself."""
    children: dict[int, str] = {}
    names = count()

    def fork() -> str:
        for how in ("sys.exit", "os._exit", "SIGKILL"):
            pid = os.fork()
            if pid == 0:
                _live_as_child(program.child(f"c{next(names)}"), how)
            children[pid] = how
            next(names)
        return f"{len(children)} children"

    def reap() -> str:
        ends = [f"{how}: {_status_of(pid)}" for pid, how in children.items()]
        children.clear()
        return ", ".join(ends)

    steady(program, {"fork": fork, "reap": reap})


def _live_as_child(child: Program, how: str) -> None:
    """What happens in a forked process; does not return."""
    threads = child.start_threads(but=2)
    child.log(child.orders.threads)
    if how == "os._exit" and (pid := os.fork()):
        if _status_of(pid) != 0:
            os._exit(9)
    elif how == "os._exit":
        child, how = child.child("c"), "sys.exit"
        threads = child.start_threads(but=2)
    _tell_where_it_hangs()
    time.sleep(_CHILD_SECONDS)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "os._exit":
        os._exit(0)
    child.stopping.set()
    for thread in threads:
        thread.join()
    sys.exit()


def _tell_where_it_hangs() -> None:
    """Should it not end in time, its tracebacks stand on standard error. It must not fork any more."""
    faulthandler.dump_traceback_later(_REAP_SECONDS * 0.9)


def _status_of(pid: int) -> int | str:
    """How a child ended, as `subprocess` says it; one that does not end is killed, and said so."""
    give_up_at = time.monotonic() + _REAP_SECONDS
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > give_up_at:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "hangs"
        time.sleep(0.01)


def working(program: Program) -> None:
    """Lets workers of `multiprocessing` log, in the way that Loguru advises for each kind of them."""
    names = count()

    def work(method: str) -> str:
        context: Any = multiprocessing.get_context(method)
        given = None if method == "fork" else logger
        tags = [f"{program.orders.tag}.{method}{next(names)}" for _ in range(2)]
        workers = [
            context.Process(target=_work, args=(replace(program.orders, tag=tag), given)) for tag in tags
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(_REAP_SECONDS)
        return f"{method} {[worker.exitcode for worker in workers]}"

    steady(program, {"work": work})


class _Inherited:
    """The sink of whoever started us: Loguru has it already."""

    def add_to(self, logger: Logger) -> None:
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        return {}


def _work(orders: Orders, given: Logger | None) -> None:
    _tell_where_it_hangs()
    program = Program(orders, _Inherited())
    if given is not None:
        program.logger = given
    threads = program.start_threads()
    program.stopping.wait(_CHILD_SECONDS)
    program.stopping.set()
    for thread in threads:
        thread.join()


CHILDREN_BEHAVIOURS: dict[str, Callable[[Program], None]] = {
    "forking": forking,
    "working": working,
}
