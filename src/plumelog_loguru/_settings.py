"""The settings: read once, checked whole, never changed.

Promises: a value that can never work is refused here, with a sentence that names the setting, its variable
and the cure, and so nothing further down has to doubt a setting; no password stands in a repr, a dump or a
message (a pickle does carry it, since the process that unpickles it must connect); an application of the
earlier library runs unchanged, old names included; construction asks neither the network nor a name server.

Precedence: keyword, then environment, then ``.env``, then default.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args, get_origin

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ._destination import MAX_DATABASE, Destination, Endpoint, is_host, parse_redis_url
from ._diagnostics import SWITCH, say
from ._errors import SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from typing_extensions import Unpack

PREFIX = "PLUMELOG_"
MAX_RECORD_BYTES = 2**20
LEVEL_MAP = {0: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR"}

# Names that the earlier library gave to settings, each still a keyword, a variable and an attribute.
OLD_NAMES = {
    "retry_delay": "retry_backoff_base_seconds",
    "socket_connect_timeout": "connect_timeout_seconds",
    "socket_timeout": "socket_timeout_seconds",
}
_SECRETS = frozenset({"redis_password", "redis_url"})
_DERIVED = frozenset({"retry_backoff_max_seconds", "spool_dir"})  # whose default follows from other settings
_COUNT_MAX = 2**31 - 1
_BYTES_MAX = 2**62
_SECONDS_MAX = 1e6  # eleven days: more overflows the C time-outs of some platforms


def _parse_level_map(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise SettingsError(f"is {_shown(value)}, but must be JSON such as {json.dumps(LEVEL_MAP)}") from None


def _check_level_map(value: Mapping[int, str]) -> Mapping[int, str]:
    if 0 not in value or min(value) < 0 or not all(value.values()):
        raise SettingsError(
            f"is {_shown(value)}, but must map level numbers to names, each from its number on, "
            "the first from 0"
        )
    return dict(sorted(value.items()))


def _parse_extra_fields(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text in ("all", "none"):
        return text
    if not text.startswith("["):
        return tuple(name for name in map(str.strip, text.split(",")) if name)
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsError(f'is {_shown(value)}, but must be "all", "none" or a list of names') from None


def _check_host(value: str) -> str:
    if is_host(value):
        return value
    shown = "" if "@" in value or "/" in value else f"is {_shown(value)}, but "  # a URL may carry a password
    raise SettingsError(
        f"{shown}must be a bare host name or address: a port belongs in redis_port, a URL in redis_url"
    )


def _check_utf8(value: str | None) -> str | None:
    try:
        (value or "").encode()
    except UnicodeEncodeError:  # bytes of another encoding in the environment become lone surrogates
        raise SettingsError(f"is {_shown(value)}, but must be a text in UTF-8") from None
    return value


def _check_password(value: SecretStr | None) -> SecretStr | None:
    if value is None or not value.get_secret_value():
        return None
    try:
        value.get_secret_value().encode()
    except UnicodeEncodeError:
        raise SettingsError("must be a text in UTF-8") from None
    return value


def _check_url(value: SecretStr | None) -> SecretStr | None:
    value = _check_password(value)
    if value is None or not (url := value.get_secret_value().strip()):
        return None
    parse_redis_url(url)
    return SecretStr(url)


def _make_absolute(value: Path | None) -> Path | None:
    # At once, because a daemon that changes its directory later must find the same files again.
    if value is not None and "\0" in str(value):
        raise SettingsError(f"is {_shown(str(value))}, but must be a path, without NUL")
    try:
        return None if value is None else Path(os.path.abspath(value.expanduser()))
    except (OSError, RuntimeError) as error:  # no current directory, no home
        raise SettingsError(f"is {_shown(str(value))}, but must be an absolute path here ({error})") from None


def _check_readable(value: Path | None) -> Path | None:
    # Asked, not opened: opening a named pipe would wait.
    if value is None or (os.path.isfile(value) and os.access(value, os.R_OK)):
        return value
    raise SettingsError(f"is {_shown(str(value))}, but must be a file that can be read")


Count = Annotated[int, Field(ge=1, le=_COUNT_MAX)]
CountOrZero = Annotated[int, Field(ge=0, le=_COUNT_MAX)]
Seconds = Annotated[float, Field(gt=0, le=_SECONDS_MAX, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False)]
ReadableFile = Annotated[Path | None, AfterValidator(_make_absolute), AfterValidator(_check_readable)]
LevelMap = Annotated[
    Mapping[int, str], NoDecode, BeforeValidator(_parse_level_map), AfterValidator(_check_level_map)
]
ExtraFields = Annotated[
    Literal["all", "none"] | tuple[str, ...], NoDecode, BeforeValidator(_parse_extra_fields)
]


@lru_cache(maxsize=1)
def local_address() -> str:
    """The address from which this host reaches others, or its name where there is no route.

    Connecting a UDP socket sends nothing: it only asks the routing table. The targets are reserved for
    documentation. A name server is never asked: where Redis cannot be reached, that often waits, too.
    """
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return socket.gethostname() or "unknown"


def default_spool_dir(app_name: str, env: str) -> Path | None:
    """``<user state dir>/plumelog-loguru/<app_name>/<env>``, or None for a user without a home."""
    try:
        state = Path(platformdirs.user_state_dir("plumelog-loguru", appauthor=False))
    except RuntimeError:  # how newer platformdirs says that there is no home
        return None
    # Older ones leave "~" as it is, which would become a directory of that name wherever the process runs.
    return state / _component(app_name) / _component(env) if state.is_absolute() else None


def _component(name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    return re.sub(r"\.\.+|^\.?$", lambda dots: "_" * max(1, len(dots[0])), safe)


class SettingsKeywords(TypedDict, total=False):
    """What :class:`PlumelogSettings` takes as keywords, for type checkers and editors."""

    app_name: str
    env: str
    redis_host: str
    redis_port: int
    redis_db: int
    redis_password: str | SecretStr | None
    redis_key: str
    batch_size: int
    batch_interval_seconds: float
    queue_max_size: int
    retry_count: int
    max_connections: int
    temp_buffer_max_size: int
    redis_url: str | SecretStr | None
    redis_username: str | None
    redis_ssl_ca_file: str | os.PathLike[str] | None
    redis_ssl_cert_file: str | os.PathLike[str] | None
    redis_ssl_key_file: str | os.PathLike[str] | None
    connect_timeout_seconds: float
    socket_timeout_seconds: float
    retry_backoff_base_seconds: float
    retry_backoff_max_seconds: float
    health_check_interval_seconds: float
    redis_push_side: Literal["left", "right"]
    delivery: Literal["exactly_once", "at_least_once"]
    lane_ttl_seconds: int
    queue_max_bytes: int
    max_content_chars: int
    record_max_bytes: int
    server_name: str
    extra_fields: Literal["all", "none"] | Sequence[str]
    level_map: Mapping[int, str]
    producer_field: str
    spool_dir: str | os.PathLike[str] | None
    spool_max_bytes: int
    spool_full_policy: Literal["drop_oldest", "drop_newest", "block"]
    block_timeout_seconds: float
    replay_rate: int
    close_timeout_seconds: float
    retry_delay: float
    socket_connect_timeout: float
    socket_timeout: float
    _env_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


class PlumelogSettings(BaseSettings):
    """All settings; each is a keyword, and a variable ``PLUMELOG_<NAME>`` in the environment or ``.env``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # The names and defaults that users of Plumelog's Python clients know.
    app_name: str = "default"
    env: str = "dev"
    redis_host: Annotated[str, AfterValidator(_check_host)] = "localhost"
    redis_port: Annotated[int, Field(ge=1, le=65535)] = 6379
    redis_db: Annotated[int, Field(ge=0, le=MAX_DATABASE)] = 0
    redis_password: Annotated[SecretStr | None, AfterValidator(_check_password)] = None
    redis_key: Annotated[str, Field(min_length=1), AfterValidator(_check_utf8)] = "plume_log_list"
    batch_size: Count = 100
    batch_interval_seconds: Seconds = 2.0
    queue_max_size: Count = 10_000  # records
    retry_count: CountOrZero = 3  # attempts after the first
    max_connections: Count = 10
    temp_buffer_max_size: Count = (
        1000  # accepted for earlier users; the queue's bounds hold from the first record on
    )

    # Redis.
    redis_url: Annotated[SecretStr | None, AfterValidator(_check_url)] = None  # wins over host, port and db
    redis_username: Annotated[str | None, AfterValidator(_check_utf8)] = None
    redis_ssl_ca_file: ReadableFile = None
    redis_ssl_cert_file: ReadableFile = None
    redis_ssl_key_file: ReadableFile = None
    connect_timeout_seconds: Seconds = 5.0
    socket_timeout_seconds: Seconds = 5.0
    retry_backoff_base_seconds: Seconds = 0.5
    retry_backoff_max_seconds: Seconds = 30.0  # never less than the base
    health_check_interval_seconds: Seconds = 1.0
    redis_push_side: Literal["left", "right"] = "left"
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    lane_ttl_seconds: Count = 604_800

    # Records, and the memory that they take.
    queue_max_bytes: Annotated[int, Field(ge=1024, le=_BYTES_MAX)] = 64 * 2**20
    max_content_chars: Count = 65_536
    record_max_bytes: Annotated[int, Field(ge=1024, le=MAX_RECORD_BYTES)] = MAX_RECORD_BYTES
    server_name: str = Field(default_factory=local_address)
    extra_fields: ExtraFields = "all"
    level_map: LevelMap = LEVEL_MAP  # from this Loguru level number on: this name
    producer_field: str = "producer"  # "" leaves it out

    # The spool.
    spool_dir: Annotated[Path | None, AfterValidator(_make_absolute)] = (
        None  # None only where there is no home
    )
    spool_max_bytes: Annotated[int, Field(ge=1, le=_BYTES_MAX)] = 2**30
    spool_full_policy: Literal["drop_oldest", "drop_newest", "block"] = "drop_oldest"
    block_timeout_seconds: SecondsOrZero = 1.0
    replay_rate: CountOrZero = 0  # records a second, 0 is no limit
    close_timeout_seconds: SecondsOrZero = 5.0

    def __init__(self, **values: Unpack[SettingsKeywords]) -> None:
        """Read and check the settings.

        Args:
            values: single settings, which win over the environment. ``_env_file`` names another file than
                ``.env``, or with None no file at all.

        Raises:
            SettingsError: a setting can never work, or there is no setting of that name.
        """
        keywords = _under_new_names(values)
        for name in keywords:
            # Names with an underscore are pydantic-settings' own switches.
            if name not in type(self).model_fields and not name.startswith("_"):
                nearest = _nearest(name, _all_names())
                raise SettingsError(
                    f"{name} is not a setting" + (f"; the nearest is {nearest}." if nearest else ".")
                )
        try:
            super().__init__(**keywords)
        except ValidationError as error:
            raise SettingsError(" ".join(_sentences(error.errors(include_url=False)))) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"The .env file must be readable UTF-8 text ({error}).") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Called by pydantic-settings: brings variables under today's names and says which are unknown."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                source.env_vars = _our_variables(source.env_vars)
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @model_validator(mode="after")
    def _check_together(self) -> PlumelogSettings:
        if self.spool_dir is None:
            object.__setattr__(self, "spool_dir", default_spool_dir(self.app_name, self.env))
        if "retry_backoff_max_seconds" not in self.model_fields_set:
            # An application of the earlier library may ask for a longer first delay than today's longest.
            longest = max(self.retry_backoff_max_seconds, self.retry_backoff_base_seconds)
            object.__setattr__(self, "retry_backoff_max_seconds", longest)
        faults = [_sentence(name, predicate) for name, predicate in self._contradictions()]
        if faults:
            raise SettingsError(" ".join(faults))
        return self

    def _contradictions(self) -> Iterable[tuple[str, str]]:
        if self.retry_backoff_max_seconds < self.retry_backoff_base_seconds:
            yield (
                "retry_backoff_max_seconds",
                f"is {self.retry_backoff_max_seconds}, but must be at least retry_backoff_base_seconds "
                f"({self.retry_backoff_base_seconds})",
            )
        for name in ("queue_max_bytes", "spool_max_bytes"):
            if getattr(self, name) < self.record_max_bytes:
                yield (
                    name,
                    f"is {getattr(self, name)}, but must have room for one record: raise it, or lower "
                    f"record_max_bytes ({self.record_max_bytes})",
                )
        if (self.redis_ssl_cert_file is None) != (self.redis_ssl_key_file is None):
            given, missing = "redis_ssl_cert_file", "redis_ssl_key_file"
            if self.redis_ssl_cert_file is None:
                given, missing = missing, given
            yield missing, f"is missing, but {given} is set: a client certificate needs both"
        if not self.endpoint.tls:
            for name in ("redis_ssl_ca_file", "redis_ssl_cert_file", "redis_ssl_key_file"):
                if getattr(self, name) is not None:
                    yield (
                        name,
                        "is set, but the connection has no TLS: give a redis_url that begins with rediss://",
                    )

    @property
    def endpoint(self) -> Endpoint:
        """The Redis to connect to. What ``redis_url`` says wins; user and password may stand beside it."""
        username = self.redis_username
        password = None if self.redis_password is None else self.redis_password.get_secret_value()
        if self.redis_url is None:
            return Endpoint(
                self.redis_host, self.redis_port, db=self.redis_db, username=username, password=password
            )
        url = parse_redis_url(self.redis_url.get_secret_value())
        return replace(url, username=url.username or username, password=url.password or password)

    @property
    def destination(self) -> Destination:
        """The list that records go to, without a secret."""
        endpoint = self.endpoint
        return Destination(endpoint.server, endpoint.db, self.redis_key, self.redis_push_side)

    def with_changes(self, **changes: Unpack[SettingsKeywords]) -> PlumelogSettings:
        """These settings with single ones replaced, checked as a whole again.

        Raises:
            SettingsError: as at construction.
        """
        kept: dict[str, Any] = {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name not in _DERIVED or name in self.model_fields_set
        }
        values: dict[str, Any] = {"_env_file": None, **kept, **_under_new_names(changes)}
        return type(self)(**values)

    @property
    def retry_delay(self) -> float:
        """The earlier name of ``retry_backoff_base_seconds``."""
        return self.retry_backoff_base_seconds

    @property
    def socket_connect_timeout(self) -> float:
        """The earlier name of ``connect_timeout_seconds``."""
        return self.connect_timeout_seconds

    @property
    def socket_timeout(self) -> float:
        """The earlier name of ``socket_timeout_seconds``."""
        return self.socket_timeout_seconds


