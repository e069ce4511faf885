"""A Toxiproxy is found, built, or replaced by the stand-in, which is said; it ends with its starter."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.toxiproxy import ToxiproxyError, build_server, find_server, start_standin, start_toxiproxy
from chaos.toxiproxy import _find as find
from chaos.toxiproxy._find import version_inside
from lab.servers import HOST, free_port
from tests.chaos.wire import PATIENCE_SECONDS, Upstream

# What a server is to these tests: something that is started with --host and --port. The stand-in will do.
SERVER = f'#!/bin/sh\nexec "{sys.executable}" -m chaos.standin "$@"\n'


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but a few tools and what the test puts there; an empty tools folder, no wishes."""
    folder = tmp_path / "path"
    folder.mkdir()
    for tool in ("sh", "cp", "sleep", "rm"):
        (folder / tool).symlink_to(shutil.which(tool) or "")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("TOXIPROXY_URL", raising=False)
    monkeypatch.delenv("CHAOS_PROXY", raising=False)
    monkeypatch.setattr(find, "TOOLS", tmp_path / "tools")
    return folder


def put(path: Path, text: str) -> Path:
    """Make a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def listens(port: int) -> bool:
    """Tell whether somebody takes connections there."""
    with socket.socket() as caller:
        return caller.connect_ex((HOST, port)) == 0


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Wait for what happens in a process that can tell nobody."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


# Found


def test_a_server_on_path_comes_first(path: Path) -> None:
    """Before the one in the tools folder, which comes next."""
    assert find_server() is None
    tool = put(find.TOOLS / "bin" / "toxiproxy-server", SERVER)
    assert find_server() == tool
    on_path = put(path / "toxiproxy-server", SERVER)
    assert find_server() == on_path


def test_what_is_found_is_started(path: Path, upstream: Upstream, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is built for it, and nothing said."""
    put(path / "toxiproxy-server", SERVER)
    put(path / "go", "#!/bin/sh\necho built >&2\n")
    with start_toxiproxy() as toxiproxy, toxiproxy.create_proxy(upstream.address) as proxy:
        upstream.connect(proxy)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_does_not_come_up_says_why(path: Path) -> None:
    """What it wrote is in the error."""
    put(path / "toxiproxy-server", "#!/bin/sh\necho no such luck >&2\nexit 1\n")
    with pytest.raises(ToxiproxyError, match=r"did not come up: .*no such luck"):
        start_toxiproxy()


def test_a_binary_of_go_knows_its_version(tmp_path: Path) -> None:
    """One that `go install` built calls itself `git`."""
    binary = tmp_path / "server"
    binary.write_bytes(b"\x00path\tx\nmod\tgithub.com/Shopify/toxiproxy/v2\tv2.12.0\th1:abc=\n\x00")
    assert version_inside(binary) == "2.12.0"
    binary.write_bytes(b"\x00")
    assert version_inside(binary) is None


# Built


