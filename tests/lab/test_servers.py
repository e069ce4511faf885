"""The servers of the laboratory do what the tests that stand on them take for granted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.servers import HOST, RedisServer, ReplyError, ServerError, find_server, find_servers, free_port

ONE_OF_EACH = {path.name.removesuffix("-server") for path in find_servers()}


def listens(port: str) -> bool:
    """Tell whether somebody takes connections there."""
    with socket.socket() as caller:
        return caller.connect_ex((HOST, int(port))) == 0


def test_a_server_is_ready_when_it_has_started(redis_server: RedisServer) -> None:
    """Nobody has to wait after `start`."""
    assert redis_server.cli("PING") == b"PONG"


@pytest.mark.parametrize("flavour", sorted(ONE_OF_EACH))
def test_each_flavour_says_what_it_is(flavour: str) -> None:
    """The preferred server is the one that runs, and it knows its own version."""
    with RedisServer(prefer=flavour, appendonly="no") as server:  # type: ignore[arg-type]
        assert server.flavour == flavour
        assert int(server.version.split(".")[0]) >= 6


def test_the_environment_names_the_preferred_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAB_SERVER decides where a test does not."""
    for flavour in ONE_OF_EACH:
        monkeypatch.setenv("LAB_SERVER", flavour)
        assert find_server().name == f"{flavour}-server"


def test_a_machine_without_a_server_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error carries the cure."""
    monkeypatch.setattr("lab.servers.find_servers", list)
    with pytest.raises(ServerError, match="install redis-server"):
        find_server()


def test_replies_of_every_shape_come_back_as_python_values(redis_server: RedisServer) -> None:
    """Status, number, bytes, nothing, lists and lists in lists are read as what they are."""
    assert redis_server.cli("SET", "key", b"\x00\r\n\xff") == b"OK"
    assert redis_server.cli("GET", "key") == b"\x00\r\n\xff"
    assert redis_server.cli("GET", "none") is None
    assert redis_server.cli("RPUSH", "list", "a", 2) == 2
    assert redis_server.cli("EVAL", "return {1, {'x', false}, {}}", 0) == [1, [b"x", None], []]
    assert redis_server.cli("SET", "empty", "") == b"OK"
    assert redis_server.cli("GET", "empty") == b""


def test_an_error_reply_is_raised_with_its_own_text(redis_server: RedisServer) -> None:
    """The code stands first, as the server wrote it."""
    redis_server.cli("SET", "key", "text")
    with pytest.raises(ReplyError, match=r"^WRONGTYPE "):
        redis_server.cli("LPUSH", "key", "value")


def test_values_are_read_raw_from_left_to_right(redis_server: RedisServer) -> None:
    """A list is read whole, in its own order, byte for byte."""
    redis_server.cli("RPUSH", "list", *range(10_000), b"\xff")
    assert redis_server.values("list") == [b"%d" % number for number in range(10_000)] + [b"\xff"]
    assert redis_server.values("no such list") == []


def test_every_test_finds_an_empty_server(redis_server: RedisServer) -> None:
    """What the tests above wrote is gone."""
    assert redis_server.cli("DBSIZE") == 0


def test_a_password_is_asked_for_and_used() -> None:
    """The server refuses strangers, and its own client knows the word."""
    with RedisServer(password="open sesame", appendonly="no") as server:
        assert server.cli("PING") == b"PONG"
        assert server.url == f"redis://:open%20sesame@{HOST}:{server.port}/0"
        server.password = None
        with pytest.raises(ReplyError, match=r"^NOAUTH "):
            server.cli("PING")


def test_what_was_acknowledged_survives_kill(own_server: RedisServer) -> None:
    """Same port, same data, other process."""
    port, pid = own_server.port, own_server.pid
    own_server.cli("RPUSH", "list", "a", "b")
    own_server.kill()
    with pytest.raises(ConnectionRefusedError):
        own_server.cli("PING")
    own_server.start()
    assert own_server.values("list") == [b"a", b"b"]
    assert own_server.port == port
    assert own_server.pid != pid


def test_restart_keeps_the_data(own_server: RedisServer) -> None:
    """A server that is stopped in good order comes back as it was."""
    own_server.cli("SET", "key", "value")
    own_server.restart()
    assert own_server.cli("GET", "key") == b"value"


def test_a_frozen_server_keeps_silent_until_it_is_thawed(own_server: RedisServer) -> None:
    """It takes the connection and does not answer; thawed, it does what it was told meanwhile."""
    own_server.freeze()
    with pytest.raises(TimeoutError):
        own_server.cli("SET", "key", "late", timeout=0.1)
    own_server.thaw()
    own_server.wait_ready()
    assert own_server.cli("GET", "key") == b"late"


def test_a_frozen_server_can_be_stopped(own_server: RedisServer) -> None:
    """Nothing is left behind, whatever state a test ends in."""
    pid = own_server.pid
    own_server.freeze()
    own_server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error carries the end of the server's own log."""
    port = free_port()
    with socket.create_server((HOST, port)), pytest.raises(ServerError, match="in use"):
        RedisServer(tmp_path, port=port).start()


def test_a_foreign_server_on_the_port_is_not_taken_for_ours(redis_server: RedisServer) -> None:
    """An answer alone proves nothing: the process must be the one that was started."""
    with pytest.raises(ServerError, match="in use"):
        RedisServer(port=redis_server.port).__enter__()


def test_an_unusable_option_is_reported(tmp_path: Path) -> None:
    """A server that ends at once is not waited for."""
    with pytest.raises(ServerError, match="did not become ready"):
        RedisServer(tmp_path, extra_args=["--no-such-option", "1"]).start()


def test_a_temporary_directory_goes_with_its_server() -> None:
    """Nothing stays on the disk."""
    with RedisServer() as server:
        directory = server.directory
        assert directory.is_dir()
    assert not directory.exists()


def test_a_server_dies_with_the_process_that_started_it() -> None:
    """Even one that is killed leaves no server running, and no temporary directory."""
    program = (
        "import sys; from lab.servers import RedisServer\n"
        "server = RedisServer(appendonly='no').start()\n"
        "print(server.port, server.directory, flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        port, directory = parent.stdout.readline().decode().split()
        assert listens(port)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while (listens(port) or Path(directory).exists()) and time.monotonic() < deadline:
        time.sleep(0.01)  # there is no event to wait for: who could have set one is dead
    assert not listens(port)
    assert not Path(directory).exists()
