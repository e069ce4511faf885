"""All scenarios, by group."""

from __future__ import annotations

from chaos.scenario import Scenario

from . import combinations, content, disk, network, process, server

ALL: list[Scenario] = [
    *network.SCENARIOS,
    *server.SCENARIOS,
    *disk.SCENARIOS,
    *process.SCENARIOS,
    *content.SCENARIOS,
]


def scenarios_for(profile: str, seed: int) -> list[Scenario]:
    """The scenarios of a profile; combinations are drawn from the seed."""
    fixed = [scenario for scenario in ALL if scenario.quick or profile != "quick"]
    return [*fixed, *combinations.draw(seed, 2 if profile == "quick" else 10)]
