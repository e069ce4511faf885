"""One scenario's world: a server, a proxy before it, a spool directory, and programs that log.

Promises: everything of it lies in one folder and on loopback ports of its own, and is gone when the stage is
closed. What the server is asked goes past the proxy, through a client that the library does not use.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos import oracle
from chaos.application.orders import Orders, announced_in
from chaos.application_handle import Application
from chaos.timeline import Timeline
from lab.calls import CallBook
from lab.servers import HOST, RedisServer

if TYPE_CHECKING:
    from typing_extensions import Self

    from chaos.guardian import Guardian
    from chaos.toxiproxy import Proxy, Toxiproxy

ROOT = Path(__file__).parents[1]
KEY = "plume_log_list"

# Short delays: what takes a minute in production takes a second here.
SETTINGS: Mapping[str, str] = {
    "APP_NAME": "chaos",
    "BATCH_SIZE": "50",
    "BATCH_INTERVAL_SECONDS": "0.05",
    "RETRY_COUNT": "1",
    "RETRY_BACKOFF_BASE_SECONDS": "0.05",
    "RETRY_BACKOFF_MAX_SECONDS": "0.5",
    "HEALTH_CHECK_INTERVAL_SECONDS": "0.1",
    "CONNECT_TIMEOUT_SECONDS": "0.5",
    "SOCKET_TIMEOUT_SECONDS": "0.5",
}


class StageError(Exception):
    """The stage itself failed, so nothing can be said of the library."""


class Stage:
    """Everything that a scenario plays with."""

    def __init__(
        self,
        folder: Path,
        toxiproxy: Toxiproxy,
        guardian: Guardian,
        seed: int | str,
        *,
        settings: Mapping[str, str] | None = None,
        server: Mapping[str, Any] | None = None,
        orders: Mapping[str, Any] | None = None,
        disk: str = "",
        source: Path | None = None,
        python: Path | None = None,
    ) -> None:
        """Describe it; entering it starts server and proxy.

        Args:
            folder: an empty folder of its own.
            toxiproxy: where its proxy is made.
            guardian: who ends its programs if nobody else does.
            seed: of everything that is drawn.
            settings: of the programs' sinks, without their prefix.
            server: arguments of `RedisServer`.
            orders: changes to the `Orders` of every program.
            disk: options of a tmpfs of its own on which the spool directory lies; "" is no such disk.
            source: a folder that the library is imported from, instead of the installed one.
            python: the interpreter of the programs, where their sink has an environment of its own.
        """
        self.folder = folder
        self.seed = seed
        self.dice = random.Random(seed)
        self.books_folder = folder / "books"
        self.disk = folder / "disk" if disk else folder
        self.spool_dir = self.disk / "spool"
        self.secret = f"pw-{self.dice.randrange(10**12):012d}"
        self.settings = {**SETTINGS, **(settings or {})}
        self.server = RedisServer(folder / "server", **{"password": self.secret, **(server or {})})
        self.servers = [self.server]  # a scenario may add one; what is in any of their lists is delivered
        self.applications: list[Application] = []
        self.faults_injected = 0
        self.betrayed_in: list[Path] = []  # files in which the password stood at some moment
        self.seen_by_thread: Counter[int] = Counter()  # for who has several faults strike
        self.folders_with_secrets = [folder / "server"]  # a server may write its own password down
        self.timeline = Timeline(self)
        self.proxy: Proxy
        self._toxiproxy = toxiproxy
        self._guardian = guardian
        self._orders = orders or {}
        self._disk_options = disk
        self._source = source
        self._python = python
        self._tags = itertools.count()
        self._closing = contextlib.ExitStack()
        self._sights: Counter[str] = Counter()  # what shows a fault, or a part of one, and how often it did
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for path in (self.books_folder, self.folder / "server"):
                path.mkdir(parents=True)
            if self._disk_options:
                stack.enter_context(mounted(self.disk, self._disk_options))
            stack.enter_context(self.server)
            self.proxy = stack.enter_context(self._toxiproxy.create_proxy(f"{HOST}:{self.server.port}"))
            stack.callback(self._end_programs)
            stack.enter_context(self.timeline)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        self._closing.close()

    def open_proxy(self, listen: str) -> Proxy:
        """Open one more way to the server, at another address."""
        return self._closing.enter_context(self._toxiproxy.create_proxy(f"{HOST}:{self.server.port}", listen))

    def also_close(self, close: Callable[[], object]) -> None:
        """Call this when the stage is closed, before anything that is there already."""
        self._closing.callback(close)

    # ---------------------------------------------------------------- what faults say

    def saw(self, what: str, times: int = 1) -> None:
        """Write down what shows that the fault happened, and how often that was seen.

        What was never seen, however often it was looked for, makes the scenario fail.
        """
        times = max(times, 0)
        with self._lock:
            self.faults_injected += times
            self.seen_by_thread[threading.get_ident()] += times
            self._sights[what] += times

    @property
    def proofs(self) -> list[str]:
        """What shows that the fault happened."""
        sights = self._sights.items()
        return [what if times == 1 else f"{what} ({times} times)" for what, times in sights if times]

    @property
    def unseen(self) -> list[str]:
        """What should have shown that a part of the fault happened, and never did."""
        return [what for what, times in self._sights.items() if not times]

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Shade this stretch of the timeline: something is broken."""
        with self.timeline.shaded():
            yield

    # ---------------------------------------------------------------- programs

    def environment(self, **settings: str) -> dict[str, str]:
        """What a program of this stage finds in its environment: settings go without their prefix."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLUMELOG_")}
        path = "" if self._python else os.environ.get("PYTHONPATH", "")
        shown = [os.path.abspath(folder) for folder in path.split(os.pathsep) if folder]
        first = [str(self._source)] if self._source else []
        given = {
            "REDIS_HOST": self.proxy.host,
            "REDIS_PORT": str(self.proxy.port),
            "REDIS_PASSWORD": self.secret,
            "REDIS_KEY": KEY,
            "SPOOL_DIR": str(self.spool_dir),
            **self.settings,
            **settings,
        }
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join([*first, *shown, str(ROOT)]),
            **{f"PLUMELOG_{name}": value for name, value in given.items() if value},
        }

    def orders(self, **changes: Any) -> Orders:
        """Orders for the next program, the scenario's unless changed; each has a tag of its own."""
        tag = f"p{next(self._tags)}"
        given = {"folder": str(self.books_folder), "tag": tag, "seed": str(self.seed)}
        return Orders(**{**given, **self._orders, **changes})

    def start_application(
        self,
        orders: Orders | None = None,
        *,
        before: Sequence[str] = (),
        wait: bool = True,
        **settings: str,
    ) -> Application:
        """Start a program, and wait until it takes orders itself.

        Args:
            orders: what it does; steady logging unless told otherwise.
            before: a command that starts it: strace with its options.
            wait: False for one that may end before it takes any.
            settings: for its environment, without their prefix.
        """
        orders = orders or self.orders()
        python = str(self._python or sys.executable)
        words = [*before, python, "-m", "chaos.application", orders.to_json()]
        application = Application(orders, self.start(words, **settings))
        self.applications.append(application)
        if wait:
            application.wait_until_ready()
        return application

    def start(self, words: Sequence[str], **settings: str) -> subprocess.Popen[str]:
        """Start any program in the stage's environment; it is ended with the stage at the latest."""
        with open(self.folder / "stderr", "a") as errors:
            process = subprocess.Popen(
                words,
                env=self.environment(**settings),
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # with its children it is ended as one group
            )
        self._guardian.watch(process.pid)
        self._closing.callback(self._end_group, process)
        return process

    def run_replay(self, *words: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run `plumelog-replay`, as an operator does."""
        process = self.start_replay(*words)
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise StageError(f"plumelog-replay {' '.join(words)} takes more than {seconds} s") from error
        return subprocess.CompletedProcess(process.args, process.returncode, out, "")

    def start_replay(self, *words: str) -> subprocess.Popen[str]:
        """Start `plumelog-replay`, for whoever does not wait for its end."""
        return self.start([str(self._python or sys.executable), "-m", "plumelog_loguru.cli", *words])

    @property
    def application(self) -> Application:
        """The program of a scenario that has one."""
        return self.applications[0]

    # ---------------------------------------------------------------- what is known

    def books(self) -> list[CallBook]:
        """The books of all programs that ever began, children too."""
        return [orders.open_book() for orders in announced_in(self.books_folder)]

    def delivered(self) -> int:
        """How many values lie in the lists now; raises `OSError` where a server does not answer."""
        return sum(int(server.cli("LLEN", KEY, timeout=1.0)) for server in self.servers)

    def spool_parts(self) -> list[Path]:
        """What lies in the spool directory for delivery."""
        return sorted(self.spool_dir.glob("part-*"))

    def find_secrets(self) -> list[Path]:
        """All files in which the password stands now, but for the server's own."""
        return oracle.files_with(self.secret, self.folder, besides=self.folders_with_secrets)

    def errors(self) -> str:
        """What all programs said on standard error."""
        return (self.folder / "stderr").read_text(errors="replace")

    def probe(self, timeout: float = 0.4) -> str:
        """Ask the server through the proxy, as a client would, and say in a word what came of it.

        Gives "answered", "slow" (after more than a quarter of the time), "no answer", "reset", "refused",
        "closed", or the server's own error code.
        """
        began = time.monotonic()
        try:
            with socket.create_connection((self.proxy.host, self.proxy.port), timeout) as connection:
                connection.settimeout(timeout)
                connection.sendall(command("AUTH", self.secret) + command("LLEN", KEY))
                with connection.makefile("rb") as replies:
                    for line in (replies.readline(), replies.readline()):
                        if line.startswith(b"-"):
                            return line[1:].split()[0].decode()
                        if not line.endswith(b"\n"):
                            return "closed"
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "no answer"
        except ConnectionError:
            return "reset"
        return "slow" if time.monotonic() - began > timeout / 4 else "answered"

    def probe_for(self, seconds: float, expected: Sequence[str], what: str) -> None:
        """Probe for so long, and write down how often that showed what is expected."""
        struck = 0
        for _ in self.ticks(seconds):
            struck += self.probe() in expected
        self.saw(what, struck)

    def ticks(self, seconds: float, pause: float = 0.1) -> Iterator[float]:
        """Give the seconds that have passed, every now and then, for so long; at least once."""
        began = time.monotonic()
        while True:
            passed = time.monotonic() - began
            yield passed
            if passed + pause > seconds:
                time.sleep(max(0.0, seconds - passed))
                return
            time.sleep(pause)

    def _end_group(self, process: subprocess.Popen[str]) -> None:
        """Kill a program and all that it started, and wait for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        process.wait()
        self._guardian.forget(process.pid)

    def _end_programs(self) -> None:
        for application in self.applications:
            application.close()


def wait_until(true: Callable[[], object], what: str, seconds: float = 10.0) -> float:
    """Poll until something is true that no event tells; gives the seconds it took.

    Raises:
        StageError: it took longer than so many seconds.
    """
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise StageError(f"in {seconds} s it did not come to pass: {what}")
        time.sleep(0.01)
    return time.monotonic() - began


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """Have a tmpfs there. Where the run has mounts of its own, it is gone with the run."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "chaos", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def command(*words: str) -> bytes:
    """One request, as it goes over the wire."""
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)
