"""``doctor``: settings, directory and server, a verdict each, and what to do."""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser
from collections.abc import Callable, Iterator

from .._delivery import import_redis
from .._settings import PlumelogSettings, nearest_variable, unknown_variables
from ._command import DONE, LEFT, USAGE, Call, UsageError, counted, show, show_json, tell
from ._diagnosis import Diagnosis
from ._examine_directory import examine_directory
from ._examine_server import examine_server

_ABOUT = """\
Examines the settings, the spool directory and the server as the application would find them: run it as the
same user, with the same environment. Each line is a verdict, ok, warn, fail or unknown, and where something
is wrong what to do about it.

Nothing is pushed and nothing is taken out. In the directory a file is made for a try, and removed; in Redis a
lane of the doctor's own is written, which is gone after a minute.
"""


def add_flags(parser: ArgumentParser) -> None:
    """None but the common ones."""
    parser.description = _ABOUT


def run(call: Call) -> int:
    """Examine, and say what was found, line by line."""
    found: list[Diagnosis] = []
    as_json = call.arguments.json

    def note(diagnosis: Diagnosis) -> None:
        found.append(diagnosis)
        if not as_json:
            show(f"{diagnosis.verdict:<8} {diagnosis.subject:<12} {diagnosis.what}")
            if diagnosis.cure is not None:
                show(f"{'':<21} -> {diagnosis.cure}")

    for diagnosis in _examine_settings(call.settings):
        note(diagnosis)
    try:
        directory = list(examine_directory(call.settings, call.directory))
    except UsageError as error:
        directory = [Diagnosis("fail", "directory", str(error))]
    for diagnosis in directory:
        note(diagnosis)
    import_redis()
    asyncio.run(_examine_server(call.settings, note))
    wrong = [diagnosis for diagnosis in found if diagnosis.is_wrong]
    if as_json:
        show_json({"ok": not wrong, "findings": [diagnosis.to_json() for diagnosis in found]})
    if wrong:
        tell(
            f"{counted(len(wrong), 'thing')} to look at: {', '.join(dict.fromkeys(f.subject for f in wrong))}"
        )
    if len(directory) == 1:  # it is not there, or not ours to read
        return USAGE
    return LEFT if wrong else DONE


def _examine_settings(settings: PlumelogSettings) -> Iterator[Diagnosis]:
    """What a check of each setting alone does not find."""
    unknown = unknown_variables()
    for variable in unknown:
        nearest = nearest_variable(variable)
        cure = f"did you mean {nearest}?" if nearest else "no setting has such a name; remove it"
        yield Diagnosis("warn", "settings", f"{variable} has no effect", cure)
    if not unknown:
        yield Diagnosis("ok", "settings", "all can work")
    if settings.delivery == "at_least_once":
        yield Diagnosis("ok", "delivery", "at least once, as set: a repeated batch may be doubled")
    else:
        yield Diagnosis("ok", "delivery", f"exactly once, for {settings.destination}")


async def _examine_server(settings: PlumelogSettings, note: Callable[[Diagnosis], None]) -> None:
    async for diagnosis in examine_server(settings):
        note(diagnosis)
