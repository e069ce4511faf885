"""What a test may need of its machine: `@pytest.mark.needs_<tool>`. What is missing is said, test by test.

A tool is a program of that name on PATH, unless `_CHECKS` knows better. Where one is missing the test does
not run, and the summary names it. Each marker is registered in pyproject.toml, with what it stands for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import pytest

from tests.chaos.browser import find_browser

PREFIX = "needs_"

not_run = pytest.StashKey[list[tuple[str, str]]]()  # (test, what it needs), by name


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _can_have_toxiproxy() -> bool:
    """With Go it is built by the first test that wants it."""
    from chaos.toxiproxy import find_server  # brings an HTTP client along, which most tests do without

    return find_server() is not None or shutil.which("go") is not None


def _can_mount() -> bool:
    """Being root is not enough: most containers forbid it."""
    from chaos.requirements import missing

    return not missing(["mount"])


def _can_trace() -> bool:
    """Being there is not enough: some containers forbid one process to trace another."""
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False)
    return tried.returncode == 0


_CHECKS: dict[str, Callable[[], bool]] = {
    "chromium": lambda: find_browser() is not None,
    "gunicorn": lambda: find_spec("gunicorn") is not None,
    "mount": _can_mount,
    "root": _is_root,
    "strace": _can_trace,
    "toxiproxy": _can_have_toxiproxy,
}


@cache
def is_there(tool: str) -> bool:
    """Whether this machine has what `needs_<tool>` asks for."""
    check = _CHECKS.get(tool)
    return check() if check else shutil.which(tool.replace("_", "-")) is not None


def skip_what_cannot_run(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip each test that needs what is not there, and remember its name."""
    config.stash[not_run] = []
    for item in items:
        needed = {
            mark.name.removeprefix(PREFIX) for mark in item.iter_markers() if mark.name.startswith(PREFIX)
        }
        missing = ", ".join(sorted(tool for tool in needed if not is_there(tool)))
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"needs {missing}"))
            config.stash[not_run].append((item.nodeid, missing))


def list_what_did_not_run(reporter: pytest.TerminalReporter) -> None:
    """Name each test that did not run, and what it would have needed."""
    if tests := reporter.config.stash.get(not_run, []):
        reporter.section("not run on this machine")
        for name, missing in tests:
            reporter.write_line(f"{name}: not run, needs {missing}")
