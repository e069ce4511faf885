"""A logger of the test's own sink, an honest account after every test, and scripts run as processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from lab.oracle import Verdict, check, read_list
from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink, SinkStats

ROOT = Path(__file__).parents[2]


def balance(stats: SinkStats) -> int:
    """Zero when every record is accounted for."""
    settled = (
        stats.delivered + stats.in_memory + stats.spooled + stats.dead_lettered + sum(stats.dropped.values())
    )
    return stats.accepted + stats.adopted - settled


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until something that no event tells is true; fail when it takes too long."""
    give_up_at = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up_at, "it did not come true in time"
        time.sleep(0.01)


def verdict(server: RedisServer, expected: list[str]) -> Verdict:
    """What the list says about the contents that were logged."""
    return check(expected, read_list(server))


MakeSink = Callable[..., DurableRedisSink]


@pytest.fixture
def make_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSink]:
    """Makes sinks that spool below the test's folder; holds the equation against each when the test ends."""
    monkeypatch.chdir(tmp_path)
    logger.remove()
    made: list[DurableRedisSink] = []

    def make(url: str, **settings: Any) -> DurableRedisSink:
        settings.setdefault("spool_dir", tmp_path / "spool")
        settings.setdefault("health_check_interval_seconds", 0.1)
        settings.setdefault("retry_backoff_base_seconds", 0.02)
        settings.setdefault("batch_interval_seconds", 0.1)
        sink = DurableRedisSink(redis_url=url, **settings)
        made.append(sink)
        return sink

    yield make
    logger.remove()
    for sink in made:
        sink.close()
        stats = sink.stats()
        assert balance(stats) == 0, stats
        assert stats.in_memory == stats.queue_depth == 0, stats


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script in a process of its own, with the settings in its environment."""

    def run(
        script: str, server: RedisServer | str, timeout: float = 30.0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        url = server if isinstance(server, str) else server.url
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PLUMELOG_")},
            "PLUMELOG_REDIS_URL": url,
            "PLUMELOG_SPOOL_DIR": str(tmp_path / "spool"),
            "PYTHONWARNINGS": "error",
            **env,
        }
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env=variables,
            cwd=tmp_path,
            timeout=timeout,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
