"""``plumelog-replay``: what became of the spool, and how to empty it without an application.

main       the way in: words in, an exit code out
flags      the command line; its flags for settings are read off the settings
commands   which commands there are; each is a module with its flags and what it does
command    what all of them share: exit codes, and how they speak
"""

from __future__ import annotations

from ._main import main as main
