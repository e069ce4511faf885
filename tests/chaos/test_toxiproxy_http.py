"""Toxiproxy and its stand-in answer the same requests alike, errors included; the wrapper passes it on."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests

from chaos.toxiproxy import Proxy, Toxiproxy, ToxiproxyError, start_standin
from chaos.toxiproxy._http import Door
from lab.servers import HOST, free_port
from tests.chaos.wire import Upstream, hear

AWKWARD = "50% of? all#1 ü & +"


class Http:
    """Plain requests: status and answer, as they come."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[str] = []

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(method, self.url + path, data=data, headers=headers, timeout=10)
        try:
            return answer.status_code, answer.json()
        except ValueError:
            return answer.status_code, answer.text.strip()

    def create(self, name: str, **more: Any) -> tuple[int, Any]:
        """A proxy that is deleted after the test."""
        self.made.append(name)
        body = {"name": name, "upstream": f"{HOST}:1", "listen": f"{HOST}:0", **more}
        return self("POST", "/proxies", body)


@pytest.fixture
def http(toxiproxy: Toxiproxy) -> Iterator[Http]:
    http = Http(toxiproxy.url)
    yield http
    for name in http.made:
        http("DELETE", f"/proxies/{quote(name, safe='')}")


def test_it_says_its_version(http: Http, toxiproxy: Toxiproxy) -> None:
    """And the wrapper says whether it is the real one."""
    status, answer = http("GET", "/version")
    assert status == 200
    assert toxiproxy.is_real is ("stand_in" not in answer)
    assert re.fullmatch(
        "Toxiproxy [0-9.]+" if toxiproxy.is_real else "stand-in for Toxiproxy [0-9.]+", toxiproxy.description
    )


def test_a_proxy_is_created_shown_changed_and_deleted(http: Http) -> None:
    """Each step answers with all of it."""
    status, made = http.create("life")
    assert status == 201
    port = int(made["listen"].rpartition(":")[2])
    with socket.create_connection((HOST, port), timeout=10):
        pass  # what was a wish for any port is said as the one that it got
    expected = {
        "name": "life",
        "listen": f"{HOST}:{port}",
        "upstream": f"{HOST}:1",
        "enabled": True,
        "toxics": [],
    }
    assert expected.items() <= made.items()
    status, shown = http("GET", "/proxies/life")
    assert (status, shown) == (200, made)
    status, listed = http("GET", "/proxies")
    assert (status, listed["life"]) == (200, made)
    for method, enabled in (("POST", False), ("PATCH", True)):
        status, changed = http(method, "/proxies/life", {"enabled": enabled, "upstream": f"{HOST}:2"})
        assert status == 200
        assert {**expected, "enabled": enabled, "upstream": f"{HOST}:2"}.items() <= changed.items()
    assert http("DELETE", "/proxies/life") == (204, "")
    assert http("GET", "/proxies/life")[0] == 404


def test_a_proxy_may_begin_disabled(http: Http) -> None:
    """Its address is then what was asked for."""
    _, made = http.create("asleep", enabled=False)
    assert (made["enabled"], made["listen"]) == (False, f"{HOST}:0")


