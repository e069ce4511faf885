"""Repeat one schedule, and tell what happens in it: `python -m tests.simulation SEED [STRESS]`.

`python -m tests.simulation FIRST STOP STEP` plays many, and tells which faults they met, as JSON.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from typing import get_args

from .schedule import Stress, play
from .world import Violation, World


def main() -> int:
    """Play what the command line says; 1 if a promise was broken."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    return _play_many(*numbers) if len(numbers) == 3 else _tell(numbers[0])


def _play_many(first: int, stop: int, step: int) -> int:
    met: Counter[str] = Counter()
    for seed in range(first, stop, step):
        world = World(seed)
        try:
            play(world)
        except Exception as error:
            print(f"seed {seed}: {type(error).__name__}: {error}")
            return 1
        met.update(world.met())
    print(json.dumps(met))
    return 0


def _tell(seed: int) -> int:
    world = World(seed, telling=True)
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
