"""The TLS proxy is reached by TLS only, and shows who it is."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from lab.servers import HOST, RedisServer
from lab.tls import TlsProxy


def ask(proxy: TlsProxy, context: ssl.SSLContext, request: bytes = b"PING\r\n") -> bytes:
    """One request, one reply, as a client that checks the host name."""
    with (
        socket.create_connection((HOST, proxy.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(request)
        return client.recv(100)


def test_the_authority_vouches_for_the_proxy(redis_server: RedisServer, tmp_path: Path) -> None:
    """A client that trusts the authority's file gets through to the server."""
    with TlsProxy(redis_server.port, tmp_path) as proxy:
        context = ssl.create_default_context(cafile=str(proxy.ca_file))
        assert ask(proxy, context) == b"+PONG\r\n"
        assert proxy.url == f"rediss://localhost:{proxy.port}/0"


def test_a_stranger_does_not_trust_it(redis_server: RedisServer, tmp_path: Path) -> None:
    """Without the authority's file the certificate is worth nothing."""
    with TlsProxy(redis_server.port, tmp_path) as proxy, pytest.raises(ssl.SSLCertVerificationError):
        ask(proxy, ssl.create_default_context())


def test_a_certificate_for_another_host_is_recognisable(redis_server: RedisServer, tmp_path: Path) -> None:
    """The proxy can show a name that is not its own, and a careful client notices."""
    with TlsProxy(redis_server.port, tmp_path, host_names=("redis.example.org",)) as proxy:
        context = ssl.create_default_context(cafile=str(proxy.ca_file))
        with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
            ask(proxy, context)


def test_a_client_may_have_to_show_a_certificate(redis_server: RedisServer, tmp_path: Path) -> None:
    """The one in the files opens the door; none does not."""
    with TlsProxy(redis_server.port, tmp_path, require_client_certificate=True) as proxy:
        context = ssl.create_default_context(cafile=str(proxy.ca_file))
        context.maximum_version = (
            ssl.TLSVersion.TLSv1_2
        )  # under 1.3 a client is told only after the handshake
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(proxy, context)
        context.load_cert_chain(proxy.client_cert_file, proxy.client_key_file)
        assert ask(proxy, context) == b"+PONG\r\n"


def test_faults_strike_over_tls_as_well(redis_server: RedisServer, tmp_path: Path) -> None:
    """The reply to a request that was carried out is lost in the same way."""
    with TlsProxy(redis_server.port, tmp_path) as proxy:
        fault = proxy.drop_replies()
        context = ssl.create_default_context(cafile=str(proxy.ca_file))
        assert ask(proxy, context, b"RPUSH list a\r\n") == b""
        assert fault.count == 1
    assert redis_server.values("list") == [b"a"]
