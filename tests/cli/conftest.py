"""What the command is tried on: spools as ended processes leave them, a list of its own, the real program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lab.servers import HOST, RedisServer
from plumelog_loguru import _diagnostics, _settings
from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._destination import Destination
from plumelog_loguru._spool import Part
from plumelog_loguru.cli import main

from .warm import warm_python

KEY = "cli_list"
SCHEMAS = Path(__file__).resolve().parents[2] / "docs" / "schemas"


@dataclass
class Run:
    """What a run of the command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.out)
        return facts


Fill = Callable[..., list[str]]
RunCode = Callable[..., "subprocess.CompletedProcess[str]"]
Replay = Callable[..., Run]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no ``.env`` of the developer's, and delays that a test can wait for."""
    for name in os.environ:
        if name.upper().startswith("PLUMELOG_"):
            monkeypatch.delenv(name)
    if "PYTHONPATH" in os.environ:  # relative, perhaps, and processes of their own need it too
        monkeypatch.setenv("PYTHONPATH", os.path.abspath(os.environ["PYTHONPATH"]))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("PLUMELOG_REDIS_KEY", KEY)
    monkeypatch.setenv("PLUMELOG_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("PLUMELOG_RETRY_BACKOFF_BASE_SECONDS", "0.01")
    monkeypatch.setattr(_settings, "_warned", set())
    _diagnostics.reset_for_tests()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """The spool directory of the environment; it exists."""
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def server(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> RedisServer:
    """A running server, which the environment names."""
    monkeypatch.setenv("PLUMELOG_REDIS_URL", redis_server.url)
    return redis_server


@pytest.fixture
def destination(server: RedisServer) -> Destination:
    """The list that the environment names."""
    return Destination(f"{HOST}:{server.port}", 0, KEY, "left")


@pytest.fixture
def fill(spool_dir: Path) -> Fill:
    """Leaves a part as an ended process does; gives the ids of its records, as the oracle reads them."""

    def fill(
        destination: Destination, batches: int = 3, records: int = 2, attempted_by: str = "nobody"
    ) -> list[str]:
        part = Part.create(spool_dir, destination)
        ids: list[str] = []
        for _ in range(batches):
            names = [f"{part.id}-{len(ids) + number}" for number in range(records)]
            values = tuple(
                b'{"content":"%s","threadName":"%s","dtTime":1795305614000}'
                % (name.encode(), part.id.encode())
                for name in names
            )
            part.append(Batch(part.next_spool_id(), values, AttemptedBy(attempted_by), 0))
            ids += names
        part.close()
        return ids

    return fill


@pytest.fixture
def replay(capsys: pytest.CaptureFixture[str]) -> Replay:
    """Runs the command in this process."""

    def run(*words: str) -> Run:
        capsys.readouterr()
        hears = signal.getsignal(signal.SIGINT)  # an import is deaf to it in the end
        code = main(words)
        signal.signal(signal.SIGINT, hears)
        out, err = capsys.readouterr()
        return Run(code, out, err)

    return run


@pytest.fixture(scope="session")
def run_code() -> Iterator[RunCode]:
    """Runs a program with words of its own, as ``python -c`` would; it has its imports behind it already."""
    with warm_python() as warm:
        yield warm.run


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command as a process of its own, and ends it with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "plumelog_loguru.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def batch_of(*values: bytes) -> Batch:
    """A batch that was never attempted, in a lane of its own."""
    return Batch(BatchId(new_lane_id(), 1), values)


def assert_schema(command: str, facts: object) -> None:
    """What ``--json`` printed is what its schema in the documentation says."""
    schema = json.loads((SCHEMAS / f"{command}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(facts, schema, cls=jsonschema.Draft202012Validator)
