"""What programs do whose own process is what goes wrong: fork it, replace it, stop it, starve it, end it."""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loguru import logger

from .behaviours import steady
from .program import Program

# ---------------------------------------------------------------------------- ends


def interrupted(program: Program) -> None:
    """Its first thread logs on and on, and is interrupted; the others log while the interpreter ends."""
    program.owe_only_what_is_taken()

    def storm() -> None:
        print("storming", flush=True)
        while True:
            program.log(program.orders.threads)
            time.sleep(0.0005)

    steady(program, {"storm": storm})


def left(program: Program) -> None:
    """It comes to its end without a word to the sink; threads, `atexit` and a last `__del__` still log."""
    program.owe_only_what_is_taken()
    row = program.orders.threads - 1

    def log_some() -> None:
        for _ in range(200):
            program.log(row)

    program.add_sink()
    program.start_sampling()
    program.start_threads(but=1)
    atexit.register(log_some)
    program.obey()
    _LEFT.append(_Finalized(log_some))


_LEFT: list[object] = []  # collected when the interpreter takes its modules apart


class _Finalized:
    def __init__(self, log: Callable[[], object]) -> None:
        self._log = log
        self.itself = self  # only the garbage collector finds it

    def __del__(self) -> None:
        self._log()


def at_once(program: Program) -> None:
    """The shortest program there is: a sink, a record, the end."""
    program.add_sink()
    program.log(program.orders.threads)


def exiting(program: Program) -> None:
    """Ends by `os._exit` in the middle of everything, or becomes another program."""
    orders = program.orders

    def become_another() -> None:
        again = replace(orders, tag=f"{orders.tag}.again", behaviour="steady")
        words = [sys.executable, "-m", "chaos.application", again.to_json()]
        os.execv(sys.executable, words)  # noqa: S606

    steady(program, {"_exit": lambda: os._exit(0), "exec": become_another})


# ---------------------------------------------------------------------------- sinks, signals, finalizers


def toggling(program: Program) -> None:
    """Its sink is removed and added again, as fast as that goes, while many threads log."""
    program.owe_only_what_is_taken()
    over = threading.Event()
    toggles: list[int] = []

    def toggle() -> None:
        while not over.wait(0.01):
            program.add_sink()
            toggles.append(1)

    toggling = threading.Thread(target=toggle)

    def calm() -> int:
        over.set()
        toggling.join()
        return len(toggles)

    def race() -> str:
        toggling.start()
        return "racing"

    steady(program, {"race": race, "calm": calm})


def signalled(program: Program) -> None:
    """A timer's signal handler logs hundreds of times a second, into whatever the first thread is doing."""
    handlers_row, own_row = program.orders.threads - 1, program.orders.threads
    came: list[int] = []

    def handle(*_: object) -> None:
        came.append(1)
        program.log(handlers_row)

    def storm(seconds: str) -> int:
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            program.log(own_row)
            time.sleep(0.0005)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return len(came)

    steady(program, {"storm": storm}, but=1)


def littering(program: Program) -> None:
    """Leaves garbage that logs when it is collected: by whatever thread, wherever that is at the moment."""
    row = program.orders.threads - 1
    collectors: dict[str, int] = {}

    def log() -> None:
        name = threading.current_thread().name
        collectors[name] = collectors.get(name, 0) + 1
        program.log(row)

    def litter(seconds: str) -> str:
        gc.set_threshold(40)
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            _Finalized(log)
            time.sleep(0.001)
        gc.set_threshold(700)
        gc.collect()
        return " ".join(f"{name}={times}" for name, times in sorted(collectors.items()))

    steady(program, {"litter": litter}, but=1)


# ---------------------------------------------------------------------------- time, memory, files


def self_stopping(program: Program) -> None:
    """Stops itself, as a debugger or a terminal would, until somebody lets it go on."""

    def freeze() -> str:
        os.kill(os.getpid(), signal.SIGSTOP)
        return "thawed"

    steady(program, {"freeze": freeze})


def opening(program: Program) -> None:
    """Takes all file descriptors that it may have, and gives them back."""
    taken: list[int] = []
    refused: list[OSError] = []
    over = threading.Event()

    def take_all() -> None:
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            refused.append(error)

    def keep_taking() -> None:
        while not over.wait(0.005):  # what others close is taken, too
            take_all()

    keeping = threading.Thread(target=keep_taking)

    def exhaust() -> str:
        take_all()
        keeping.start()
        return os.strerror(refused[0].errno or 0)

    def release() -> int:
        over.set()
        keeping.join()
        while taken:
            os.close(taken.pop())
        return len(refused)

    steady(program, {"exhaust": exhaust, "release": release})


def starving(program: Program) -> None:
    """Takes all memory that it may have, and all that others free, and after a while gives it back.

    Any step may fail meanwhile, its own too, so it says nothing until that is over. What Loguru itself had no
    memory for is not owed.
    """
    program.owe_only_what_is_taken()
    taken: list[bytearray] = []

    def take_all() -> int:
        piece_bytes, refusals = 1 << 24, 0
        while piece_bytes >= program.orders.options["smallest_bytes"]:
            try:
                taken.append(bytearray(piece_bytes))
            except MemoryError:
                piece_bytes //= 2
                refusals += 1
        return refusals

    def starve(seconds: str) -> int:
        until, refusals = time.monotonic() + float(seconds), 0
        size_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size_bytes, resource.RLIM_INFINITY))
        while time.monotonic() < until:
            try:
                refusals += take_all()
                time.sleep(0.02)
                if refusals % 5 == 0:  # now and then others get somewhere
                    del taken[-20:]
            except MemoryError:
                continue
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return refusals

    def log_starving(row: int) -> None:
        while not program.stopping.is_set():
            try:
                program.log_steadily(row)
            except (MemoryError, SystemError):
                continue

    program.add_sink()
    threads = [threading.Thread(target=log_starving, args=(row,)) for row in range(program.orders.threads)]
    for thread in threads:
        thread.start()
    program.start_sampling()
    program.obey({"starve": starve})
    program.stopping.set()
    for thread in threads:
        thread.join()
    program.remove_sink()
    program.sample()


# ---------------------------------------------------------------------------- asyncio


def asynchronous(program: Program) -> None:
    """An application on asyncio: tasks log, and now and then await what was logged."""
    completions: list[int] = []

    async def log(row: int) -> None:
        pause_seconds = 1 / program.orders.records_per_second
        for number in range(program.orders.calls - 1):
            if program.stopping.is_set():
                return
            program.log(row)
            if number % 10 == 9:
                await logger.complete()
                completions.append(1)
            await asyncio.sleep(pause_seconds)

    async def main() -> None:
        tasks = [asyncio.create_task(log(row)) for row in range(program.orders.threads)]
        words = {"completions": lambda: len(completions)}
        await asyncio.get_running_loop().run_in_executor(None, program.obey, words)
        program.stopping.set()
        await asyncio.gather(*tasks)
        await logger.complete()

    program.add_sink()
    program.start_sampling()
    asyncio.run(main())
    program.remove_sink()
    program.sample()


PROCESS_BEHAVIOURS: dict[str, Callable[[Program], None]] = {
    "asynchronous": asynchronous,
    "at once": at_once,
    "exiting": exiting,
    "interrupted": interrupted,
    "left": left,
    "littering": littering,
    "opening": opening,
    "self-stopping": self_stopping,
    "signalled": signalled,
    "starving": starving,
    "toggling": toggling,
}
