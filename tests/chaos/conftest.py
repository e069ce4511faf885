"""A Toxiproxy of each kind, and something to put behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.toxiproxy import (
    Proxy,
    Toxiproxy,
    build_server,
    find_server,
    start_server,
    start_standin,
)
from tests.chaos.wire import Upstream


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            "toxiproxy",
            # Where it has to be built first, that takes as long as it takes.
            marks=[pytest.mark.needs_toxiproxy, pytest.mark.timeout(60 if find_server() else 400)],
        ),
        "stand-in",
    ],
)
def toxiproxy(request: pytest.FixtureRequest) -> Iterator[Toxiproxy]:
    """Each kind of server in turn: what a test says of it holds for both."""
    if request.param == "stand-in":
        with start_standin() as standin:
            yield standin
        return
    binary = find_server() or build_server()
    if binary is None:
        pytest.skip("Go could not build Toxiproxy")
    with start_server(binary) as server:
        yield server


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A server whose connections are the test's."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def proxy(toxiproxy: Toxiproxy, upstream: Upstream) -> Iterator[Proxy]:
    """A proxy before `upstream`."""
    with toxiproxy.create_proxy(upstream.address) as proxy:
        yield proxy
