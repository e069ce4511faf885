"""A Toxiproxy server: a real one wherever that is possible, the stand-in where it is not."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from chaos.toxiproxy._find import NAME, ROOT, VERSION, build_server, find_server, version_inside
from chaos.toxiproxy._http import Door, ToxiproxyError
from chaos.toxiproxy._proxy import Proxy
from lab.guarded import GuardedProcess
from lab.servers import HOST, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

_NO_SERVER = (
    "NO TOXIPROXY: THE FAULTS OF THIS RUN ARE MADE BY THE STAND-IN",
    "",
    f"No {NAME} on PATH, none in .tools/bin, and none could be built.",
    f"What runs instead is chaos/standin, which imitates Toxiproxy {VERSION}.",
    "",
    "The cure, one of:",
    f"  install Go, and run this again: it builds Toxiproxy {VERSION}",
    f"  put a {NAME} on PATH",
    "  set TOXIPROXY_URL=http://host:port of one that is running",
)


class Toxiproxy:
    """A running server, for any number of threads; a context manager that leaves nothing behind."""

    def __init__(
        self, url: str, *, process: GuardedProcess | None = None, version: str | None = None
    ) -> None:
        """Speak to a server that answers; `start_toxiproxy` is the way to call this.

        Args:
            url: its HTTP interface.
            process: the server, if it is ours to end.
            version: what it is, where it does not know itself.

        Raises:
            ToxiproxyError: nobody answers there.
        """
        self.url = url
        self._door = Door(url)
        self._process = process
        self._lock = threading.Lock()
        self._proxies: set[Proxy] = set()
        about = self._door.request("GET", "/version")
        if not isinstance(about, dict) or "version" not in about:
            raise ToxiproxyError(f"{url} answers, and is no Toxiproxy")
        said = about["version"]
        self.is_real = not about.get("stand_in", False)
        kind = "Toxiproxy" if self.is_real else "stand-in for Toxiproxy"
        self.description = f"{kind} {version if version and said == 'git' else said}"

    def __repr__(self) -> str:
        return f"<{self.description} at {self.url}>"

    def create_proxy(self, upstream: str, listen: str | None = None) -> Proxy:
        """Put a new proxy, on a loopback port of its own or at ``listen``, before ``host:port``."""
        proxy = Proxy(self._door, upstream, self._forget, listen)
        with self._lock:
            self._proxies.add(proxy)
        return proxy

    def close(self) -> None:
        """Delete the proxies made here, and end the server if it was started here."""
        with self._lock:
            proxies = list(self._proxies)
        try:
            if self._process is None or self._process.poll() is None:
                for proxy in proxies:
                    proxy.close()
        finally:
            if self._process is not None:
                self._process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self, proxy: Proxy) -> None:
        with self._lock:
            self._proxies.discard(proxy)


def start_toxiproxy() -> Toxiproxy:
    """Find a Toxiproxy, or start one that ends when this process ends, however that is.

    The environment decides first: ``CHAOS_PROXY=stand-in`` takes the stand-in, ``TOXIPROXY_URL`` a server
    that is running already, which is never stopped. Then come ``PATH``, the tools folder, Go, and last,
    loudly, the stand-in.

    Raises:
        ToxiproxyError: there is none at ``TOXIPROXY_URL``, or it did not come up, or the wish is unknown.
    """
    wish = os.environ.get("CHAOS_PROXY")
    if wish == "stand-in":
        return start_standin()
    if wish:
        raise ToxiproxyError(f"CHAOS_PROXY is {wish!r}; it may only be stand-in, or not be set")
    url = os.environ.get("TOXIPROXY_URL")
    if url:
        try:
            return Toxiproxy(url)
        except ToxiproxyError as error:
            raise ToxiproxyError(
                f"TOXIPROXY_URL is {url}, and there is no Toxiproxy there: {error}"
            ) from error
    binary = find_server() or build_server()
    if binary is None:
        edge = "*" * 80
        print(edge, *(f"*  {line:<74}  *" for line in _NO_SERVER), edge, sep="\n", file=sys.stderr)
        return start_standin()
    return start_server(binary)


def start_server(binary: Path) -> Toxiproxy:
    """Start a real server."""
    return _start([str(binary)], version_inside(binary))


def start_standin() -> Toxiproxy:
    """Start the stand-in, as a process of its own."""
    return _start([sys.executable, "-m", "chaos.standin"])


def _start(command: list[str], version: str | None = None, timeout: float = 20.0) -> Toxiproxy:
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = GuardedProcess(
            [*command, "--host", HOST, "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "LOG_LEVEL": "error"},  # the real one tells of every connection otherwise
            output=log,
        )
        deadline = time.monotonic() + timeout
        try:
            while True:
                try:
                    return Toxiproxy(f"http://{HOST}:{port}", process=process, version=version)
                except ToxiproxyError as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        said = log.read()[-1000:].decode(errors="replace")
                        raise ToxiproxyError(f"{command[0]} did not come up: {error}: {said}") from error
                    time.sleep(0.01)
        except BaseException:
            process.end()
            raise
