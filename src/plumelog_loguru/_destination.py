"""Where records go: the Redis to connect to, and the name under which a spool remembers it.

Two facts that look alike and must not be mixed up. An :class:`Endpoint` is what a client connects to; it
knows the password. A :class:`Destination` is what is written into files and shown to people; it cannot hold
a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from urllib.parse import parse_qsl, unquote, urlsplit

from ._errors import SettingsError

DEFAULT_PORT = 6379
MAX_DATABASE = 2**31 - 1

# What redis-py would take from a URL's query, and where it is set here. No other key is ever repeated in a
# message: a password with an unescaped "?" turns its own second half into a "query".
_SETTING_OF_QUERY_KEY = {
    "health_check_interval": "health_check_interval_seconds",
    "max_connections": "max_connections",
    "password": "redis_password",
    "socket_connect_timeout": "connect_timeout_seconds",
    "socket_timeout": "socket_timeout_seconds",
    "ssl_ca_certs": "redis_ssl_ca_file",
    "ssl_certfile": "redis_ssl_cert_file",
    "ssl_keyfile": "redis_ssl_key_file",
    "timeout": "socket_timeout_seconds",
    "username": "redis_username",
}


@dataclass(frozen=True, slots=True)
class Destination:
    """The identity of a Redis list, as configured: what was spooled for one is delivered to no other."""

    server: str  # "host:port" in lower case, "[address]:port" for IPv6, or the path of a Unix socket
    db: int
    list_key: str
    push_side: str  # "left" or "right"

    def __str__(self) -> str:
        return f"{self.server}/{self.db} {self.list_key} ({self.push_side})"

    def to_json(self) -> dict[str, str | int]:
        """The mapping that ``from_json`` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Destination:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: a part is missing or has another type; unknown parts are passed by.
        """
        server, db, list_key, push_side = (
            data.get(name) for name in ("server", "db", "list_key", "push_side")
        )
        if not (isinstance(server, str) and isinstance(list_key, str) and isinstance(push_side, str)):
            raise ValueError("a destination needs server, list_key and push_side as texts")
        if not isinstance(db, int) or isinstance(db, bool):
            raise ValueError("a destination needs its db as a whole number")
        return cls(server, db, list_key, push_side)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a client connects to: a Unix socket where ``unix_path`` is set, else a host and a port."""

    host: str = ""
    port: int = DEFAULT_PORT
    unix_path: str | None = None
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def server(self) -> str:
        """The server's name for a :class:`Destination`."""
        if self.unix_path is not None:
            return self.unix_path
        host = self.host.lower()
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


# The cure for nearly every URL that cannot be read.
_ENCODE = "; characters such as / ? # @ in a password must be percent-encoded (%2F %3F %23 %40)"


def parse_redis_url(url: str) -> Endpoint:
    """Read ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database inside.

    redis-py has a parser of its own, but it takes unknown query keys and fails at the first connection, reads
    ``/notanumber`` as database 0 and a missing host as localhost: each sends logs where nobody looks.

    Raises:
        SettingsError: what is wrong, and the cure, as the rest of a sentence about a setting. It never
            repeats a part of the URL, since in a malformed one nothing tells the password from the rest.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # whose text may quote the password
        raise SettingsError("has no host and port that can be read" + _ENCODE) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise SettingsError("must begin with redis://, rediss:// (TLS) or unix://")
    if "#" in url:
        raise SettingsError('must not contain "#"' + _ENCODE)
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    db_in_query = _database_in_query(parts.query)
    if parts.scheme == "unix":
        path = unquote(parts.path)
        if parts.hostname or port is not None or path in ("", "/") or "\0" in path:
            raise SettingsError("must name a socket by its absolute path, as in unix:///run/redis/redis.sock")
        return Endpoint(unix_path=path, db=db_in_query or 0, username=username, password=password)
    host = unquote(parts.hostname or "")
    if not is_host(host):
        raise SettingsError("names no host that can be reached" + _ENCODE)
    if port == 0:
        raise SettingsError("must name a port from 1 to 65535")
    return Endpoint(
        host=host,
        port=DEFAULT_PORT if port is None else port,
        db=_database_in_path(parts.path) if db_in_query is None else db_in_query,
        tls=parts.scheme == "rediss",
        username=username,
        password=password,
    )


def is_host(text: str) -> bool:
    """Whether this can be the bare name or address of a host: no port, no user, no URL."""
    if ":" in text:
        try:
            ip_address(text)
        except ValueError:
            return False
        return True
    return bool(text) and text.isprintable() and not any(c.isspace() or c in "/@?#,[]\\" for c in text)


def _database_in_path(path: str) -> int:
    return 0 if path in ("", "/") else _database(path[1:])


def _database_in_query(query: str) -> int | None:
    db = None
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "db":
            db = _database(value)
        elif key in _SETTING_OF_QUERY_KEY:
            raise SettingsError(f"cannot carry {key}; use the setting {_SETTING_OF_QUERY_KEY[key]} instead")
        else:
            raise SettingsError('can carry nothing but db after the "?"' + _ENCODE)
    return db


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_DATABASE):
        raise SettingsError("must name its database by a number, as in redis://host:6379/0" + _ENCODE)
    return int(text)
