"""The network while something else goes wrong: mostly bad, for that is when it matters how a process ends.

Bad weather must show itself, by a probe at its beginning: later whatever else goes wrong may have ended it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

from chaos.stage import Stage

_numbers = itertools.count()
_FAIR = "fair"
_PATIENCE_SECONDS = 2.0  # for bad weather to show itself: a busy machine may be late


class _Weather(NamedTuple):
    """What makes it, and what a probe then gives; of two that are in force at once the worse is seen."""

    begin: Callable[[Stage], AbstractContextManager[object]]
    answers: tuple[str, ...]


WEATHERS: Mapping[str, _Weather] = {
    _FAIR: _Weather(lambda _: contextlib.nullcontext(), ()),
    "away": _Weather(lambda stage: stage.proxy.down(), ("refused",)),
    "replies lost": _Weather(
        lambda stage: stage.proxy.toxic("timeout", name=_name(), timeout=50), ("closed", "reset", "refused")
    ),
    "slow": _Weather(
        lambda stage: stage.proxy.toxic("latency", name=_name(), latency=120),
        ("slow", "no answer", "closed", "reset", "refused"),
    ),
}


def _name() -> str:
    """Two may be in force at once."""
    return f"weather-{next(_numbers)}"


@contextlib.contextmanager
def weather(stage: Stage, name: str) -> Iterator[None]:
    """Have this weather while the context lasts."""
    kind = WEATHERS[name]
    with kind.begin(stage):
        if kind.answers:
            show(stage, kind.answers, f"the network is {name}")
        yield


def show(stage: Stage, answers: Sequence[str], what: str, timeout: float = 0.4) -> None:
    """Probe until one of these is the answer, and write down whether it was."""
    looks = (stage.probe(timeout) in answers for _ in stage.ticks(_PATIENCE_SECONDS))
    stage.saw(what, any(looks))


def drawn(
    stage: Stage, dice: random.Random | None = None, *, bad: bool = False
) -> AbstractContextManager[object]:
    """Some weather, while the context lasts; a bad one, if that is asked for."""
    return weather(
        stage, (dice or stage.dice).choice([name for name in WEATHERS if name != _FAIR or not bad])
    )


@contextlib.contextmanager
def changing(stage: Stage) -> Iterator[None]:
    """Weather that changes a few times a second, bad at first; fair when the context ends."""
    dice, over = random.Random(f"{stage.seed} weather"), threading.Event()

    def change() -> None:
        for number in itertools.count():
            with drawn(stage, dice, bad=number == 0):
                over.wait(dice.uniform(0.1, 0.5))
            if over.is_set():
                return

    with ThreadPoolExecutor(1, thread_name_prefix="chaos-weather") as pool:
        changes = pool.submit(change)
        try:
            yield
        finally:
            over.set()
        changes.result()
