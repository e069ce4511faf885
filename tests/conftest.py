"""Servers and proxies for every test that wants the real thing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lab.proxy import FaultProxy
from lab.servers import RedisServer
from tests.needs import list_what_did_not_run, skip_what_cannot_run
from tests.scale import ALL_ROUNDS, ROUNDS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_what_cannot_run(config, items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    list_what_did_not_run(terminalreporter)
    terminalreporter.write_line(f"rounds: {ROUNDS} of {ALL_ROUNDS}")


@pytest.fixture(autouse=True)
def _no_thread_outlives_its_test() -> Iterator[None]:
    """A thread that still logs would slow, and change, whatever is tested after it: better no more tests."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon and not isinstance(thread, threading._DummyThread):
            thread.join(10)
            if thread.is_alive():
                pytest.exit(f"{thread} outlived its test, which comes last above", returncode=3)


@pytest.fixture(scope="session")
def _session_server() -> Iterator[RedisServer]:
    with RedisServer(appendonly="no") as server:
        yield server


@pytest.fixture
def redis_server(_session_server: RedisServer) -> RedisServer:
    """A running server, empty and shared: a test that stops or configures one takes `own_server`."""
    _session_server.cli("FLUSHALL")
    _session_server.cli("SCRIPT", "FLUSH")
    return _session_server


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server of the test's own, to stop, kill and freeze; what it acknowledged survives its death."""
    with RedisServer(appendonly="always") as server:
        yield server
        server.kill()  # nobody wants its data: it need not end in good order


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    """A healthy proxy in front of `redis_server`, waiting to be told what to do."""
    with FaultProxy(redis_server.port) as fault_proxy:
        yield fault_proxy
