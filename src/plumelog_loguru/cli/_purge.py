"""``purge``: throw away what ended processes left, undelivered.

Promises: what a living process owns is not touched, nor what is meant for another list and was not asked for;
a part goes whole or not at all; and nothing goes without ``--yes``.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from dataclasses import dataclass, field

from .._errors import PlumelogError
from .._spool import DeadLetters, PartInfo, SpoolDirectory, SpoolError, purge
from ._command import DONE, LEFT, USAGE, Call, UsageError, counted, show, show_json, tell
from ._letters import look_at
from ._owner import act_as_owner
from ._selection import ANY, Selection, add_from_flag

_LOOKS = 5
_LOOK_AGAIN_SECONDS = 0.05


def add_flags(parser: ArgumentParser) -> None:
    """The command's own flags."""
    add_from_flag(parser, "purge what is meant for this list instead of the configured one")
    parser.add_argument("--yes", action="store_true", help="do it; without, it is only said what would go")
    parser.epilog = (
        "It deletes, undelivered: the batches, journals and quarantine of ended processes, and dead letters. "
        "What living processes have stays. There is no way back; 'plumelog-replay export' saves a copy. "
        "Example: plumelog-replay purge, and then plumelog-replay purge --yes"
    )


@dataclass(slots=True)
class Purged:
    """What is to go, or is gone."""

    parts: list[PartInfo] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)  # names
    left: int = 0  # parts and letters that were to go, and could not

    @property
    def records(self) -> int:
        """As far as they can be counted: what lies in quarantine cannot."""
        return sum(part.records for part in self.parts) + len(self.letters)

    def __bool__(self) -> bool:
        return bool(self.parts or self.letters)

    def to_json(self, *, done: bool) -> dict[str, object]:
        """What ``--json`` prints."""
        return {
            "purged": done,
            "records": self.records,
            "parts": [
                {
                    "id": part.id,
                    "destination": None if part.destination is None else str(part.destination),
                    "records": part.records,
                    "bytes": part.bytes,
                    "quarantined": part.quarantined,
                }
                for part in self.parts
            ],
            "dead_letters": len(self.letters),
            "left": self.left,
        }


def run(call: Call) -> int:
    """Say what would go, or have it go."""
    directory, selection = call.directory, Selection.of(call)
    parts = directory.survey()
    if slip := selection.complaint(parts):
        tell(slip)
    letters = DeadLetters(directory.path, fsync=call.settings.spool_fsync)
    chosen = Purged([part for part in parts if part.owner == "dead" and selection.includes(part)])
    try:
        chosen.letters = _chosen_letters(letters, selection)
    except SpoolError as error:
        tell(str(error))
        chosen.left += 1
    done = call.arguments.yes
    outcome = _purge(directory, letters, chosen) if done else chosen
    if call.arguments.json:
        show_json(outcome.to_json(done=done))
    else:
        _show(outcome, done=done)
    if outcome and not done:
        tell("nothing is purged; say --yes to have it go for good")
        return USAGE
    return LEFT if outcome.left else DONE


def _chosen_letters(letters: DeadLetters, selection: Selection) -> list[str]:
    chosen = []
    for name in letters.names():
        _, letter = look_at(letters, name)
        if selection.wanted == ANY or (letter is not None and selection.names(letter.destination)):
            chosen.append(name)
    return chosen


def _purge(directory: SpoolDirectory, letters: DeadLetters, chosen: Purged) -> Purged:
    act_as_owner(directory.path)
    directory.open()
    if not directory.adopts:
        raise UsageError(
            f"nobody can tell whether the parts in {directory.path} have living owners, for locks cannot be "
            "trusted there; end all processes that log there, and delete its part-* directories yourself"
        )
    directory.clear_leftovers()
    gone = Purged(left=chosen.left)
    for part in chosen.parts:
        try:
            if _is_gone(directory, part):
                gone.parts.append(part)
                continue
            tell(f"part {part.id} has an owner by now, and stays")
        except PlumelogError as error:
            tell(str(error))
        gone.left += 1
    for name in chosen.letters:
        try:
            letters.remove(name)
            gone.letters.append(name)
        except PlumelogError as error:
            tell(str(error))
            gone.left += 1
    return gone


def _is_gone(directory: SpoolDirectory, part: PartInfo) -> bool:
    for look in range(_LOOKS):
        # Somebody who only looked may have held its lock for a moment.
        time.sleep(_LOOK_AGAIN_SECONDS if look else 0)
        if purge(directory, part):
            return True
    return False


def _show(outcome: Purged, *, done: bool) -> None:
    for part in outcome.parts:
        quarantine = f", {counted(part.quarantined, 'file')} in quarantine" if part.quarantined else ""
        destination = part.destination or "an unknown destination"
        show(f"part {part.id}  {counted(part.records, 'record')} for {destination}{quarantine}")
    if outcome.letters:
        show(f"dead letters  {counted(len(outcome.letters), 'record')}")
    total = counted(outcome.records, "record")
    show(f"{total} {'purged' if done else 'would be purged'}" if outcome else "there is nothing to purge")
