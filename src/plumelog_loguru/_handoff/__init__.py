"""The hand-off: where a record leaves the caller's thread, and when a batch goes."""

from ._batcher import Batcher as Batcher
from ._queue import Bounds as Bounds
from ._queue import HandOff as HandOff
from ._queue import OverflowPolicy as OverflowPolicy
