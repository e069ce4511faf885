"""The earlier release, which has the same import name as ours.

Its environment holds the same Loguru and the same Redis client as the one that runs the bench, so that only
the sinks differ.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from lab.environments import python_with

RELEASE = "0.2.3"


def python() -> Path | None:
    """The interpreter of its environment; None if that cannot be made, and stderr says why."""
    wanted = [f"plumelog-loguru=={RELEASE}", f"loguru=={version('loguru')}", f"redis=={version('redis')}"]
    return python_with("earlier", wanted)