def test_go_builds_what_is_not_found(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Once: it is found the next time. Nothing else is left behind, and what Go says is not shown."""
    put(path / "server", SERVER)
    put(path / "go", f'#!/bin/sh\necho "$@" >>{path}/asked\necho chatter\ncp {path}/server "$GOBIN/server"\n')
    for _ in range(2):
        with start_toxiproxy() as toxiproxy:
            assert toxiproxy.description
    asked = "install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0\n"
    assert (path / "asked").read_text() == asked
    assert [str(file.relative_to(find.TOOLS)) for file in find.TOOLS.rglob("*")] == [
        "bin",
        "bin/toxiproxy-server",
    ]
    assert "chatter" not in capfd.readouterr().err


def test_two_may_build_at_once(path: Path) -> None:
    """Each gets a whole server."""
    put(path / "server", SERVER)
    put(path / "go", f'#!/bin/sh\nsleep 0.2\ncp {path}/server "$GOBIN/server"\n')
    built: list[Path | None] = []
    builders = [threading.Thread(target=lambda: built.append(build_server())) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert built == [find.TOOLS / "bin" / "toxiproxy-server"] * 2
    assert os.access(find.TOOLS / "bin" / "toxiproxy-server", os.X_OK)


def test_a_build_that_fails_shows_what_go_said(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And the stand-in runs."""
    put(path / "go", "#!/bin/sh\necho no network today\nexit 1\n")
    with start_toxiproxy() as toxiproxy:
        assert not toxiproxy.is_real
    said = capfd.readouterr().err
    assert "no network today" in said
    assert "NO TOXIPROXY" in said
    assert list(find.TOOLS.iterdir()) == [find.TOOLS / "bin"]


def test_a_build_that_hangs_is_ended(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With the compilers that it started."""
    put(path / "go", f"#!/bin/sh\nsleep 1000 & echo $! >{path}/compiler\nwait\n")
    assert build_server(timeout=0.5) is None
    compiler = Path("/proc", (path / "compiler").read_text().strip(), "stat")
    assert wait_until(lambda: not compiler.exists() or compiler.read_text().split()[2] == "Z")
    assert "not done within" in capfd.readouterr().err


# Replaced


def test_the_stand_in_is_announced_loudly(
    path: Path, upstream: Upstream, capfd: pytest.CaptureFixture[str]
) -> None:
    """What ran instead, and the cure."""
    with start_toxiproxy() as toxiproxy, toxiproxy.create_proxy(upstream.address) as proxy:
        upstream.connect(proxy)
        assert toxiproxy.description == "stand-in for Toxiproxy 2.12.0"
    said = capfd.readouterr().err
    for words in ("NO TOXIPROXY", "STAND-IN", "install Go", "TOXIPROXY_URL"):
        assert words in said
    lines = said.strip().splitlines()
    assert {len(line) for line in lines} == {80}  # a box


def test_the_stand_in_can_be_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Then nobody has to be told."""
    put(path / "toxiproxy-server", "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CHAOS_PROXY", "stand-in")
    with start_toxiproxy() as toxiproxy:
        assert not toxiproxy.is_real
    assert capfd.readouterr() == ("", "")


def test_any_other_wish_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that is misspelt must not choose the real one silently."""
    monkeypatch.setenv("CHAOS_PROXY", "standin")
    with pytest.raises(ToxiproxyError, match=r"CHAOS_PROXY .*stand-in"):
        start_toxiproxy()


# Running already


@pytest.fixture
def running(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server that somebody else has started."""
    with start_standin() as toxiproxy:
        monkeypatch.setenv("TOXIPROXY_URL", toxiproxy.url)
        yield toxiproxy.url


def test_a_server_that_is_running_is_used_and_left_running(running: str, upstream: Upstream) -> None:
    """Without the proxies that were made on it."""
    with start_toxiproxy() as toxiproxy:
        assert toxiproxy.url == running
        proxy = toxiproxy.create_proxy(upstream.address)
        upstream.connect(proxy)
    assert not listens(proxy.port)
    with start_toxiproxy() as toxiproxy:
        toxiproxy.create_proxy(upstream.address)


@pytest.mark.parametrize("rest", ["", "/"])
def test_a_server_that_cannot_be_reached_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    """In a sentence, and nothing is started instead."""
    url = f"http://{HOST}:{free_port()}{rest}"
    monkeypatch.setenv("TOXIPROXY_URL", url)
    with pytest.raises(ToxiproxyError, match=f"TOXIPROXY_URL is {url}"):
        start_toxiproxy()


# Ended


def test_a_server_is_gone_when_it_is_closed(upstream: Upstream) -> None:
    """Its proxies too, and closing it again does nothing."""
    with start_standin() as toxiproxy:
        proxy = toxiproxy.create_proxy(upstream.address)
        assert listens(proxy.port)
    assert not listens(proxy.port)
    toxiproxy.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_dies_with_the_process_that_started_it(how: signal.Signals) -> None:
    """However that one ends."""
    program = (
        "import sys; from chaos.toxiproxy import start_standin\n"
        "toxiproxy = start_standin()\n"
        "print(toxiproxy.url.rpartition(':')[2], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert listens(port)
        parent.send_signal(how)
        parent.wait()
    assert wait_until(lambda: not listens(port))
