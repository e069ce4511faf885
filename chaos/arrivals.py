"""Whether a record has arrived: every value of the lists is looked at, and each of them once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.stage import KEY
from lab.servers import RedisServer

if TYPE_CHECKING:
    from chaos.stage import Stage


class Arrivals:
    """What has come into the lists of a stage, from the first look on."""

    def __init__(self, stage: Stage) -> None:
        """Look at all servers that the stage has, or will have."""
        self._stage = stage
        self._looked_at: dict[int, int] = {}  # by port: so many of the oldest values
        self._pushed_left = stage.settings.get("REDIS_PUSH_SIDE", "left") == "left"
        self._wanted: dict[bytes, bool] = {}  # whether it is there

    def has(self, record_id: str) -> bool:
        """Whether a record is there; the first question about it looks at everything."""
        needle = b'"' + record_id.encode() + b" "
        if needle not in self._wanted:
            self._wanted[needle] = False
            self._looked_at.clear()
        for server in self._stage.servers:
            for value in self._new_values(server):
                for each, is_there in self._wanted.items():
                    self._wanted[each] = is_there or each in value
        return self._wanted[needle]

    def _new_values(self, server: RedisServer) -> list[bytes]:
        length = int(server.cli("LLEN", KEY))
        known = self._looked_at.get(server.port, 0)
        if length < known:  # it has lost some
            known = 0
        self._looked_at[server.port] = length
        if length == known:
            return []
        # Counted from the end at which nothing is pushed: places there stay what they are.
        first, last = (-length, -known - 1) if self._pushed_left else (known, length - 1)
        values: list[bytes] = server.cli("LRANGE", KEY, first, last, timeout=30.0)
        return values
