"""Run one program: `python -m chaos.application '<orders as JSON>'`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .behaviours import BEHAVIOURS
from .behaviours_children import CHILDREN_BEHAVIOURS
from .behaviours_process import PROCESS_BEHAVIOURS
from .failpoints import die_at
from .orders import Orders
from .program import Program
from .world import enter

ALL_BEHAVIOURS = {**BEHAVIOURS, **CHILDREN_BEHAVIOURS, **PROCESS_BEHAVIOURS}


def main() -> None:
    """Do as ordered."""
    orders = Orders(**json.loads(sys.argv[1]))
    if "point" in orders.options:  # before there is a sink
        die_at(orders.options["point"], orders.options["passes"], Path(orders.folder) / f"{orders.tag}.died")
    enter(orders)
    ALL_BEHAVIOURS[orders.behaviour](Program(orders))


if __name__ == "__main__":
    main()
