"""A program that logs, in the hand of who started it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from chaos.application.orders import Orders

_READY_SECONDS = 30.0


class ProgramError(Exception):
    """The program did not do what it was told."""


class Application:
    """One program: told to stop, killed, frozen, and asked for what it wrote down."""

    def __init__(self, orders: Orders, process: subprocess.Popen[str]) -> None:
        """Take charge of a program that was started with these orders."""
        self.orders = orders
        self.process = process
        self.killed = False  # by whoever broke it: it ends in no good order, and owes no last word
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_until_ready(self) -> None:
        """Wait until it says that it takes orders."""
        self._expect("ready", _READY_SECONDS)

    def mark(self) -> str:
        """Let it log one record now; gives the record's id, once the call has returned."""
        return self.ask("mark")

    def ask(self, word: str, seconds: float = 10.0) -> str:
        """Let it do something that its behaviour knows, with the words behind it; gives its answer."""
        self.tell(word)
        return self.answer(seconds)

    def answer(self, seconds: float = 10.0) -> str:
        """What it says to what it was told."""
        return self._expect("", seconds)

    def quiet(self) -> None:
        """Let its threads log no more; it goes on otherwise."""
        self.ask("quiet")

    def stop(self, seconds: float = 30.0) -> int:
        """Let it end in good order; gives its exit code."""
        self.tell("stop")
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop its time."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """Let its time go on."""
        self.process.send_signal(signal.SIGCONT)

    @property
    def is_frozen(self) -> bool:
        """Whether its time stands still, as the kernel says."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].startswith("T")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def samples(self) -> list[dict[str, Any]]:
        """What it wrote down of itself, oldest first; a line that was cut off by its death is left out."""
        try:
            lines = self.orders.samples_path.read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def spooled(self) -> int:
        """How many records it last said were spooled; 0 for a sink that does not say."""
        samples = self.samples()
        return int(samples[-1].get("spooled", 0)) if samples else 0

    def close(self) -> None:
        """Kill it, if it is still there."""
        if self.is_running:
            self.kill()

    def tell(self, word: str) -> None:
        """Let it do something, and do not wait for it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ProgramError(f"the program {self.orders.tag} takes no orders any more") from error

    def _expect(self, word: str, seconds: float) -> str:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise ProgramError(f"the program {self.orders.tag} says nothing for {seconds} s") from None
        if not line or (word and line != word):
            code = self.process.wait(10) if not line else None
            raise ProgramError(f"the program {self.orders.tag} said {line!r} and not {word!r} (exit {code})")
        return line

    def _listen(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self._lines.put(line.rstrip("\n"))
        except ValueError:
            pass  # closed with the stage
        self._lines.put("")
