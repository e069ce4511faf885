"""The errors that a caller of this library can meet.

    PlumelogError
    ├── SettingsError      a setting can never work; the message names it, its value and the cure
    └── WrongThreadError   a blocking call was made from one of the sink's own threads

Nothing here ever comes out of ``logger.info()``: what goes wrong on a record's road is counted and reported
on stderr, never raised into the application.
"""

from __future__ import annotations


class PlumelogError(Exception):
    """Base of every error that this library raises on purpose."""


class SettingsError(PlumelogError, ValueError):
    """A setting has a value that can never work."""


class WrongThreadError(PlumelogError, RuntimeError):
    """A call that would wait for the sink's threads was made from one of them, and would wait for ever."""
