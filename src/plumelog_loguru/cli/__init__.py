"""``plumelog-replay``: what became of the spool, and how to empty it without an application.

main    the way in: words in, an exit code out
flags   the command line; its flags for settings are read off the settings
drain   what ended processes left goes to Redis
status  a look at the spool and at Redis, which changes neither
"""

from __future__ import annotations

from ._main import main as main
