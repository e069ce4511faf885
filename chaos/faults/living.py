"""What a process does or is denied, and lives: it forks, is stopped, has no memory or no files left."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Literal

from chaos.faults.process import calls_of, rounds
from chaos.faults.weather import changing, weather
from chaos.stage import Stage, StageError, wait_until

_CHILDREN_SECONDS = 150.0  # for an answer that waits for other processes to start and to end


@dataclass(frozen=True)
class Forks:
    """A program with many threads forks children, which log and end in three ways; one forks again."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Three children for each second."""
        expected = "sys.exit: 0, os._exit: 0, SIGKILL: -9"
        with changing(stage):
            for _ in rounds(seconds):
                stage.application.ask("fork")
                ends = stage.application.ask("reap", _CHILDREN_SECONDS)
                if ends != expected:
                    raise StageError(f"the children ended with {ends}")
                stage.saw("children were forked, and ended", 3)


@dataclass(frozen=True)
class Workers:
    """A program lets workers of `multiprocessing` log."""

    method: Literal["fork", "spawn", "forkserver"]

    def strike(self, stage: Stage, seconds: float) -> None:
        """Two at a time."""
        with changing(stage):
            for _ in rounds(seconds, least=1):
                ends = stage.application.ask(f"work {self.method}", _CHILDREN_SECONDS)
                if ends != f"{self.method} [0, 0]":
                    raise StageError(f"the workers ended with {ends}")
                stage.saw("workers have logged, and ended", 2)


@dataclass(frozen=True)
class SinkComesAndGoes:
    """The sink is removed and added again without a pause, while all threads log."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long."""
        book = stage.application.orders.open_book()
        with changing(stage):
            stage.application.ask("race")
            time.sleep(seconds)
            toggles = int(stage.application.ask("calm", 30.0))
        stage.saw("the sink was removed and added", toggles if book.refused_count else 0)


@dataclass(frozen=True)
class LogsAnywhere:
    """Signal handlers or finalizers log, into whatever is being done at the moment."""

    word: Literal["storm", "litter"]

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long; the row before the last of the book is theirs."""
        application = stage.application
        with changing(stage):
            answer = application.ask(f"{self.word} {seconds}", seconds + 30.0)
        orders = application.orders
        prefix = f"{orders.tag}-{orders.threads - 1}-"
        logged = sum(name.startswith(prefix) for name in orders.open_book().owed())
        stage.saw(f"records were logged from there ({answer})", logged)


@dataclass(frozen=True)
class StopsItself:
    """The program's time stands still while Redis goes away and comes back; then it goes on."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long in all, twice."""
        application = stage.application
        for _ in range(2):
            application.tell("freeze")
            os.waitpid(application.process.pid, os.WUNTRACED)
            calls = calls_of(application)
            before = calls()
            with weather(stage, "away"):
                time.sleep(seconds / 2)
            stage.saw("its time stood still", calls() == before)
            application.thaw()
            application.answer()


@dataclass(frozen=True)
class StarvedOfCpu:
    """The program gets a tenth of a processor, in short slices, while the network is bad."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long."""
        application = stage.application
        with changing(stage):
            times = 0
            for _ in stage.ticks(seconds, 0.01):
                application.freeze()  # comes back when it has stopped
                time.sleep(0.09)
                times += application.is_frozen
                application.thaw()
        stage.saw("its time stood still", times)


@dataclass(frozen=True)
class OutOfFiles:
    """No file can be opened and no connection made, while Redis cuts the one there is, and after."""

    files: int

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long; the limit stands before the sink is made."""
        words = ("sh", "-c", f'ulimit -n {self.files}; exec "$@"', "sh")
        application = stage.start_application(stage.orders(behaviour="opening"), before=words)
        with weather(stage, "away"):
            why = application.ask("exhaust")
            time.sleep(seconds / 2)
        time.sleep(seconds / 2)
        stage.saw(f"the program itself could open no file: {why}", int(application.ask("release")))


@dataclass(frozen=True)
class OutOfMemory:
    """The program may have no more memory than it has, and takes what is free in it."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long, while Redis goes away and comes back."""
        # One arena for all threads: each of its own would have room reserved that no limit takes from it. And
        # a limit from the beginning, however far off: what a sink does is chosen by whether memory can end.
        words = ("sh", "-c", 'ulimit -S -v 60000000000; MALLOC_ARENA_MAX=1 exec "$@"', "sh")
        application = stage.start_application(stage.orders(behaviour="starving"), before=words)
        calls = calls_of(application)
        wait_until(lambda: calls() > 100, "the program logs")
        with weather(stage, "away"):
            application.tell(f"starve {seconds}")
            time.sleep(seconds / 2)
        stage.saw("allocations failed", int(application.answer(30.0)))


@dataclass(frozen=True)
class Awaited:
    """An application on asyncio awaits what it logged, while Redis comes and goes."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """For so long."""
        with changing(stage):
            time.sleep(seconds)
            stage.saw("`logger.complete()` was awaited", int(stage.application.ask("completions")))
