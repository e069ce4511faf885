"""The scene of a crash: programs and drains on one spool directory, a network that fails, and the judge.

Promises: the judge knows only what the programs wrote into their books, and what lies in the list, raw. No
weather but the first begins or ends by a sleep that a test would have to guess.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from lab.calls import CallBook
from lab.oracle import check, read_list
from lab.proxy import FaultProxy, HeldRequests
from lab.servers import HOST, RedisServer
from tests.crash.victim import Orders
from tests.scale import ALL_ROUNDS, ROUNDS

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parents[2]

# All rounds take long, and one that hangs must still end.
takes_long = pytest.mark.timeout(3600 if ROUNDS >= ALL_ROUNDS else 120)

Weather = Literal["fair", "down", "flapping", "lost replies", "late requests"]
WEATHERS: tuple[Weather, ...] = get_args(Weather)

# All delays are short: a victim has a fraction of a second to live.
_SETTINGS = {
    "BATCH_SIZE": "20",
    "BATCH_INTERVAL_SECONDS": "0.02",
    "RETRY_COUNT": "1",
    "RETRY_BACKOFF_BASE_SECONDS": "0.01",
    "RETRY_BACKOFF_MAX_SECONDS": "0.05",
    "HEALTH_CHECK_INTERVAL_SECONDS": "0.05",
}

_keys = itertools.count()


def draw_seeds(count: int) -> Iterator[int]:
    """Seeds for so many runs, each printed; every weather has its turn. ``SEED=…`` repeats one run."""
    draw = random.SystemRandom().randrange
    repeat = os.environ.get("SEED")
    drawn = (draw(10**9) * len(WEATHERS) + run % len(WEATHERS) for run in range(count))
    for seed in [int(repeat)] if repeat else drawn:
        print(f"SEED={seed}")
        yield seed


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until something that no event tells is true; fail when it takes too long."""
    give_up_at = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up_at, "it did not come true in time"
        time.sleep(0.002)