def test_a_toxic_is_added_shown_changed_and_removed(http: Http) -> None:
    """Each step answers with all of it."""
    http.create("life")
    status, added = http("POST", "/proxies/life/toxics", {"type": "slicer", "attributes": {"delay": 7}})
    expected = {
        "name": "slicer_downstream",
        "type": "slicer",
        "stream": "downstream",
        "toxicity": 1,
        "attributes": {"average_size": 0, "size_variation": 0, "delay": 7},
    }
    assert (status, added) == (200, expected)
    assert http("GET", "/proxies/life/toxics/slicer_downstream") == (200, expected)
    assert http("GET", "/proxies/life/toxics") == (200, [expected])
    for method, delay in (("POST", 8), ("PATCH", 9)):
        status, changed = http(
            method, "/proxies/life/toxics/slicer_downstream", {"attributes": {"delay": delay}}
        )
        assert status == 200
        assert changed == {**expected, "attributes": {"average_size": 0, "size_variation": 0, "delay": delay}}
    assert http("DELETE", "/proxies/life/toxics/slicer_downstream") == (204, "")
    assert http("GET", "/proxies/life/toxics") == (200, [])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/proxies/none", None, 404, "proxy not found"),
        ("PATCH", "/proxies/none", {}, 404, "proxy not found"),
        ("DELETE", "/proxies/none", None, 404, "proxy not found"),
        ("GET", "/proxies/none/toxics", None, 404, "proxy not found"),
        ("POST", "/proxies/none/toxics", {"type": "latency"}, 404, "proxy not found"),
        ("GET", "/proxies/here/toxics/none", None, 404, "toxic not found"),
        ("PATCH", "/proxies/here/toxics/none", {}, 404, "toxic not found"),
        ("DELETE", "/proxies/here/toxics/none", None, 404, "toxic not found"),
        ("POST", "/proxies", {"name": "here", "upstream": "x:1"}, 409, "proxy already exists"),
        ("POST", "/proxies/here/toxics", {"type": "latency"}, 409, "toxic already exists"),
        ("POST", "/proxies", {"upstream": "x:1"}, 400, "missing required field: name"),
        ("POST", "/proxies", {"name": "x"}, 400, "missing required field: upstream"),
        ("POST", "/proxies", b"{", 400, "bad request body: "),
        ("POST", "/proxies", b"", 400, "bad request body: "),
        ("POST", "/proxies", {"name": 7, "upstream": "x:1"}, 400, "bad request body: "),
        ("POST", "/proxies", {"name": "x", "upstream": "x:1", "enabled": 1}, 400, "bad request body: "),
        ("PATCH", "/proxies/here", [], 400, "bad request body: "),
        ("POST", "/proxies/here/toxics", {"type": "flood"}, 400, "invalid toxic type"),
        ("POST", "/proxies/here/toxics", {}, 400, "invalid toxic type"),
        (
            "POST",
            "/proxies/here/toxics",
            {"type": "latency", "stream": "sideways"},
            400,
            "stream was invalid, can be either upstream or downstream",
        ),
        (
            "POST",
            "/proxies/here/toxics",
            {"type": "timeout", "attributes": {"timeout": "soon"}},
            400,
            "bad request body: ",
        ),
        (
            "POST",
            "/proxies/here/toxics",
            {"type": "timeout", "attributes": {"timeout": 1.5}},
            400,
            "bad request body: ",
        ),
        (
            "POST",
            "/proxies/here/toxics",
            {"type": "timeout", "attributes": {"timeout": True}},
            400,
            "bad request body: ",
        ),
        ("PATCH", "/proxies/here/toxics/latency_downstream", {"toxicity": "x"}, 400, "bad request body: "),
        ("POST", "/populate", [{"name": "x"}], 400, "missing required field: upstream at proxy 1"),
        ("POST", "/populate", {}, 400, "bad request body: "),
    ],
)
def test_what_cannot_be_done_is_refused(
    http: Http, method: str, path: str, body: Any, status: int, said: str
) -> None:
    """With a status and a sentence; where one is about a body, its beginning."""
    http.create("here")
    http("POST", "/proxies/here/toxics", {"type": "latency"})
    got, answer = http(method, path, body)
    assert (got, answer["status"]) == (status, status)
    assert answer["error"] == said or (said.endswith(": ") and answer["error"].startswith(said))


def test_an_address_in_use_is_an_error_of_the_server(http: Http) -> None:
    """Not of the request; and there is no such proxy afterwards."""
    with socket.create_server((HOST, free_port())) as taken:
        status, answer = http.create("late", listen=f"{HOST}:{taken.getsockname()[1]}")
    assert (status, answer["status"]) == (500, 500)
    assert "address already in use" in answer["error"]
    assert http("GET", "/proxies/late")[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/reset", 405), ("PUT", "/proxies", 405), ("POST", "/version", 405)],
)
def test_what_is_no_part_of_the_interface_is_refused(http: Http, method: str, path: str, status: int) -> None:
    """An unknown path, and a known one with another method."""
    assert http(method, path)[0] == status


def test_a_browser_is_sent_away(http: Http) -> None:
    """So that no web page can use it."""
    assert http("GET", "/version", **{"User-Agent": "Mozilla/5.0"}) == (403, "User agent not allowed")


def test_what_is_unknown_or_null_in_a_body_is_passed_over(http: Http) -> None:
    """As Go does it."""
    http.create("here", colour="red", enabled=None)
    body = {"type": "latency", "name": None, "shape": 1, "attributes": {"latency": 5, "jitter": None, "x": 1}}
    status, added = http("POST", "/proxies/here/toxics", body)
    assert (status, added["name"]) == (200, "latency_downstream")
    assert added["attributes"] == {"latency": 5, "jitter": 0}


