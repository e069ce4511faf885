"""Run one program: `python -m chaos.application '<orders as JSON>'`."""

from __future__ import annotations

import json
import sys

from .behaviours import BEHAVIOURS
from .orders import Orders
from .program import Program


def main() -> None:
    """Do as ordered."""
    orders = Orders(**json.loads(sys.argv[1]))
    BEHAVIOURS[orders.behaviour](Program(orders))


if __name__ == "__main__":
    main()
