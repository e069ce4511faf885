"""Toxiproxy and its stand-in do what chaos scenarios take for granted, and do it alike.

Each test runs on both. What each toxic does is in `test_toxics`, and what each request is answered with in
`test_toxiproxy_http`.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chaos.toxiproxy import Proxy, Toxiproxy, ToxiproxyError
from tests.chaos.wire import (
    FOR_EVER,
    PATIENCE_SECONDS,
    Stream,
    Upstream,
    both_streams,
    call,
    hear,
    hear_to_the_end,
    is_silent,
    saying,
)

# The way through, with nothing in it


@both_streams
def test_bytes_pass_unchanged(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """A megabyte of anything arrives as it was sent."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    data = random.Random(1).randbytes(1_000_000)
    with saying(speaker, data):
        assert hear(hearer, len(data)) == data


@both_streams
def test_an_end_is_passed_on_after_what_was_said_before_it(
    proxy: Proxy, upstream: Upstream, stream: Stream
) -> None:
    """Whoever closes is heard out."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    speaker.sendall(b"bye")
    speaker.close()
    assert hear_to_the_end(hearer) == b"bye"


@both_streams
def test_half_a_connection_is_none(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Whoever only stops speaking hears nothing more either."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    speaker.shutdown(socket.SHUT_WR)
    assert hear_to_the_end(hearer) == b""
    assert hear_to_the_end(speaker) == b""


def test_a_client_of_a_server_that_is_gone_is_disconnected(toxiproxy: Toxiproxy) -> None:
    """The proxy itself can be reached, so it closes instead of refusing."""
    with Upstream() as upstream, toxiproxy.create_proxy(upstream.address) as proxy:
        upstream.__exit__(None, None, None)
        with call(proxy) as client:
            assert hear_to_the_end(client) == b""


def test_twenty_connections_at_once_keep_their_bytes_apart(proxy: Proxy, upstream: Upstream) -> None:
    """Each gets its own back, while toxics come and go."""

    def echo(number: int) -> bool:
        client, server = connections[number]
        for turn in range(20):
            data = random.Random(number * 1000 + turn).randbytes(3000)
            client.sendall(data)
            server.sendall(hear(server, len(data)))
            if hear(client, len(data)) != data:
                return False
        return True

    connections = [upstream.connect(proxy) for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        echoes = [threads.submit(echo, number) for number in range(20)]
        for _ in range(5):
            with (
                proxy.toxic("latency", latency=1),
                proxy.toxic("slicer", stream="upstream", average_size=500, size_variation=100),
            ):
                pass
        assert all(done.result(PATIENCE_SECONDS) for done in echoes)


# What all toxics share


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("latency", {"latency": FOR_EVER}),
        ("bandwidth", {"rate": 0}),
        ("timeout", {"timeout": 0}),
        ("reset_peer", {"timeout": 0}),
        ("limit_data", {"bytes": 0}),
        ("slicer", {"average_size": 1, "size_variation": 0, "delay": 60_000_000}),
    ],
)
@both_streams
def test_a_toxic_that_strikes_nobody_changes_nothing(
    proxy: Proxy, upstream: Upstream, kind: str, attributes: Any, stream: Stream
) -> None:
    """Neither for an open connection nor for a new one."""
    old = upstream.connect(proxy)
    proxy.add_toxic(kind, stream=stream, toxicity=0, **attributes)
    for connection in (old, upstream.connect(proxy)):
        speaker, hearer = connection.ends(stream)
        speaker.sendall(b"well")
        assert hear(hearer, 4) == b"well"


def test_a_toxicity_between_strikes_some(proxy: Proxy, upstream: Upstream) -> None:
    """Of forty connections, neither none nor all."""
    proxy.add_toxic("limit_data", toxicity=0.5, bytes=0)
    struck = 0
    for _ in range(40):
        client, server = upstream.connect(proxy)
        server.sendall(b"well")
        struck += client.recv(1) == b""
    assert 5 <= struck <= 35


def test_a_toxicity_can_be_changed(proxy: Proxy, upstream: Upstream) -> None:
    """And the attributes stay as they were."""
    client, server = upstream.connect(proxy)
    name = proxy.add_toxic("latency", latency=FOR_EVER, jitter=7)
    proxy.update_toxic(name, toxicity=0)
    server.sendall(b"well")
    assert hear(client, 4) == b"well"
    toxic = proxy.toxics()[name]
    assert (toxic.toxicity, toxic.attributes) == (0, {"latency": FOR_EVER, "jitter": 7})


def test_toxics_work_one_after_the_other(proxy: Proxy, upstream: Upstream) -> None:
    """In the order in which they were added, on open connections too."""
    client, server = upstream.connect(proxy)
    hold = proxy.add_toxic("latency", latency=FOR_EVER)
    proxy.add_toxic("limit_data", bytes=3)
    server.sendall(b"1234")
    assert is_silent(client)
    proxy.remove_toxic(hold)
    assert hear_to_the_end(client) == b"123"


def test_an_end_waits_behind_a_toxic_and_comes_when_that_goes(proxy: Proxy, upstream: Upstream) -> None:
    """Also one that another toxic has made."""
    proxy.add_toxic("limit_data", bytes=3)
    hold = proxy.add_toxic("latency", latency=FOR_EVER)
    client, server = upstream.connect(proxy)
    server.sendall(b"1234")
    assert is_silent(client)
    proxy.remove_toxic(hold)
    assert hear_to_the_end(client) == b"123"


def test_two_latencies_add_up(proxy: Proxy, upstream: Upstream) -> None:
    """The second begins where the first has ended."""
    proxy.add_toxic("latency", name="one", latency=120)
    proxy.add_toxic("latency", name="two", latency=120)
    client, server = upstream.connect(proxy)
    began = time.monotonic()
    server.sendall(b"late")
    assert hear(client, 4) == b"late"
    assert 0.23 < time.monotonic() - began < 5


def test_toxics_are_listed_as_they_were_added(proxy: Proxy) -> None:
    """With what nobody gave, too."""
    assert proxy.toxics() == {}
    assert proxy.add_toxic("latency", latency=7) == "latency_downstream"
    assert proxy.add_toxic("timeout", name="hole", stream="upstream", toxicity=0.25) == "hole"
    listed = {
        name: (toxic.type, toxic.stream, toxic.toxicity, toxic.attributes)
        for name, toxic in proxy.toxics().items()
    }
    assert listed == {
        "hole": ("timeout", "upstream", 0.25, {"timeout": 0}),
        "latency_downstream": ("latency", "downstream", 1, {"latency": 7, "jitter": 0}),
    }
    assert list(listed) == ["hole", "latency_downstream"]  # upstream ones first


def test_a_block_takes_its_toxic_with_it_also_when_it_fails(proxy: Proxy) -> None:
    """And does not mind when a reset came before."""
    with pytest.raises(KeyError), proxy.toxic("latency", latency=1):
        raise KeyError
    assert proxy.toxics() == {}
    with proxy.toxic("latency", latency=1):
        proxy.reset()


# Down, elsewhere, and back


def test_down_closes_and_refuses_and_keeps_the_port(proxy: Proxy, upstream: Upstream) -> None:
    """Both ends see it; afterwards it is as before, its toxics included."""
    proxy.add_toxic("limit_data", bytes=2)
    client, server = upstream.connect(proxy)
    port = proxy.port
    with proxy.down():
        assert not proxy.enabled
        assert hear_to_the_end(client) == hear_to_the_end(server) == b""
        with pytest.raises(ConnectionRefusedError):
            call(proxy)
    assert proxy.enabled
    assert proxy.port == port
    client, server = upstream.connect(proxy)
    server.sendall(b"1234")
    assert hear_to_the_end(client) == b"12"


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("latency", {"latency": FOR_EVER}), ("timeout", {"timeout": 0}), ("bandwidth", {"rate": 0})],
)
@both_streams
def test_down_closes_what_a_toxic_holds(
    proxy: Proxy, upstream: Upstream, kind: str, attributes: Any, stream: Stream
) -> None:
    """No toxic keeps a connection open that is to be closed."""
    proxy.add_toxic(kind, stream=stream, **attributes)
    connection = upstream.connect(proxy)
    speaker, hearer = connection.ends(stream)
    speaker.sendall(b"held")
    assert is_silent(hearer)
    with proxy.down():
        assert hear_to_the_end(hearer) == hear_to_the_end(speaker) == b""


def test_a_block_that_fails_brings_the_proxy_back(proxy: Proxy) -> None:
    """And a second enable, or disable, does no harm."""
    with pytest.raises(KeyError), proxy.down():
        raise KeyError
    assert proxy.enabled
    proxy.enable()
    proxy.disable()
    proxy.disable()
    assert not proxy.enabled


def test_a_proxy_can_be_given_another_server(proxy: Proxy, upstream: Upstream) -> None:
    """On the same port; open connections are closed."""
    old = upstream.connect(proxy)
    port = proxy.port
    with Upstream() as other:
        proxy.repoint(other.address)
        assert (proxy.upstream, proxy.port, proxy.enabled) == (other.address, port, True)
        assert hear_to_the_end(old.client) == b""
        client, server = other.connect(proxy)
        client.sendall(b"well")
        assert hear(server, 4) == b"well"


def test_a_proxy_that_is_down_stays_down_when_it_is_given_another_server(proxy: Proxy) -> None:
    """Until it is enabled."""
    with Upstream() as other:
        proxy.disable()
        proxy.repoint(other.address)
        assert not proxy.enabled
        proxy.enable()
        other.connect(proxy)


def test_a_reset_is_for_one_proxy(toxiproxy: Toxiproxy, proxy: Proxy, upstream: Upstream) -> None:
    """It listens, and has no toxics; its neighbour keeps what it has."""
    with toxiproxy.create_proxy(upstream.address) as neighbour:
        neighbour.add_toxic("latency", latency=1)
        proxy.add_toxic("latency", latency=1)
        proxy.add_toxic("timeout", stream="upstream", timeout=0)
        proxy.disable()
        proxy.reset()
        assert (proxy.enabled, proxy.toxics()) == (True, {})
        assert list(neighbour.toxics()) == ["latency_downstream"]


def test_a_proxy_that_is_closed_is_gone(toxiproxy: Toxiproxy, upstream: Upstream) -> None:
    """With its connections; closing it again does nothing."""
    with toxiproxy.create_proxy(upstream.address) as proxy:
        client, _ = upstream.connect(proxy)
    assert hear_to_the_end(client) == b""
    with pytest.raises(ConnectionRefusedError):
        call(proxy)
    proxy.close()
    with pytest.raises(ToxiproxyError, match="proxy not found"):
        proxy.add_toxic("latency", latency=1)


def test_threads_have_proxies_of_their_own(toxiproxy: Toxiproxy) -> None:
    """Eight at once, each with its own toxics and connections."""

    def play(number: int) -> bytes:
        with Upstream() as upstream, toxiproxy.create_proxy(upstream.address) as proxy:
            heard = b""
            for _ in range(3):
                with proxy.toxic("limit_data", bytes=number):
                    client, server = upstream.connect(proxy)
                    server.sendall(b"0123456789")
                    heard += hear_to_the_end(client)
                with proxy.down():
                    pass
            return heard

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(play, range(1, 9))) == [b"0123456789"[:n] * 3 for n in range(1, 9)]


def test_a_stuck_reader_does_not_stop_its_proxy_from_going_down(proxy: Proxy, upstream: Upstream) -> None:
    """However much is on its way to somebody who does not read."""
    client, server = upstream.connect(proxy)
    speaking = threading.Thread(target=pour, args=(server,))
    speaking.start()
    assert client.recv(1)
    with proxy.down():
        speaking.join(PATIENCE_SECONDS)
        assert not speaking.is_alive()


def pour(speaker: socket.socket) -> None:
    """Speak until the connection ends."""
    try:
        while True:
            speaker.sendall(bytes(65536))
    except OSError:
        pass
