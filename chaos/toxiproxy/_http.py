"""Requests to one Toxiproxy: each has a time-out, and what is refused is an error in the server's own words.

toxiproxy-python sends its requests through one class, whose attributes hold the one address of the whole
process. Here that class is exchanged, once, for one that asks which server the calling thread is speaking to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import requests
import toxiproxy.proxy
import toxiproxy.server

_TIMEOUT_SECONDS = 30.0  # the server itself gives up on a request after 25, and says so


class ToxiproxyError(Exception):
    """What was asked was not done.

    Where the server refused, `status` is the HTTP status and `said` what it answered; else None and nothing.
    """

    def __init__(self, text: str, status: int | None = None, said: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.said = said


class Door:
    """The HTTP interface of one server, for any number of threads."""

    def __init__(self, url: str, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Take the address, ``http://host:port``, and connect to nothing yet."""
        self.url = url.rstrip("/")
        self._timeout_seconds = timeout_seconds

    def request(self, method: str, path: str, json: Any = None) -> Any:
        """Do one request.

        Args:
            method: as in HTTP.
            path: from the root on, quoted.
            json: the body, if any.

        Returns:
            the answer, decoded; None where it is empty.

        Raises:
            ToxiproxyError: nobody answered, or the server refused.
        """
        answer = self.send(method, path, json)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise ToxiproxyError(f"{method} {path}: {self.url} answers, but not as Toxiproxy does") from error

    def send(self, method: str, path: str, json: Any = None) -> requests.Response:
        """Do the same, and return the answer as it came."""
        # A session for each request: one session is not made for several threads, and a connection that is
        # kept is a socket that somebody has to close. Proxies of the environment are for the world outside.
        with requests.Session() as session:
            session.trust_env = False
            try:
                answer = session.request(method, self.url + path, json=json, timeout=self._timeout_seconds)
            except requests.RequestException as error:
                raise ToxiproxyError(f"{method} {path}: no answer from {self.url}: {error}") from error
        if not answer.ok:
            said = answer.text.strip() or answer.reason
            raise ToxiproxyError(f"{method} {path}: {answer.status_code} {said}", answer.status_code, said)
        return answer

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Let what this thread calls in toxiproxy-python go to this server, for a while."""
        before = _spoken_to.set(self)
        try:
            yield
        finally:
            _spoken_to.reset(before)


_spoken_to: ContextVar[Door] = ContextVar("the Toxiproxy that this thread is speaking to")


class _Consumer:
    """What toxiproxy-python calls: paths in, answers out."""

    @staticmethod
    def get(path: str) -> requests.Response:
        return _spoken_to.get().send("GET", path)

    @staticmethod
    def post(path: str, json: Any = None) -> requests.Response:
        return _spoken_to.get().send("POST", path, json)

    @staticmethod
    def delete(path: str) -> requests.Response:
        return _spoken_to.get().send("DELETE", path)


toxiproxy.proxy.APIConsumer = _Consumer
toxiproxy.server.APIConsumer = _Consumer
