"""The scenarios are what the suite says that they are."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from chaos import requirements
from chaos.application.__main__ import ALL_BEHAVIOURS
from chaos.contents import CONTENTS
from chaos.scenario import Felt, Group, Scenario
from chaos.scenarios import ALL, scenarios_for

EVERY = scenarios_for("full", seed=1)


def test_there_are_enough_in_every_group() -> None:
    """Sixty at least, beside those that are drawn."""
    assert len(ALL) >= 60
    groups = Counter(scenario.group for scenario in EVERY)
    assert set(groups) == set(get_args(Group))
    assert min(groups.values()) >= 5


def test_a_name_names_one() -> None:
    """CHAOS_ONLY and the report tell them apart by it."""
    assert [name for name, times in Counter(each.name for each in EVERY).items() if times > 1] == []


@pytest.mark.parametrize("scenario", EVERY, ids=lambda each: each.name)
def test_what_it_names_exists(scenario: Scenario) -> None:
    """Its group, what it needs, what it logs, what its programs do."""
    assert scenario.promise.endswith(".")
    assert scenario.felt in get_args(Felt)
    assert scenario.content in CONTENTS
    assert scenario.orders.get("behaviour", "steady") in ALL_BEHAVIOURS
    assert requirements.are_known(scenario.needs)


def test_the_quick_profile_has_some_of_every_group() -> None:
    """It is what every change is held against."""
    assert {scenario.group for scenario in scenarios_for("quick", seed=1)} == set(get_args(Group))


def test_what_is_drawn_follows_from_the_seed() -> None:
    """The same seed is the same run, another one is not."""
    drawn = [
        [repr(each) for each in scenarios_for("full", seed) if each.group == "combination"]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
