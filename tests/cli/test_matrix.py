"""Every command on every kind of directory: a sentence and the right exit code, whatever lies there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from lab.servers import RedisServer
from plumelog_loguru import DurableRedisSink
from plumelog_loguru._destination import Destination

from .conftest import KEY, Fill, Replay, Run, RunCode
from .damage import left_by_an_ended_process

NOWHERE = "redis://127.0.0.1:1"
RECORD = (
    b'{"serverName":"h","appName":"a","env":"e","method":"m","content":"c","logLevel":"INFO","className":"c",'
    b'"threadName":"t","seq":1,"dateTime":"2026-11-22 00:00:14.873","dtTime":1795305614873,"traceId":null,'
    b'"logType":null,"appNameWithEnv":"a-_-e","producer":"p"}\n'
)

COMMANDS = {
    "drain": ["drain"],
    "drain --dry-run": ["drain", "--dry-run"],
    "status": ["status"],
    "list": ["list"],
    "show": ["show", "0123456789abcdef.1"],
    "export": ["export"],
    "export --move": ["export", "--move", "--output", "moved.jsonl"],
    "import": ["import", "records.jsonl"],
    "verify": ["verify"],
    "repair": ["repair"],
    "repair --apply": ["repair", "--apply"],
    "dead-letters list": ["dead-letters", "list"],
    "dead-letters retry": ["dead-letters", "retry", "--all"],
    "audit": ["audit"],
    "doctor": ["doctor"],
    "purge": ["purge"],
    "purge --yes": ["purge", "--yes"],
}
"""What is run; `show` asks for a batch that is not there."""

# drain, --dry-run, status, list; show, export, --move, import; verify, repair, --apply, dead-letters list;
# retry, audit, doctor; purge, --yes. The server has no append-only file, which `doctor` does not let pass.
EXPECTED = {
    "empty": "0000 1000 0000 001 00",
    "missing": "2222 2222 2222 222 22",
    "forbidden": "2222 2222 2222 222 22",
    "corrupt": "1111 1110 1100 011 20",
    "live": "0000 1000 0000 001 20",
    "newer": "1111 1110 1110 011 00",
    "filled": "0100 1000 0000 001 20",
}


@pytest.fixture(params=EXPECTED)
def place(
    request: pytest.FixtureRequest,
    spool_dir: Path,
    server: RedisServer,
    destination: Destination,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A directory of each kind, with a server that takes records."""
    kind = str(request.param)
    if kind == "missing":
        spool_dir.rmdir()
    elif kind == "corrupt":
        path, _ = left_by_an_ended_process(spool_dir, destination)
        (path / "spool" / "cache.db").write_bytes(os.urandom(20_000))
    elif kind == "newer":
        fill(destination)
        (facts,) = spool_dir.glob("part-*/part.json")
        facts.write_text('{"format": 99}')
    elif kind in ("filled", "forbidden"):
        fill(destination)
    if kind == "forbidden" and os.geteuid():
        spool_dir.chmod(0)
    if kind == "live":
        sink = DurableRedisSink(redis_url=NOWHERE, spool_dir=spool_dir, redis_key=KEY, retry_count=0)
        logger.remove()
        handler = logger.add(sink, format="{message}")
        logger.info("x")
        sink.drain(5)
        yield kind
        logger.remove(handler)
    else:
        yield kind
    if spool_dir.exists():
        spool_dir.chmod(0o700)


@pytest.fixture
def run_as_nobody(run_code: RunCode) -> Callable[..., Run]:
    """Runs the command as a user without rights."""
    code = (
        "import os, sys; from plumelog_loguru.cli import main; "
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )

    def run(*words: str) -> Run:
        done = run_code(code, *words)
        return Run(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.timeout(180)
def test_every_command_on_every_directory(
    place: str, spool_dir: Path, tmp_path: Path, replay: Replay, run_as_nobody: Callable[..., Run]
) -> None:
    """No traceback, sentences that name the program, and the exit code that the table says."""
    Path("records.jsonl").write_bytes(RECORD)
    run: Callable[..., Run] = replay
    if place == "forbidden" and not os.geteuid():
        run = run_as_nobody
        for path in (tmp_path, *tmp_path.parents[:-2]):
            path.chmod(path.stat().st_mode | 0o055)
        Path.cwd().chmod(0o777)
    codes = ""
    for name, words in COMMANDS.items():
        before = tmp_path / "before"
        if place != "live" and spool_dir.exists():
            shutil.copytree(spool_dir, before, symlinks=True)
        done = run(*words)
        codes += str(done.code)
        print(f"--- {name}: {done.code}\n{done.out}{done.err}", end="")
        assert "Traceback" not in done.err
        assert all(line.startswith("plumelog-replay: ") for line in done.err.splitlines())
        assert done.code == 0 or done.err or done.out
        if place == "live":
            continue
        shutil.rmtree(spool_dir, ignore_errors=True)  # each on the directory as it was
        if before.exists():
            before.rename(spool_dir)
        Path("moved.jsonl").unlink(missing_ok=True)
    assert codes == EXPECTED[place].replace(" ", "")