@dataclass(frozen=True)
class Victim:
    """A program that logs, and its book."""

    process: subprocess.Popen[str]
    book: CallBook

    def wait_for(self, calls: int) -> None:
        """Wait until so many calls have returned, or it has ended."""
        wait_until(lambda: self.book.count >= calls or self.process.poll() is not None)

    def kill(self) -> None:
        """SIGKILL it, and wait until nothing of it is left."""
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> None:
        """Stop its time."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def go_on(self) -> None:
        """Let its time go on."""
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """Wait for its own end; gives its exit code."""
        return self.process.wait(30)


class Scene:
    """Everything that happens on one spool directory, before one list, behind one proxy."""

    def __init__(self, server: RedisServer, path: Path, seed: int) -> None:
        self.server = server
        self.path = path
        self.seed = seed
        self.dice = random.Random(seed)
        self.weather = WEATHERS[seed % len(WEATHERS)]
        self.spool_dir = path / "spool"
        self.key = f"crash-{next(_keys)}"
        self.proxy = FaultProxy(server.port)
        self.books: list[CallBook] = []
        self._tags = itertools.count()
        self._held: list[HeldRequests] = []
        self._processes: list[subprocess.Popen[str]] = []
        self._storm: tuple[threading.Event, threading.Thread] | None = None
        path.mkdir()
        (path / "stderr").touch()

    def __enter__(self) -> Self:
        self.proxy.start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *rest: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.clear_up()
        self.proxy.close()
        if failed:
            print((self.path / "stderr").read_text(errors="replace"))

    # ---------------------------------------------------------------- processes

    def run(self, *words: str, before: Sequence[str] = (), **variables: str) -> subprocess.Popen[str]:
        """Start a Python program of the scene.

        Args:
            words: its command line.
            before: a command that starts it: strace with its options.
            variables: settings for its environment, without their prefix.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMELOG_")}
        shown = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        settings = {
            **_SETTINGS,
            "REDIS_URL": f"redis://{HOST}:{self.proxy.port}/0",
            "REDIS_KEY": self.key,
            "SPOOL_DIR": str(self.spool_dir),
            **variables,
        }
        with open(self.path / "stderr", "a") as errors:
            process = subprocess.Popen(
                [*before, sys.executable, *words],
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join([*shown, str(ROOT)]),
                    **{f"PLUMELOG_{name}": value for name, value in settings.items()},
                },
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._processes.append(process)
        return process

    def start_victim(self, *, before: Sequence[str] = (), key: str | None = None, **orders: Any) -> Victim:
        """Start a program that logs, by its `Orders`; to another list than the scene's, if told."""
        tag = f"v{next(self._tags)}"
        given = Orders(tag=tag, book=str(self.path / f"{tag}.book"), seed=f"{self.seed} {tag}", **orders)
        self.books.append(given.open_book())
        process = self.run(
            "-m", "tests.crash.victim", given.to_json(), before=before, REDIS_KEY=key or self.key
        )
        return Victim(process, self.books[-1])

    def start_drain(self, *, before: Sequence[str] = (), key: str | None = None) -> subprocess.Popen[str]:
        """Start the real command."""
        words = ("-m", "plumelog_loguru.cli", "drain", "--json", "--debug")
        return self.run(*words, before=before, REDIS_KEY=key or self.key)

    # ---------------------------------------------------------------- the network

    def set_weather(self, weather: Weather | None = None) -> None:
        """Let the network be like this, or else as the seed says, until `clear_up`."""
        weather = weather or self.weather
        if weather == "down":
            self.proxy.refuse()
        elif weather == "late requests":
            self._held.append(self.proxy.hold_requests(times=1, after=b"EVAL"))
        elif weather != "fair":
            over = threading.Event()
            storm = threading.Thread(target=self._rage, args=(weather, over))
            self._storm = over, storm
            storm.start()

    def _rage(self, weather: Weather, over: threading.Event) -> None:
        dice = random.Random(f"{self.seed} {weather}")
        while not over.wait(dice.uniform(0.0, 0.08)):
            if weather == "flapping":
                self.proxy.refuse()
                over.wait(dice.uniform(0.0, 0.08))
                self.proxy.heal()
            else:
                self.proxy.drop_replies(times=dice.randrange(1, 4), after=b"EVAL")

    def clear_up(self) -> None:
        """End all faults, but for requests that are held: they stay on their way."""
        if self._storm is not None:
            over, storm = self._storm
            over.set()
            storm.join()
            self._storm = None
        self.proxy.heal()

    # ---------------------------------------------------------------- the end

    def parts(self) -> list[Path]:
        """The parts that are in the directory now."""
        return sorted(self.spool_dir.glob("part-*"))

    def drain(self, *, key: str | None = None) -> dict[str, Any]:
        """Drain in fair weather, as an operator would; nothing may be left, and nothing in doubt."""
        self.clear_up()
        if not self.spool_dir.exists():  # nobody came so far as to make it
            return {}
        drain = self.start_drain(key=key)
        out, _ = drain.communicate(timeout=120)
        assert drain.returncode == 0, f"SEED={self.seed}: exit code {drain.returncode}, {out}"
        facts: dict[str, Any] = json.loads(out)
        assert facts["remaining"] == 0, f"SEED={self.seed}: {facts}"
        return facts

    def judge(self, *, key: str | None = None, books: Sequence[CallBook] | None = None) -> int:
        """Every record whose call returned is in the list, none is there twice, and none comes from nowhere.

        Gives the number of records that were owed. Requests that were held arrive first.
        """
        for held in self._held:
            if held.held.is_set():
                held.release()
        self._held.clear()
        books = self.books if books is None else books
        owed = [owed_id for book in books for owed_id in book.owed()]
        verdict = check(owed, read_list(self.server, key or self.key))
        unknown = set(verdict.unknown).difference(*(book.begun() for book in books))
        assert not (verdict.lost or verdict.doubled or unknown), (
            f"SEED={self.seed}: of {len(owed)} records {verdict}; without any call: {sorted(unknown)}"
        )
        return len(owed)

    def settle(self, *, in_doubt: bool = False) -> int:
        """Drain, judge, and see that nothing stays in the directory. Gives the number of records owed.

        A part may stay for the half of a frame that a process died half-way through writing: it is in
        quarantine, and was no record yet. Only where something may be ``in_doubt`` may the drain say so.
        """
        self.drain()
        halves = list(self.spool_dir.glob("part-*/quarantine/*.frame"))
        kept = {half.parents[1] for half in halves}
        left = [path for path in self.spool_dir.glob("*") if path not in kept]
        assert len(halves) <= len(self.books) and not left, f"SEED={self.seed}: {left} {halves}"
        told = (self.path / "stderr").read_text(errors="replace")
        assert in_doubt or "twice" not in told, f"SEED={self.seed}: records are said to be in doubt"
        return self.judge()

    def copy_spool(self, to: Path) -> None:
        """Keep the directory as it is now, to begin with it again."""
        shutil.copytree(self.spool_dir, to)
