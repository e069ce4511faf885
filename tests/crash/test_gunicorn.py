"""gunicorn: workers that come and go, reloads, an outage, and each request's record once."""

from __future__ import annotations

import http.client
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from lab.calls import CallBook
from lab.servers import HOST, free_port
from tests.crash.conftest import MakeScene
from tests.crash.scene import Scene, draw_seeds, takes_long, wait_until
from tests.scale import scaled

pytestmark = [takes_long, pytest.mark.needs_gunicorn]

SHOP = Path(__file__).with_name("shop.py")
THREADS = 4


class Watch:
    """How many processes of a server, and how many parts, there were at once at most."""

    def __init__(self, scene: Scene, server: subprocess.Popen[str]) -> None:
        self.processes = self.parts = 0
        self._scene, self._server = scene, server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
        while not self._over.wait(0.005):
            # Parts first: one that is there belongs to a process that is, or was a moment ago.
            self.parts = max(self.parts, len(self._scene.parts()))
            self.processes = max(self.processes, 1 + len(children.read_text().split()))

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        self._thread.join()


def _ask(port: int, book: CallBook, thread: int) -> None:
    for number in range(book.calls):
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        book.begin(thread, number)
        try:
            connection.request("GET", f"/?{book.id_of(thread, number)}")
            if connection.getresponse().status == 200:
                book.returned(thread, number)
        except OSError:
            pass  # a worker that ends now and then turns one away that it has accepted
        finally:
            connection.close()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.parametrize("made", ["after the fork", "before the fork"])
def test_every_request_of_a_server_is_logged_once(make_scene: MakeScene, made: str) -> None:
    """Workers restart, are reloaded twice, and Redis is away: no record is lost or doubled, no part stays."""
    (seed,) = draw_seeds(1)
    with make_scene(seed) as scene:
        port = free_port()
        preload = made == "before the fork"
        server = scene.run(
            *("-m", "gunicorn", "--bind", f"{HOST}:{port}", "--config", str(SHOP)),
            *(("--preload", "--env", "PRELOAD=1") if preload else ()),
            "tests.crash.shop:application",
        )
        wait_until(lambda: _answers(port))
        watch = Watch(scene, server)
        book = CallBook(scene.path / "book", "request", THREADS, scaled(100, 1000))
        scene.books.append(book)
        clients = [threading.Thread(target=_ask, args=(port, book, number)) for number in range(THREADS)]
        for client in clients:
            client.start()
        total = THREADS * book.calls
        wait_until(lambda: book.count > total // 5, 60)
        scene.proxy.refuse()
        wait_until(lambda: book.count > 2 * total // 5, 60)
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: book.count > 3 * total // 5, 60)
        scene.proxy.heal()
        server.send_signal(signal.SIGHUP)
        for client in clients:
            client.join()
        watch.end()
        server.terminate()
        assert server.wait(30) == 0
        print(f"at most {watch.processes} processes and {watch.parts} parts at once")
        assert watch.parts <= watch.processes
        owed = scene.settle()
        assert owed > 0.9 * total
