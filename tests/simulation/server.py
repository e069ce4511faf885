"""Redis as far as the library uses it: one list, and the lanes that the Lua script keeps beside it.

`test_server.py` holds it against a real one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from redis.exceptions import NoScriptError

from plumelog_loguru._delivery._lane_script import LANE_SCRIPT, LANE_SCRIPT_SHA1

Word = bytes | str | int


class SimulatedRedis:
    """Executes one request after the other, and forgets nothing but lanes that expire."""

    def __init__(self, epoch_ms: Callable[[], int], on_push: Callable[[bytes], None]) -> None:
        """``on_push`` sees every value that comes into the list."""
        self.values: deque[bytes] = deque()
        self._lanes: dict[str, tuple[str, int]] = {}  # state, and when it expires
        self._epoch_ms = epoch_ms
        self._on_push = on_push
        self._knows_script = False

    def forget_scripts(self) -> None:
        """As after a restart, or SCRIPT FLUSH."""
        self._knows_script = False

    def execute(self, words: tuple[Word, ...]) -> object:
        """Execute one request and give its reply, as redis-py does."""
        match words:
            case ("EVALSHA", str(sha1), 2, _, str(lane), str(mode), int(seq), int(ttl_ms), *values):
                assert sha1 == LANE_SCRIPT_SHA1
                if not self._knows_script:
                    raise NoScriptError("No matching script. Please use EVAL.")
                return self.run_script(lane, mode, seq, ttl_ms, values)
            case ("EVAL", str(script), 2, _, str(lane), str(mode), int(seq), int(ttl_ms), *values):
                assert script == LANE_SCRIPT
                self._knows_script = True
                return self.run_script(lane, mode, seq, ttl_ms, values)
            case ("GET", str(lane)):
                state = self._get(lane)
                return None if state is None else state.encode()
        raise AssertionError(f"not simulated: {words[0]!r}")

    def run_script(self, lane: str, mode: str, seq: int, ttl_ms: int, values: list[Word]) -> list[object]:
        """The Lua script, line by line."""
        state = self._get(lane) or "0"
        self._set(lane, state, ttl_ms)
        if mode == "probe":
            return [b"alive", 0, len(self.values)]
        found = re.match(r"\d+", state)
        last = int(found[0]) if found else 0
        marks = state[state.index(" ") :] if " " in state else ""
        if seq <= last:
            return [b"fenced" if f" {seq} " in marks + " " else b"already", last, 0]
        if mode == "fence":
            self._set(lane, f"{seq}{marks} {seq}", ttl_ms)
            return [b"fenced", last, 0]
        for value in values:
            assert isinstance(value, bytes)
            self._on_push(value)
            (self.values.appendleft if mode == "left" else self.values.append)(value)
        self._set(lane, f"{seq}{marks}", ttl_ms)
        return [b"applied", last, len(self.values)]

    def lane(self, lane: str) -> str | None:
        """What a lane holds now."""
        return self._get(lane)

    def _get(self, lane: str) -> str | None:
        state, expires_ms = self._lanes.get(lane, (None, 0))
        return state if self._epoch_ms() < expires_ms else None

    def _set(self, lane: str, state: str, ttl_ms: int) -> None:
        self._lanes[lane] = state, self._epoch_ms() + ttl_ms
