"""How a process can end: killed, interrupted, replaced, or over. Whoever comes next delivers what it left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chaos.application_handle import Application
from chaos.faults.weather import drawn, show, weather
from chaos.stage import Stage, StageError, wait_until

_PATIENCE_SECONDS = 60.0  # for what a program does for certain, on however busy a machine


def rounds(seconds: float, least: int = 2) -> range:
    """One round for each second, however long it takes: a busy machine must not lessen them."""
    return range(max(least, round(seconds)))


def calls_of(application: Application) -> Callable[[], int]:
    """How many calls of a program have returned, each time this is called."""
    book = application.orders.open_book()
    return lambda: book.count


def let_log(stage: Stage, application: Application) -> int:
    """Wait until a program has logged some more: few records or hundreds; gives how many that is in all."""
    calls = calls_of(application)
    wanted = calls() + stage.dice.choice((1, 40, 150, 400))
    wait_until(lambda: calls() >= wanted or not application.is_running, "the program logs", _PATIENCE_SECONDS)
    return calls()


def must_end_with(application: Application, code: int) -> None:
    """Wait for a program's end, which must be this one."""
    try:
        found = application.process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        raise StageError(
            f"the program {application.orders.tag} does not end: {application.orders.options}"
        ) from None
    if found != code:
        raise StageError(f"the program {application.orders.tag} ended with {found} and not {code}")


# ---------------------------------------------------------------------------- ends that somebody brings about


@dataclass(frozen=True)
class Ended:
    """Programs end again and again in this way, in any weather; each finds what those before it have left."""

    how: Literal["kill -9", "os._exit", "SIGTERM", "SIGINT twice", "left alone"]
    programs: int = 1  # on one spool directory, at a time

    def strike(self, stage: Stage, seconds: float) -> None:
        """Some rounds; then a last program, which lives."""
        behaviour, end = _ENDS[self.how]
        for number in rounds(seconds):
            with contextlib.ExitStack() as weathers:
                if stage.dice.random() < 0.3:  # it starts in bad weather, and else meets it later
                    weathers.enter_context(drawn(stage))
                victims = [
                    stage.start_application(stage.orders(behaviour=behaviour)) for _ in range(self.programs)
                ]
                weathers.enter_context(drawn(stage, bad=number == 0))
                for victim in victims:
                    calls = let_log(stage, victim)
                    what = end(victim)
                    stage.saw(f"{what}, when {calls} calls had returned")
        stage.start_application()


def _kill(victim: Application) -> str:
    if not victim.is_running:
        raise StageError(f"the program {victim.orders.tag} ended before it was killed")
    victim.kill()
    must_end_with(victim, -signal.SIGKILL)
    return "it was killed"


def _exit(victim: Application) -> str:
    victim.tell("_exit")
    must_end_with(victim, 0)
    return "it left by os._exit"


def _terminate(victim: Application) -> str:
    victim.signal(signal.SIGTERM)
    must_end_with(victim, -signal.SIGTERM)
    return "SIGTERM ended it"


def _interrupt_twice(victim: Application) -> str:
    """The second Ctrl-C comes while the sink closes, as a rule."""
    victim.ask("storm")
    victim.signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        victim.process.wait(0.05)
    victim.signal(signal.SIGINT)
    must_end_with(victim, -signal.SIGINT)
    return "SIGINT ended it"


def _leave_alone(victim: Application) -> str:
    victim.tell("stop")
    must_end_with(victim, 0)
    return "it came to its end"


_ENDS: Mapping[str, tuple[str, Callable[[Application], str]]] = {
    "kill -9": ("steady", _kill),
    "os._exit": ("exiting", _exit),
    "SIGTERM": ("steady", _terminate),
    "SIGINT twice": ("interrupted", _interrupt_twice),
    "left alone": ("left", _leave_alone),
}


# ---------------------------------------------------------------------------- ends at a point in the library


@dataclass(frozen=True)
class KilledAt:
    """Programs kill themselves at points in the library, one after the other, at some passing of each."""

    points: tuple[str, ...]
    passes: tuple[int, int]  # at one of these passings, both included
    weather: str = "fair"  # as `weather` has it, or "away, then back"
    as_heirs: bool = False  # each finds what a killed one has left

    def strike(self, stage: Stage, seconds: float) -> None:
        """A round for each second, and a point for each round; then a last program, which lives."""
        points = list(self.points)
        stage.dice.shuffle(points)
        for number in rounds(seconds):
            point = points[number % len(points)]
            if self.as_heirs:
                _leave_something(stage)
            options = {"point": point, "passes": stage.dice.randint(*self.passes)}
            orders = stage.orders(options=options)
            process = stage.start_application(orders, wait=False)
            with self._weather(stage, process):
                must_end_with(process, -signal.SIGKILL)
            note = Path(orders.folder) / f"{orders.tag}.died"
            if note.read_text() != point:
                raise StageError(f"the program {orders.tag} did not die at {point!r}")
            stage.saw(f"killed at {point!r}")
        stage.start_application()

    @contextlib.contextmanager
    def _weather(self, stage: Stage, victim: Application) -> Iterator[None]:
        if self.weather != "away, then back":
            with weather(stage, self.weather):
                yield
            return
        with weather(stage, "away"):
            wait_until(
                lambda: victim.spooled() > 200 or not victim.is_running, "much is spooled", _PATIENCE_SECONDS
            )
        yield


