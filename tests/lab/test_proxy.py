"""The proxy betrays as it is told to, and only then."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer, free_port

PING = b"PING\r\n"  # a command on one line, as a person would type it
PONG = b"+PONG\r\n"


@contextmanager
def dial(proxy: FaultProxy) -> Iterator[socket.socket]:
    """A client's bare connection."""
    with socket.create_connection((HOST, proxy.port), timeout=5) as client:
        yield client


def ask(client: socket.socket, request: bytes) -> bytes:
    """One request, one reply; empty when the connection was closed instead."""
    client.sendall(request)
    return client.recv(4096)


def test_a_healthy_proxy_changes_nothing(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """Bytes go through in both directions, large requests too, and nothing counts as a fault."""
    value = b"x" * 3_000_000
    with dial(proxy) as client:
        assert ask(client, b"SET key %d\r\n" % 1) == b"+OK\r\n"
        assert ask(client, b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$3000000\r\n" + value + b"\r\n") == b"+OK\r\n"
    assert redis_server.cli("GET", "big") == value
    assert (proxy.connections, proxy.faults_injected) == (1, 0)


def test_a_dropped_reply_belongs_to_a_request_that_was_carried_out(
    proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """The client learns nothing, and the server has done it."""
    fault = proxy.drop_replies()
    with dial(proxy) as client:
        assert ask(client, b"RPUSH list a\r\n") == b""
    assert fault.wait()
    assert redis_server.values("list") == [b"a"]
    assert proxy.faults_injected == 1


def test_a_fault_strikes_so_many_connections_and_no_more(proxy: FaultProxy) -> None:
    """With times=2 the third caller is served."""
    fault = proxy.drop_replies(times=2)
    answers = []
    for _ in range(3):
        with dial(proxy) as client:
            answers.append(ask(client, PING))
    assert answers == [b"", b"", PONG]
    assert fault.count == 2


def test_a_fault_can_wait_for_its_request(proxy: FaultProxy) -> None:
    """Greetings come through; the reply to the request that was meant does not."""
    fault = proxy.drop_replies(after=b"RPUSH")
    with dial(proxy) as client:
        assert ask(client, PING) == PONG
        assert ask(client, b"LLEN list\r\n") == b":0\r\n"
        assert fault.count == 0
        assert ask(client, b"RPUSH list a\r\n") == b""
    assert fault.count == 1


def test_the_request_that_is_meant_may_arrive_in_pieces(proxy: FaultProxy) -> None:
    """The bytes are found where they are torn over two reads."""
    proxy.drop_replies(after=b"RPUSH")
    with dial(proxy) as client:
        assert ask(client, PING + b"RPU") == PONG  # the answer shows that the proxy has read the piece
        assert ask(client, b"SH list a\r\n") == b""


def test_a_fault_strikes_connections_that_were_open_before(proxy: FaultProxy) -> None:
    """What counts is when the request comes, not when the connection was made."""
    with dial(proxy) as client:
        assert ask(client, PING) == PONG
        proxy.drop_replies()
        assert ask(client, PING) == b""


@pytest.mark.parametrize("n_bytes", [1, 3, 7])
def test_a_reply_is_cut_after_so_many_bytes(proxy: FaultProxy, n_bytes: int) -> None:
    """Exactly the first bytes come through, and then the end; also when the whole reply is no longer."""
    proxy.cut_reply_after(n_bytes)
    with dial(proxy) as client:
        client.sendall(PING)
        assert client.makefile("rb").read() == PONG[:n_bytes]


def test_bytes_before_the_cut_are_counted_over_all_replies(proxy: FaultProxy) -> None:
    """A connection lives for as many bytes as it was given."""
    proxy.cut_reply_after(9)
    with dial(proxy) as client:
        assert ask(client, PING) == PONG
        client.sendall(PING)
        assert client.makefile("rb").read() == PONG[:2]


def test_a_held_request_arrives_after_its_repetition_succeeded(
    proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """The sender gives up, succeeds over another connection, and then the first is carried out too."""
    hold = proxy.hold_requests()
    with dial(proxy) as client:
        client.sendall(b"RPUSH list first\r\n")
        assert hold.held.wait(5)
    with dial(proxy) as client:
        assert ask(client, b"RPUSH list second\r\n") == b":1\r\n"
    assert redis_server.values("list") == [b"second"]
    assert hold.release() == len(b"RPUSH list first\r\n")
    assert redis_server.values("list") == [b"second", b"first"]


def test_a_held_request_is_answered_if_its_sender_still_waits(proxy: FaultProxy) -> None:
    """Released in time it was merely slow."""
    hold = proxy.hold_requests()
    with dial(proxy) as client:
        client.sendall(PING)
        assert hold.held.wait(5)
        hold.release()
        assert client.recv(100) == PONG
        assert ask(client, PING) == PONG


def test_a_large_held_request_is_carried_out_whole(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """All that follows on the connection belongs to it, and `release` returns when the server has done it."""
    hold = proxy.hold_requests()
    value = b"x" * 2_000_000
    with dial(proxy) as client:
        client.sendall(b"*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$2000000\r\n" + value + b"\r\n")
    hold.release()
    assert redis_server.values("list") == [value]


def test_what_is_held_stays_held_whatever_is_ordered(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """Healing lets new requests pass; the late one is late until it is released."""
    hold = proxy.hold_requests(times=None, after=b"RPUSH")
    with dial(proxy) as client:
        assert ask(client, PING) == PONG
        client.sendall(b"RPUSH list late\r\n")
        assert hold.held.wait(5)
        proxy.heal()
        with dial(proxy) as other:
            assert ask(other, b"RPUSH list now\r\n") == b":1\r\n"
        assert redis_server.values("list") == [b"now"]
        hold.release()
    assert redis_server.values("list") == [b"now", b"late"]


def test_release_says_when_the_server_does_not_answer(own_server: RedisServer) -> None:
    """A frozen server is not taken for one that has done the work."""
    with FaultProxy(own_server.port) as proxy:
        hold = proxy.hold_requests()
        with dial(proxy) as client:
            client.sendall(PING)
            assert hold.held.wait(5)
            own_server.freeze()
            with pytest.raises(TimeoutError, match="no answer"):
                hold.release(timeout=0.05)


def test_release_says_when_there_was_nothing_to_hold(proxy: FaultProxy) -> None:
    """A test whose request never came has tested nothing."""
    with pytest.raises(TimeoutError, match="no request"):
        proxy.hold_requests().release(timeout=0)


def test_a_request_that_says_a_certain_thing_is_reset(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """The sender sees a reset, the server never a whole request, and other requests pass."""
    fault = proxy.reset_requests(after=b"forbidden")
    with dial(proxy) as client:
        client.sendall(b"SET key forb")
        with pytest.raises(ConnectionResetError):
            ask(client, b"idden\r\n")
    assert fault.count == 1
    assert redis_server.cli("EXISTS", "key") == 0
    with dial(proxy) as client:
        assert ask(client, b"SET key allowed\r\n") == b"+OK\r\n"


def test_a_black_hole_takes_everything_and_gives_nothing(
    proxy: FaultProxy, redis_server: RedisServer
) -> None:
    """Callers are connected, and hear nothing; what they sent was never carried out."""
    fault = proxy.black_hole()
    with dial(proxy) as client:
        client.sendall(b"RPUSH list a\r\n")
        assert fault.wait()
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            client.recv(1)  # its stream has a hole: it is of no more use
    assert redis_server.values("list") == []


def test_a_refusing_proxy_is_not_there(proxy: FaultProxy) -> None:
    """Open connections are reset, new ones refused; healed, it is there again on the same port."""
    with dial(proxy) as client:
        assert ask(client, PING) == PONG
        fault = proxy.refuse()
        assert fault.count == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial(proxy).__enter__()
    proxy.heal()
    with dial(proxy) as client:
        assert ask(client, PING) == PONG


def test_open_connections_are_reset_once(proxy: FaultProxy) -> None:
    """Those that were open fail, those that come after do not."""
    with dial(proxy) as client:
        assert ask(client, PING) == PONG
        assert proxy.reset_connections() == 1
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with dial(proxy) as client:
        assert ask(client, PING) == PONG


def test_latency_delays_each_reply(proxy: FaultProxy) -> None:
    """A reply takes at least so long, until the proxy is healed."""
    proxy.latency(0.05)
    with dial(proxy) as client:
        before = time.monotonic()
        assert ask(client, PING) == PONG
        assert time.monotonic() - before >= 0.05
        proxy.heal()
        assert proxy.latency_seconds == 0
        assert ask(client, PING) == PONG


def test_a_server_that_is_not_there_shows_as_a_reset() -> None:
    """Nobody is left waiting."""
    with FaultProxy(free_port()) as proxy, pytest.raises(ConnectionResetError), dial(proxy) as client:
        client.recv(1)


def test_the_proxy_outlives_its_server(own_server: RedisServer) -> None:
    """A server that dies closes its connections; one that comes back is served again."""
    with FaultProxy(own_server.port) as proxy:
        with dial(proxy) as client:
            assert ask(client, PING) == PONG
            own_server.kill()
            assert client.recv(1) == b""
        own_server.start()
        with dial(proxy) as client:
            assert ask(client, PING) == PONG


def test_a_frozen_server_does_not_keep_the_proxy_from_closing(own_server: RedisServer) -> None:
    """Bytes that the server never took do not hold up the end."""
    with FaultProxy(own_server.port) as proxy, dial(proxy) as client:
        assert ask(client, PING) == PONG
        own_server.freeze()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * 100_000_000)  # more than all the buffers on the way can take


def test_connections_can_be_waited_for(proxy: FaultProxy) -> None:
    """Events, not sleeps."""
    assert not proxy.wait_for_connections(1, timeout=0)
    caller = threading.Thread(target=lambda: dial(proxy).__enter__().close())
    caller.start()
    assert proxy.wait_for_connections(1)
    caller.join()  # before the proxy goes, which would reset a call that is not through yet


def test_faults_are_counted_over_all_that_were_ordered(proxy: FaultProxy) -> None:
    """The count of a fault that was replaced is not forgotten, and waiting for more than happened ends."""
    faults = []
    for _ in range(2):
        faults.append(proxy.drop_replies())
        with dial(proxy) as client:
            assert ask(client, PING) == b""
        proxy.heal()
    assert proxy.faults_injected == 2
    assert [fault.wait(0, count=2) for fault in faults] == [False, False]


def test_a_proxy_leaves_nothing_behind(redis_server: RedisServer) -> None:
    """Its thread has ended, its port is free, and closing again does nothing."""
    with FaultProxy(redis_server.port) as proxy, dial(proxy) as client:
        assert ask(client, PING) == PONG
        proxy.hold_requests()
        client.sendall(PING)
    proxy.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "lab-proxy"]
    with FaultProxy(redis_server.port, port=proxy.port), dial(proxy) as client:
        assert ask(client, PING) == PONG


def test_a_proxy_that_was_never_started_can_be_closed() -> None:
    """Cleaning up needs no questions asked."""
    FaultProxy(free_port()).close()


def test_a_port_that_is_taken_is_an_error(redis_server: RedisServer) -> None:
    """The start-up error reaches the caller, and the thread is gone."""
    with pytest.raises(OSError, match="in use"):
        FaultProxy(redis_server.port, port=redis_server.port).start()
    assert not [thread for thread in threading.enumerate() if thread.name == "lab-proxy"]