def test_populate_makes_what_is_missing_and_replaces_what_differs(http: Http) -> None:
    """What is there already, exactly so, stays with its toxics."""
    wanted = [
        {"name": name, "listen": f"{HOST}:{free_port()}", "upstream": f"{HOST}:1"} for name in ("one", "two")
    ]
    http.made += ["one", "two"]
    status, answer = http("POST", "/populate", wanted)
    assert status == 201
    assert [(made["name"], made["enabled"]) for made in answer["proxies"]] == [("one", True), ("two", True)]
    for name in ("one", "two"):
        http("POST", f"/proxies/{name}/toxics", {"type": "latency"})
    wanted[1]["upstream"] = f"{HOST}:2"
    status, answer = http("POST", "/populate", wanted)
    assert status == 201
    assert [(made["upstream"], len(made["toxics"])) for made in answer["proxies"]] == [
        (f"{HOST}:1", 1),
        (f"{HOST}:2", 0),
    ]


def test_a_reset_of_the_server_is_for_all_proxies(http: Http) -> None:
    """They listen, and have no toxics."""
    for name in ("one", "two"):
        http.create(name)
        http("POST", f"/proxies/{name}/toxics", {"type": "latency"})
        http("PATCH", f"/proxies/{name}", {"enabled": False})
    assert http("POST", "/reset") == (204, "")
    for name in ("one", "two"):
        _, shown = http("GET", f"/proxies/{name}")
        assert (shown["enabled"], shown["toxics"]) == (True, [])


def test_names_may_be_awkward(http: Http, proxy: Proxy) -> None:
    """As long as whoever uses them quotes them, and there is no slash in them."""
    http.create(AWKWARD)
    path = f"/proxies/{quote(AWKWARD, safe='')}"
    assert http("POST", f"{path}/toxics", {"name": AWKWARD, "type": "latency"})[0] == 200
    assert http("DELETE", f"{path}/toxics/{quote(AWKWARD, safe='')}")[0] == 204
    assert http("GET", path)[1]["name"] == AWKWARD


# The wrapper


def test_the_wrapper_quotes_the_names_of_toxics(proxy: Proxy, upstream: Upstream) -> None:
    """So it finds again what it made."""
    with proxy.toxic("latency", name=AWKWARD, latency=3_600_000):
        client, server = upstream.connect(proxy)
        server.sendall(b"well")
        proxy.update_toxic(AWKWARD, latency=0)
        assert hear(client, 4) == b"well"
    assert proxy.toxics() == {}


def test_the_wrapper_says_what_the_server_said(proxy: Proxy) -> None:
    """In its own words, with the status, whatever the status is."""
    proxy.add_toxic("latency", latency=1)
    with pytest.raises(ToxiproxyError, match=r"409 .*toxic already exists") as caught:
        proxy.add_toxic("latency", latency=1)
    assert caught.value.status == 409
    with pytest.raises(ToxiproxyError, match=r"400 .*invalid toxic type"):
        proxy.add_toxic("flood")
    with pytest.raises(ToxiproxyError, match=r"404 .*toxic not found"):
        proxy.remove_toxic("none")


def test_one_process_can_speak_to_several_servers(toxiproxy: Toxiproxy, upstream: Upstream) -> None:
    """Each proxy is changed on its own server."""
    with (
        start_standin() as other,
        other.create_proxy(upstream.address) as there,
        toxiproxy.create_proxy(upstream.address) as here,
    ):
        there.add_toxic("timeout", timeout=0)
        here.add_toxic("latency", latency=0)
        here.disable()
        assert (list(there.toxics()), there.enabled) == (["timeout_downstream"], True)
        assert (list(here.toxics()), here.enabled) == (["latency_downstream"], False)


def test_a_server_takes_its_proxies_with_it(toxiproxy: Toxiproxy, upstream: Upstream) -> None:
    """Those that were made through this object, and no others."""
    with toxiproxy.create_proxy(upstream.address) as ours:
        with Toxiproxy(toxiproxy.url) as guest:
            theirs = guest.create_proxy(upstream.address)
        assert ours.enabled
        with pytest.raises(ToxiproxyError, match="proxy not found"):
            theirs.toxics()


def test_a_server_that_hangs_is_not_waited_for() -> None:
    """Each request has a time-out, and the error names the address."""
    with socket.create_server((HOST, 0)) as hung:
        url = f"http://{HOST}:{hung.getsockname()[1]}"
        door = Door(url, timeout_seconds=0.2)
        with pytest.raises(ToxiproxyError, match=url):
            door.request("GET", "/version")
