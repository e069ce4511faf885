"""The reference and the completion are the parser's own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from plumelog_loguru.cli._commands import COMMANDS, module_of

from .conftest import SCHEMAS, Replay, assert_schema

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_what_the_command_says_of_itself() -> None:
    """A flag that is new, or says something new, is in the reference; `make docs` writes it."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.reference() == (ROOT / "docs" / "plumelog-replay.md").read_text(encoding="utf-8")


def test_each_command_has_a_module_and_a_schema() -> None:
    """No command without a module, no JSON without a description, no schema that belongs to nothing."""
    for name in COMMANDS:
        module = module_of(name)
        assert callable(module.run) and callable(module.add_flags)
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(COMMANDS)
    for path in SCHEMAS.glob("*.json"):
        assert json.loads(path.read_text())["title"] == f"plumelog-replay {path.stem} --json"


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("plumelog-replay sta", "status"),
        ("plumelog-replay drain --dry", "--dry-run"),
        ("plumelog-replay status --spool-di", "--spool-dir"),
        ("plumelog-replay completion z", "zsh"),
    ],
)
def test_bash_completes(line: str, word: str, replay: Replay, tmp_path: Path) -> None:
    """What bash offers for a half-written word."""
    script = tmp_path / "completion.bash"
    script.write_text(replay("completion", "bash").out)
    words = line.split(" ")
    ask = (
        f'source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE="{line}"; '
        f"COMP_POINT={len(line)}; _shtab_plumelog_replay plumelog-replay {words[-1]} {words[-2]}; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], capture_output=True, text=True, timeout=30, check=False
    )
    assert word in done.stdout.split(), done


@pytest.mark.needs_zsh
def test_zsh_takes_the_script(replay: Replay, tmp_path: Path) -> None:
    """Zsh loads it, knows every command, and registers it for the program."""
    (tmp_path / "_plumelog-replay").write_text(replay("completion", "zsh").out)
    ask = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump; "
        'echo "$_comps[plumelog-replay]"; autoload +X _plumelog-replay && functions _plumelog-replay'
    )
    done = subprocess.run(["zsh", "-f", "-c", ask], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0 and done.stdout.startswith("_plumelog-replay\n"), done
    assert all(name in done.stdout for name in COMMANDS)


def test_completion_as_json(replay: Replay) -> None:
    """The script as JSON is described."""
    run = replay("completion", "bash", "--json")
    assert_schema("completion", run.json)
    assert run.code == 0


def test_without_shtab_the_cure_is_named(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, completion says how to get it."""
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    run = replay("completion", "zsh")
    assert run.code == 2 and "plumelog-loguru[cli]" in run.err
