"""The demo: a whole run at a hurried pace, and the verdict that must not be a formality."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.__main__ import Story
from demo.consumer import Consumer
from demo.judge import judge
from demo.screen import Screen
from lab.servers import RedisServer


def record(number: int) -> dict[str, Any]:
    return {"demo_id": f"one/worker/{number}", "producer": "p", "seq": number, "threadName": "worker"}


IDS = [f"one/worker/{number}" for number in (1, 2, 3)]


def test_a_complete_list_is_good() -> None:
    """Three logged and three found, in whatever order, is exactly once."""
    assert judge(IDS, [record(3), record(1), record(2)]).exactly_once


@pytest.mark.parametrize(
    ("numbers", "gaps", "repeats"), [((1, 3), 1, 0), ((1, 2, 2, 3), 0, 1), ((1, 2), 0, 0), ((), 0, 0)]
)
def test_a_missing_or_doubled_record_is_told(numbers: tuple[int, ...], gaps: int, repeats: int) -> None:
    """One record missing anywhere, the last too, or one too many, is never exactly once."""
    found = judge(IDS, [record(number) for number in numbers])
    assert not found.exactly_once
    assert (found.gaps, found.repeats) == (gaps, repeats)


def test_the_consumer_takes_everything(redis_server: RedisServer) -> None:
    """The consumer empties the list, more than one poll's worth of it, and keeps who wrote what."""
    values = [f'{{"demo_id": "a/{n}", "producer": "p", "seq": {n}, "content": "c"}}' for n in range(1200)]
    redis_server.cli("RPUSH", "demo", *values)
    with redis.Redis.from_url(redis_server.url) as client:
        consumer = Consumer(client, "demo")
        consumer.start()
        consumer.finish()
    assert [found["seq"] for found in consumer.records] == list(range(1200))
    assert redis_server.cli("LLEN", "demo") == 0


@pytest.mark.timeout(120)
def test_the_whole_story_ends_well(tmp_path: Path) -> None:
    """Two outages and the end of a process, hurried: the exit code is 0, and the screen says why."""
    out = io.StringIO()
    assert Story(Screen(out), tmp_path, None, pace=0.1).play() == 0, out.getvalue()
    assert "each exactly once" in out.getvalue()
    assert "process-2 found" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.timeout(120)
def test_a_server_of_the_users_own_is_left_as_it_was(redis_server: RedisServer, tmp_path: Path) -> None:
    """On a server that is not ours nothing is killed or flushed, and no list of ours stays behind."""
    redis_server.cli("SET", "theirs", "untouched")
    out = io.StringIO()
    assert Story(Screen(out), tmp_path, redis_server.url, pace=0.2).play() == 0, out.getvalue()
    assert "not ours to kill" in out.getvalue()
    assert redis_server.cli("GET", "theirs") == b"untouched"
    kept = redis_server.cli("KEYS", "*")
    assert [key for key in kept if b":lane:" not in key] == [b"theirs"]
