"""Root works in a spool as its owner or not at all: whoever may write there must not make use of root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plumelog_loguru._destination import Destination

from .conftest import Fill, Run, RunCode
from .test_drain import _files

pytestmark = pytest.mark.needs_root

RunAsRoot = Callable[..., Run]

APPLICATION, GROUP = 65_534, 65_533
DESTINATION = Destination("localhost:6379", 0, "cli_list", "left")

CHANGING = {
    "drain": ["drain"],
    "import": ["import", "-"],
    "repair": ["repair", "--apply"],
    "purge": ["purge", "--yes"],
    "move": ["export", "--move", "--output", "moved"],
    "retry": ["dead-letters", "retry", "--all"],
    "drop": ["dead-letters", "drop", "--all", "--yes"],
}

# Here Python itself may be where only root can read it: what is needed late is imported before, and who may
# read it is not asked.
AS_ROOT = """
import os, sys
from plumelog_loguru import _delivery, _spool
from plumelog_loguru.cli import _drainer, _letter_retry, _owner, main
_delivery.import_redis(); _spool.import_diskcache()
_owner._files_of_code = lambda: []
"""

SHOWING_WHO = """
from plumelog_loguru._spool import SpoolDirectory
who = lambda: (os.geteuid(), os.getegid(), os.getgroups())
SpoolDirectory.clear_leftovers = lambda self: print(*who(), file=sys.stderr)
"""


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="plumelog-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def spool_dir(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The spool directory of the environment, below a folder that every user may enter."""
    path = reachable / "spool"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("PLUMELOG_SPOOL_DIR", str(path))
    return path


def _give(spool_dir: Path, *, group: int = GROUP) -> None:
    for path in (spool_dir, *spool_dir.rglob("*")):
        os.chown(path, APPLICATION, group)


@pytest.fixture
def run(run_code: RunCode) -> RunAsRoot:
    """Runs the command as root, with what it finds changed by some code."""

    def run(code: str, *words: str) -> Run:
        done = run_code(f"{code}\nsys.exit(main(sys.argv[1:]))", *words)
        return Run(done.returncode, done.stdout, done.stderr)

    return run


def test_root_has_the_rights_of_the_owner_and_no_others(spool_dir: Path, run: RunAsRoot) -> None:
    """The owner's user and group, and none of the groups that root has."""
    _give(spool_dir)
    ended = run(f"{AS_ROOT}{SHOWING_WHO}os.setgroups([0, 4])", "import", "-")
    assert (ended.code, ended.err) == (0, f"{APPLICATION} {GROUP} [{GROUP}]\n")


def test_the_group_of_root_is_not_the_owners(spool_dir: Path, run: RunAsRoot) -> None:
    """A directory that was given to a user alone still has root's group, in which that user is not."""
    _give(spool_dir, group=0)
    ended = run(f"{AS_ROOT}{SHOWING_WHO}", "import", "-")
    assert (ended.code, ended.err) == (0, f"{APPLICATION} {APPLICATION} [{APPLICATION}]\n")


def test_whoever_owns_what_lies_in_it(spool_dir: Path, run: RunAsRoot) -> None:
    """It is the directory's owner that counts: he could have put anybody's link or file there."""
    (spool_dir / "of-root").touch()
    os.chown(spool_dir, APPLICATION, GROUP)
    ended = run(f"{AS_ROOT}{SHOWING_WHO}", "import", "-")
    assert ended.err == f"{APPLICATION} {GROUP} [{GROUP}]\n"


def test_a_link_to_the_directory(spool_dir: Path, reachable: Path, run: RunAsRoot) -> None:
    """It may be root's, and lead to another's directory; or another's, and lead to root's: never root."""
    (reachable / "mine").symlink_to(spool_dir)
    (reachable / "roots").mkdir()
    (reachable / "his").symlink_to(reachable / "roots")
    os.chown(spool_dir, APPLICATION, GROUP)
    os.chown(reachable / "his", APPLICATION, GROUP, follow_symlinks=False)
    ended = run(f"{AS_ROOT}{SHOWING_WHO}", "import", "-", "--spool-dir", str(reachable / "mine"))
    assert ended.err == f"{APPLICATION} {GROUP} [{GROUP}]\n"
    ended = run(f"{AS_ROOT}{SHOWING_WHO}", "import", "-", "--spool-dir", str(reachable / "his"))
    assert ended.code == 2 and "may not read and write the directory" in ended.err


