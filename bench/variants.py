"""One measurement with one sink, in a process of its own: ``variants.py SINK MEASURE RECORDS KEY``.

Prints one JSON object. Imports nothing of the library but the sink under test: it also runs in the
environment of the earlier release. The garbage collector runs as it always does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from loguru import logger

# A process that logs in bursts, below what the sinks can take: each call is timed, and not the overflow.
BURST_RECORDS = 200
PAUSE_SECONDS = 0.01
WARM_UP_RECORDS = 2_000


class DoNothing:
    """A sink that costs what Loguru costs."""

    def write(self, message: str) -> None:
        """Do nothing."""


def make_sink(name: str) -> Any:
    """The sink, set up through the environment."""
    if name == "nothing":
        return DoNothing()
    if name == "earlier":
        from plumelog_loguru import create_redis_sink

        return create_redis_sink()
    from plumelog_loguru import DurableRedisSink

    return DurableRedisSink()


def call_costs(log: Any, records: int) -> dict[str, float]:
    """Time each call; nanoseconds."""
    clock = time.perf_counter_ns
    took: list[int] = []
    for number in range(records):
        if number % BURST_RECORDS == 0:
            time.sleep(PAUSE_SECONDS)
        begun = clock()
        log.info("order {} accepted", number)
        took.append(clock() - begun)
    took.sort()
    return {"median": took[records // 2], "mean": sum(took) / records, "p999": took[records * 999 // 1000]}


def end_to_end(log: Any, records: int, arrived: Callable[[], int] | None, sink: Any) -> dict[str, float]:
    """Log as fast as one thread can, and wait until all is in Redis."""
    begun = time.perf_counter()
    for number in range(records):
        log.info("order {} accepted", number)
    called = time.perf_counter() - begun
    if hasattr(sink, "drain"):
        sink.drain()  # or the last few records would wait for their batch to be old enough
    missing = 0
    if arrived is not None:
        last, last_change = -1, time.perf_counter()
        while (now_there := arrived()) < records:
            if now_there != last:
                last, last_change = now_there, time.perf_counter()
            elif time.perf_counter() - last_change > 5:
                missing = records - now_there
                break
            time.sleep(0.002)
    took = time.perf_counter() - begun
    return {"calls_per_second": records / called, "records_per_second": records / took, "missing": missing}


def main() -> None:
    """Measure, and print what was found."""
    name, measure, count, key = sys.argv[1:]
    records = int(count)
    client: Any = None  # the environments' Redis clients disagree about its types
    if name != "nothing":
        import redis

        client = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])

    logger.remove()
    sink = make_sink(name)
    logger.add(sink, format="{message}")
    bound = measure == "bound"
    log = logger.bind(order_id="A-1042", user="user-17") if bound else logger
    if measure == "throughput":
        log.info("the first record starts whatever is started late")
        if client is not None:
            while client.llen(key) < 1:
                time.sleep(0.01)
            client.delete(key)
        arrived = None if client is None else lambda: int(client.llen(key))
        result = end_to_end(log, records, arrived, sink)
    else:
        call_costs(log, WARM_UP_RECORDS)
        result = call_costs(log, records)
    if hasattr(sink, "stats"):
        stats = sink.stats()
        result["spooled"] = stats.spooled
        result["dropped"] = sum(stats.dropped.values())
    print("RESULT", json.dumps(result), flush=True)
    sys.stderr.flush()
    # The earlier release talks and waits at exit; what it does there is no part of the measurement.
    os._exit(0)


if __name__ == "__main__":
    main()
