"""What can be seen of a network by looking through the proxy, beyond what `Stage.probe` tells.

Each sight is a look that is taken again and again while a fault is in force. It looks at connections of its
own, and at what the server has, asked past the proxy; never at the program.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from chaos.stage import Stage, command
from lab.servers import ReplyError, ServerError

_MANY_BYTES = 20_000
_VERY_MANY_BYTES = 100_000
_PATIENCE_SECONDS = 0.25
_AT_ONCE_SECONDS = 0.1  # what `Stage.probe` calls slow takes longer
_NOTHING_TO_SEE = (OSError, ReplyError, ServerError)
_numbers = itertools.count()


@dataclass(frozen=True)
class Sight:
    """What is seen, in words, and a look: whether it is seen now."""

    what: str
    look: Callable[[Stage], bool]  # raises where nothing can be said, as of a server that is away
    mostly: bool = False  # seen now and then, it shows nothing

    def watch(self, stage: Stage, seconds: float) -> None:
        """Look for so long, and write down how often it was seen."""
        looks = []
        for _ in stage.ticks(seconds):
            with contextlib.suppress(*_NOTHING_TO_SEE):
                looks.append(self.look(stage))
        seen = sum(looks)
        stage.saw(self.what, 0 if self.mostly and seen * 2 <= len(looks) else seen)


def is_seen(look: Callable[[], bool]) -> bool:
    """Take a look; while another fault has the server, nothing is seen."""
    try:
        return look()
    except _NOTHING_TO_SEE:
        return False


def answer_is(*words: str) -> Sight:
    """What `Stage.probe` gives is mostly one of these, and hardly ever an answer.

    What is slow through the proxy counts only where the server itself answers at once: a busy machine is
    slow too.
    """

    def look(stage: Stage) -> bool:
        word = stage.probe()
        if word == "slow":
            stage.server.cli("PING", timeout=_AT_ONCE_SECONDS)
        if word in words:
            return True
        if word == "answered":
            return False
        raise OSError(f"that is another fault: {word}")

    return Sight(f"through the proxy it is {' or '.join(words)}", look, mostly=True)


@dataclass(frozen=True)
class _Answer:
    """What came back for one request."""

    text: bytes
    pieces: int  # in which it came
    seconds: float


def ask(stage: Stage, *words: str, lines: int, seconds: float = _PATIENCE_SECONDS) -> _Answer:
    """Send a request through the proxy, and wait so long for so many lines, the one of AUTH too."""
    text, pieces, began = b"", 0, time.monotonic()
    with (
        contextlib.suppress(OSError),
        socket.create_connection((stage.proxy.host, stage.proxy.port), seconds) as peer,
    ):
        peer.settimeout(seconds)
        peer.sendall(command("AUTH", stage.secret) + command(*words))
        while text.count(b"\r\n") < lines and (piece := peer.recv(65_536)):
            text, pieces = text + piece, pieces + 1
    return _Answer(text, pieces, time.monotonic() - began)


def _new_key() -> str:
    return f"chaos-probe-{next(_numbers)}"


def _is_there(stage: Stage, key: str) -> bool:
    return bool(stage.server.cli("EXISTS", key, timeout=1.0))


def _done_unheard(stage: Stage) -> bool:
    key = _new_key()
    answer = ask(stage, "INCR", key, lines=2)
    return answer.text.count(b"\r\n") < 2 and _is_there(stage, key)


def _large_is_cut(stage: Stage) -> bool:
    """A small request passes; a large one, of which the beginning passes, is not carried out."""
    key = _new_key()
    small = ask(stage, "INCR", key, lines=2)
    ask(stage, "APPEND", key, "x" * _MANY_BYTES, lines=2)
    return small.text.endswith(b":1\r\n") and stage.server.cli("GET", key) == b"1"


def _reply_is_cut(stage: Stage) -> bool:
    """The reply begins, and does not end."""
    key = _new_key()
    text = ask(stage, "INCRBY", key, "1000000", lines=2).text
    return text.startswith(b"+OK\r\n:") and not text.endswith(b"\r\n") and _is_there(stage, key)


def _is_sliced(stage: Stage) -> bool:
    return ask(stage, "ECHO", "x" * 500, lines=3, seconds=1.0).pieces >= 10


def _request_is_sliced(stage: Stage) -> bool:
    """A large request takes its time: each of its pieces is paused for."""
    small = ask(stage, "PING", lines=2, seconds=2.0)
    large = ask(stage, "APPEND", _new_key(), "x" * _VERY_MANY_BYTES, lines=2, seconds=2.0)
    return large.text.endswith(b":%d\r\n" % _VERY_MANY_BYTES) and large.seconds > small.seconds + 0.05


def _is_narrow(stage: Stage) -> bool:
    small = ask(stage, "PING", lines=2, seconds=2.0)
    large = ask(stage, "ECHO", "x" * _MANY_BYTES, lines=3, seconds=2.0)
    return len(large.text) > _MANY_BYTES and large.seconds > small.seconds + 0.15


class LateCommands:
    """Commands whose senders give up before they are carried out."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._keys: list[str] = []

    def send(self) -> None:
        """Send one, and give it up; what has been carried out by then does not count."""
        key = _new_key()
        ask(self._stage, "INCR", key, lines=2)
        if is_seen(lambda: not _is_there(self._stage, key)):
            self._keys.append(key)

    def watch(self) -> None:
        """Now that they are let go: write down how many are carried out."""
        waiting, end_at = set(self._keys), time.monotonic() + 1
        while waiting and time.monotonic() < end_at:
            waiting -= {key for key in waiting if is_seen(partial(_is_there, self._stage, key))}
            time.sleep(0.02)
        late = len(self._keys) - len(waiting)
        self._stage.saw("a probe's command was carried out after its sender had given up", late)


DONE_UNHEARD = Sight("a probe's command was carried out, and its sender heard nothing of it", _done_unheard)
REQUEST_CUT = Sight("a small request passes, a large one is cut off and not carried out", _large_is_cut)
REPLY_CUT = Sight("a probe's reply breaks off in the middle", _reply_is_cut)
SLICED = Sight("a probe's reply comes in ten pieces and more", _is_sliced)
REQUEST_SLICED = Sight(
    "a hundred kilobytes take their time, with a pause after each piece", _request_is_sliced
)
NARROW = Sight("twenty kilobytes take much longer than four bytes", _is_narrow)
