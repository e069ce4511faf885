"""Tracebacks as text, in bounded time.

The standard library formats them as everyone knows them, at some 5 to 50 us for each exception and frame,
with no bound: a retry loop that chains ten thousand exceptions would hold the logging thread for tenths of a
second. So they are counted first, and from ``_MAX_PARTS`` on only the last error is shown, with its innermost
frames.
"""

from __future__ import annotations

import builtins
import traceback
from types import TracebackType

from ._text import placeholder, text_of

_MAX_PARTS = 1500  # exceptions and frames together; a plain endless recursion has 1,000 frames
_SHORT_FRAMES = 50

# Absent on Python 3.10, where nothing is an instance of it.
_GROUP: tuple[type[BaseException], ...] = tuple(
    filter(None, [getattr(builtins, "BaseExceptionGroup", None)]),
)


def format_error(
    kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None, limit: int
) -> str:
    """The traceback as Python prints it, without the final newline.

    Args:
        kind: The exception's class.
        error: The exception; its causes, contexts and members are shown too.
        frames: Where it was raised; None shows the exception alone.
        limit: In characters; only for the error's own message, where the traceback is too large.
    """
    try:
        if not _is_large(error, frames):
            return "".join(traceback.format_exception(kind, error, frames)).rstrip("\n")
    except Exception as failure:
        why = placeholder(failure)
    else:
        why = f"more than {_MAX_PARTS} exceptions and frames"
    try:
        shown = "".join(traceback.format_tb(frames, limit=-_SHORT_FRAMES))
        name = getattr(kind, "__qualname__", kind)
        return f"Traceback (cut: {why}):\n{shown}{name}: {text_of(error, limit)}"
    except Exception as failure:
        return placeholder(failure)


def _is_large(error: BaseException | None, frames: TracebackType | None) -> bool:
    """Whether there are more parts than can be shown quickly; looks at no more than that many."""
    parts = _count_frames(frames)
    waiting = [error]
    seen: set[int] = set()
    while waiting and parts <= _MAX_PARTS:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        parts += 1
        if error.__traceback__ is not frames:
            parts += _count_frames(error.__traceback__)
        waiting += (error.__cause__, error.__context__)
        if isinstance(error, _GROUP):
            members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
            waiting += members[: _MAX_PARTS + 1]
    return parts > _MAX_PARTS


def _count_frames(frames: TracebackType | None) -> int:
    count = 0
    while frames is not None and count <= _MAX_PARTS:
        count += 1
        frames = frames.tb_next
    return count
