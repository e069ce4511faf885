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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args, get_origin

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ._destination import MAX_DATABASE, Destination, Endpoint, parse_redis_url
from ._diagnostics import SWITCH, say
from ._errors import SettingsError
from ._setting_types import (
    LEVEL_MAP,
    MAX_RECORD_BYTES,
    AbsolutePath,
    AgeSeconds,
    Bytes,
    BytesOrZero,
    Count,
    CountOrZero,
    ExtraFields,
    Host,
    JournalBytes,
    LevelMap,
    Password,
    QueueBytes,
    ReadableFile,
    RecordBytes,
    RedisKey,
    RedisUrl,
    Seconds,
    SecondsOrZero,
    UserName,
    default_spool_dir,
    local_address,
    shown,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from typing_extensions import Unpack

PREFIX = "PLUMELOG_"

# Names that the earlier library gave to settings, each still a keyword, a variable and an attribute.
OLD_NAMES = {
    "retry_delay": "retry_backoff_base_seconds",
    "socket_connect_timeout": "connect_timeout_seconds",
    "socket_timeout": "socket_timeout_seconds",
}
_SECRETS = frozenset({"redis_password", "redis_url"})
_DERIVED = frozenset({"retry_backoff_max_seconds", "spool_dir"})  # whose default follows from other settings


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
    durability: Literal["journal", "memory"]
    queue_max_bytes: int
    journal_max_bytes: int
    max_content_chars: int
    record_max_bytes: int
    server_name: str
    extra_fields: Literal["all", "none"] | Sequence[str]
    level_map: Mapping[int, str]
    producer_field: str
    spool_dir: str | os.PathLike[str] | None
    spool_max_bytes: int
    spool_min_free_bytes: int
    spool_max_age_seconds: float
    spool_full_policy: Literal["drop_oldest", "drop_newest", "drop_lowest_level", "block"]
    spool_fsync: bool
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
    app_name: str = Field(default="default", description="name of the application")
    env: str = Field(default="dev", description="environment it runs in")
    redis_host: Host = Field(default="localhost", description="host name or address of the server")
    redis_port: Annotated[int, Field(ge=1, le=65535)] = Field(default=6379, description="its port")
    redis_db: Annotated[int, Field(ge=0, le=MAX_DATABASE)] = Field(
        default=0, description="number of its database"
    )
    redis_password: Password = Field(default=None, description="its password")
    redis_key: RedisKey = Field(default="plume_log_list", description="the list that Plumelog reads")
    batch_size: Count = Field(default=100, description="a batch goes when this many records wait")
    batch_interval_seconds: Seconds = Field(default=2.0, description="or when they have waited this long")
    queue_max_size: Count = Field(
        default=10_000, description="records in memory; above, the oldest go to the spool"
    )
    retry_count: CountOrZero = Field(
        default=3, description="attempts after the first, before a batch is spooled"
    )
    max_connections: Count = Field(default=10, description="the most connections")
    temp_buffer_max_size: Count = Field(
        default=1000, description="accepted for earlier users, without effect"
    )

    # Redis.
    redis_url: RedisUrl = Field(
        default=None, description="redis://, rediss:// (TLS) or unix://; wins over host, port and database"
    )
    redis_username: UserName = Field(default=None, description="ACL user")
    redis_ssl_ca_file: ReadableFile = Field(
        default=None, description="certificates that are trusted, for rediss://"
    )
    redis_ssl_cert_file: ReadableFile = Field(
        default=None, description="certificate of this client, for rediss://"
    )
    redis_ssl_key_file: ReadableFile = Field(default=None, description="its key")
    connect_timeout_seconds: Seconds = Field(default=5.0, description="the longest wait for a connection")
    socket_timeout_seconds: Seconds = Field(default=5.0, description="the longest wait for an answer")
    retry_backoff_base_seconds: Seconds = Field(
        default=0.5, description="the first pause is at most this; exponential, full jitter"
    )
    retry_backoff_max_seconds: Seconds = Field(
        default=30.0, description="the longest pause; never less than the base"
    )
    health_check_interval_seconds: Seconds = Field(
        default=1.0, description="how often Redis is tried while it is away"
    )
    redis_push_side: Literal["left", "right"] = Field(
        default="left", description="left is LPUSH, right is RPUSH"
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once", description="at_least_once pushes plainly, for servers without scripts"
    )
    lane_ttl_seconds: Count = Field(
        default=604_800, description="how long Redis remembers what it has, after the last push"
    )

    # Records, and the memory that they take.
    durability: Literal["journal", "memory"] = Field(
        default="journal", description="with journal a record survives kill -9 once its call returned"
    )
    queue_max_bytes: QueueBytes = Field(default=64 * 2**20, description="bytes in memory")
    journal_max_bytes: JournalBytes = Field(
        default=16 * 2**20, description="bytes of the journal of each sink in each process"
    )
    max_content_chars: Count = Field(default=65_536, description="longer content is cut, with a mark")
    record_max_bytes: RecordBytes = Field(
        default=MAX_RECORD_BYTES, description="of a larger record the longest values are cut"
    )
    server_name: str = Field(
        default_factory=local_address,
        description="what stands in serverName; the host's address if it is not set",
    )
    extra_fields: ExtraFields = Field(default="all", description="which extras are sent: all, none, or names")
    level_map: LevelMap = Field(default=LEVEL_MAP, description="from this Loguru level number on, this name")
    producer_field: str = Field(
        default="producer", description="the field that says who numbered the record; empty leaves it out"
    )

    # The spool.
    spool_dir: AbsolutePath = Field(
        default=None, description="the spool directory; below the user's state directory if it is not set"
    )
    spool_max_bytes: Bytes = Field(default=2**30, description="bytes of all files in the spool directory")
    spool_min_free_bytes: BytesOrZero = Field(
        default=64 * 2**20, description="free space that is always left on the disk"
    )
    spool_max_age_seconds: AgeSeconds = Field(
        default=0.0, description="batches that were spooled longer ago are dropped; 0 keeps them for ever"
    )
    spool_full_policy: Literal["drop_oldest", "drop_newest", "drop_lowest_level", "block"] = Field(
        default="drop_oldest", description="what goes when the spool is full"
    )
    spool_fsync: bool = Field(
        default=False, description="a batch is spooled only when it is on the disk itself"
    )
    block_timeout_seconds: SecondsOrZero = Field(
        default=1.0, description="the longest wait of a call under the policy block"
    )
    replay_rate: CountOrZero = Field(default=0, description="records a second from the spool; 0 is no limit")
    close_timeout_seconds: SecondsOrZero = Field(default=5.0, description="the longest that closing takes")

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
    for name in names:
        if name not in _known_variables() and name not in _warned:
            _warned.add(name)
            variable = PREFIX + name.upper()
            nearest = nearest_variable(variable)
            cure = f"did you mean {nearest}?" if nearest else "no setting has such a name."
            say(f"unknown variable {variable}", f"{variable} has no effect; {cure}")


def unknown_variables() -> list[str]:
    """The unknown variables that were met in this process."""
    return [PREFIX + name.upper() for name in sorted(_warned)]


def nearest_variable(variable: str) -> str | None:
    """The variable that was meant, perhaps, by one that is unknown."""
    nearest = _nearest(variable[len(PREFIX) :], _known_variables())
    return None if nearest is None else PREFIX + nearest.upper()


def _known_variables() -> list[str]:
    return [*_all_names(), SWITCH[len(PREFIX) :].lower()]


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
    found = "" if name in _SECRETS else f"is {shown(error['input'])}, but "
    return f"{found}must be {_wanted(name)}"


def _wanted(name: str) -> str:
    """What the setting of this name accepts, in words."""
    if name in _WANTED:
        return _WANTED[name]
    field = PlumelogSettings.model_fields[name]
    if get_origin(field.annotation) is Literal:
        return " or ".join(json.dumps(choice) for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "true or false"
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
