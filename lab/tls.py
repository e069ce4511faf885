"""A proxy that ends TLS in front of a plain server, with a certificate authority of its own."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from lab.proxy import FaultProxy


class TlsProxy(FaultProxy):
    """A fault proxy that its clients reach by TLS only; its certificates lie in files."""

    def __init__(
        self,
        upstream_port: int,
        directory: Path,
        *,
        host_names: tuple[str, ...] = ("localhost", "127.0.0.1"),
        require_client_certificate: bool = False,
        port: int | None = None,
    ) -> None:
        """Make the certificates and describe the proxy; `start` starts it.

        Args:
            upstream_port: where the plain server listens on the loopback interface.
            directory: where the certificates are written; it exists.
            host_names: whom the certificate speaks for; the proxy is always reached as ``127.0.0.1`` or
                ``localhost``, so leave both out for a certificate that must be refused.
            require_client_certificate: turn away clients that do not show `client_cert_file`.
            port: where the proxy listens; a free one is picked when None.
        """
        authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.client_cert_file = directory / "client.pem"
        self.client_key_file = directory / "client.key"
        authority.cert_pem.write_to_path(self.ca_file)
        client = authority.issue_cert("client@example.org")
        client.private_key_pem.write_to_path(self.client_key_file)
        for blob in client.cert_chain_pems:
            blob.write_to_path(self.client_cert_file, append=True)

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*host_names).configure_cert(context)
        if require_client_certificate:
            authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        super().__init__(upstream_port, port=port, tls=context)

    @property
    def url(self) -> str:
        """``rediss://…`` of database 0."""
        return f"rediss://localhost:{self.port}/0"
