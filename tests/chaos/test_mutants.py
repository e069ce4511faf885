"""The suite sees what it is there to see: a library that is broken on purpose does not pass."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.mutants import MUTATIONS, Mutation, MutationError, mutated
from chaos.runner import run
from chaos.scenarios import scenarios_for
from chaos.setting import open_setting


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.name for each in MUTATIONS])
def test_each_mutation_fits_the_source(mutation: Mutation, tmp_path: Path) -> None:
    """What it replaces stands there once, and what comes of it is Python."""
    source = mutated(mutation, tmp_path)
    ast.parse((source / "plumelog_loguru" / mutation.file).read_text())


def test_each_mutation_has_scenarios_that_exist() -> None:
    """A scenario that was renamed would look at nothing."""
    known = {scenario.name for scenario in scenarios_for("full", seed=1)}
    assert {name for mutation in MUTATIONS for name in mutation.scenarios} <= known


def test_a_mutation_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    """It would mutate nothing, and look as if nobody saw it."""
    gone = Mutation("gone", "_sink.py", "no such text", "", ())
    with pytest.raises(MutationError, match="exactly one"):
        mutated(gone, tmp_path)


@pytest.mark.timeout(120)
def test_a_library_that_pushes_plainly_is_found_out(tmp_path: Path) -> None:
    """One mutation from end to end; `make chaos-mutants` tries all of them."""
    (mutation,) = [each for each in MUTATIONS if each.name.startswith("push plainly")]
    known = {scenario.name: scenario for scenario in scenarios_for("full", seed=1)}
    with open_setting("mutants") as setting:
        broken = replace(setting, source=mutated(mutation, tmp_path))
        (result,) = run([(known["network/lost-reply"], 1)], broken, jobs=1)
    assert result.verdict == "red"
    assert result.duplicates > 0
    assert any("doubled" in violation for violation in result.violations)
