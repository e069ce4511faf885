"""Python programs that begin at once: forked off one that has imported the command already.

Promises what ``subprocess.run([sys.executable, "-c", code, *words])`` would do with its output captured, for
tests that run many short programs and are not about how Python starts: most of their time would go into that.

The process that forks ends with the one that started it, also when that one is killed. A program that takes
too long is ended together with it.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

_LONGEST_SECONDS = 50.0


@dataclass(frozen=True)
class WarmPython:
    """What the programs are forked off."""

    process: subprocess.Popen[str]
    folder: Path  # for what they say

    def run(self, code: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the environment and the directory of this process.

        Raises:
            subprocess.TimeoutExpired: it takes too long; nothing can be run any more.
        """
        out, err = self.folder / "out", self.folder / "err"
        order = {"code": code, "words": words, "environ": dict(os.environ), "cwd": os.getcwd()}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({**order, "out": str(out), "err": str(err)}) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], _LONGEST_SECONDS)[0]:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(code, _LONGEST_SECONDS)
        code_of_exit = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(words, code_of_exit, out.read_text(), err.read_text())


@contextmanager
def warm_python() -> Iterator[WarmPython]:
    """Start it, and end it."""
    with (
        TemporaryDirectory(prefix="plumelog-") as folder,
        subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        yield WarmPython(process, Path(folder))


def _serve() -> None:
    """Fork a program for each line of standard input, and answer with its exit code."""
    from plumelog_loguru import _delivery, _spool
    from plumelog_loguru.cli import _commands

    sys.path[0] = ""  # as for every program in a string
    for name in _commands.COMMANDS:
        _commands.module_of(name)
    _delivery.import_redis()
    _spool.import_diskcache()
    gc.freeze()  # so that collections in the programs do not copy all that was imported
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(code: str, words: list[str], environ: dict[str, str], cwd: str, out: str, err: str) -> NoReturn:
    """Be that program, to its end and that of the interpreter."""
    for fd, path in enumerate((os.devnull, out, err)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    sys.argv = ["-c", *words]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__":
    _serve()
