"""Several faults in one scenario, one after the other or overlapping; a program that dies and is replaced."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from chaos import oracle
from chaos.scenario import Fault, Felt
from chaos.stage import Stage, StageError


@dataclass(frozen=True)
class Turn:
    """When a fault is in force: from one share of the time to another, 0 to 1."""

    fault: Fault
    begins: float
    ends: float


@dataclass(frozen=True)
class Several:
    """Faults in turns, each of which must show for itself that it happened."""

    turns: tuple[Turn, ...]

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let all of them strike; healed when the last one is."""
        strikes: list[tuple[Turn, Future[None]]] = []
        begun_at, begun = time.monotonic(), 0.0
        with ThreadPoolExecutor(len(self.turns), thread_name_prefix="chaos-turn") as pool:
            for turn in sorted(self.turns, key=lambda turn: turn.begins):
                # A last look may take a fault beyond its time: then all that follow are as much later.
                wait([strike for other, strike in strikes if other.ends <= turn.begins])
                time.sleep(max(0.0, begun_at + (turn.begins - begun) * seconds - time.monotonic()))
                begun_at, begun = time.monotonic(), turn.begins
                strikes.append((turn, pool.submit(self._strike, turn, stage, seconds)))
        for _, strike in strikes:
            strike.result()

    def _strike(self, turn: Turn, stage: Stage, seconds: float) -> None:
        seen_before = stage.seen_by_thread[threading.get_ident()]
        turn.fault.strike(stage, (turn.ends - turn.begins) * seconds)
        if stage.seen_by_thread[threading.get_ident()] == seen_before:
            raise StageError(f"nothing shows that it happened: {turn.fault}")


def one_after_the_other(*faults: Fault) -> Several:
    """Faults without overlap, each for the same share of the time."""
    share = 1 / len(faults)
    return Several(tuple(Turn(fault, n * share, (n + 1) * share) for n, fault in enumerate(faults)))


@dataclass(frozen=True)
class ProgramKilled:
    """SIGKILL for the program that logs, in the middle; another one takes over what it left."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Kill after half of the time."""
        time.sleep(seconds / 2)
        victim = stage.applications[-1]
        victim.kill()
        stage.saw("the program was killed", victim.process.returncode == -signal.SIGKILL)
        stage.start_application()
        time.sleep(seconds / 2)


@dataclass(frozen=True)
class Begun:
    """Records of the scenario's kind are logged during another fault, so they take the way over the disk."""

    during: Fault

    def strike(self, stage: Stage, seconds: float) -> None:
        """Log them for so long."""
        before = _logged(stage)
        self.during.strike(stage, seconds)
        logged = _logged(stage) - before
        if not logged:
            raise StageError("none of them was logged")
        stage.saw("records of the kind were logged", logged)


@dataclass(frozen=True)
class UntilFelt:
    """A fault that programs feel only by chance goes on until the first one did, or for some more seconds."""

    fault: Fault
    felt: Felt
    more_seconds: float = 5.0

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be in force for so long, and then again and again."""
        began = time.monotonic()
        self.fault.strike(stage, seconds)
        give_up_at = time.monotonic() + self.more_seconds
        while not self._is_felt(stage, began) and time.monotonic() < give_up_at:
            self.fault.strike(stage, 0.5)

    def _is_felt(self, stage: Stage, began: float) -> bool:
        return self.felt in oracle.felt(stage.application.samples(), began, time.monotonic())


def _logged(stage: Stage) -> int:
    return sum(book.count for book in stage.books())
