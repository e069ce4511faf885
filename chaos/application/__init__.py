"""The program that logs while everything round it breaks.

    python -m chaos.application '<its orders, as JSON>'

It keeps a book of its calls (`lab.calls`), a histogram of how long they took, and writes down twenty times a
second how it is. All of it outlives the program. On its standard input it takes orders, one a line.
"""

from .orders import Orders

__all__ = ["Orders"]
