"""What the library has to say for itself: one line on stderr, at most one a minute for each kind.

Promises: never raises, never goes through Loguru or :mod:`logging` (a log line about a log sink that fails
would feed itself), never uses :mod:`warnings` (``-W error`` would turn a remark into a crash), always
exactly one line, and holds no lock: a signal handler, a fork or a ``__del__`` that enters again finds
nothing to wait for.
``PLUMELOG_DIAGNOSTICS=none`` silences it.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from itertools import count

from ._clock import SYSTEM_CLOCK, Clock

SWITCH = "PLUMELOG_DIAGNOSTICS"
QUIET_SECONDS = 60.0  # between two lines of one kind


class _Kind:
    """The turn to speak about one kind of event.

    Whoever pops the only turn decides alone; who finds none was beaten to it by a caller at this very moment.
    Deque and counter are atomic by themselves, so no lock is needed.
    """

    __slots__ = ("calls", "turn")

    def __init__(self) -> None:
        self.calls = count(1)
        self.turn: deque[tuple[float, int]] = deque(
            [(float("-inf"), 0)]
        )  # not before; number of the last call heard


class Diagnostics:
    """The limiter behind :func:`say`; an own one has its own memory and, for tests, its own clock."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def say(self, kind: str, sentence: str) -> None:
        """Write one line, unless one of the same kind was written during the last minute.

        Args:
            kind: what is limited together, such as ``"spool"``.
            sentence: what happened and what to do about it, without a secret.
        """
        try:
            if os.environ.get(SWITCH, "").strip().lower() == "none":
                return
            state = self._kinds.setdefault(kind, _Kind())
            call = next(state.calls)
            try:
                not_before, last_heard = state.turn.pop()
            except IndexError:
                return
            now = self._clock.monotonic()
            if now < not_before:
                state.turn.append((not_before, last_heard))
                return
            state.turn.append((now + QUIET_SECONDS, call))
            _write(sentence, suppressed=call - last_heard - 1)
        except Exception:
            return  # there is nobody left to tell


def _write(sentence: str, suppressed: int) -> None:
    stderr = sys.stderr
    if stderr is None:  # pythonw, or a service without standard streams
        return
    more = f" ({suppressed} more of this kind since the last line)" if suppressed > 0 else ""
    # One write for the whole line: two threads, or two processes, do not mix within it.
    stderr.write(f"plumelog-loguru: {_one_line(sentence)}{more}\n")


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


_process = Diagnostics()


def say(kind: str, sentence: str) -> None:
    """Write ``plumelog-loguru: <sentence>`` on stderr, at most once a minute for each kind in a process."""
    _process.say(kind, sentence)


def reset_for_tests() -> None:
    """Forget what was said, so that each test starts with every kind unsaid."""
    global _process
    _process = Diagnostics()
