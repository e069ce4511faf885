"""A child process that never outlives the process that started it, also when that one is killed."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_GUARDIAN = 'read -r _; kill -9 "$1"; [ -z "$2" ] || rm -rf "$2"'


class GuardedProcess:
    """A process, started; its output goes nowhere, unless it is asked for."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        leftovers: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        output: IO[bytes] | None = None,
    ) -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            leftovers: a directory to remove if this process is killed; empty is none.
            cwd: where it runs; None is here.
            env: its environment; None is ours.
            output: where what it writes goes.
        """
        # Sessions of their own: Ctrl-C at a terminal goes to the tests, which then end their servers.
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.DEVNULL,
            stderr=output or subprocess.DEVNULL,
            start_new_session=True,
        )
        # The guardian waits for a pipe that closes when this process dies, however it dies. Linux has a death
        # signal for that, but it comes when the *thread* that started the server ends.
        self._guardian = subprocess.Popen(
            ["/bin/sh", "-c", _GUARDIAN, "guardian", str(self._process.pid), leftovers],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait; what does not end within ten seconds is killed."""
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)  # a frozen process takes SIGTERM only once it goes on
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._guardian.kill()
        self._guardian.communicate()
