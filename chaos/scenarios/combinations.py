"""Faults that come together: drawn, with all that surrounds them, from a seed and nothing else.

Each fault has a share of the time, and may begin in the share of the one before; a stretch remains in which
it is alone, so that it can show that it happened.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from chaos.application.world import SERVER_NAME
from chaos.faults.network import BlackHole, Flapping, HalfOpen, Late, Refused, Toxic
from chaos.faults.server import ConnectionsKilled, Frozen, Refusing, ScriptsForgotten
from chaos.faults.server_life import Killed
from chaos.faults.several import ProgramKilled, Several, Turn
from chaos.faults.sights import DONE_UNHEARD, NARROW, REPLY_CUT, REQUEST_CUT, SLICED
from chaos.faults.world import NameLost
from chaos.scenario import Fault, Scenario

_LONGEST_OVERLAP = 0.4  # of a share


class _Kind(NamedTuple):
    """A kind of faults that can be drawn."""

    draw: Callable[[Random], Fault]
    is_felt: bool = True  # for certain, by every program
    alone: bool = False  # while another is in force, one of them cannot be seen
    by_program: bool = False  # it is seen by what the program does, so that has to be alive

    @property
    def is_alone(self) -> bool:
        """Whether it overlaps with none: a program that waits for an answer does nothing else meanwhile."""
        return self.alone or self.by_program


_NETWORK = (
    _Kind(lambda _: Refused()),
    _Kind(lambda _: BlackHole()),
    _Kind(lambda dice: Flapping(0.05, dice.uniform(0.1, 0.3)), is_felt=False),
    _Kind(lambda _: Late(), is_felt=False, alone=True),
    _Kind(lambda dice: HalfOpen(dice.choice((400, 3_600_000)), every_seconds=0.2), is_felt=False, alone=True),
    _Kind(lambda dice: NameLost(dice.choice(("nowhere", "hanging"))), by_program=True),
    _Kind(lambda dice: Toxic("timeout", "downstream", DONE_UNHEARD, {"timeout": dice.choice((0, 50))})),
    _Kind(lambda dice: Toxic("reset_peer", "upstream", ("reset",), {"timeout": dice.choice((0, 20))})),
    _Kind(lambda dice: Toxic("limit_data", "downstream", REPLY_CUT, {"bytes": dice.choice((6, 7))})),
    _Kind(
        lambda dice: Toxic("limit_data", "upstream", REQUEST_CUT, {"bytes": dice.randint(3000, 6000)}),
        is_felt=False,
    ),
    _Kind(
        lambda dice: Toxic("latency", "downstream", ("slow",), {"latency": dice.randint(120, 200)}),
        is_felt=False,
    ),
    _Kind(lambda dice: Toxic("latency", "upstream", ("no answer",), {"latency": dice.randint(700, 900)})),
    _Kind(
        lambda dice: Toxic("bandwidth", "upstream", NARROW, {"rate": dice.randint(20, 60)}),
        is_felt=False,
        alone=True,
    ),
    _Kind(lambda _: Toxic("slicer", "downstream", SLICED, {"average_size": 20, "delay": 100}), is_felt=False),
)
_SERVER = (
    _Kind(lambda _: Killed()),
    _Kind(lambda _: Frozen(), alone=True),
    _Kind(
        lambda _: Refusing(
            "OOM", (("CONFIG", "SET", "maxmemory", "1"),), (("CONFIG", "SET", "maxmemory", "0"),)
        ),
        by_program=True,
    ),
    _Kind(lambda _: ScriptsForgotten(), is_felt=False, by_program=True),
    _Kind(lambda _: ConnectionsKilled(), is_felt=False, by_program=True),
)


def draw(seed: int, count: int) -> list[Scenario]:
    """So many combinations; the first ones of a seed are the same, however many are drawn."""
    return [_draw(Random(f"{seed} {number}"), f"combination/{number}") for number in range(count)]


def _draw(dice: Random, name: str) -> Scenario:
    dies = dice.random() < 0.4
    network, server = (
        [kind for kind in kinds if not (dies and kind.by_program)] for kinds in (_NETWORK, _SERVER)
    )
    kinds = dice.sample(network, dice.randint(2, 3))
    if dice.random() < 0.6:
        kinds.insert(dice.randrange(len(kinds) + 1), dice.choice(server))
    turns = _turns(dice, kinds)
    if dies:
        turns.append(Turn(ProgramKilled(), dice.uniform(0.0, 0.5), 1.0))
    return Scenario(
        name,
        "Whatever comes together, nothing is lost and nothing is doubled.",
        Several(tuple(turns)),
        seconds=round(len(kinds) * dice.uniform(1.0, 1.4), 2),
        felt="failed" if any(kind.is_felt for kind in kinds) and not dies else "nothing",
        content=dice.choice(
            ("plain", "plain", "plain", "odd texts", "changed afterwards", "colliding names")
        ),
        orders=_orders(dice),
        settings=_settings(dice),
        recovery_seconds=15.0,
    )


def _turns(dice: Random, kinds: list[_Kind]) -> list[Turn]:
    share, turns = 1 / len(kinds), []
    for number, kind in enumerate(kinds):
        overlaps = number and not kind.is_alone and not kinds[number - 1].is_alone and dice.random() < 0.7
        begins = number * share - (dice.uniform(0.1, _LONGEST_OVERLAP) * share if overlaps else 0.0)
        turns.append(Turn(kind.draw(dice), round(begins, 3), round((number + 1) * share, 3)))
    return turns


def _orders(dice: Random) -> dict[str, Any]:
    threads = dice.choice((1, 2, 4, 8))
    each = round(dice.uniform(80, 400) / threads, 1)
    return {"threads": threads, "records_per_second": each, "options": {"world": ["names"]}}


def _settings(dice: Random) -> dict[str, str]:
    return {
        "REDIS_HOST": SERVER_NAME,
        "REDIS_PUSH_SIDE": dice.choice(("left", "right")),
        "BATCH_SIZE": str(dice.choice((10, 20, 50, 500))),
        "BATCH_INTERVAL_SECONDS": str(round(dice.uniform(0.02, 0.3), 3)),
        "RETRY_COUNT": str(dice.randint(0, 3)),
        "QUEUE_MAX_SIZE": str(dice.choice((200, 1000, 10_000))),
        "SPOOL_FSYNC": dice.choice(("true", "false", "false")),
    }
