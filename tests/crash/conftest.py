"""Scenes of crashes, on a server that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from lab.servers import RedisServer
from tests.crash.scene import Scene

MakeScene = Callable[[int], Scene]


@pytest.fixture
def make_scene(redis_server: RedisServer, tmp_path: Path) -> MakeScene:
    """Makes scenes, by their seeds; each has a list and a directory of its own."""
    numbers = count()
    return lambda seed: Scene(redis_server, tmp_path / f"scene-{next(numbers)}", seed)
