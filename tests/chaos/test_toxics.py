"""Each toxic does alike in Toxiproxy and in its stand-in, in either direction.

What a toxic holds back is proven by what happens when it goes: no test waits to see whether something was
late, except where time is what the toxic is about.
"""

from __future__ import annotations

import random
import socket
import struct
import time

import pytest

from chaos.toxiproxy import Proxy
from tests.chaos.wire import (
    FOR_EVER,
    Stream,
    Upstream,
    both_streams,
    hear,
    hear_to_the_end,
    is_silent,
    saying,
)

# latency


@both_streams
def test_latency_delays_one_direction(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """By as much as it says; the other direction goes on."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    proxy.add_toxic("latency", stream=stream, latency=200)
    began = time.monotonic()
    speaker.sendall(b"late")
    hearer.sendall(b"at once")
    assert hear(speaker, 7) == b"at once"
    assert is_silent(hearer, seconds=0)
    assert hear(hearer, 4) == b"late"
    assert 0.19 < time.monotonic() - began < 5


@both_streams
def test_latency_delays_chunks_side_by_side(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Each by its own age: ten of them are not ten times as late as one."""
    proxy.add_toxic("latency", stream=stream, latency=300)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    began = time.monotonic()
    for _ in range(10):
        speaker.sendall(b"x")
        time.sleep(0.01)  # so that they are read one by one
    assert hear(hearer, 10) == b"x" * 10
    assert time.monotonic() - began < 2


@both_streams
def test_what_latency_holds_is_released_with_it(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """In order, and nothing is lost."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    with proxy.toxic("latency", stream=stream, latency=FOR_EVER):
        for word in (b"one ", b"two ", b"three"):
            speaker.sendall(word)
            assert is_silent(hearer, seconds=0.05)
    assert hear(hearer, 13) == b"one two three"


@both_streams
def test_a_changed_toxic_acts_on_open_connections(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """What it held under its old terms goes on."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    name = proxy.add_toxic("latency", stream=stream, latency=FOR_EVER)
    speaker.sendall(b"one ")
    assert is_silent(hearer)
    proxy.update_toxic(name, latency=0)
    speaker.sendall(b"two")
    assert hear(hearer, 7) == b"one two"


@both_streams
def test_jitter_keeps_the_order(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """However the dice fall."""
    proxy.add_toxic("latency", stream=stream, latency=5, jitter=5)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    words = [b"%02d " % number for number in range(40)]
    for word in words:
        speaker.sendall(word)
        time.sleep(0.001)  # so that they are read one by one
    assert hear(hearer, 120) == b"".join(words)


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_delayed_request_arrives_after_its_client_has_gone(
    proxy: Proxy, upstream: Upstream, abruptly: bool
) -> None:
    """That is how a request overtakes nobody and still comes too late."""
    proxy.add_toxic("latency", stream="upstream", latency=300)
    client, server = upstream.connect(proxy)
    client.sendall(b"LPUSH")
    if abruptly:
        assert is_silent(client, server, seconds=0.1)  # what the proxy has not read goes with the connection
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert is_silent(server, seconds=0.05)
    assert hear_to_the_end(server) == b"LPUSH"


# bandwidth


@both_streams
def test_bandwidth_is_what_it_says(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Within a factor of two: a hundred kilobytes, at a hundred in a second."""
    proxy.add_toxic("bandwidth", stream=stream, rate=100)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    data = random.Random(2).randbytes(100_000)
    began = time.monotonic()
    with saying(speaker, data):
        assert hear(hearer, len(data)) == data
    assert 0.5 < time.monotonic() - began < 2


@both_streams
def test_no_bandwidth_holds_all_until_it_goes(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """A rate of 0 is a pipe that is stuck, not one without a limit."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    with proxy.toxic("bandwidth", stream=stream, rate=0):
        speaker.sendall(b"stuck")
        assert is_silent(hearer)
    assert hear(hearer, 5) == b"stuck"


# slow_close


@both_streams
def test_slow_close_delays_the_end_and_nothing_else(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """What was said is there at once."""
    proxy.add_toxic("slow_close", stream=stream, delay=300)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    speaker.sendall(b"bye")
    began = time.monotonic()
    speaker.close()
    assert hear(hearer, 3) == b"bye"
    assert is_silent(hearer, seconds=0.05)
    assert hear_to_the_end(hearer) == b""
    assert 0.29 < time.monotonic() - began < 5


@both_streams
def test_an_end_that_is_held_comes_when_slow_close_goes(
    proxy: Proxy, upstream: Upstream, stream: Stream
) -> None:
    """It is not forgotten."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    with proxy.toxic("slow_close", stream=stream, delay=FOR_EVER):
        speaker.close()
        assert is_silent(hearer)
    assert hear_to_the_end(hearer) == b""


# timeout


@both_streams
def test_a_black_hole_swallows_one_direction(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """The other one goes on, and what was swallowed is gone."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    name = proxy.add_toxic("timeout", stream=stream, timeout=0)
    speaker.sendall(b"lost")
    hearer.sendall(b"heard")
    assert hear(speaker, 5) == b"heard"
    assert is_silent(hearer)
    proxy.remove_toxic(name)
    assert hear_to_the_end(hearer) == b""


@both_streams
@pytest.mark.parametrize("toxicity", [0, 1])
def test_a_black_hole_that_goes_takes_its_connections_with_it(
    proxy: Proxy, upstream: Upstream, stream: Stream, toxicity: float
) -> None:
    """Those that it never struck too; a connection that is made afterwards is well."""
    old = upstream.connect(proxy)
    with proxy.toxic("timeout", stream=stream, toxicity=toxicity, timeout=0):
        pass
    assert hear_to_the_end(old.client) == hear_to_the_end(old.server) == b""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    speaker.sendall(b"well")
    assert hear(hearer, 4) == b"well"


@both_streams
def test_a_timeout_closes_after_a_silence(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Nobody has to say anything for it."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    began = time.monotonic()
    proxy.add_toxic("timeout", stream=stream, timeout=200)
    assert hear_to_the_end(hearer) == hear_to_the_end(speaker) == b""
    assert 0.19 < time.monotonic() - began < 5


# reset_peer


@both_streams
def test_a_new_connection_is_reset(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """By whatever is said in this direction, on both sides."""
    proxy.add_toxic("reset_peer", stream=stream, timeout=0)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    hearer.sendall(b"fine")
    assert hear(speaker, 4) == b"fine"
    speaker.sendall(b"fatal")
    for end in (hearer, speaker):
        with pytest.raises(ConnectionResetError):
            hear(end, 1)


@both_streams
def test_an_open_connection_ends_at_a_reset(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Toxiproxy decides when a connection begins how it is to end, so this may be a plain close."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    proxy.add_toxic("reset_peer", stream=stream, timeout=0)
    speaker.sendall(b"fatal")
    assert hear_to_the_end(hearer) == hear_to_the_end(speaker) == b""


@both_streams
def test_a_reset_can_wait(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Its time runs from the first chunk."""
    proxy.add_toxic("reset_peer", stream=stream, timeout=200)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    began = time.monotonic()
    speaker.sendall(b"fatal")
    with pytest.raises(ConnectionResetError):
        hear(hearer, 1)
    assert 0.19 < time.monotonic() - began < 5


# slicer


@both_streams
def test_a_slicer_cuts_and_loses_nothing(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """A hundred bytes in sixteen slices, ten milliseconds apart."""
    proxy.add_toxic("slicer", stream=stream, average_size=10, size_variation=0, delay=10_000)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    data = random.Random(3).randbytes(100)
    began = time.monotonic()
    speaker.sendall(data)
    assert len(hearer.recv(1000, socket.MSG_PEEK)) < 100
    assert hear(hearer, 100) == data
    assert time.monotonic() - began > 0.14


@both_streams
def test_a_slicer_that_goes_lets_the_rest_pass(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """In one piece, and in order."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    with proxy.toxic("slicer", stream=stream, average_size=10, size_variation=3, delay=60_000_000):
        speaker.sendall(bytes(range(100)))
        first = hear(hearer, 1)
    assert first + hear(hearer, 99) == bytes(range(100))


# limit_data


@both_streams
@pytest.mark.parametrize("pieces", [[100], [7, 7, 86], [33, 67]])
def test_a_limit_cuts_after_exactly_so_many_bytes(
    proxy: Proxy, upstream: Upstream, stream: Stream, pieces: list[int]
) -> None:
    """In the middle of a chunk, or between two: then the connection is closed."""
    proxy.add_toxic("limit_data", stream=stream, bytes=33)
    speaker, hearer = upstream.connect(proxy).ends(stream)
    data = random.Random(4).randbytes(100)
    heard, begin = b"", 0
    for length in pieces:
        speaker.sendall(data[begin : begin + length])
        begin += length
        heard += hear(hearer, min(begin, 33) - len(heard))
        if begin >= 33:
            break
    assert heard + hear_to_the_end(hearer) == data[:33]
    assert hear_to_the_end(speaker) == b""


@both_streams
def test_a_limit_remembers_what_has_passed(proxy: Proxy, upstream: Upstream, stream: Stream) -> None:
    """Also when it is changed, and when other toxics come and go; but what passed before it came is free."""
    speaker, hearer = upstream.connect(proxy).ends(stream)
    speaker.sendall(b"free")
    assert hear(hearer, 4) == b"free"
    name = proxy.add_toxic("limit_data", stream=stream, bytes=100)
    speaker.sendall(b"1234")
    assert hear(hearer, 4) == b"1234"
    proxy.update_toxic(name, bytes=6)
    with proxy.toxic("latency", stream=stream, latency=1):
        pass
    speaker.sendall(b"5678")
    assert hear_to_the_end(hearer) == b"56"
