"""What is logged, and when it is said to be: contents that break those who handle them, and clocks that jump.

All of it is logged while Redis refuses connections, and then while replies are lost, so that it takes the way
over journal and spool too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chaos.faults.network import Refused, Toxic
from chaos.faults.several import Begun, one_after_the_other
from chaos.faults.sights import REPLY_CUT
from chaos.faults.world import ClockJumps
from chaos.scenario import Scenario

_OVER_THE_DISK = Begun(
    one_after_the_other(Refused(), Toxic("limit_data", "downstream", REPLY_CUT, {"bytes": 7}))
)
# Of a call, where each takes tens of milliseconds of the processor, and four threads do little else.
_HEAVY_MS = 1500.0
_OWN_CLOCK = {"options": {"world": ["clock"]}}


def _content(
    name: str, promise: str, content: str, *, per_second: float = 150.0, threads: int = 4, **more: Any
) -> Scenario:
    orders: Mapping[str, Any] = {"records_per_second": per_second, "threads": threads}
    return Scenario(f"content/{name}", promise, _OVER_THE_DISK, content=content, orders=orders, **more)


SCENARIOS = [
    _content(
        "odd-texts",
        "Control characters, halves of surrogate pairs, markup and all planes of Unicode arrive as logged.",
        "odd texts",
        quick=True,
    ),
    _content(
        "huge",
        "Records too long for the wire arrive cut, with a mark that counts what is missing.",
        "huge",
        per_second=8.0,
        p999_ms=_HEAVY_MS,
    ),
    _content(
        "odd-objects",
        "Objects that raise, lie, hold themselves, or log while they are shown, are shown as well as can be.",
        "odd objects",
        per_second=20.0,
        p999_ms=_HEAVY_MS,
        quick=True,
    ),
    _content(
        "changed-afterwards",
        "Extras that are changed after the call arrive as they were at the call.",
        "changed afterwards",
    ),
    _content(
        "colliding-names",
        "Extras with the names of Plumelog's own fields take nobody's place, and arrive.",
        "colliding names",
    ),
    _content(
        "thousands-of-extras",
        "Thousands of extras arrive; where they have no room in one record, it says how many are cut.",
        "thousands of extras",
        per_second=5.0,
        p999_ms=_HEAVY_MS,
    ),
    _content(
        "errors",
        "Errors arrive with their tracebacks: chained, circular, deep, in groups, or impossible to show.",
        "errors",
        per_second=20.0,
        p999_ms=_HEAVY_MS,
    ),
    Scenario(
        "content/clock-jumps",
        "A wall clock that jumps back and forth costs nothing; records carry the time that it showed.",
        ClockJumps(hours=(-30.0, 26.0, -0.5, 9000.0)),
        seconds=2.0,
        orders=_OWN_CLOCK,
        quick=True,
    ),
    Scenario(
        "content/clock-jumps-past-the-age-limit",
        "A wall clock that jumps by days does not make what waits on the disk too old.",
        ClockJumps(hours=(72.0, -72.0)),
        orders=_OWN_CLOCK,
        settings={"SPOOL_MAX_AGE_SECONDS": "3600"},
    ),
]
