"""What the programs log, and how a record tells that it arrived as it was logged.

Program and oracle share this package and nothing else. A message begins with the id of its call and what the
rest should be, or what it was made from, so the oracle needs no copy of what was logged.
"""

from ._errors import ERRORS
from ._names import NAMES
from ._objects import OBJECTS
from ._plain import PLAIN
from ._record import (
    Call,
    Content,
    Record,
    id_of,
    problem_of_signed,
    problem_of_standard_fields,
    signed,
)
from ._texts import TEXTS

CONTENTS: dict[str, Content] = {**PLAIN, **TEXTS, **OBJECTS, **NAMES, **ERRORS}

__all__ = [
    "CONTENTS",
    "Call",
    "Content",
    "Record",
    "id_of",
    "problem_of_signed",
    "problem_of_standard_fields",
    "signed",
]
