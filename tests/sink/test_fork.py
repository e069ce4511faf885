"""Forks: the child starts empty and works, and the parent's records are sent once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.oracle import read_list
from lab.servers import RedisServer
from tests.scale import scaled
from tests.sink.conftest import verdict

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

_HEAD = """
import os, sys, threading, time
from loguru import logger
from plumelog_loguru import DurableRedisSink
logger.remove()
"""


def _run(run_script: RunScript, server: RedisServer, script: str, timeout: float = 30.0) -> str:
    done = run_script(_HEAD + textwrap.dedent(script), server, timeout)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_a_forked_child_starts_empty(redis_server: RedisServer, run_script: RunScript) -> None:
    """What the parent had queued it sends alone; the child's records have another producer and no gap."""
    _run(
        run_script,
        redis_server,
        """
        sink = DurableRedisSink(batch_interval_seconds=30, batch_size=1000)
        logger.add(sink)
        for n in range(50): logger.info(f"parent-{n}")
        pid = os.fork()
        who = "child" if pid == 0 else "parent-again"
        if pid == 0:
            assert sink.stats().accepted == 0, sink.stats()
        for n in range(50): logger.info(f"{who}-{n}")
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
        """,
    )
    expected = [f"{who}-{n}" for who in ("parent", "parent-again", "child") for n in range(50)]
    assert verdict(redis_server, expected).exactly_once
    numbers: dict[object, list[int]] = {}
    for record in read_list(redis_server):
        numbers.setdefault(record["producer"], []).append(int(str(record["seq"])))
    assert sorted(map(len, numbers.values())) == [50, 100]
    assert all(sorted(seqs) == list(range(1, len(seqs) + 1)) for seqs in numbers.values())


