"""What the server's own statistics tell of a fault, and what they must not be taken to tell."""

from __future__ import annotations

import contextlib

import pytest

from chaos.faults.server import refusals
from lab.servers import RedisServer, ReplyError


def push(server: RedisServer) -> None:
    with contextlib.suppress(ReplyError):
        server.cli("EVAL", "return redis.call('LPUSH', KEYS[1], 'x')", 1, "list")


def test_a_push_that_is_refused_is_counted_under_its_code(own_server: RedisServer) -> None:
    """Two refused scripts are two refusals for this reason, and none for another."""
    push(own_server)
    own_server.cli("CONFIG", "SET", "maxmemory", 1)
    push(own_server)
    push(own_server)
    assert (refusals(own_server, "OOM"), refusals(own_server, "READONLY")) == (2, 0)


@pytest.mark.parametrize("command", ["SET", "LPUSH"])
def test_what_refuses_others_is_no_refusal(own_server: RedisServer, command: str) -> None:
    """A fault that strikes nobody's scripts, only some command of a watcher's, shows nothing."""
    own_server.cli("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ReplyError, match="OOM"):
        own_server.cli(command, "key", "x")
    own_server.cli("CONFIG", "SET", "maxmemory", 0)
    push(own_server)
    assert refusals(own_server, "OOM") == 0
