"""The server: away, dead, forgetful, or refusing for each of the reasons that it has.

Where the server itself loses what it had acknowledged, that much must be reported, to the record.
"""

from __future__ import annotations

from typing import Any

from chaos.faults.server import (
    BusyWithScript,
    ConnectionsKilled,
    Evicting,
    FailingSnapshots,
    Frozen,
    LargeRefused,
    ListReplaced,
    NoConnectionLeft,
    NoScripts,
    PasswordRotated,
    Paused,
    Refusing,
    ScriptsForgotten,
    Slow,
    SmallestLimits,
)
from chaos.faults.server_life import FailedOver, Flushed, Killed, LongLoading, ReplicaPromoted
from chaos.scenario import Scenario

_FORGETFUL: dict[str, Any] = {"appendonly": "no"}
_VALKEY: dict[str, Any] = {"prefer": "valkey"}
_DEBUGGED: dict[str, Any] = {"extra_args": ("--enable-debug-command", "local")}
_SLOW_TO_LOAD: dict[str, Any] = {  # five milliseconds for each key
    "extra_args": ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
}
_NOWHERE = ("127.0.0.1", "1")
_PATIENT = {"RETRY_COUNT": "100"}
_LARGE: dict[str, Any] = {
    "content": "large now and then",
    "orders": {"threads": 2, "records_per_second": 15.0},
    "settings": {"MAX_CONTENT_CHARS": "1048576"},
}
_OOM = (("CONFIG", "SET", "maxmemory", "1"),), (("CONFIG", "SET", "maxmemory", "0"),)

_AWAY = [
    Scenario(
        "server/killed",
        "A server that is killed and has its data on the disk costs nothing but time.",
        Killed(),
        quick=True,
    ),
    Scenario(
        "server/killed-valkey",
        "The same holds for Valkey.",
        Killed(),
        server=_VALKEY,
        needs=("valkey",),
    ),
    Scenario(
        "server/crash-loop",
        "A server that dies again and again takes what it can in between, once.",
        Killed(times=4),
        seconds=3.0,
    ),
    Scenario(
        "server/frozen",
        "A request that is carried out long after it was given up is not doubled.",
        Frozen(),
        felt="known",
    ),
    Scenario(
        "server/long-loading",
        "While a server loads its data, records wait on the disk.",
        LongLoading(),
        server=_SLOW_TO_LOAD,
    ),
    Scenario("server/client-pause", "What was sent into a pause is carried out once.", Paused("ALL")),
    Scenario(
        "server/client-pause-write",
        "A server that answers questions and takes no writes counts as away.",
        Paused("WRITE"),
    ),
    Scenario("server/busy-script", "While somebody's script runs for ever, records wait.", BusyWithScript()),
    Scenario(
        "server/slow-commands",
        "A server that is slow, and within the time-out, delays records and changes nothing else.",
        Slow(0.25),
        server=_DEBUGGED,
        felt="nothing",
        in_order=True,
    ),
    Scenario(
        "server/client-kill-storm",
        "However often connections are closed, each record comes once.",
        ConnectionsKilled(),
        felt="failed",
        quick=True,
    ),
    Scenario(
        "server/max-clients",
        "Where others hold all connections, records wait for one.",
        NoConnectionLeft(),
    ),
]

_FORGETTING = [
    Scenario(
        "server/killed-without-data",
        "A server that comes back empty has lost what it had acknowledged: so many records are reported.",
        Killed(empty=True),
        server=_FORGETFUL,
        loss="reported",
        quick=True,
    ),
    Scenario(
        "server/blinked-without-data",
        "The same where it was away so shortly that nothing went to the disk.",
        Killed(empty=True),
        seconds=0.3,
        settings=_PATIENT,
        server=_FORGETFUL,
        felt="retried",
        loss="reported",
    ),
    Scenario(
        "server/crash-loop-without-data",
        "What is lost again and again is counted once.",
        Killed(times=4, empty=True),
        seconds=3.0,
        server=_FORGETFUL,
        loss="reported",
    ),
    Scenario(
        "server/wiped",
        "A server whose disk is lost is a new one: what it had acknowledged is reported.",
        Killed(empty=True),
        loss="reported",
    ),
    Scenario(
        "server/wiped-valkey",
        "The same holds for Valkey.",
        Killed(empty=True),
        server=_VALKEY,
        loss="reported",
        needs=("valkey",),
    ),
    Scenario(
        "server/flushed",
        "FLUSHALL closes no connection, and is noticed all the same; twice is not counted twice.",
        Flushed(times=2),
        felt="nothing",
        loss="reported",
    ),
    Scenario(
        "server/flushed-after-outage",
        "What was acknowledged before an outage and after it is reported when it is forgotten later.",
        Flushed(after_outage=True),
        loss="reported",
    ),
    Scenario(
        "server/evicted",
        "A server that gives everything up for want of memory: so many records are reported.",
        Evicting("allkeys-lru"),
        loss="reported",
    ),
    Scenario(
        "server/lanes-evicted",
        "A policy that takes only what expires takes no record, and nothing is doubled for it.",
        Evicting("volatile-ttl"),
    ),
    Scenario(
        "server/replica-promoted",
        "What only the old server had acknowledged is reported, to the record.",
        ReplicaPromoted(),
        felt="nothing",  # but for the loss: there is always one that answers
        loss="reported",
        quick=True,
    ),
    Scenario(
        "server/failed-over",
        "A planned failover loses nothing, though clients learn of it late.",
        FailedOver(),
    ),
]

