"""gunicorn: workers that are replaced all the time, reloads, and requests that go on meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.faults.weather import changing
from chaos.stage import ROOT, Stage, StageError, wait_until
from lab.calls import CallBook
from lab.servers import HOST, free_port

_SHOP = ROOT / "chaos" / "application" / "shop.py"
_CLIENTS = 3
_PATIENCE_SECONDS = 90.0  # a worker that starts does not hear that it is to end


@dataclass(frozen=True)
class Reloaded:
    """A server is told to reload, again and again, while it is asked; its workers also end by themselves."""

    preload: bool  # the sink is made before the workers are forked, and not in each of them

    def strike(self, stage: Stage, seconds: float) -> None:
        """A reload for each second, in changing weather; then a program finds what is left."""
        port, orders = free_port(), stage.orders(behaviour="shop", threads=_CLIENTS)
        words = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "--config", str(_SHOP)]
        words += ["--env", f"SINK={orders.sink}"]
        words += ["--preload", "--env", "PRELOAD=1"] if self.preload else []
        server = stage.start([*words, "chaos.application.shop:application"])
        wait_until(lambda: _answers(port), "gunicorn answers", _PATIENCE_SECONDS)
        orders.announce()
        pids = _workers(server)
        with changing(stage), _clients(port, orders.open_book()):
            for _ in range(max(2, round(seconds))):
                time.sleep(0.7)
                pids |= _reload(server)
                stage.saw("gunicorn was reloaded")
        stage.saw("a worker came, and went", len(pids))
        server.terminate()
        try:
            code = server.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise StageError("gunicorn does not end") from None
        if code:
            raise StageError(f"gunicorn ended with {code}")
        stage.start_application()


def _reload(server: subprocess.Popen[str]) -> set[str]:
    """Tell it to, and wait until all workers are new; gives the workers."""
    before = _workers(server)
    server.send_signal(signal.SIGHUP)
    wait_until(lambda: not before & _workers(server), "all workers are new", _PATIENCE_SECONDS)
    return _workers(server)


@contextlib.contextmanager
def _clients(port: int, book: CallBook) -> Iterator[None]:
    """A few clients ask all the time, and write down which requests were answered."""
    over = threading.Event()
    clients = [threading.Thread(target=_ask, args=(port, book, row, over)) for row in range(_CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.join()


def _ask(port: int, book: CallBook, row: int, over: threading.Event) -> None:
    for number in range(book.calls):
        if over.wait(0.005):
            return
        book.begin(row, number)
        if _answers(port, book.id_of(row, number)):
            book.returned(row, number)


def _answers(port: int, record_id: str = "") -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", f"/asked?{record_id}")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):  # a worker that ends closes connections that nobody accepted
        return False
    finally:
        connection.close()


def _workers(server: subprocess.Popen[str]) -> set[str]:
    return set(Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())
