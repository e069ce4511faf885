"""Threads and the event loop. Knows nothing of logging, Redis or disks."""

from ._loop_thread import LoopThread as LoopThread
from ._loop_thread import RuntimeState as RuntimeState
from ._signal import Signal as Signal
from ._threads import start_unawaited as start_unawaited
