"""A headless browser that a test can load pages in, click in and ask questions.

It is spoken to through a pipe, in the DevTools protocol: JSON objects, each ended by a zero byte. When the
pipe closes, as it does when the test's process dies in whatever way, the browser ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Chromium reads from descriptor 3 and writes to 4; a shell puts them there, where `Popen` cannot.
_ON_3_AND_4 = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1'


def find_browser() -> str | None:
    """Find a Chromium on PATH, under any of its names."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def command(profile: Path, *words: str) -> Sequence[str]:
    """Make the command line of a browser that is alone, with a profile of its own, and calls nobody."""
    name = find_browser()
    assert name is not None
    always = ["--headless", "--no-first-run", "--disable-background-networking", "--disable-gpu"]
    always.append("--disable-dev-shm-usage")  # containers have little of it
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        always.append("--no-sandbox")  # Chromium refuses to give root one
    return [name, *always, f"--user-data-dir={profile}", *words]


class Browser:
    """One browser with one page. What the page asked for, and what went wrong in it, is written down."""

    def __init__(self, profile: Path) -> None:
        self.requests: list[str] = []  # addresses, since the last `open`
        self.complaints: list[str] = []  # errors and console messages, since the last `open`
        self._number = 0
        self._session = ""
        self._loaded = False
        self._process = subprocess.Popen(
            ["sh", "-c", _ON_3_AND_4, "sh", *command(profile, "--remote-debugging-pipe")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and wait for its answer."""
        assert self._process.stdin
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        self._process.stdin.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, page: Path, view: str = "") -> None:
        """Load a page from the disk, afresh, with what stands after its "#"."""
        self.call("Page.navigate", url="about:blank")
        self._wait_until_loaded()
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=f"{page.as_uri()}#{view}")
        self._wait_until_loaded()

    def ask(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key, as a keyboard does."""
        code, text = {"Enter": (13, "\r"), "Tab": (9, ""), "ArrowRight": (39, "")}[key]
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type=kind, **pressed, **typed)

    def _wait_until_loaded(self) -> None:
        while not self._loaded:
            self._read()
        self._loaded = False

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        read = bytearray()
        while (byte := self._process.stdout.read(1)) != b"\0":
            if not byte:
                raise AssertionError("the browser ended")
            read += byte
        message: dict[str, Any] = json.loads(read)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}:
            self.complaints.append(json.dumps(told))
