"""The network while something else goes wrong: mostly bad, for that is when it matters how a process ends."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from chaos.stage import Stage

_numbers = itertools.count()

_Weather = Callable[[Stage], AbstractContextManager[object]]

WEATHERS: Mapping[str, _Weather] = {
    "fair": lambda _: contextlib.nullcontext(),
    "away": lambda stage: stage.proxy.down(),
    "replies lost": lambda stage: stage.proxy.toxic("timeout", name=_name(), timeout=50),
    "slow": lambda stage: stage.proxy.toxic("latency", name=_name(), latency=120),
}


def _name() -> str:
    """Two may be in force at once."""
    return f"weather-{next(_numbers)}"


def drawn(stage: Stage, dice: random.Random | None = None) -> AbstractContextManager[object]:
    """Some weather, while the context lasts."""
    return WEATHERS[(dice or stage.dice).choice(sorted(WEATHERS))](stage)


@contextlib.contextmanager
def changing(stage: Stage) -> Iterator[None]:
    """Weather that changes a few times a second; fair when the context ends."""
    dice, over = random.Random(f"{stage.seed} weather"), threading.Event()

    def change() -> None:
        while not over.is_set():
            with drawn(stage, dice):
                over.wait(dice.uniform(0.1, 0.5))

    thread = threading.Thread(target=change, name="chaos-weather")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