_REFUSING = [
    Scenario("server/out-of-memory", "A full server is a server that is away.", Refusing("OOM", *_OOM)),
    Scenario(
        "server/out-of-memory-valkey",
        "The same holds for Valkey.",
        Refusing("OOM", *_OOM),
        server=_VALKEY,
        needs=("valkey",),
    ),
    Scenario(
        "server/read-only-replica",
        "A server that became a replica takes no records; when it leads again, they come.",
        Refusing("READONLY", (("REPLICAOF", *_NOWHERE),), (("REPLICAOF", "NO", "ONE"),)),
        quick=True,
    ),
    Scenario(
        "server/stale-replica",
        "A replica that does not even answer questions is a server that is away.",
        Refusing(
            "MASTERDOWN",
            (("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", *_NOWHERE)),
            (("REPLICAOF", "NO", "ONE"),),
        ),
    ),
    Scenario(
        "server/no-replicas",
        "A server that wants a replica for each write, and has none, is a server that is away.",
        Refusing(
            "NOREPLICAS",
            (("CONFIG", "SET", "min-replicas-to-write", "1"),),
            (("CONFIG", "SET", "min-replicas-to-write", "0"),),
        ),
    ),
    Scenario("server/failing-snapshots", "Where snapshots fail, records wait.", FailingSnapshots()),
    Scenario(
        "server/password-rotated",
        "Where the password is refused, records wait until somebody acts, and it is told to nobody.",
        PasswordRotated(),
        felt="refused",
    ),
    Scenario(
        "server/no-scripts",
        "Where scripts are forbidden from the start, records are pushed plainly, and it is said.",
        NoScripts(),
        felt="nothing",
        starts_program=False,
    ),
    Scenario(
        "server/no-scripts-frozen",
        "Without scripts a repeated push may double records, and it is said how many at most.",
        NoScripts(frozen=True),
        felt="failed",
        starts_program=False,
        doubles="reported",
    ),
    Scenario(
        "server/scripts-forbidden",
        "Where scripts are forbidden in mid-run, nothing is pushed plainly that a script may have pushed.",
        Refusing(
            "NOPERM",
            (("ACL", "SETUSER", "default", "-evalsha", "-eval"),),
            (("ACL", "SETUSER", "default", "+evalsha", "+eval"),),
        ),
        felt="refused",
    ),
    Scenario(
        "server/push-forbidden",
        "Where LPUSH alone is forbidden, the script leaves nothing half done.",
        Refusing(
            "ERR",  # so Redis says where a script meets what is forbidden
            (("ACL", "SETUSER", "default", "-lpush"),),
            (("ACL", "SETUSER", "default", "+lpush"),),
        ),
        felt="refused",
        quick=True,
    ),
    Scenario(
        "server/wrong-type",
        "Where somebody's string stands in the list's place, records wait until it is gone.",
        ListReplaced(),
        felt="refused",
    ),
    Scenario(
        "server/scripts-forgotten",
        "A server that forgets the script is told again, and nobody notices.",
        ScriptsForgotten(),
        felt="nothing",
        in_order=True,
    ),
    Scenario(
        "server/smallest-limits",
        "The largest record passes the smallest limits that a server can have.",
        SmallestLimits(),
        seconds=2.5,
        felt="nothing",
        **_LARGE,
    ),
    Scenario(
        "server/large-refused",
        "A record that is never taken is put aside, all others pass; it is delivered when it can be.",
        LargeRefused(400_000),
        seconds=2.5,
        felt="retried",
        **_LARGE,
    ),
]

SCENARIOS = [*_AWAY, *_FORGETTING, *_REFUSING]
