"""The server's name leads nowhere, or elsewhere, and the wall clock jumps: see `chaos.application.world`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from typing import Literal

from chaos.application.world import Clock, Names
from chaos.requirements import SECOND_HOST
from chaos.stage import KEY, Stage, wait_until

_HOUR = 3600.0


@dataclass(frozen=True)
class NameLost:
    """The server is there, and its name cannot be looked up: there is none, or no answer comes."""

    how: Literal["nowhere", "hanging"] = "nowhere"

    def strike(self, stage: Stage, seconds: float) -> None:
        """Have no address for so long."""
        names = Names(stage.books_folder)
        names.entry = self.how
        _break_connections(stage)
        time.sleep(seconds)
        names.entry = ""
        stage.saw(f"the program looked the name up, and the answer was: {self.how}", names.asked(self.how))


@dataclass(frozen=True)
class Moved:
    """The server's address is dead for good; after half of the time its name leads to another one."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be nowhere, and then elsewhere."""
        names = Names(stage.books_folder)
        elsewhere = stage.open_proxy(f"{SECOND_HOST}:{stage.proxy.port}")
        elsewhere.disable()
        stage.proxy.disable()
        stage.probe_for(seconds / 2, ("refused",), "the old address refuses connections")
        elsewhere.enable()
        names.entry = SECOND_HOST
        before = stage.delivered()
        wait_until(lambda: stage.delivered() > before, "records arrive by way of the new address")
        time.sleep(seconds / 2)
        stage.saw("the program looked the name up, and was led to the new address", names.asked(SECOND_HOST))
        stage.saw("the old address still refuses connections", stage.probe() == "refused")


@dataclass(frozen=True)
class ClockJumps:
    """The wall clock jumps, by so many hours from the right time, and in the end is right again.

    At each time nobody listens at first, so records of that time take the way over the disk too.
    """

    hours: tuple[float, ...]

    def strike(self, stage: Stage, seconds: float) -> None:
        """Show these times, each for the same share."""
        clock = Clock(stage.books_folder)
        for hours in self.hours:
            clock.seconds_off = hours * _HOUR
            with stage.proxy.down():
                time.sleep(seconds / len(self.hours))
            wait_until(partial(_is_recorded, stage, hours), f"a record is {hours} hours off")
            stage.saw(f"records lie in the list that are {hours} hours off")
        with stage.proxy.down():
            clock.seconds_off = 0.0
            time.sleep(seconds / len(self.hours))


def _is_recorded(stage: Stage, hours: float) -> bool:
    """Whether among the youngest records is one of this time; by default they come in on the left."""
    times = (json.loads(value)["dtTime"] / 1000 for value in stage.server.cli("LRANGE", KEY, 0, 500))
    return any(abs(seconds - time.time() - hours * _HOUR) < 60 for seconds in times)


def _break_connections(stage: Stage) -> None:
    """What is connected needs no name."""
    with stage.proxy.down():
        pass
