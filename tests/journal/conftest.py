"""A journal to try, written through a mapping and written with plain writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plumelog_loguru._journal import Journal

CAPACITY = 1 << 14


@pytest.fixture(params=["mapped", "written"])
def mapped(request: pytest.FixtureRequest) -> bool:
    """Whether the file is written through a mapping."""
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system cannot reserve room on a disk, and so has no journal")
    return bool(request.param == "mapped")


@pytest.fixture
def make_journal(tmp_path: Path, mapped: bool) -> Iterator[Callable[..., Journal]]:
    """Makes journals, and closes them."""
    made: list[Journal] = []

    def make(capacity: int = CAPACITY) -> Journal:
        made.append(Journal.create(tmp_path / f"journal-{len(made) + 1}", capacity, mapped=mapped))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


@pytest.fixture
def journal(make_journal: Callable[..., Journal]) -> Journal:
    """An empty journal."""
    return make_journal()
