"""What happens to the files of a spool, and to those who own them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

from chaos.application_handle import Application
from chaos.faults.disk import wait_for, wait_for_rows
from chaos.stage import Stage, StageError, wait_until

# The newest frame of a journal is left alone: damaged, it looks like that of a call which never returned.
_FRAME = b"\0PLJ"
_RECORD_ID = re.compile(rb"p\d+-\d+-\d+ ")  # as a record's message begins

# The program as a user whom rights bind: root, without root's power to ignore them.
BOUND_BY_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@dataclass(frozen=True)
class Damage:
    """A program is killed with records in its spool, and bits of its files flip.

    Its successor goes on with them; without one it is up to `plumelog-replay`. The first bit is one of a
    record, where the files hold any: that record is lost for certain.
    """

    files: str  # a pattern, below the folder of the part
    flips: int = 1
    successor: bool = True
    in_journal: bool = False  # its records are in the journal, and not yet in rows

    def strike(self, stage: Stage, seconds: float) -> None:
        """Start it, kill it, flip, and let the successor be there for so long."""
        with stage.proxy.down():
            if self.in_journal:
                first = stage.start_application(BATCH_SIZE="50000", BATCH_INTERVAL_SECONDS="60")
                wait_for(first, "in_memory", 300)
            else:
                first = stage.start_application()
                wait_for_rows(first, 300)
            first.kill()
            flipped = self.flip(stage)
            stage.saw(f"a bit flipped in {self.files}", flipped)
            if self.successor:
                stage.start_application()
                list(stage.ticks(seconds))

    def flip(self, stage: Stage) -> int:
        """Flip bits in what was written of these files; gives how many are found to have flipped there."""
        found = [path for part in stage.spool_parts() for path in part.glob(self.files) if path.is_file()]
        paths = [path for path in found if not path.name.endswith("-shm") and path.read_bytes().strip(b"\0")]
        before = {path: path.read_bytes() for path in paths}
        if paths:
            # What a journal holds may be in rows already.
            holding = [path for path in paths if self.in_journal or not path.name.startswith("journal-")]
            flipped = self._flip_in_a_record(stage, holding)
            for _ in range(self.flips - flipped):
                path = stage.dice.choice(paths)
                content = path.read_bytes()
                upto = self._end_of_old(path, content)
                while not content[place := stage.dice.randrange(upto)]:
                    pass  # nothing was written there
                _flip(stage, path, place)
        differing = (
            one ^ other for path in paths for one, other in zip(before[path], path.read_bytes(), strict=True)
        )
        return sum(map(int.bit_count, differing))

    def _flip_in_a_record(self, stage: Stage, paths: list[Path]) -> bool:
        places = [
            (path, match.start())
            for path in paths
            for content in [path.read_bytes()]
            for match in _RECORD_ID.finditer(content, 0, self._end_of_old(path, content))
        ]
        if places:
            _flip(stage, *stage.dice.choice(places))
        return bool(places)

    @staticmethod
    def _end_of_old(path: Path, content: bytes) -> int:
        return content.rfind(_FRAME) if path.name.startswith("journal-") else len(content)


def _flip(stage: Stage, path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << stage.dice.randrange(8)
    path.write_bytes(content)


@dataclass(frozen=True)
class TornLog:
    """A program is killed with records in its spool, and its log ends with half a transaction of nobody's."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Kill it, append to the log, and let a successor be there for so long."""
        with stage.proxy.down():
            wait_for_rows(stage.application, 300)
            stage.application.kill()
            logs = [
                log for part in stage.spool_parts() for log in part.glob("spool/*-wal") if log.stat().st_size
            ]
            for log in logs:
                frame = log.read_bytes()[32 : 32 + 24 + 4096]  # the first one, out of place
                with open(log, "ab") as file:
                    file.write(frame[: stage.dice.randrange(24, len(frame))])
            stage.saw("half a frame stands at the end of the log", len(logs))
            stage.start_application()
            list(stage.ticks(seconds))


