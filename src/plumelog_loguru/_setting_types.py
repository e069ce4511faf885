"""What a single setting may be, and the two defaults that are asked of the machine.

Each check is a plain function that ends in a predicate, "is 5, but must be …", before which the settings put
the name and the variable. None asks the network or a name server.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from ._destination import is_host, parse_redis_url
from ._errors import SettingsError

MAX_RECORD_BYTES = 2**20
LEVEL_MAP = {0: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR"}

_COUNT_MAX = 2**31 - 1
_BYTES_MAX = 2**62
_SECONDS_MAX = 1e6  # eleven days: more overflows the C time-outs of some platforms
_AGE_SECONDS_MAX = 1e10  # three centuries; no clock is set by it


def _parse_level_map(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise SettingsError(f"is {shown(value)}, but must be JSON such as {json.dumps(LEVEL_MAP)}") from None


def _check_level_map(value: Mapping[int, str]) -> Mapping[int, str]:
    if 0 not in value or min(value) < 0 or not all(value.values()):
        raise SettingsError(
            f"is {shown(value)}, but must map level numbers to names, each from its number on, "
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
        raise SettingsError(f'is {shown(value)}, but must be "all", "none" or a list of names') from None


def _check_host(value: str) -> str:
    if is_host(value):
        return value
    found = "" if "@" in value or "/" in value else f"is {shown(value)}, but "  # a URL may carry a password
    raise SettingsError(
        f"{found}must be a bare host name or address: a port belongs in redis_port, a URL in redis_url"
    )


def _check_utf8(value: str | None) -> str | None:
    try:
        (value or "").encode()
    except UnicodeEncodeError:  # bytes of another encoding in the environment become lone surrogates
        raise SettingsError(f"is {shown(value)}, but must be a text in UTF-8") from None
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
        raise SettingsError(f"is {shown(str(value))}, but must be a path, without NUL")
    try:
        return None if value is None else Path(os.path.abspath(value.expanduser()))
    except (OSError, RuntimeError) as error:  # no current directory, no home
        raise SettingsError(f"is {shown(str(value))}, but must be an absolute path here ({error})") from None


def _check_readable(value: Path | None) -> Path | None:
    # Asked, not opened: opening a named pipe would wait.
    if value is None or (os.path.isfile(value) and os.access(value, os.R_OK)):
        return value
    raise SettingsError(f"is {shown(str(value))}, but must be a file that can be read")


Host = Annotated[str, AfterValidator(_check_host)]
RedisKey = Annotated[str, Field(min_length=1), AfterValidator(_check_utf8)]
UserName = Annotated[str | None, AfterValidator(_check_utf8)]
Password = Annotated[SecretStr | None, AfterValidator(_check_password)]
RedisUrl = Annotated[SecretStr | None, AfterValidator(_check_url)]
Count = Annotated[int, Field(ge=1, le=_COUNT_MAX)]
CountOrZero = Annotated[int, Field(ge=0, le=_COUNT_MAX)]
QueueBytes = Annotated[int, Field(ge=1024, le=_BYTES_MAX)]
JournalBytes = Annotated[int, Field(ge=2**16, le=2**30)]
RecordBytes = Annotated[int, Field(ge=1024, le=MAX_RECORD_BYTES)]
Bytes = Annotated[int, Field(ge=1, le=_BYTES_MAX)]
BytesOrZero = Annotated[int, Field(ge=0, le=_BYTES_MAX)]
Seconds = Annotated[float, Field(gt=0, le=_SECONDS_MAX, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False)]
AgeSeconds = Annotated[float, Field(ge=0, le=_AGE_SECONDS_MAX, allow_inf_nan=False)]
AbsolutePath = Annotated[Path | None, AfterValidator(_make_absolute)]
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


def shown(value: object) -> str:
    """A value as a complaint repeats it, at a length that leaves it readable."""
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
