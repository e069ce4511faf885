"""The faults of the group "process": a point at which nobody dies, or an end that is another one, is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from chaos.application import Orders
from chaos.application.failpoints import POINTS
from chaos.application.taken import Door
from chaos.application_handle import Application
from chaos.faults.process import KilledAt, must_end_with
from chaos.scenarios.process import SCENARIOS
from chaos.stage import StageError


@pytest.mark.parametrize("point", POINTS)
def test_every_point_is_still_in_the_library(point: str) -> None:
    """A point names a method that its class itself defines: what is inherited would strike elsewhere, too."""
    module, method, when = POINTS[point]
    owner, name = method.split(".")
    assert name in vars(getattr(import_module(f"plumelog_loguru.{module}"), owner))
    assert when in ("before", "after")


def test_every_point_belongs_to_a_scenario() -> None:
    """No point is forgotten, and none is made up."""
    struck = [point for each in SCENARIOS if isinstance(each.fault, KilledAt) for point in each.fault.points]
    assert sorted(struck) == sorted(POINTS)


@pytest.mark.parametrize("passes", [1, 3])
def test_a_program_dies_when_it_passes_its_point(tmp_path: Path, passes: int) -> None:
    """It dies at the pass that was ordered, and leaves a note with the point's name."""
    point = "book: about to count what was delivered"
    words = (
        "import sys; from pathlib import Path; from chaos.application.failpoints import die_at\n"
        "from plumelog_loguru._ledger import Ledger\n"
        f"die_at({point!r}, {passes}, Path(sys.argv[1]))\n"
        "for _ in range(5): print('passes', flush=True); Ledger().delivered(1)"
    )
    died = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path / "note")], capture_output=True, text=True, timeout=30
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stdout.count("passes") == passes
    assert (tmp_path / "note").read_text() == point


def test_another_end_than_the_expected_one_is_told() -> None:
    """A program that was to be killed, and ended by itself, is no evidence."""
    process = subprocess.Popen(
        [sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process, pytest.raises(StageError, match="ended with 0 and not -9"):
        must_end_with(Application(Orders("", "p0", "1"), process), -signal.SIGKILL)


class _Sink:
    def __init__(self, taken: list[str]) -> None:
        self._taken = taken

    def write(self, message: Any) -> None:
        if message.record["message"] == "full":
            raise OSError("full")
        self._taken.append(message.record["message"])

    def stop(self) -> None:
        """Loguru calls it when the sink is removed."""


def test_a_door_knows_which_calls_reached_a_sink() -> None:
    """A call while there is no sink has passed nothing, and neither has one that its sink failed to take."""
    door, taken = Door(), list[str]()
    handler_id = door.add(_Sink(taken), catch=False)
    try:
        door.close()
        logger.info("there")
        assert door.was_passed
        door.close()
        with pytest.raises(OSError, match="full"):
            logger.info("full")
        assert not door.was_passed
    finally:
        logger.remove(handler_id)
    door.close()
    logger.info("nobody is there")
    assert not door.was_passed
    assert taken == ["there"]
