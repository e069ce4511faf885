"""How fast a large spool is drained, against bare redis-py that pushes the same values.

Both run in processes of their own, one after the other, into the same real server, which is empty each time;
what counts is the ratio within a round. The bare client has its values in memory, and its clock runs only
while it pushes, ``LPUSH`` with 500 values at a time. The drain's clock is the command's own: it runs from the
first look at the spool to the last, and takes in all that makes a delivery exactly-once.

``python -m bench drain``; ``BENCH_DRAIN_RECORDS`` and ``BENCH_ROUNDS`` set the size and the number of rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.servers import HOST, RedisServer
from plumelog_loguru._batch import Batch
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part

RECORDS = 1_000_000
ROUNDS = 3
ROW_RECORDS = 1_000
PUSH_RECORDS = 500
AT_LEAST = 0.4
KEY = "bench_drain"


@dataclass(frozen=True, slots=True)
class Found:
    """What a round has found, in records a second."""

    bare: float
    drain: float
    process: float  # the drain with the start and the end of its process

    @property
    def ratio(self) -> float:
        """The drain against the bare client."""
        return self.drain / self.bare


def values(first: int, count: int) -> list[bytes]:
    """Records of the size that an application's usually have."""
    return [
        b'{"appName":"shop","env":"prod","serverName":"10.0.3.17","traceId":"4bf92f3577b34da6a3ce929d0e0e4736",'
        b'"className":"shop.orders","method":"accept","threadName":"MainThread","logLevel":"INFO",'
        b'"dtTime":%d,"dateTime":"2026-03-14 09:26:53.589","content":"order %d accepted for customer 4711",'
        b'"seq":%d,"producer":"6f1f3c0f9d0f4ab1"}' % (1_795_305_614_000 + number, number, number)
        for number in range(first, first + count)
    ]


def fill(spool_dir: Path, server: RedisServer, records: int) -> None:
    """Spool so many records, as a process that has ended leaves them."""
    part = Part.create(spool_dir, Destination(f"{HOST}:{server.port}", 0, KEY, "left"))
    for first in range(0, records, ROW_RECORDS):
        row = values(first, min(ROW_RECORDS, records - first))
        part.append(Batch(part.next_spool_id(), tuple(row)))
    part.close()


def bare(url: str, records: int) -> float:
    """Push so many records with redis-py alone; the seconds that it took."""
    import redis

    client = redis.Redis.from_url(url)
    client.ping()
    took = 0.0
    for first in range(0, records, PUSH_RECORDS):
        batch = values(first, min(PUSH_RECORDS, records - first))
        begun = time.perf_counter()
        client.lpush(KEY, *batch)
        took += time.perf_counter() - begun
    return took


def drained(server: RedisServer, records: int) -> tuple[float, float]:
    """Drain a spool of so many records; the command's own seconds, and those of the whole process."""
    with tempfile.TemporaryDirectory(prefix="plumelog-bench-") as directory:
        spool_dir = Path(directory, "spool")
        spool_dir.mkdir(mode=0o700)
        fill(spool_dir, server, records)
        words = (
            "drain",
            "--json",
            "--spool-dir",
            str(spool_dir),
            "--redis-url",
            server.url,
            "--redis-key",
            KEY,
        )
        begun = time.perf_counter()
        facts = json.loads(_python("-m", "plumelog_loguru.cli", *words))
        took = time.perf_counter() - begun
    if facts["delivered"] != records or server.cli("LLEN", KEY) != records:
        raise RuntimeError(f"not all was drained: {facts}")
    return facts["seconds"], took


def rounds(server: RedisServer, count: int, records: int) -> Iterator[Found]:
    """Measure, round by round."""
    for number in range(count):
        server.cli("FLUSHALL")
        begin_bare = number % 2 == 0  # neither is always the first
        bare_seconds = _bare_apart(server, records) if begin_bare else 0.0
        server.cli("FLUSHALL")
        seconds, process_seconds = drained(server, records)
        server.cli("FLUSHALL")
        bare_seconds = bare_seconds or _bare_apart(server, records)
        yield Found(records / bare_seconds, records / seconds, records / process_seconds)


def _bare_apart(server: RedisServer, records: int) -> float:
    return float(_python("-m", "bench.drain", server.url, str(records)))


def _python(*words: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.upper().startswith("PLUMELOG_")}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[1]}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def main() -> int:
    """Measure, print a line for each round, and the median of the ratios.

    Returns:
        The exit code: 0 when it could measure, whatever it found.
    """
    records = int(os.environ.get("BENCH_DRAIN_RECORDS", RECORDS))
    count = int(os.environ.get("BENCH_ROUNDS", ROUNDS))
    print(f"drain of {records:,} records in rows of {ROW_RECORDS:,}, against bare LPUSH of {PUSH_RECORDS}")
    ratios = []
    with RedisServer(appendonly="no") as server:
        for found in rounds(server, count, records):
            print(
                f"bare {found.bare:,.0f}/s, drain {found.drain:,.0f}/s "
                f"(with its process {found.process:,.0f}/s): {found.ratio:.2f}",
                flush=True,
            )
            ratios.append(found.ratio)
    middle = statistics.median(ratios)
    print(f"drain / bare: {middle:.2f}   aim ≥ {AT_LEAST}: {'met' if middle >= AT_LEAST else 'MISSED'}")
    return 0


if __name__ == "__main__":
    print(bare(sys.argv[1], int(sys.argv[2])))
