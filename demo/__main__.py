"""The demo's story, from the first record to the verdict.

    process 1 logs  ──  server killed  ──  server back, replay  ──  server killed again, process 1 ends
    server back  ──  process 2 starts, delivers what process 1 left, and logs on

Exit code: 0 when every record is in Redis exactly once, 1 when one is missing or doubled, 2 when the demo
could not run, 130 when it was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from demo.consumer import Consumer
from demo.judge import judge
from demo.screen import Screen
from lab.servers import RedisServer, ServerError

ROOT = Path(__file__).resolve().parent.parent
PHASES = {"before": "before", "outage": "during", "after": "after"}
PATIENCE_SECONDS = 30.0  # for what takes a second or two


class Broken(Exception):
    """The demo cannot go on; the text is one sentence."""


class Application:
    """The director's end of one application process."""

    def __init__(self, name: str, environment: dict[str, str], screen: Screen, directory: Path) -> None:
        self.name = name
        self.stats: dict[str, Any] = {}
        self.last: dict[str, Any] = {}  # its last word
        self._screen = screen
        self._process = subprocess.Popen(
            [sys.executable, "-m", "demo.application", name],
            cwd=directory,  # away from any .env
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C comes to the director, who ends it
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._listen, self._pass_on)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, phase: str) -> None:
        """Say which phase begins."""
        if self._process.poll() is not None:
            raise Broken(f"{self.name} ended by itself with exit code {self._process.returncode}")
        assert self._process.stdin is not None
        self._process.stdin.write(phase + "\n")
        self._process.stdin.flush()

    def has_ended(self) -> bool:
        """Whether it has ended, and all it said was heard."""
        return self._process.poll() is not None and not any(reader.is_alive() for reader in self._readers)

    def release(self) -> None:
        """Make sure that it ends, whatever happened."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # for the application, the end
        try:
            self._process.wait(timeout=8)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()

    def expected_ids(self) -> list[str]:
        """The id of every record it logged, from its own book."""
        book: dict[str, int] = self.last["logged"]
        return [
            f"{self.name}/{thread}/{number}" for thread, used in book.items() for number in range(1, used + 1)
        ]

    def logged(self, record_id: str) -> bool:
        """Whether a record is one of its own."""
        return record_id.startswith(f"{self.name}/")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                told = json.loads(line)
                kind = told.pop("kind")
                if kind == "stats":
                    self.stats = told
                elif kind == "last":
                    self.last = told
                else:
                    records = f" ({told['records']:,} records)" if told["records"] else ""
                    self._screen.event(f"{self.name}: sink event '{told['event']}'{records}", "dim")

    def _pass_on(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._screen.event(f"{self.name}: {line.rstrip()}", "yellow")


class Story:
    """One run of the demo."""

    def __init__(self, screen: Screen, directory: Path, own_url: str | None, pace: float = 1.0) -> None:
        """Start the server, if it is to be ours.

        Args:
            screen: where the story is told.
            directory: for the server's data and the spool; exists, and is empty.
            own_url: the server to use instead of one of the demo's own; never killed.
            pace: every scene takes so many times its usual length.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._screen = screen
        self._directory = directory
        self._pace = pace
        self._server = None if own_url else RedisServer(directory / "server", appendonly="always")
        if self._server is not None:
            self._server.directory.mkdir()
            self._server.start()
        self._url = own_url or (self._server.url if self._server else "")
        # A key of the demo's own: on a server that is not ours, nothing else is touched.
        self._key = f"plumelog_demo_{uuid.uuid4().hex[:12]}"
        # Never retried by the client: a pop that is repeated is two pops.
        self._client = redis.Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
        self._consumer = Consumer(self._client, self._key)
        self._applications: list[Application] = []

    def play(self) -> int:
        """Tell the whole story.

        Returns:
            The exit code.
        """
        try:
            self._greet()
            self._consumer.start()
            if self._server is not None:
                self._with_outages(self._server)
            else:
                self._without_outages()
            self._screen.event("everything has ended: the consumer takes what is left in the list")
            self._consumer.finish()
            if self._consumer.broken is not None:
                raise Broken(
                    f"a pop of the consumer broke off, so nothing can be said: {self._consumer.broken}"
                )
            self._screen.live("")
            return self._judge()
        finally:
            self._screen.live("")
            for application in self._applications:
                application.release()
            if self._server is not None:
                self._server.close()
            else:
                self._client.delete(self._key)
            self._client.close()

    def _greet(self) -> None:
        info = self._client.info("server")
        assert isinstance(info, dict)
        name = "Valkey" if "valkey_version" in info else "Redis"
        version = info.get("valkey_version") or info["redis_version"]
        if self._server is not None:
            self._screen.event(
                f"a real server runs: {name} {version}, pid {self._server.pid}, {self._server.binary}"
            )
        else:
            self._screen.event(f"using your server, {name} {version}, under the key {self._key}")
            self._screen.event("it is not ours to kill: this run shows no outage", "yellow")

    def _with_outages(self, server: RedisServer) -> None:
        screen = self._screen
        first = self._begin("process-1")
        self._play_for(1.0)
        first.tell("before")
        self._play_for(4.0)
        screen.event(f"as the consumer reads it: {self._consumer.example.splitlines()[0]!r}")
        self._kill(server)
        first.tell("outage")
        self._play_for(9.0)
        self._revive(server)
        first.tell("after")
        self._wait(
            "the spool to drain", lambda: first.stats["redis_state"] == "up" and not first.stats["spooled"]
        )
        screen.event("what was spooled is in Redis, beside the live records", "green")
        self._play_for(4.0)
        self._kill(server)
        first.tell("outage")
        self._play_for(2.0)
        screen.event("process-1 ends in the middle of the outage, as processes do")
        self._end(first)
        screen.event(
            f"process-1 is gone; {first.last['spooled']:,} of its records wait on the disk", "yellow"
        )
        self._revive(server)
        self._second()

    def _without_outages(self) -> None:
        first = self._begin("process-1")
        self._play_for(1.0)
        first.tell("before")
        self._play_for(6.0)
        self._end(first)
        self._second()

    def _second(self) -> None:
        second = self._begin("process-2")
        left = self._applications[0].last["spooled"]
        self._wait(
            "the second process to deliver what the first one left",
            lambda: second.stats["adopted"] >= left and not second.stats["spooled"],
        )
        if left:
            self._screen.event(f"process-2 found {left:,} records of process-1 and delivered them", "green")
        self._play_for(1.0)
        self._end(second)

    def _begin(self, name: str) -> Application:
        ours = {
            "PLUMELOG_APP_NAME": "demo-shop",
            "PLUMELOG_ENV": "demo",
            "PLUMELOG_REDIS_URL": self._url,
            "PLUMELOG_REDIS_KEY": self._key,
            "PLUMELOG_SPOOL_DIR": str(self._directory / "spool"),
            "PLUMELOG_LANE_TTL_SECONDS": "3600",
            "PYTHONPATH": os.pathsep.join(_import_path()),
        }
        others = {
            name: value for name, value in os.environ.items() if not name.upper().startswith("PLUMELOG_")
        }
        application = Application(name, {**others, **ours}, self._screen, self._directory)
        self._applications.append(application)
        self._wait(f"{name} to log", lambda: bool(application.stats))
        self._screen.event(f"{name} logs in several threads (pid {application.pid})")
        return application

    def _end(self, application: Application) -> None:
        application.tell("end")
        self._wait(f"{application.name} to end", application.has_ended)
        if not application.last:
            raise Broken(f"{application.name} ended without its last word")

    def _kill(self, server: RedisServer) -> None:
        with self._consumer.gate:
            pid = server.pid
            server.kill()
        self._screen.event(f"kill -9 {pid}: the server is gone", "red")

    def _revive(self, server: RedisServer) -> None:
        server.start()
        self._screen.event(f"the server is back with its data, pid {server.pid}", "green")

    def _play_for(self, seconds: float) -> None:
        for _ in self._while_time(seconds * self._pace):
            pass

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        for _ in self._while_time(PATIENCE_SECONDS):
            if condition():
                return
        raise Broken(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}")

    def _while_time(self, seconds: float) -> Iterator[None]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._draw()
            yield
            time.sleep(0.05)

    def _draw(self) -> None:
        if not self._applications or not (stats := self._applications[-1].stats):
            return
        self._screen.live(
            f"logged {sum(a.stats.get('logged', 0) for a in self._applications):,}"
            f" │ Redis {stats['redis_state']} │ delivered {stats['delivered']:,}"
            f" │ in memory {stats['in_memory']:,} │ spooled {stats['spooled']:,}"
            f" │ retries {stats['retries']} │ consumed {len(self._consumer.records):,}"
        )

    # The verdict

    def _judge(self) -> int:
        records = self._consumer.records
        expected = [
            record_id for application in self._applications for record_id in application.expected_ids()
        ]
        found = judge(expected, records)
        verdict = found.verdict
        self._show(
            {
                "logged": lambda a: len(a.expected_ids()),
                "in Redis": lambda a: sum(map(a.logged, (str(record["demo_id"]) for record in records))),
                "lost": lambda a: sum(map(a.logged, verdict.lost)),
                "doubled": lambda a: sum(map(a.logged, verdict.doubled)),
                # What was replayed was spooled before: here, or by the process whose spool was taken over.
                "spooled": lambda a: a.last["replayed"] + a.last["spooled"] - a.stats["adopted"],
                "replayed": lambda a: a.last["replayed"],
            }
        )
        self._screen.line()
        self._show_calls(self._applications[0].last["calls"])
        self._screen.line()
        if found.exactly_once:
            self._screen.line(
                self._screen.style(
                    f"  All {len(expected):,} records are in Redis, each exactly once.", "green"
                )
            )
            return 0
        self._screen.line(self._screen.style(f"  FAILED: {found}", "red"))
        return 1

    def _show(self, counts: dict[str, Callable[[Application], int]]) -> None:
        self._screen.line()
        rows = []
        for name, count in counts.items():
            each = [count(application) for application in self._applications]
            rows.append([name, *(f"{number:,}" for number in (*each, sum(each)))])
        self._screen.table(["records", *(a.name for a in self._applications), "all"], rows)

    def _show_calls(self, calls: dict[str, dict[str, float]]) -> None:
        shown = [phase for phase in PHASES if phase in calls]
        self._screen.table(
            ["logger.info()", *(f"{PHASES[phase]} outage" for phase in shown)],
            [
                ["calls timed", *(f"{calls[phase]['calls']:,}" for phase in shown)],
                ["median, µs", *(f"{calls[phase]['median_us']:.1f}" for phase in shown)],
                ["99.9th percentile, µs", *(f"{calls[phase]['p999_us']:.1f}" for phase in shown)],
            ],
        )


def _import_path() -> list[str]:
    """Where the application finds the demo, and the library if it is not installed."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(ROOT), *(os.path.abspath(path) for path in given if path)]


def main() -> int:
    """Run the demo.

    Returns:
        The exit code.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # whatever the locale says
    screen = Screen()
    screen.line(
        screen.style("plumelog-loguru: one outage, one process that ends in another, no record lost", "bold")
    )
    own_url = os.environ.get("PLUMELOG_REDIS_URL")
    # The application writes into it until it has ended, so whoever clears up comes last.
    with tempfile.TemporaryDirectory(prefix="plumelog-demo-") as directory:
        try:
            return Story(screen, Path(directory), own_url).play()
        except (ServerError, Broken, OSError) as error:
            screen.event(f"the demo cannot run: {error}", "red")
            return 2
        except KeyboardInterrupt:
            screen.line("interrupted")
            return 130


if __name__ == "__main__":
    sys.exit(main())
