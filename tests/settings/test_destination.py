"""Redis URLs and the identity of a destination."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumelog_loguru._destination import Destination, Endpoint, is_host, parse_redis_url
from plumelog_loguru._errors import SettingsError


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://Cache", Endpoint("cache")),
        ("redis://cache/", Endpoint("cache")),
        ("redis://cache:7000/3", Endpoint("cache", 7000, db=3)),
        ("redis://cache?db=4", Endpoint("cache", db=4)),
        ("redis://:s3cret@cache", Endpoint("cache", password="s3cret")),
        ("redis://bob:p%40ss%2F@cache/1", Endpoint("cache", db=1, username="bob", password="p@ss/")),
        ("rediss://cache:6380", Endpoint("cache", 6380, tls=True)),
        ("redis://[2001:db8::7]:7000", Endpoint("2001:db8::7", 7000)),
        ("unix:///run/redis.sock", Endpoint(unix_path="/run/redis.sock")),
        (
            "unix://:s3cret@/run/my%20redis.sock?db=2",
            Endpoint(unix_path="/run/my redis.sock", db=2, password="s3cret"),
        ),
    ],
)
def test_url_forms(url: str, endpoint: Endpoint) -> None:
    """Each form of URL is read into the endpoint that it names."""
    assert parse_redis_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "must begin with redis://"),
        ("cache:6379", "must begin with redis://"),
        ("http://cache", "must begin with redis://"),
        ("redis+sentinel://cache", "must begin with redis://"),
        ("redis:cache", "names no host"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://a,b:6379", "names no host"),
        ("redis://c ache", "names no host"),
        ("redis://cache:0", "port from 1 to 65535"),
        ("redis://cache:65536", "no host and port"),
        ("redis://cache:port", "no host and port"),
        ("redis://[::1", "no host and port"),
        ("redis://cache/zero", "database by a number"),
        ("redis://cache/-1", "database by a number"),
        ("redis://cache/0/1", "database by a number"),
        ("redis://cache/٣", "database by a number"),
        ("redis://cache/99999999999", "database by a number"),
        ("redis://cache?db=", "database by a number"),
        ("redis://cache?foo=1", "nothing but db"),
        ("redis://cache?socket_timeout=1", "socket_timeout_seconds instead"),
        ("redis://cache/0#", 'must not contain "#"'),
        ("unix://", "absolute path"),
        ("unix:///", "absolute path"),
        ("unix://run/redis.sock", "absolute path"),
    ],
)
def test_url_that_can_never_work(url: str, complaint: str) -> None:
    """What redis-py would misread or accept only to fail later is refused at once, with the cure."""
    with pytest.raises(SettingsError, match=complaint):
        parse_redis_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter#two@cache/0",
        "redis://:hunter/two@cache/0",
        "redis://:hunter?two@cache/0",
        "redis://bob:hunter/two@cache",
        "redis://bob:6379/hunter@cache",
        "redis://cache?hunter=two",
        "redis://:hunter@cache:99999",
        "redis://:hunter@[cache",
        "redis://:hunter@ca\u2100che",  # refused by the standard library, quoting the password
        "hunter",
    ],
)
def test_complaint_never_quotes_the_url(url: str) -> None:
    """In a malformed URL anything may be the password, so no complaint repeats a part of it."""
    with pytest.raises(SettingsError) as caught:
        parse_redis_url(url)
    assert "hunter" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(rest: str) -> None:
    """No text behind the scheme raises anything but the one error; what is accepted can be connected to."""
    try:
        endpoint = parse_redis_url("redis://" + rest)
    except SettingsError:
        return
    assert is_host(endpoint.host)
    assert 1 <= endpoint.port <= 65535
    assert endpoint.db >= 0


@pytest.mark.parametrize(
    "host", ["cache", "my_cache.local.", "192.0.2.7", "2001:db8::7", "fe80::1%eth0", "缓存"]
)
def test_hosts(host: str) -> None:
    """Names, addresses and scoped addresses are hosts."""
    assert is_host(host)


@pytest.mark.parametrize(
    "host", ["", " ", "cache:6379", "redis://cache", "a@b", "a/b", "[::1]", "a\nb", "a,b", "a\0"]
)
def test_no_hosts(host: str) -> None:
    """What belongs in another setting, or in none, is no host."""
    assert not is_host(host)


def test_server_is_one_spelling_for_one_server() -> None:
    """Case does not make two destinations of one server, and an IPv6 address stays apart from its port."""
    assert Endpoint("Cache.Local", 7000).server == "cache.local:7000"
    assert Endpoint("2001:DB8::7").server == "[2001:db8::7]:6379"
    assert Endpoint(unix_path="/run/Redis.sock").server == "/run/Redis.sock"


def test_endpoint_hides_its_password() -> None:
    """An endpoint in a traceback or a log shows no password."""
    assert "hunter" not in repr(parse_redis_url("redis://:hunter@cache"))


def test_destination_survives_json() -> None:
    """What was written into a file is read back equal; parts that a later version adds are passed by."""
    destination = Destination("cache:6379", 2, "plume_log_list", "left")
    data = json.loads(json.dumps(destination.to_json()))
    assert Destination.from_json({**data, "later": 1}) == destination


@pytest.mark.parametrize(
    "damage", [{"server": 5}, {"db": "0"}, {"db": True}, {"list_key": None}, {"push_side": 1}]
)
def test_damaged_destination(damage: dict[str, object]) -> None:
    """A destination with a part of the wrong type is refused, never half read."""
    data = Destination("cache:6379", 2, "plume_log_list", "left").to_json()
    with pytest.raises(ValueError, match="a destination needs"):
        Destination.from_json({**data, **damage})
