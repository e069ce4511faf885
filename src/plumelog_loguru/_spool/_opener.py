"""Opening the rows of a part, in whatever state an owner left them.

Promises:

- Nothing that is damaged is deleted: it goes into quarantine as a whole, and what is intact in it is found in
  the new database under the same keys.
- An owner that dies meanwhile leaves what the next goes on with: the old database until all that is intact
  stands in the new one, and the new one from then on.
"""

from __future__ import annotations

import os
from pathlib import Path

from ._database import strangers_in
from ._failures import SpoolDamaged, SpoolError, SpoolFull
from ._files import Ballast
from ._look import salvage
from ._part_directory import SALVAGED, SPOOL, remove_store
from ._quarantine import Quarantine
from ._store import Store


class StoreOpener:
    """Opens the store of one part."""

    def __init__(self, path: Path, quarantine: Quarantine, ballast: Ballast, *, fsync: bool) -> None:
        self._path = path
        self._quarantine = quarantine
        self._ballast = ballast
        self._fsync = fsync
        self.notes: list[str] = []  # what a person should know, a sentence each
        self.damaged_records = 0  # found in a damaged spool, and lost

    def open(self, known_damage: str | None = None) -> Store:
        """Open what is there, or make it; what is intact in a damaged one.

        ``known_damage`` tells that SQLite is not to be trusted with what is there, and why.

        Raises:
            SpoolError: that is not possible now.
        """
        self._end_salvage()
        self._put_strangers_aside()
        if known_damage is not None:
            return self.salvage(known_damage)
        try:
            return self.open_intact()
        except SpoolDamaged as error:
            return self.salvage(str(error))

    def open_intact(self) -> Store:
        """Open what is there, or make it.

        Raises:
            SpoolDamaged: it is damaged.
            SpoolError: that is not possible now.
        """
        try:
            store = Store(self._path / SPOOL, fsync=self._fsync)
        except SpoolFull:
            if not self._ballast.release():
                raise
            store = Store(self._path / SPOOL, fsync=self._fsync)
        if store.foreign:
            store.close()
            raise SpoolDamaged(
                f"{store.foreign} entries of {store.path} cannot be found or were not written by us"
            )
        return store

    def salvage(self, reason: str, *, newest: int = 0) -> Store:
        """What is intact in a damaged spool, in a new one; the old one is put aside once it is all there.

        Args:
            reason: why that is needed, for a person.
            newest: the counter that was given last.

        Raises:
            SpoolError: that is not possible now.
        """
        self._drop_salvaged()
        lost = 0
        store = Store(self._path / SALVAGED, fsync=self._fsync)
        try:
            for key, row in salvage(self._path / SPOOL):
                if row is None:
                    lost += key.records
                else:
                    store.restore(key, row)
        except OSError as error:
            raise SpoolError(f"the damaged spool {self._path / SPOOL} cannot be read: {error}") from error
        finally:
            store.close()
        self.put_aside(f"{reason}; {store.records} records in it are intact, {lost} are lost")
        os.rename(self._path / SALVAGED, self._path / SPOOL)
        self.damaged_records += lost
        store = self.open_intact()
        store.continue_after(newest)
        return store

    def put_aside(self, reason: str) -> None:
        """Move all of it into quarantine.

        Raises:
            SpoolError: that is not possible.
        """
        try:
            if not os.path.lexists(self._path / SPOOL):
                return
            target = self._quarantine.move_in(self._path / SPOOL)
        except OSError as error:
            raise SpoolError(
                f"the damaged spool {self._path / SPOOL} cannot be put aside: {error}"
            ) from error
        self.notes.append(
            f"a spool could not be used ({reason}); it was put aside as {target} and a new one begun"
        )

    def _put_strangers_aside(self) -> None:
        """What is none of ours may be SQLite's to read, or keep the part from being removed."""
        spool = self._path / SPOOL
        try:
            for name in strangers_in(spool):
                target = self._quarantine.move_in(spool / name)
                self.notes.append(f"{name} in a spool was not written by us; it was put aside as {target}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise SpoolError(f"a file in {spool} cannot be put aside: {error}") from error

    def _end_salvage(self) -> None:
        """What another owner was about to do when it died."""
        if os.path.lexists(self._path / SPOOL):
            self._drop_salvaged()
        elif os.path.lexists(self._path / SALVAGED):
            os.rename(self._path / SALVAGED, self._path / SPOOL)

    def _drop_salvaged(self) -> None:
        try:
            remove_store(self._path / SALVAGED)
        except OSError as error:
            raise SpoolError(f"{self._path / SALVAGED} cannot be removed: {error}") from error
