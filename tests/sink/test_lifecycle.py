"""How a process ends, and what becomes of its records."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loguru import logger

from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._spool import SpoolDirectory
from tests.scale import scaled
from tests.sink.conftest import MakeSink, balance, verdict, wait_until

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]

_HEAD = """
import os, sys, time
from loguru import logger
from plumelog_loguru import DurableRedisSink
logger.remove()
sink = DurableRedisSink()
logger.add(sink)
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise ValueError('boom')", 1), ("sink = None", 0)],
    ids=["return", "sys.exit", "exception", "forgotten"],
)
def test_an_ordinary_end_delivers_everything(
    redis_server: RedisServer, run_script: RunScript, ending: str, code: int
) -> None:
    """Return, `sys.exit` and an unhandled exception: what was logged last is in Redis."""
    done = run_script(_HEAD + "for n in range(500): logger.info(str(n))\n" + ending, redis_server)
    assert done.returncode == code, done.stderr
    assert "plumelog-loguru" not in done.stderr
    assert verdict(redis_server, [str(n) for n in range(500)]).exactly_once


def test_what_cannot_be_pushed_is_delivered_by_the_next_start(
    own_server: RedisServer, run_script: RunScript, make_sink: MakeSink
) -> None:
    """A process that ends while Redis is away leaves its records in the spool; the next one delivers them."""
    own_server.stop()
    began = time.monotonic()
    done = run_script(_HEAD + "for n in range(500): logger.info(str(n))", own_server)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 4
    own_server.start()
    sink = make_sink(own_server.url)
    wait_until(lambda: sink.stats().delivered == 500)
    assert sink.stats().adopted == 500
    assert verdict(own_server, [str(n) for n in range(500)]).exactly_once


def test_a_two_line_script_with_a_host_name(redis_server: RedisServer, run_script: RunScript) -> None:
    """One record to a host *name*, and the end: it is delivered, and the script ends soon.

    Names are resolved while the interpreter ends, when `concurrent.futures` takes no more work.
    """
    url = f"redis://localhost:{redis_server.port}"
    script = "from loguru import logger; from plumelog_loguru import DurableRedisSink\n"
    script += "logger.remove(); logger.add(DurableRedisSink()); logger.info('one')"
    plain = "from loguru import logger\nlogger.remove(); logger.info('one')"
    rounds = scaled(3, 15)
    cost = []
    for _ in range(rounds):
        began = time.monotonic()
        assert run_script(plain, url).returncode == 0
        between = time.monotonic()
        done = run_script(script, url)
        cost.append(time.monotonic() - between - (between - began))
        assert (done.returncode, done.stderr) == (0, "")
    print(f"more than without the sink: {statistics.median(cost):.3f} s")
    assert len(redis_server.values("plume_log_list")) == rounds


def test_logging_from_atexit_is_delivered_or_spooled(
    redis_server: RedisServer, run_script: RunScript
) -> None:
    """A record that is logged by an exit function, before Loguru's own, is delivered."""
    script = _HEAD + "import atexit; atexit.register(lambda: logger.info('late')); logger.info('early')"
    done = run_script(script, redis_server)
    assert (done.returncode, done.stderr) == (0, "")
    assert verdict(redis_server, ["early", "late"]).exactly_once


def test_a_sink_first_used_at_exit_loses_nothing(
    redis_server: RedisServer, run_script: RunScript, make_sink: MakeSink
) -> None:
    """Where no thread can be started any more, the record goes straight to the spool, or to Redis."""
    script = (
        _HEAD
        + """
        import atexit
        def last():
            sink.write("written after the sink had stopped")
            sink.stop()
        logger.info("before")
        logger.remove()
        atexit.register(last)
    """.replace("\n        ", "\n")
    )
    done = run_script(script, redis_server)
    assert done.returncode == 0, done.stderr
    sink = make_sink(redis_server.url)
    wait_until(lambda: len(redis_server.values("plume_log_list")) == 2)
    assert verdict(redis_server, ["before", "written after the sink had stopped"]).exactly_once
    assert sink.stats().in_memory == 0


def test_closing_spends_one_deadline(make_sink: MakeSink, own_server: RedisServer) -> None:
    """A frozen server holds the end up no longer than `close_timeout_seconds`; the rest is spooled."""
    sink = make_sink(own_server.url, close_timeout_seconds=1)
    logger.add(sink)
    logger.info("before")
    assert sink.drain(10).complete
    own_server.freeze()
    expected = ["before", *(str(n) for n in range(300))]
    for message in expected[1:]:
        logger.info(message)
    report = sink.close()
    own_server.thaw()
    assert report.seconds < 2
    assert (report.complete, report.spooled, report.in_memory) == (True, 300, 0)
    assert sink.close().complete, "closing again changes nothing"
    successor = make_sink(own_server.url)
    wait_until(lambda: successor.stats().delivered == 300)
    assert verdict(own_server, expected).exactly_once


def test_a_short_job_leaves_no_burst_behind(
    redis_server: RedisServer, make_sink: MakeSink, tmp_path: Path
) -> None:
    """What overflowed to the disk while Redis was there is delivered before the sink ends."""
    sink = make_sink(redis_server.url, queue_max_size=50)
    handler = logger.add(sink, format="{message}")
    expected = [str(n) for n in range(scaled(3_000, 50_000))]
    for message in expected:
        logger.info(message)
    logger.remove(handler)
    assert sink.stats().spooled == 0
    assert verdict(redis_server, expected).exactly_once
    assert list((tmp_path / "spool").iterdir()) == []


