"""Each test here reads its own environment and its own directory, never the developer's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plumelog_loguru import _diagnostics, _settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No ``PLUMELOG_`` variable, no ``.env``, nothing said yet."""
    for name in os.environ:
        if name.upper().startswith("PLUMELOG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_settings, "_warned", set())
    _diagnostics.reset_for_tests()
