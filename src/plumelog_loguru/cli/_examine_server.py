"""The doctor's look at Redis: whether it takes records, and whether it keeps them.

Nothing is written but one lane of the doctor's own, which is gone after a minute. What the user may not ask
is unknown, and no fault: an application needs fewer rights than a doctor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from shlex import quote

from .._clock import SYSTEM_CLOCK
from .._delivery import AsyncRedisClient, Failed, Failure, lane_key
from .._settings import PlumelogSettings
from ._command import counted
from ._diagnosis import Diagnosis, in_bytes

_OLDEST_MAJOR = 5
_NEARLY_FULL = 0.9
_CLOCK_SECONDS = 1.0  # more is seen in the order of records; and those of the future are hidden

_CURES = {
    "CONNECTION": "see that it runs, and that PLUMELOG_REDIS_URL (or PLUMELOG_REDIS_HOST and _PORT) is right",
    "TIMEOUT": "see that no firewall is between, and that the server is not overloaded",
    "NOAUTH": "set PLUMELOG_REDIS_PASSWORD, and PLUMELOG_REDIS_USERNAME where there are users",
    "WRONGPASS": "set PLUMELOG_REDIS_PASSWORD, and PLUMELOG_REDIS_USERNAME where there are users",
    "CERTIFICATE": "set PLUMELOG_REDIS_SSL_CA_FILE to the authority that signed the server's certificate",
    "BAD_DATABASE": "set PLUMELOG_REDIS_DB, or the number in PLUMELOG_REDIS_URL, to one that the server has",
    "READONLY": "name the primary, to which writes go",
    "OOM": "raise maxmemory, or see that somebody reads the list",
    "MISCONF": "see in the server's log why it cannot write its snapshot; mostly its disk is full",
    "NOREPLICAS": "see why the server has fewer replicas than its min-replicas-to-write",
    "MAXCLIENTS": "raise maxclients, or find out who has so many connections",
    "LOADING": "wait until the server has read its data",
    "WRONGTYPE": "set PLUMELOG_REDIS_KEY to a key that is a list, or remove what is there",
}


async def examine_server(settings: PlumelogSettings) -> AsyncIterator[Diagnosis]:
    """All that can be said of it; where it cannot be reached, that alone."""
    client = AsyncRedisClient(settings)
    try:
        failed = await client.connect()
        if failed is not None:
            yield _failed("server", f"{settings.destination.server} cannot be reached", failed.failure)
            return
        answer = await client.ask("INFO")
        if isinstance(answer, Failed) and answer.failure.code in ("TIMEOUT", "CONNECTION"):
            # All other questions would wait as long.
            yield _failed("server", f"{settings.destination.server} does not answer", answer.failure)
            return
        info = _info(answer)
        for diagnosis in _of_info(settings, info):
            yield diagnosis
        yield await _persistence(client, info)
        yield await _key(client, settings)
        for diagnosis in await _rights(client, settings):
            yield diagnosis
        yield await _clock(client)
        yield await _replicas(client, info)
    finally:
        await client.close()


def _info(reply: object) -> dict[str, str] | str:
    """The facts, or why there are none."""
    if isinstance(reply, Failed):
        return _reason(reply.failure)
    lines = reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else []
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _of_info(settings: PlumelogSettings, info: dict[str, str] | str) -> Iterator[Diagnosis]:
    yield Diagnosis("ok", "server", f"{settings.destination.server} answers")
    if isinstance(info, str):
        for subject in ("version", "role", "memory"):
            yield _forbidden(subject, info)
        return
    yield _version(info)
    yield _role(info)
    yield _memory(info)


def _version(info: Mapping[str, str]) -> Diagnosis:
    valkey = info.get("valkey_version")
    version = valkey or info.get("redis_version", "")
    name = f"{'Valkey' if valkey else 'Redis'} {version}"
    major = version.partition(".")[0]
    if not major.isdecimal():
        return Diagnosis("unknown", "version", "the server does not say")
    if int(major) < _OLDEST_MAJOR:
        return Diagnosis("warn", "version", f"{name} is older than any that this was tried with", "update it")
    return Diagnosis("ok", "version", name)


def _role(info: Mapping[str, str]) -> Diagnosis:
    role = info.get("role")
    if role == "slave":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return Diagnosis("fail", "role", "a replica, which takes no writes", f"name its primary, {primary}")
    if role is None:
        return Diagnosis("unknown", "role", "the server does not say")
    return Diagnosis("ok", "role", "primary" if role == "master" else role)


def _memory(info: Mapping[str, str]) -> Diagnosis:
    policy = info.get("maxmemory_policy")
    limit, used = _number(info.get("maxmemory")), _number(info.get("used_memory"))
    if policy is None or limit is None or used is None:
        return Diagnosis("unknown", "memory", "the server does not say what it does when it is full")
    most = f"of {in_bytes(limit)}" if limit else "without a limit"
    says = f"{in_bytes(used)} used {most}, maxmemory-policy {policy}"
    cure = "set maxmemory-policy to noeviction"
    if policy.startswith("allkeys") and limit:
        return Diagnosis(
            "fail", "memory", f"{says}: when it is full, the list is deleted, and nobody told", cure
        )
    if policy != "noeviction":
        what = "the list" if policy.startswith("allkeys") else "what tells a repeated batch"
        when = "when it is full" if limit else "once maxmemory is set"
        return Diagnosis("warn", "memory", f"{says}: {when}, {what} may be deleted", cure)
    if limit and used >= limit * _NEARLY_FULL:
        return Diagnosis(
            "warn",
            "memory",
            f"{says}: it is nearly full, and then takes nothing",
            "raise maxmemory, or see that somebody reads the list",
        )
    return Diagnosis("ok", "memory", says)


async def _persistence(client: AsyncRedisClient, info: Mapping[str, str] | str) -> Diagnosis:
    if isinstance(info, str):
        return _forbidden("persistence", info)
    aof, cure = info.get("aof_enabled"), "set appendonly to yes"
    if aof is None:
        return Diagnosis("unknown", "persistence", "the server does not say")
    if aof == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Diagnosis(
                "fail", "persistence", "the last write to the append-only file failed", "see the server's log"
            )
        match await client.ask("CONFIG", "GET", "appendfsync"):
            case [_, b"no"]:
                return Diagnosis(
                    "warn",
                    "persistence",
                    "appendonly, appendfsync no: a power cut loses what the system had not yet written",
                    "set appendfsync to everysec",
                )
            case [_, b"always"]:
                return Diagnosis("ok", "persistence", "appendonly, appendfsync always")
            case [_, b"everysec"]:
                return Diagnosis(
                    "ok", "persistence", "appendonly, appendfsync everysec: a power cut loses a second"
                )
        return Diagnosis("ok", "persistence", "appendonly")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Diagnosis("fail", "persistence", "the last snapshot failed", "see the server's log")
    match await client.ask("CONFIG", "GET", "save"):
        case [_, b""]:
            says = "none: what is in the list is lost when the server ends"
        case [_, bytes()]:
            says = "snapshots alone: what came after the last one is lost when the server crashes"
        case _:
            says = "no append-only file; whether there are snapshots may not be asked"
    return Diagnosis("warn", "persistence", says, cure)


async def _key(client: AsyncRedisClient, settings: PlumelogSettings) -> Diagnosis:
    key = settings.redis_key
    kind = await client.ask("TYPE", key)
    if isinstance(kind, Failed):
        return _forbidden("list", _reason(kind.failure))
    if kind not in (b"none", b"list"):
        what = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else "no list"
        return Diagnosis("fail", "list", f"the key {key} holds a {what}", _CURES["WRONGTYPE"])
    length = await client.ask("LLEN", key)
    if isinstance(length, Failed):
        return _forbidden("list", _reason(length.failure))
    number = length if isinstance(length, int) else 0
    return Diagnosis("ok", "list", f"{key} holds {counted(number, 'value')}")


async def _rights(client: AsyncRedisClient, settings: PlumelogSettings) -> list[Diagnosis]:
    key = settings.redis_key
    diagnoses = []
    client.scripted = settings.delivery == "exactly_once"
    outcome = await client.health_check()
    if not isinstance(outcome, Failed):
        how = "a push by script was tried" if client.scripted else "none are needed, as set"
        diagnoses.append(Diagnosis("ok", "scripts", how))
    elif outcome.failure.scripting_unavailable:
        diagnoses.append(
            Diagnosis(
                "warn",
                "scripts",
                f"not allowed ({_reason(outcome.failure)}): records are pushed plainly, and may be doubled",
                _grant(key, "+eval +evalsha"),
            )
        )
    else:
        failed = _failed("scripts", "a push by script fails", outcome.failure)
        cure = (
            _grant(key, "+eval +evalsha +get +set +llen") if outcome.failure.code == "NOPERM" else failed.cure
        )
        diagnoses.append(Diagnosis("fail", "scripts", failed.what, cure))
    push = "LPUSH" if settings.redis_push_side == "left" else "RPUSH"
    commands: dict[str, tuple[str | int, ...]] = {push: ("x",)}
    if client.scripted:
        commands["LTRIM"] = (0, -1)
    for command, words in commands.items():
        refused = await client.would_take(command, key, *words)
        if refused is None:
            continue
        if refused.failure.code == "NoTransactions":
            return [*diagnoses, _forbidden("writing", "it cannot be tried without being done")]
        failed = _failed("writing", f"{command} {key} is refused", refused.failure)
        cure = _grant(key, f"+{push.lower()} +ltrim") if refused.failure.code == "NOPERM" else failed.cure
        return [*diagnoses, Diagnosis("fail", "writing", failed.what, cure)]
    return [
        *diagnoses,
        Diagnosis("ok", "writing", f"{' and '.join(commands)} would be taken; neither was done"),
    ]


async def _clock(client: AsyncRedisClient) -> Diagnosis:
    before = SYSTEM_CLOCK.epoch_ms()
    reply = await client.ask("TIME")
    after = SYSTEM_CLOCK.epoch_ms()
    if isinstance(reply, Failed):
        return _forbidden("clock", _reason(reply.failure))
    try:
        seconds, micros = (int(text) for text in reply)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return Diagnosis("unknown", "clock", "the server does not say")
    ahead = seconds + micros / 1e6 - (before + after) / 2000
    if abs(ahead) > _CLOCK_SECONDS + (after - before) / 2000:
        return Diagnosis(
            "warn",
            "clock",
            f"the server's is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: "
            "records of several machines are out of order, and those of the future are not shown",
            "see that both are set by NTP",
        )
    return Diagnosis("ok", "clock", "the server's and this machine's agree")


async def _replicas(client: AsyncRedisClient, info: Mapping[str, str] | str) -> Diagnosis:
    if isinstance(info, str):
        return _forbidden("replicas", info)
    replicas = _number(info.get("connected_slaves")) or 0
    acknowledged = await client.ask("WAIT", 0, 1)
    wait = "WAIT is allowed" if isinstance(acknowledged, int) else "WAIT is not allowed"
    if not replicas:
        return Diagnosis("ok", "replicas", f"none; {wait}")
    return Diagnosis(
        "ok",
        "replicas",
        f"{replicas}; {wait}; a fail-over loses what the new primary had not yet received",
    )


def _failed(subject: str, what: str, failure: Failure) -> Diagnosis:
    cure = _CURES.get(failure.code)
    return Diagnosis("fail", subject, f"{what} ({_reason(failure)})", cure)


def _forbidden(subject: str, reason: str) -> Diagnosis:
    return Diagnosis("unknown", subject, reason)


def _reason(failure: Failure) -> str:
    return failure.detail or failure.code


def _grant(key: str, commands: str) -> str:
    keys = " ".join(quote(f"~{name}") for name in (key, lane_key(key, "*")))
    return f"let the user: ACL SETUSER <name> {keys} {commands}"


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
