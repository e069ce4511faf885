"""Starting a thread without waiting for it.

:meth:`threading.Thread.start` waits until the new thread runs. Two things forbid that here. The garbage
collector may run a user's ``__del__`` in the new thread before anything else; it may log, and wait for a lock
that the caller of ``logger.info()`` holds, who waits for the thread. And from Python 3.12 on an interpreter
that has begun to end starts no threads, so whatever is needed then must have been started by the first call,
not by a thread that it started.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


def start_unawaited(run: Callable[[], None], name: str) -> int:
    """Run ``run`` in a new daemon thread, and return the thread's identifier at once.

    Raises:
        RuntimeError: the process, or an interpreter that ends, starts no more threads.
    """

    def begin() -> None:
        threading.current_thread().name = name
        run()

    return _thread.start_new_thread(begin, ())
