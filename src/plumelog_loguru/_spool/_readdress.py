"""A part that was meant for one list is meant for another from now on: an operator has said so.

What may be in the old list already cannot be recognised in the new one. So each row that is in doubt is first
marked as one that may be doubled, and then the part gets its new address: whoever delivers it, counts it so.
Killed in between, the part is still meant for its old list, where its rows go under the same identities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .._batch import AttemptedBy
from .._destination import Destination
from ._failures import SpoolError
from ._part import Part
from ._part_directory import replace_facts
from ._row import CorruptRow, NewerFormat


def readdress(part: Part, destination: Destination, *, is_stopped: Callable[[], bool]) -> None:
    """Give a part that is ours to another destination; its journals are in its rows already.

    Where ``is_stopped`` says so it is still meant for its old one, and nothing is lost.

    Raises:
        SpoolError: it is still meant for its old one, and the message says why.
    """
    if part.journals():
        raise SpoolError(f"{part.path} has a journal that cannot be recovered here")
    key = None
    try:
        while (key := part.peek(key)) is not None:
            if is_stopped():
                return
            try:
                batch = part.read(key).batch
            except CorruptRow:
                continue  # delivery meets it again, and puts it aside
            if batch.attempted_by is AttemptedBy.SCRIPT:
                part.replace(key, replace(batch, attempted_by=AttemptedBy.PLAIN))
        replace_facts(part.path, destination)
    except (NewerFormat, OSError) as error:
        raise SpoolError(f"{part.path} cannot be given another destination: {error}") from error
    part.destination = destination