def _all_names() -> list[str]:
    return [*PlumelogSettings.model_fields, *OLD_NAMES]


def _under_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {OLD_NAMES[name]: value for name, value in values.items() if name in OLD_NAMES}
    return {**renamed, **{name: value for name, value in values.items() if name not in OLD_NAMES}}


def _our_variables(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Of one source's variables (names in lower case) those that are settings, under today's names.

    An empty one counts as not set, as ``${VAR:-}`` in compose files leaves it; only for ``producer_field`` is
    being empty a value.
    """
    prefix = PREFIX.lower()
    ours = {name[len(prefix) :]: value for name, value in variables.items() if name.startswith(prefix)}
    warn_unknown_variables(ours)
    filled = {
        name: value for name, value in ours.items() if value or (value == "" and name == "producer_field")
    }
    return {prefix + name: value for name, value in _under_new_names(filled).items()}


_warned: set[str] = set()


def warn_unknown_variables(names: Iterable[str]) -> None:
    """Say once in this process for each unknown variable that it has no effect, with the nearest known one.

    Args:
        names: variables without their prefix, in lower case. Values are not asked for: a mistyped
            ``PLUMELOG_REDIS_PASSWORT`` holds a password.
    """
    known = [*_all_names(), SWITCH[len(PREFIX) :].lower()]
    for name in names:
        if name not in known and name not in _warned:
            _warned.add(name)
            variable = PREFIX + name.upper()
            nearest = _nearest(name, known)
            cure = f"did you mean {PREFIX}{nearest.upper()}?" if nearest else "no setting has such a name."
            say(f"unknown variable {variable}", f"{variable} has no effect; {cure}")


def _nearest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1)), None)


def _sentences(errors: Iterable[ErrorDetails]) -> Iterable[str]:
    seen: set[str] = set()
    for error in errors:
        cause = error.get("ctx", {}).get("error")
        if not error["loc"]:
            yield str(cause or error["msg"])
            continue
        name = str(error["loc"][0])
        if name not in seen:  # a union reports each of its members
            seen.add(name)
            yield _sentence(name, str(cause) if isinstance(cause, SettingsError) else _predicate(name, error))


def _sentence(name: str, predicate: str) -> str:
    variables = PREFIX + name.upper()
    for old, new in OLD_NAMES.items():
        if new == name:
            variables += f", earlier {PREFIX}{old.upper()}"
    return f"{name} ({variables}) {predicate}."


def _predicate(name: str, error: ErrorDetails) -> str:
    found = "" if name in _SECRETS else f"is {_shown(error['input'])}, but "
    return f"{found}must be {_wanted(name)}"


def _wanted(name: str) -> str:
    """What the setting of this name accepts, in words."""
    if name in _WANTED:
        return _WANTED[name]
    field = PlumelogSettings.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(field.annotation))
    if field.annotation not in (int, float):
        return "a path" if Path in get_args(field.annotation) else "a text in UTF-8"
    words = ["a whole number" if field.annotation is int else "a number"]
    for attribute, word in (("ge", "from"), ("gt", "above"), ("le", "to")):
        for constraint in field.metadata:
            if hasattr(constraint, attribute):
                words.append(f"{word} {getattr(constraint, attribute):.0f}")
    return " ".join(words)


_WANTED = {
    "extra_fields": '"all", "none" or a list of names',
    "level_map": "a mapping of level numbers to names",
    "redis_key": "a text in UTF-8 that is not empty",
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
