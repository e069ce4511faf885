"""Takes records out of Redis as Plumelog's server does: a look at the length, then a pipeline of pops.

After the pop that server delivers at most once: what it has in hand when something breaks is gone, whoever
wrote it. So that the demo judges the sink and nothing else, the server is not killed during a pop (`gate`).
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

PAUSE_SECONDS = 0.1  # as shipped
MAX_SEND_SIZE = 500  # as shipped it is 100, which would be below what the demo logs


class Consumer(threading.Thread):
    """Pops until it is told to stop; keeps of each record what the verdict needs."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        super().__init__(name="consumer", daemon=True)
        self.records: list[dict[str, Any]] = []
        self.example = ""  # the content of the last record
        self.broken: Exception | None = None  # a pop that broke off: nobody knows what it took
        self.gate = threading.Lock()  # who holds it knows that no pop is under way
        self._client = client
        self._key = key
        self._stopping = threading.Event()

    def run(self) -> None:
        """Poll until stopped."""
        import redis

        while not self._stopping.wait(PAUSE_SECONDS):
            try:
                with self.gate:
                    self._pop()
            except (redis.ConnectionError, redis.TimeoutError):
                continue  # the server is away; the next poll connects again

    def finish(self) -> None:
        """Stop polling, and take what is left."""
        self._stopping.set()
        self.join()
        while self._pop():
            pass

    def _pop(self) -> int:
        length: int = self._client.llen(self._key)
        pops = self._client.pipeline(transaction=False)
        for _ in range(min(length, MAX_SEND_SIZE)):
            pops.lpop(self._key)
        try:
            values = [value for value in pops.execute() if value is not None]
        except Exception as error:
            self.broken = error
            raise
        for value in values:
            record = json.loads(value)
            self.example = record["content"]
            self.records.append(
                {name: record.get(name) for name in ("demo_id", "producer", "seq", "threadName")}
            )
        return len(values)
