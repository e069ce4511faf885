"""Whoever is started in a run ends with it, and its files go with it, however the run ends."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

# It lives until its standard input is closed, which happens also when we are killed. By then it knows the
# process groups that are still there: a number that was given back may be somebody else's.
_GUARDIAN = """
groups=" "
while read -r sign group; do
    case $sign in
        +) groups="$groups$group " ;;
        -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
[ -r /proc/mounts ] && cut -d" " -f2 /proc/mounts | grep "^$1/" |
    while read -r mount; do umount -l "$mount"; done
# Whoever dies at this moment may still make something.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1"
    [ -e "$1" ] || exit
    sleep 0.2
done
"""


class Guardian:
    """A folder for all that a run leaves lying about, and a process that outlives the run to clear up."""

    def __init__(self) -> None:
        """Make the folder, and start the process."""
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN, "guardian", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, group: int) -> None:
        """This process group has begun."""
        self._tell("+", group)

    def forget(self, group: int) -> None:
        """This process group has ended."""
        self._tell("-", group)

    def close(self) -> None:
        """Clear up now."""
        with contextlib.suppress(OSError):
            self._process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, sign: str, group: int) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(OSError):
            self._process.stdin.write(f"{sign} {group}\n")
            self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
