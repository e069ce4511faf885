"""What a scenario may need of its machine; where it is missing, the scenario is named as not run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec

from lab.servers import find_servers

SECOND_HOST = "127.0.0.2"

_MOUNTS_ARE_OURS = "MOUNTS_ARE_OURS"


def _can_mount() -> bool:
    """Being root is not enough: most containers forbid it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _has_second_address() -> bool:
    """Loopback has one address or sixteen million, as the system pleases."""
    with socket.socket() as probe:
        try:
            probe.bind((SECOND_HOST, 0))
        except OSError:
            return False
    return True


def _can_trace() -> bool:
    """Being there is not enough: some containers forbid one process to trace another."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode == 0


_CHECKS: dict[str, Callable[[], bool]] = {
    "gunicorn": lambda: find_spec("gunicorn") is not None,
    "mount": _can_mount,
    "second address": _has_second_address,
    "root": lambda: os.geteuid() == 0,
    "strace": _can_trace,
    "valkey": lambda: any(path.name == "valkey-server" for path in find_servers()),
}


@cache
def _is_there(tool: str) -> bool:
    return _CHECKS[tool]()


def missing(needs: Iterable[str]) -> list[str]:
    """Which of these this machine has not."""
    return [tool for tool in needs if not _is_there(tool)]


def are_known(needs: Iterable[str]) -> bool:
    """Whether all of these can be asked for."""
    return _CHECKS.keys() >= set(needs)


def have_mounts_of_our_own() -> None:
    """Begin anew where every mount is this run's alone, and gone with it, where that is possible."""
    if os.environ.pop(_MOUNTS_ARE_OURS, None) is None and not missing(["mount"]):
        os.environ[_MOUNTS_ARE_OURS] = "yes"
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.orig_argv[1:]]
        os.execvp(words[0], words)  # noqa: S606  # nothing of ours is open yet
