"""Write docs/plumelog-replay.md, the reference of the command, from its parser and the schemas of its JSON.

    python tools/make_reference.py

Needs the package and its dependencies. A test holds the file against what this makes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from plumelog_loguru.cli._commands import COMMANDS
from plumelog_loguru.cli._flags import parser_of

DOCS = Path(__file__).resolve().parent.parent / "docs"

_BEGINNING = """\
# plumelog-replay

Made of the command's own help by `make docs`. How to work with it: [guide](guide.md#plumelog-replay).

## Synopsis

```sh
plumelog-replay [COMMAND] [word or flag ...]
```
"""


def reference() -> str:
    """The whole text."""
    parser = parser_of()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    lines = [_BEGINNING, str(parser.description), "", "| command | |", "|---|---|"]
    lines += [f"| [`{name}`](#{name}) | {_cell(about)} |" for name, about in COMMANDS.items()]
    lines += ["", str(parser.epilog)]
    for name, command in commands.choices.items():
        lines += ["", f"## {name}", "", *_command(name, command)]
    lines += ["", "## Settings", "", *_settings(next(iter(commands.choices.values())))]
    return "\n".join(lines) + "\n"


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    usage = str(command.usage).replace("%%", "%")
    yield from ["```sh", usage, "```", "", str(command.description)]
    own = [one for one in command._actions if one not in _of_settings(command) and one.dest != "help"]
    yield from ["", "| word or flag | |", "|---|---|"]
    yield from (f"| {_spelling(one)} | {_cell(_help(one))} |" for one in own)
    if command.epilog:
        yield from ["", command.epilog]
    schema = json.loads((DOCS / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    yield from ["", f"`--json` ([schema](schemas/{name}.json)): {schema['description']}"]
    yield from ["", "| key | type | |", "|---|---|---|"]
    yield from _keys(schema, schema, "")


def _keys(schema: dict[str, Any], root: dict[str, Any], above: str) -> Iterator[str]:
    """One row for each key, those of objects within behind their own."""
    for key, found in schema.get("properties", {}).items():
        one = _resolved(found, root)
        yield f"| `{above}{key}` | {_cell(_type(one, root))} | {_cell(one.get('description', ''))} |"
        inner, path = one, f"{above}{key}."
        if one.get("type") == "array":
            inner, path = _resolved(one.get("items", {}), root), f"{above}{key}[]."
        yield from _keys(inner, root, path)


def _resolved(found: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in found:
        return found
    target: Any = root
    for step in found["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    return {**target, **{key: value for key, value in found.items() if key != "$ref"}}


def _type(one: dict[str, Any], root: dict[str, Any]) -> str:
    if "enum" in one:
        return " or ".join(json.dumps(value) for value in one["enum"])
    if "anyOf" in one or "oneOf" in one:
        return " or ".join(_type(_resolved(way, root), root) for way in one.get("anyOf") or one["oneOf"])
    kind = one.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array" and "items" in one:
        return f"array of {_type(_resolved(one['items'], root), root)}"
    return str(kind)


def _settings(command: argparse.ArgumentParser) -> Iterator[str]:
    group = next(one for one in command._action_groups if one.title == "settings")
    yield f"For every command: {group.description}."
    yield from ["", "| flag | |", "|---|---|"]
    yield from (f"| {_spelling(one)} | {_cell(_help(one))} |" for one in group._group_actions)


def _of_settings(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        one for group in command._action_groups if group.title == "settings" for one in group._group_actions
    ]


def _spelling(action: argparse.Action) -> str:
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if not action.option_strings:
        return f"`{_cell(metavar or action.dest)}`"
    value = "" if action.nargs == 0 else f" {metavar or action.dest.upper()}"
    return ", ".join(f"`{_cell(name + value)}`" for name in action.option_strings)


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    (DOCS / "plumelog-replay.md").write_text(reference(), encoding="utf-8")