def test_forks_under_load(redis_server: RedisServer, run_script: RunScript) -> None:
    """Threads log and spool while the process forks: no child hangs, and every record is there once."""
    forks = scaled(10, 100)
    _run(
        run_script,
        redis_server,
        f"""
        import sqlite3
        sink = DurableRedisSink(queue_max_size=20, batch_interval_seconds=0.01)
        logger.add(sink, format="{{message}}")
        stop = threading.Event()
        counts = [0] * 4
        def load(t):
            while not stop.is_set():
                logger.info(f"p-{{t}}-{{counts[t]}}"); counts[t] += 1
                if counts[t] % 50 == 0: time.sleep(0.001)
        threads = [threading.Thread(target=load, args=(t,)) for t in range(4)]
        for thread in threads: thread.start()
        for fork in range({forks}):
            pid = os.fork()
            if pid == 0:
                own = sqlite3.connect(":memory:")  # the application's own SQLite works as well
                own.execute("select 1"); own.close()
                for n in range(20): logger.info(f"c-{{fork}}-{{n}}")
                sink.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads: thread.join()
        sink.drain(20)
        while sink.stats().spooled: time.sleep(0.01)
        print(*counts)
        """,
        timeout=60.0,
    )
    contents = Counter(str(record["content"]) for record in read_list(redis_server))
    assert set(contents.values()) == {1}
    assert sum(content.startswith("c-") for content in contents) == forks * 20


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_deliver(redis_server: RedisServer, tmp_path: Path, method: str) -> None:
    """A worker that just returns has delivered what it logged; it never calls what `atexit` knows."""
    (tmp_path / "job.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from loguru import logger
            from plumelog_loguru import DurableRedisSink

            def work(name, logger=logger):
                for n in range(20):
                    logger.info(f"{name}-{n}")

            def work_with_own_sink(name):
                logger.remove()
                logger.add(DurableRedisSink())
                work(name)

            if __name__ == "__main__":
                context = multiprocessing.get_context(sys.argv[1])
                logger.remove()
                logger.add(DurableRedisSink())
                logger.info("parent-0")
                target = work if sys.argv[1] == "fork" else work_with_own_sink
                workers = [context.Process(target=target, args=(f"w{n}",)) for n in range(3)]
                for worker in workers: worker.start()
                for worker in workers: worker.join()
                assert [worker.exitcode for worker in workers] == [0, 0, 0]
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "job.py", method],
        env={
            **os.environ,
            "PLUMELOG_REDIS_URL": redis_server.url,
            "PLUMELOG_SPOOL_DIR": str(tmp_path / "spool"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    expected = ["parent-0", *(f"w{worker}-{n}" for worker in range(3) for n in range(20))]
    found = verdict(redis_server, expected)
    assert found.exactly_once, (found, done.stderr)


def test_a_logger_passed_to_a_spawned_child(redis_server: RedisServer, tmp_path: Path) -> None:
    """The sink can be pickled: in the child it is a new one with the same settings."""
    (tmp_path / "job.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing
            from loguru import logger
            from plumelog_loguru import DurableRedisSink

            def work(logger):
                logger.info("child")
                logger.remove()

            if __name__ == "__main__":
                logger.remove()
                logger.add(DurableRedisSink(), format="{message}")
                worker = multiprocessing.get_context("spawn").Process(target=work, args=(logger,))
                worker.start()
                worker.join()
                logger.info("parent")
                assert worker.exitcode == 0
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "job.py"],
        env={
            **os.environ,
            "PLUMELOG_REDIS_URL": redis_server.url,
            "PLUMELOG_SPOOL_DIR": str(tmp_path / "spool"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = verdict(redis_server, ["child", "parent"])
    assert found.exactly_once, (found, done.stderr)


def test_a_child_of_a_child_works(redis_server: RedisServer, run_script: RunScript) -> None:
    """Each generation has a producer, a part of the spool and a connection of its own."""
    _run(
        run_script,
        redis_server,
        """
        logger.add(DurableRedisSink())
        logger.info("generation-0")
        for generation in (1, 2, 3):
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
                break
            logger.info(f"generation-{generation}")
        """,
    )
    assert verdict(redis_server, [f"generation-{n}" for n in range(4)]).exactly_once


def test_the_parent_goes_on_while_the_child_collects_garbage(
    redis_server: RedisServer, run_script: RunScript
) -> None:
    """A connection collected in the child would unregister the parent's from the epoll that they share."""
    _run(
        run_script,
        redis_server,
        """
        import gc
        sink = DurableRedisSink(batch_interval_seconds=0.01)
        logger.add(sink)
        logger.info("before"); assert sink.drain(5).complete
        pid = os.fork()
        if pid == 0:
            logger.info("child"); assert sink.drain(5).complete
            gc.collect()
            time.sleep(0.2)
            sys.exit(0)
        for n in range(20):
            logger.info(f"parent-{n}"); report = sink.drain(5)
            assert report.complete and report.delivered == 1, report
            time.sleep(0.02)
        assert os.waitpid(pid, 0)[1] == 0
        assert sink.stats().retries == 0, sink.stats()
        """,
    )
    expected = ["before", "child", *(f"parent-{n}" for n in range(20))]
    assert verdict(redis_server, expected).exactly_once


def test_a_child_leaves_the_parents_part_alone(
    own_server: RedisServer, run_script: RunScript, tmp_path: Path
) -> None:
    """Redis is away: parent and child spool into parts of their own, and a later process delivers both."""
    own_server.stop()
    _run(
        run_script,
        own_server,
        """
        sink = DurableRedisSink()
        logger.add(sink)
        for n in range(100): logger.info(f"parent-{n}")
        sink.drain(10)
        pid = os.fork()
        if pid == 0:
            for n in range(100): logger.info(f"child-{n}")
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        for n in range(100): logger.info(f"later-{n}")
        """,
    )
    own_server.start()
    _run(
        run_script,
        own_server,
        """
        sink = DurableRedisSink()
        while sink.stats().delivered < 300: time.sleep(0.01); assert time.process_time() < 20
        """,
    )
    expected = [f"{who}-{n}" for who in ("parent", "child", "later") for n in range(100)]
    found = verdict(own_server, expected)
    assert found.exactly_once, found
    assert list((tmp_path / "spool").glob("part-*")) == []


@pytest.mark.parametrize("where", ["module", "argument"])
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_sink_that_is_made_while_a_worker_is_prepared(
    redis_server: RedisServer, tmp_path: Path, method: str, where: str
) -> None:
    """Made at the import of the main module, or unpickled: the worker ends without `atexit`, and delivers."""
    (tmp_path / "job.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            from loguru import logger
            from plumelog_loguru import DurableRedisSink

            method, where = sys.argv[1:] if __name__ == "__main__" else (None, WHERE)
            logger.remove()
            if where == "module" or __name__ == "__main__":
                logger.add(DurableRedisSink(), format="{message}")

            def work(name, given):
                for n in range(20):
                    (given or logger).info(f"{name}-{n}")

            if __name__ == "__main__":
                context = multiprocessing.get_context(method)
                given = logger if where == "argument" else None
                workers = [context.Process(target=work, args=(f"w{n}", given)) for n in range(3)]
                for worker in workers: worker.start()
                for worker in workers: worker.join()
                assert [worker.exitcode for worker in workers] == [0, 0, 0]
            """
        ).replace("WHERE", repr(where))
    )
    done = subprocess.run(
        [sys.executable, "job.py", method, where],
        env={
            **os.environ,
            "PLUMELOG_REDIS_URL": redis_server.url,
            "PLUMELOG_SPOOL_DIR": str(tmp_path / "spool"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = verdict(redis_server, [f"w{worker}-{n}" for worker in range(3) for n in range(20)])
    assert found.exactly_once, (found, done.stderr)


@pytest.mark.parametrize("first", ["sink.drain(5)", "asyncio.run(complete())"])
def test_a_worker_that_drains_before_it_logs(
    redis_server: RedisServer, run_script: RunScript, first: str
) -> None:
    """A forked worker whose first call is no record finishes its records too: it ends without `atexit`."""
    _run(
        run_script,
        redis_server,
        f"""
        import asyncio, multiprocessing
        sink = DurableRedisSink(batch_interval_seconds=30)
        logger.add(sink)
        async def complete():
            await logger.complete()
        def work():
            {first}
            for n in range(20): logger.info(f"w-{{n}}")
        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start(); worker.join()
        assert worker.exitcode == 0
        """,
    )
    found = verdict(redis_server, [f"w-{n}" for n in range(20)])
    assert found.exactly_once, found
