"""One proxy in front of one server, and the toxics in it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import toxiproxy

from chaos.toxiproxy._http import Door, ToxiproxyError
from lab.servers import HOST, free_port

if TYPE_CHECKING:
    from toxiproxy.toxic import Toxic
    from typing_extensions import Self

Stream = Literal["upstream", "downstream"]


class Proxy:
    """A proxy of this process's own; a context manager that deletes it.

    A call returns when its change is in force, for open connections too. Several threads may use several
    proxies of one server.
    """

    def __init__(
        self, door: Door, upstream: str, forget: Callable[[Proxy], None], listen: str | None = None
    ) -> None:
        """Create it on the server; `Toxiproxy.create_proxy` is the way to call this."""
        self.name = f"chaos-{secrets.token_hex(6)}"  # a server that was running before has other users
        self._door = door
        self._forget = forget
        self._proxy = self._create(upstream, listen)
        self.host, _, port = self._proxy.listen.rpartition(":")
        self.port = int(port)
        self._path = f"/proxies/{quote(self.name, safe='')}"

    def __repr__(self) -> str:
        return f"<Proxy {self.name} {self.host}:{self.port}>"

    # Toxics

    def add_toxic(
        self,
        type: str,  # noqa: A002  # the word that everybody who knows Toxiproxy looks for
        *,
        name: str | None = None,
        stream: Stream = "downstream",
        toxicity: float = 1.0,
        **attributes: int,
    ) -> str:
        """Add a toxic to open and future connections.

        Args:
            type: `latency`, `bandwidth`, `slow_close`, `timeout`, `reset_peer`, `slicer` or `limit_data`.
            name: unique in this proxy; None is ``<type>_<stream>``.
            stream: `downstream` is what the server says, `upstream` what its clients say.
            toxicity: the share of connections that it strikes, from 0 to 1.
            attributes: of this type, in Toxiproxy's own units.

        Returns:
            its name.
        """
        name = name or f"{type}_{stream}"
        with self._door.chosen():
            self._proxy.add_toxic(
                type=type, name=name, stream=stream, toxicity=toxicity, attributes=attributes
            )
        return name

    def update_toxic(self, name: str, *, toxicity: float | None = None, **attributes: int) -> None:
        """Change what is given of a toxic, and leave the rest."""
        changed = {"attributes": attributes, **({} if toxicity is None else {"toxicity": toxicity})}
        self._door.request("PATCH", self._toxic_path(name), changed)

    def remove_toxic(self, name: str) -> None:
        """Take a toxic away; what it held back goes on, except that `timeout` closes its connections."""
        self._door.request("DELETE", self._toxic_path(name))

    def toxics(self) -> dict[str, Toxic]:
        """The toxics in this proxy, by name."""
        with self._door.chosen():
            return self._proxy.toxics()

    @contextlib.contextmanager
    def toxic(
        self,
        type: str,  # noqa: A002
        *,
        name: str | None = None,
        stream: Stream = "downstream",
        toxicity: float = 1.0,
        **attributes: int,
    ) -> Iterator[str]:
        """Have a toxic for as long as the block lasts; see `add_toxic`."""
        name = self.add_toxic(type, name=name, stream=stream, toxicity=toxicity, **attributes)
        try:
            yield name
        finally:
            with _gone_is_well():
                self.remove_toxic(name)

    # The proxy itself

    @property
    def enabled(self) -> bool:
        """Whether it listens, as the server says now."""
        return bool(self._door.request("GET", self._path)["enabled"])

    @property
    def upstream(self) -> str:
        """Where it connects to, as the server says now."""
        return str(self._door.request("GET", self._path)["upstream"])

    def disable(self) -> None:
        """Close all connections and refuse new ones; the port stays this proxy's."""
        with self._door.chosen():
            self._proxy.disable()

    def enable(self) -> None:
        """Listen again, on the same port."""
        with self._door.chosen():
            self._proxy.enable()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Be disabled for as long as the block lasts."""
        try:
            self.disable()
            yield
        finally:
            self.enable()

    def repoint(self, upstream: str) -> None:
        """Connect to another server from now on; open connections are closed."""
        self._door.request("PATCH", self._path, {"upstream": upstream})

    def reset(self) -> None:
        """Take all toxics away, and listen: of this proxy only, where Toxiproxy's own reset is for all."""
        for name in self.toxics():
            self.remove_toxic(name)
        self.enable()

    def close(self) -> None:
        """Delete it; its connections are closed. Does nothing when it is gone already."""
        with _gone_is_well():
            self._door.request("DELETE", self._path)
        self._forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _toxic_path(self, name: str) -> str:
        return f"{self._path}/toxics/{quote(name, safe='')}"

    def _create(self, upstream: str, wanted: str | None, attempts: int = 5) -> toxiproxy.Proxy:
        # Not port 0: the kernel would give one from which it also makes outgoing connections, and clients of
        # a proxy that is down would in the end be connected to themselves. See `free_port`.
        for attempt in range(1, attempts + 1):
            listen = wanted or f"{HOST}:{free_port()}"
            try:
                with self._door.chosen():
                    return toxiproxy.Toxiproxy().create(upstream=upstream, name=self.name, listen=listen)
            except ToxiproxyError as error:
                if attempt == attempts or "address already in use" not in str(error):
                    raise
        raise AssertionError("unreachable")


@contextlib.contextmanager
def _gone_is_well() -> Iterator[None]:
    """What is to go may be gone already: `reset` came before."""
    try:
        yield
    except ToxiproxyError as error:
        if error.status != 404:
            raise
