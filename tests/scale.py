"""How much of a costly test is run: all with `make test-long`, a part with `make test`; both are printed."""

from __future__ import annotations

import os

ALL_ROUNDS = 50  # what `make test-long` sets
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def scaled(few: int, all_of_it: int) -> int:
    """The size of a costly test: ``all_of_it`` under ``make test-long``, ``few`` otherwise. Prints both."""
    size = all_of_it if ROUNDS >= ALL_ROUNDS else few
    print(f"scale: {size} of {all_of_it}")
    return size
