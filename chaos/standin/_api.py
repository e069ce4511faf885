"""What each request of Toxiproxy's HTTP interface means."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

from chaos.standin._proxies import STREAMS, Proxy
from chaos.standin._toxics import EFFECTS, Effect, Toxic

VERSION = "2.12.0"


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, text: str, **more: object) -> None:
        super().__init__(text)
        self.status = status
        self.body = {"error": text, "status": status, **more}


class Api:
    """All proxies; used in the loop's thread."""

    def __init__(self) -> None:
        self._proxies: dict[str, Proxy] = {}
        self._changing = asyncio.Lock()

    async def answer(self, method: str, path: list[str], body: bytes) -> tuple[int, Any]:
        """Do a request.

        Args:
            method: as in HTTP.
            path: its segments.
            body: as it came.

        Returns:
            the status, and what is to be sent as JSON; None is an empty answer.

        Raises:
            Refused: it cannot be done.
            OSError: nor can this, for what the system says.
        """
        if method == "PATCH" and len(path) in {2, 4}:
            method = "POST"  # as it was before Toxiproxy 2.6, and still is
        async with self._changing:
            match [method, *path]:
                case ["GET", "version"]:
                    return 200, {"version": VERSION, "stand_in": True}
                case ["GET", "proxies"]:
                    return 200, {name: proxy.as_json() for name, proxy in self._proxies.items()}
                case ["POST", "proxies"]:
                    return 201, (await self._create(_decode(body))).as_json()
                case ["POST", "populate"]:
                    return 201, {"proxies": await self._populate(body)}
                case ["POST", "reset"]:
                    return await self._reset()
                case ["GET", "proxies", name]:
                    return 200, self._proxy(name).as_json()
                case ["POST", "proxies", name]:
                    return 200, await self._update(self._proxy(name), body)
                case ["DELETE", "proxies", name]:
                    self._proxy(name).stop()
                    del self._proxies[name]
                    return 204, None
                case ["GET", "proxies", name, "toxics"]:
                    return 200, [toxic.as_json() for toxic in self._proxy(name).toxics]
                case ["POST", "proxies", name, "toxics"]:
                    return 200, await _add_toxic(self._proxy(name), body)
                case ["GET", "proxies", name, "toxics", toxic]:
                    return 200, _toxic(self._proxy(name), toxic).as_json()
                case ["POST", "proxies", name, "toxics", toxic]:
                    return 200, await _update_toxic(self._proxy(name), toxic, body)
                case ["DELETE", "proxies", name, "toxics", toxic]:
                    await self._proxy(name).remove(_toxic(self._proxy(name), toxic))
                    return 204, None
                case [_, "version" | "proxies" | "populate" | "reset"]:
                    raise Refused(405, "method not allowed")
                case [_, "proxies", _] | [_, "proxies", _, "toxics"] | [_, "proxies", _, "toxics", _]:
                    raise Refused(405, "method not allowed")
                case _:
                    raise Refused(404, "page not found")

    def _proxy(self, name: str) -> Proxy:
        try:
            return self._proxies[name]
        except KeyError:
            raise Refused(404, "proxy not found") from None

    async def _create(self, fields: Any) -> Proxy:
        given = _fields(fields, name="", listen="", upstream="", enabled=True)
        for field in ("name", "upstream"):
            if not given[field]:
                raise Refused(400, f"missing required field: {field}")
        if given["name"] in self._proxies:
            raise Refused(409, "proxy already exists")
        return await self._start(given)

    async def _start(self, given: dict[str, Any]) -> Proxy:
        proxy = Proxy(given["name"], given["listen"], given["upstream"])
        if given["enabled"]:
            await proxy.start()
        self._proxies[proxy.name] = proxy
        return proxy

    async def _populate(self, body: bytes) -> list[dict[str, object]]:
        """Create what is missing, replace what differs, and keep what does not."""
        wanted = _decode(body)
        if not isinstance(wanted, list):
            raise Refused(400, "bad request body: not a list", proxies=None)
        described = [_fields(fields, name="", listen="", upstream="", enabled=True) for fields in wanted]
        for number, given in enumerate(described, 1):
            for field in ("name", "upstream"):
                if not given[field]:
                    raise Refused(400, f"missing required field: {field} at proxy {number}", proxies=None)
        populated: list[dict[str, object]] = []
        for given in described:
            proxy = self._proxies.get(given["name"])
            if proxy is None or (proxy.listen, proxy.upstream) != (given["listen"], given["upstream"]):
                if proxy is not None:
                    proxy.stop()
                try:
                    proxy = await self._start(given)
                except OSError as error:
                    raise Refused(500, str(error), proxies=populated) from error
            populated.append(proxy.as_json())
        return populated

    async def _update(self, proxy: Proxy, body: bytes) -> dict[str, object]:
        given = _fields(_decode(body), listen=proxy.listen, upstream=proxy.upstream, enabled=proxy.enabled)
        if (proxy.listen, proxy.upstream) != (given["listen"], given["upstream"]):
            proxy.stop()
            proxy.listen, proxy.upstream = given["listen"], given["upstream"]
        if given["enabled"]:
            await proxy.start()
        else:
            proxy.stop()
        return proxy.as_json()

    async def _reset(self) -> tuple[int, None]:
        for proxy in self._proxies.values():
            await proxy.start()
            for toxic in proxy.toxics:
                await proxy.remove(toxic)
        return 204, None


def _toxic(proxy: Proxy, name: str) -> Toxic:
    toxic = proxy.find(name)
    if toxic is None:
        raise Refused(404, "toxic not found")
    return toxic


async def _add_toxic(proxy: Proxy, body: bytes) -> dict[str, object]:
    given = _fields(_decode(body), name="", type="", stream="downstream", toxicity=1.0, attributes={})
    if given["stream"].lower() not in STREAMS:
        raise Refused(400, "stream was invalid, can be either upstream or downstream")
    if given["type"] not in EFFECTS:
        raise Refused(400, "invalid toxic type")
    given["name"] = given["name"] or f"{given['type']}_{given['stream']}"
    if proxy.find(given["name"]) is not None:
        raise Refused(409, "toxic already exists")
    toxic = Toxic(effect=EFFECTS[given["type"]](), **{k: v for k, v in given.items() if k != "attributes"})
    _set_attributes(toxic.effect, given["attributes"])
    await proxy.add(toxic)
    return toxic.as_json()


async def _update_toxic(proxy: Proxy, name: str, body: bytes) -> dict[str, object]:
    toxic = _toxic(proxy, name)
    given = _fields(_decode(body), toxicity=toxic.toxicity, attributes={})
    _set_attributes(toxic.effect, given["attributes"])
    toxic.toxicity = given["toxicity"]
    await proxy.update(toxic)
    return toxic.as_json()


def _set_attributes(effect: Effect, attributes: dict[str, Any]) -> None:
    known = {field.name: getattr(effect, field.name) for field in dataclasses.fields(effect)}
    for name, value in _fields(attributes, **known).items():
        setattr(effect, name, value)


# Bodies are read as Go reads them: what is unknown or null is passed over, a wrong type is refused.


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise Refused(400, f"bad request body: {error}") from error


def _fields(value: Any, **defaults: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(400, f"bad request body: cannot unmarshal {type(value).__name__} into an object")
    given = {name: value[name] for name in defaults if value.get(name) is not None}
    for name, default in defaults.items():
        types = {int, float} if type(default) is float else {type(default)}
        if type(given.get(name, default)) not in types:  # exactly: to Python, true is a number
            raise Refused(400, f"bad request body: cannot unmarshal {name}: {given[name]!r}")
    return {**defaults, **given}