def _leave_something(stage: Stage) -> None:
    """A program is killed while Redis is away: rows in its spool, and records in its journal."""
    with stage.proxy.down():
        victim = stage.start_application()
        wait_until(victim.spooled, "something is spooled", _PATIENCE_SECONDS)
        victim.kill()


_SOME = 100  # records: more than a program that says little logs meanwhile


def _undelivered(stage: Stage) -> int:
    return sum(book.count for book in stage.books()) - stage.delivered()


def _leave_much(stage: Stage) -> None:
    with stage.proxy.down():
        victim = stage.start_application(stage.orders(records_per_second=1500.0))
        calls = calls_of(victim)
        wait_until(lambda: calls() >= 4000, "there is much to replay", _PATIENCE_SECONDS)
        wait_until(victim.spooled, "something is spooled", _PATIENCE_SECONDS)
        victim.kill()


@dataclass(frozen=True)
class KilledInReplay:
    """While rows go to a slow Redis, the program or command that sends them is killed, again and again."""

    by: Literal["program", "command"]

    def strike(self, stage: Stage, seconds: float) -> None:
        """One leaves many rows, and so does another when few are left; each of the next delivers some."""
        for _ in rounds(seconds):
            if _undelivered(stage) < 2 * _SOME:
                _leave_much(stage)
            with stage.proxy.toxic("latency", stream="upstream", latency=60):
                show(stage, ("slow", "no answer"), "the network is slow", timeout=0.2)
                self._kill_one(stage)
        stage.start_application()

    def _kill_one(self, stage: Stage) -> None:
        before = stage.delivered()
        kill = self._start(stage)
        wait_until(lambda: stage.delivered() >= before + _SOME, "the replay begins", _PATIENCE_SECONDS)
        # At any moment of it; every other time while what is on its way can no longer arrive.
        with weather(stage, "away" if stage.dice.random() < 0.5 else "fair"):
            time.sleep(stage.dice.uniform(0.0, 0.1))
            kill()
        time.sleep(0.3)  # Toxiproxy can hang when a toxic is removed while its connections are being closed
        if (left := _undelivered(stage)) > _SOME:
            stage.saw(f"killed when {stage.delivered() - before} more were delivered, and {left} were left")

    def _start(self, stage: Stage) -> Callable[[], None]:
        if self.by == "program":  # one that says little: what is delivered is what it found
            return stage.start_application(stage.orders(records_per_second=2.0)).kill
        command = stage.start_replay("drain")

        def kill() -> None:
            command.kill()
            command.wait()

        return kill


# ---------------------------------------------------------------------------- programs that follow each other


@dataclass(frozen=True)
class Replaced:
    """A program becomes another one by `os.execv`, in the midst of its threads, while Redis is away."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Once a second; each successor finds what was left under its own process id."""
        for number in rounds(seconds):
            with drawn(stage, bad=number == 0):
                program = stage.start_application(stage.orders(behaviour="exiting"))
                let_log(stage, program)
                started = _start_time(program.process.pid)
                program.tell("exec")
                program.wait_until_ready()
                tag = f"{program.orders.tag}.again"
                program.orders = replace(program.orders, tag=tag, behaviour="steady")
                if _start_time(program.process.pid) != started or tag not in _command_of(program.process.pid):
                    raise StageError("it is another process, or the same program")
                stage.saw("the same process is another program")
                let_log(stage, program)


def _start_time(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


@dataclass(frozen=True)
class OverAtOnce:
    """Programs of two lines, one after the other and a few at a time: each has one record, and ends."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Half of them while Redis is away."""
        for number in rounds(2 * seconds, least=4):
            with weather(stage, "away" if number % 2 else "fair"):
                scripts = [
                    stage.start_application(stage.orders(behaviour="at once", threads=0), wait=False)
                    for _ in range(2)
                ]
                for script in scripts:
                    must_end_with(script, 0)
            stage.saw("a program of one record has ended", len(scripts))
        stage.start_application()