@pytest.mark.parametrize("command", CHANGING)
def test_refused_where_the_owner_cannot_work(
    command: str, spool_dir: Path, fill: Fill, reachable: Path, run: RunAsRoot
) -> None:
    """One sentence with the cure, nothing changed, no file left: the owner's own directory, or one above."""
    fill(DESTINATION)
    _give(spool_dir)
    before = _files(spool_dir)
    for closed, mode in ((spool_dir, 0o300), (reachable, 0o700)):
        was = closed.stat().st_mode
        closed.chmod(mode)
        ended = run(AS_ROOT, *CHANGING[command])
        closed.chmod(was)
        assert (ended.code, ended.out, ended.err) == (
            2,
            "",
            f"plumelog-replay: the spool directory {spool_dir} belongs to user {APPLICATION}, as whom this "
            "command cannot work here (that user may not read and write the directory); run it as that user, "
            f"where that is possible: setpriv --reuid {APPLICATION} --regid {GROUP} --clear-groups "
            "plumelog-replay ...\n",
        ), closed
        assert _files(spool_dir) == before
        assert not Path("moved").exists()


def test_refused_where_the_owner_cannot_read_the_code(
    spool_dir: Path, fill: Fill, tmp_path: Path, run: RunAsRoot
) -> None:
    """What Python would import late could not be read any more."""
    fill(DESTINATION)
    _give(spool_dir)
    secret = tmp_path / "code.py"
    secret.touch(0o600)
    ended = run(f"{AS_ROOT}_owner._files_of_code = lambda: [{str(secret)!r}]", "drain")
    assert ended.code == 2 and f"(that user may not read {secret})" in ended.err


def test_refused_where_nobody_can_become_the_owner(spool_dir: Path, run: RunAsRoot) -> None:
    """As in a container that must not change its user: it is not done as root then."""
    _give(spool_dir)
    forbid = "def no(*_): raise PermissionError(1, 'Operation not permitted')\nos.{} = no"
    for call in ("setgroups", "setegid", "seteuid"):
        ended = run(AS_ROOT + forbid.format(call), "purge", "--yes")
        assert ended.code == 2 and "(Operation not permitted)" in ended.err, call


def test_reading_needs_no_owner(spool_dir: Path, fill: Fill, run: RunAsRoot) -> None:
    """Root looks at a spool where its owner cannot come."""
    fill(DESTINATION)
    _give(spool_dir)
    spool_dir.chmod(0)
    for words in (["list"], ["verify"], ["export"], ["dead-letters"], ["purge"], ["drain", "--dry-run"]):
        ended = run(AS_ROOT, *words)
        assert "belongs to user" not in ended.err, words
        assert spool_dir.stat().st_uid == APPLICATION


def test_what_root_s_group_may_delete_stays(spool_dir: Path, reachable: Path, run: RunAsRoot) -> None:
    """Where the owner leads a command elsewhere it can do what he can, and no more."""
    treasure = reachable / "roots" / "treasure"
    treasure.mkdir(parents=True)
    for path in (treasure, treasure.parent):
        path.chmod(0o770)
    _give(spool_dir)
    led = f"""
import shutil
from plumelog_loguru._spool import SpoolDirectory
SpoolDirectory.clear_leftovers = lambda self: shutil.rmtree({str(treasure)!r})
os.setgroups([0])
"""
    ended = run(AS_ROOT + led, "import", "-")
    assert ended.code == 1 and "it broke off by PermissionError" in ended.err
    assert treasure.exists()