def test_closing_at_once(redis_server: RedisServer, make_sink: MakeSink, tmp_path: Path) -> None:
    """A sink that is closed before its threads have begun ends cleanly, with and without a record."""
    for _ in range(scaled(10, 200)):
        assert make_sink(redis_server.url).close().seconds < 1
        with make_sink(redis_server.url) as sink:
            sink.write("x")  # type: ignore[arg-type]
    assert len(redis_server.values("plume_log_list")) == scaled(10, 200)
    assert list((tmp_path / "spool").iterdir()) == []


def test_records_after_close_are_counted(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """A closed sink refuses records, and says how many."""
    sink = make_sink(redis_server.url)
    logger.add(sink)
    logger.info("taken")
    sink.close()
    logger.info("refused")
    stats = sink.stats()
    assert (stats.accepted, stats.delivered, dict(stats.dropped)) == (2, 1, {"closed": 1})


def test_a_removed_sink_can_be_added_again(redis_server: RedisServer, make_sink: MakeSink) -> None:
    """`logger.configure` removes first; the sink starts anew, counts on, and its numbers have no gap."""
    sink = make_sink(redis_server.url)
    for message in ("first", "second", "third"):
        logger.configure(handlers=[{"sink": sink}])
        logger.info(message)
    logger.remove()
    assert verdict(redis_server, ["first", "second", "third"]).exactly_once
    stats = sink.stats()
    assert (stats.accepted, stats.delivered, stats.adopted) == (3, 3, 0)


def test_a_sink_that_stops_with_a_spool_starts_with_it_again(
    own_server: RedisServer, make_sink: MakeSink
) -> None:
    """What was spooled before a stop is adopted by the same sink's next start, and counted once."""
    sink = make_sink(own_server.url)
    handler = logger.add(sink)
    own_server.stop()
    for n in range(200):
        logger.info(str(n))
    logger.remove(handler)
    assert sink.stats().spooled == 200
    own_server.start()
    logger.add(sink)
    logger.info("200")
    wait_until(lambda: sink.stats().delivered == 201)
    assert verdict(own_server, [str(n) for n in range(201)]).exactly_once


def test_nothing_is_left_behind(redis_server: RedisServer, make_sink: MakeSink, tmp_path: Path) -> None:
    """A hundred starts and stops leave no thread, no descriptor and no part of the spool."""
    import os

    def open_things() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

    before = open_things()
    sink = make_sink(redis_server.url)
    handler = logger.add(sink)
    logger.info("warm")
    logger.remove(handler)
    wait_until(lambda: open_things() == before)
    for _ in range(scaled(10, 100)):
        handler = logger.add(sink)
        logger.info("x")
        logger.remove(handler)
    wait_until(lambda: open_things() == before)
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("python_flag", ["-X dev", "-W error"])
def test_no_warning_is_left_at_exit(redis_server: RedisServer, tmp_path: Path, python_flag: str) -> None:
    """Development mode finds no unclosed socket, file, loop or un-awaited coroutine."""
    script = _HEAD.replace(
        "DurableRedisSink()", f"DurableRedisSink(redis_url={redis_server.url!r}, spool_dir={str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, *python_flag.split(), "-c", script + "logger.info('x')"],
        capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("final", [False, True], ids=["stop", "close"])
def test_ending_while_other_threads_overflow_the_queue(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path, final: bool
) -> None:
    """What a thread hands to a spool that is just closing is not left in between: spooled, or counted."""
    own_server.stop()
    for round_number in range(scaled(5, 100)):
        folder = tmp_path / str(round_number)
        sink = make_sink(own_server.url, spool_dir=folder, queue_max_size=20, health_check_interval_seconds=5)
        ended = threading.Event()

        def load(sink: DurableRedisSink = sink, ended: threading.Event = ended) -> None:
            while not ended.is_set():
                sink.write("x")  # type: ignore[arg-type]  # past the lock that Loguru holds while it stops a sink

        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.02 + round_number % 5 * 0.02)  # overflowing, at some moment or other
            if final:
                sink.close()
            else:
                for _ in range(3):
                    sink.stop()
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        if not final:
            sink.stop()
        stats = sink.stats()
        assert (balance(stats), stats.in_memory, stats.queue_depth) == (0, 0, 0), stats
        on_disk = sum(part.records for part in SpoolDirectory(folder, sink.settings.destination).survey())
        assert on_disk == stats.spooled, stats


def test_a_spool_that_is_usable_again_gets_what_came_back(
    own_server: RedisServer, make_sink: MakeSink, tmp_path: Path
) -> None:
    """Records that a spool gave back, because it could not be opened, are spooled at the end if it can be."""
    own_server.stop()
    (tmp_path / "place").write_text("in the way")
    sink = make_sink(own_server.url, spool_dir=tmp_path / "place" / "spool", close_timeout_seconds=2)
    handler = logger.add(sink, format="{message}")
    for n in range(300):
        logger.info(str(n))
    wait_until(lambda: sink.stats().durability == "degraded")
    (tmp_path / "place").unlink()
    logger.remove(handler)
    assert (sink.stats().spooled, sink.stats().in_memory) == (300, 0)
    own_server.start()
    logger.add(sink, format="{message}")
    logger.info("300")
    wait_until(lambda: sink.stats().delivered == 301)
    assert verdict(own_server, [str(n) for n in range(301)]).exactly_once
