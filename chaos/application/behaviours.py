"""What a program does beside keeping its books: one function for each behaviour."""

from __future__ import annotations

from collections.abc import Callable

from .program import Program


def steady(program: Program) -> None:
    """A few threads log at an even pace until the program is told to stop, and it ends in good order."""
    program.add_sink()
    program.start_sampling()
    threads = program.start_threads()
    program.obey()
    program.stopping.set()
    for thread in threads:
        thread.join()
    program.remove_sink()
    program.sample()


BEHAVIOURS: dict[str, Callable[[Program], None]] = {
    "steady": steady,
}