@dataclass(frozen=True)
class Removed:
    """Redis is away, and somebody deletes the spool directory, or replaces it by a file."""

    replaced: bool = False

    def strike(self, stage: Stage, seconds: float) -> None:
        """Delete it, and stay so for so long."""
        with stage.proxy.down():
            wait_for_rows(stage.application, 300)
            files = [path for path in stage.spool_dir.rglob("*") if path.is_file()]
            while not self._is_replaced(stage):
                pass  # a program has made the directory anew, between two calls of ours
            stage.saw("a file of the spool is deleted", sum(not path.exists() for path in files))
            if not self.replaced:
                wait_until(stage.spool_parts, "the program begins a new part")
            list(stage.ticks(seconds))
            if self.replaced:
                stage.spool_dir.unlink()

    def _is_replaced(self, stage: Stage) -> bool:
        """Delete the directory, whoever writes to it meanwhile; whether it is as it should be now."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(stage.spool_dir.rename(stage.folder / "gone"))
        if not self.replaced:
            return True
        (stage.folder / "file").write_text("no directory")
        try:
            (stage.folder / "file").rename(stage.spool_dir)
        except IsADirectoryError:
            return False
        return True


@dataclass(frozen=True)
class NoRights:
    """Redis is away, and the spool directory lets nobody in, from the start or later on."""

    from_the_start: bool = False

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let nobody in for so long."""
        bound = BOUND_BY_RIGHTS if os.geteuid() == 0 else ()
        if self.from_the_start:
            stage.spool_dir.mkdir(mode=0o700)
        else:
            stage.start_application(before=bound)
            wait_until(lambda: stage.delivered() > 60, "the first records arrive")
        with stage.proxy.down():
            if not self.from_the_start:
                wait_for_rows(stage.application)
            mode = stage.spool_dir.stat().st_mode
            stage.spool_dir.chmod(0)
            try:
                if self.from_the_start:
                    stage.start_application(before=bound)
                list(stage.ticks(seconds))
                tried = subprocess.run([*bound, "ls", str(stage.spool_dir)], capture_output=True, check=False)
                stage.saw("ls is not let into the directory", tried.returncode != 0)
            finally:
                stage.spool_dir.chmod(mode)


@dataclass(frozen=True)
class OwnerKilled:
    """Redis is away, two programs share the directory, one is killed; a third takes over its part."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Let it all happen, and stay so for so long."""
        with stage.proxy.down():
            first, other = stage.start_application(), stage.start_application()
            wait_for_rows(first)
            wait_for_rows(other)
            part = parts_held_by(first)
            first.kill()
            heir = stage.start_application()
            wait_until(lambda: part & parts_held_by(heir), "the third takes over the part")
            stage.saw("the killed program's part is open in the third, and not in the second")
            list(stage.ticks(seconds))


@dataclass(frozen=True)
class OwnerFrozen:
    """A program with records in its spool is frozen; another one starts, delivers, and ends."""

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be frozen for at least so long."""
        owner = stage.application
        with stage.proxy.down():
            wait_for_rows(owner)
            owner.freeze()
            other = stage.start_application()
            wait_for_rows(other)
        try:
            wait_until(lambda: not other.spooled(), "the other one delivers what it spooled")
            list(stage.ticks(seconds))
            touched = parts_held_by(owner) & parts_held_by(other)
            if code := other.stop():
                raise StageError(f"the other one ended with {code}")
            drained = stage.run_replay("drain", "--json")
            alone = owner.is_frozen and not touched
            stage.saw("the owner is stopped, and its part is open nowhere else", alone)
            if drained.returncode:
                raise StageError(f"plumelog-replay drain: exit {drained.returncode}")
        finally:
            owner.thaw()


def parts_held_by(application: Application) -> set[str]:
    """Parts in which a program has a file open: the lock it holds, if nothing else."""
    found = set()
    for link in Path(f"/proc/{application.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found |= {name for name in Path(os.readlink(link)).parts if name.startswith("part-")}
    return found


@dataclass(frozen=True)
class OverQuota:
    """Redis is away for longer than the spool may grow."""

    limit_bytes: int

    def strike(self, stage: Stage, seconds: float) -> None:
        """Be away for so long."""
        with stage.proxy.down():
            list(stage.ticks(seconds))
            taken = sum(map(_bytes_of_rows, stage.spool_parts()))
            least, most = self.limit_bytes * 3 // 4, self.limit_bytes * 5 // 4  # a batch is far smaller
            stage.saw("the rows take all that they may, and no more", least < taken < most)


def _bytes_of_rows(part: Path) -> int:
    """What the rows of a part hold, read as SQLite reads it, while the program writes."""
    with contextlib.closing(sqlite3.connect(f"file:{part}/spool/cache.db?mode=ro", uri=True)) as database:
        (held,) = database.execute("SELECT sum(length(value)) FROM Cache").fetchone()
    return held or 0
