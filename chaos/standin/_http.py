"""Requests in, answers out: a thread for each connection, and one for the loop in which everything is."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import TimeoutError as TooLate  # another class than TimeoutError before Python 3.11
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from chaos.standin._api import Api, Refused

_TIMEOUT_SECONDS = 25.0


class Server(ThreadingHTTPServer):
    """The HTTP interface; `serve_forever` serves it."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        """Listen at once; port 0 is a free one."""
        super().__init__((host, port), _Handler)
        self.api = Api()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="toxics", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out in two writes

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("User-Agent", "").startswith("Mozilla/"):
            self._say(403, "User agent not allowed")
            return
        path = [unquote(segment) for segment in urlsplit(self.path).path.strip("/").split("/")]
        done = asyncio.run_coroutine_threadsafe(
            self.server.api.answer(self.command, path, body), self.server.loop
        )
        try:
            status, answer = done.result(_TIMEOUT_SECONDS)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except OSError as error:
            status, answer = 500, {"error": str(error), "status": 500}
        except TooLate:
            done.cancel()
            status, answer = 503, None
        self._say(status, None if answer is None else json.dumps(answer))

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _do  # noqa: N815  # names that the base class looks for

    def _say(self, status: int, text: str | None) -> None:
        body = (text or "").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "text/plain; charset=utf-8")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # named by the base class
        """Say nothing: what matters is in the answer."""
