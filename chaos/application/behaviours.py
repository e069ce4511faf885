"""What a program does beside keeping its books: one function for each behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .program import Program


def steady(program: Program, words: Mapping[str, Callable[..., object]] | None = None, but: int = 0) -> None:
    """A few threads log at an even pace until the program is told to stop, and it ends in good order.

    Args:
        program: that does so.
        words: what it can be told to do besides; see `Program.obey`.
        but: so many of its threads do not log: something else writes their rows.
    """
    program.add_sink()
    threads = program.start_threads(but=but)
    program.start_sampling()  # afterwards: the first sample is what later ones are compared with
    program.obey(words)
    program.stopping.set()
    for thread in threads:
        thread.join()
    program.remove_sink()
    program.sample()


BEHAVIOURS: dict[str, Callable[[Program], None]] = {
    "steady": steady,
}
