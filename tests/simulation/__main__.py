"""Repeat one schedule, and tell what happens in it: `python -m tests.simulation SEED [STRESS]`."""

from __future__ import annotations

import sys
import traceback
from typing import get_args

from .schedule import Stress, play
from .world import Violation, World


def main() -> int:
    """Play the schedule of the seed on the command line; 1 if a promise was broken."""
    world = World(int(sys.argv[1]), telling=True)
    stress: Stress | None = next((one for one in get_args(Stress) if one in sys.argv), None)
    try:
        play(world, stress)
    except Exception as error:
        world.tell(f"BROKEN: {type(error).__name__}: {error}")
        if not isinstance(error, Violation):
            traceback.print_exc()
        return 1
    finally:
        print("\n".join(world.story or ()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
