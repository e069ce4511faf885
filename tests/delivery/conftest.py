"""Delivery is tested on every kind of server that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.servers import RedisServer, find_servers

FLAVOURS = sorted({path.name.removesuffix("-server") for path in find_servers()})


@pytest.fixture(scope="session", params=FLAVOURS)
def _each_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(appendonly="no", prefer=request.param) as server:
        yield server


@pytest.fixture
def server(_each_server: RedisServer) -> RedisServer:
    """A running server, empty, without scripts; each flavour in turn."""
    _each_server.cli("FLUSHALL")
    _each_server.cli("SCRIPT", "FLUSH")
    return _each_server


@pytest.fixture(params=FLAVOURS)
def spoilt_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server to reconfigure, stop and kill; each flavour in turn."""
    with RedisServer(appendonly="always", prefer=request.param) as server:
        yield server
