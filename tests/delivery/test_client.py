"""The client against real servers, real sockets, and a proxy that betrays it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lab.proxy import FaultProxy
from lab.servers import HOST, RedisServer, free_port
from lab.tls import TlsProxy
from plumelog_loguru._batch import Batch, BatchId
from plumelog_loguru._delivery._client import AsyncRedisClient
from plumelog_loguru._delivery._lane_script import LANE_SCRIPT_SHA1, lane_key
from plumelog_loguru._delivery._outcomes import (
    AlreadyApplied,
    Applied,
    Failed,
    Failure,
    FailureKind,
    Fenced,
    Healthy,
)
from plumelog_loguru._settings import PlumelogSettings

T = TypeVar("T")
LIST = "plume_log_list"
LANE = "1" * 32


def client_for(server: RedisServer | None = None, **changes: Any) -> AsyncRedisClient:
    """A client of a server, with time-outs that a test can wait for."""
    target: dict[str, Any] = {} if server is None else {"redis_url": server.url}
    quick = {"connect_timeout_seconds": 0.5, "socket_timeout_seconds": 0.5, "_env_file": None}
    return AsyncRedisClient(PlumelogSettings(**(target | quick | changes)))


def batch(seq: int, *values: bytes) -> Batch:
    return Batch(BatchId(LANE, seq), values or (b"v%d" % seq,))


def play(client: AsyncRedisClient, scene: Callable[[AsyncRedisClient], Awaitable[T]]) -> T:
    """Run a scene in a loop of its own, which ends with nothing left open."""

    async def whole() -> T:
        try:
            return await scene(client)
        finally:
            await client.close()

    return asyncio.run(whole())


def failure_of(outcome: object) -> Failure:
    assert isinstance(outcome, Failed), outcome
    return outcome.failure


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    """A healthy proxy in front of each flavour."""
    with FaultProxy(server.port) as fault_proxy:
        yield fault_proxy


def through(proxy: FaultProxy, **changes: Any) -> AsyncRedisClient:
    return client_for(redis_url=f"redis://{HOST}:{proxy.port}/0", **changes)


# What it does when all is well


def test_a_batch_arrives_once(server: RedisServer) -> None:
    """Sent twice it is applied once, and the answers tell which was which."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        return [await client.send_batch(batch(seq)) for seq in (1, 1, 2)]

    assert play(client_for(server), scene) == [Applied(0, 1), AlreadyApplied(1), Applied(1, 2)]
    assert server.values(LIST) == [b"v2", b"v1"]


@pytest.mark.parametrize(("side", "values"), [("left", [b"b", b"a"]), ("right", [b"a", b"b"])])
@pytest.mark.parametrize("plain", [False, True])
def test_the_side_is_the_settings(server: RedisServer, side: str, values: list[bytes], plain: bool) -> None:
    """Both kinds of push leave the order of LPUSH or RPUSH."""

    async def scene(client: AsyncRedisClient) -> object:
        return await (client.push_plain([b"a", b"b"]) if plain else client.send_batch(batch(1, b"a", b"b")))

    assert play(client_for(server, redis_push_side=side), scene) == Applied(0, 2)
    assert server.values(LIST) == values


def test_a_fence_ends_the_doubt(server: RedisServer) -> None:
    """A fence says whether the batch is there; what is not, stays out."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        return [
            await client.send_batch(batch(1)),
            await client.fence(BatchId(LANE, 1)),
            await client.fence(BatchId(LANE, 2)),
            await client.send_batch(batch(2)),
        ]

    assert play(client_for(server), scene) == [Applied(0, 1), AlreadyApplied(1), Fenced(1), Fenced(2)]


def test_the_lane_lives_as_long_as_set(server: RedisServer) -> None:
    """Redis forgets a lane after lane_ttl_seconds."""
    play(client_for(server, lane_ttl_seconds=1000), lambda client: client.send_batch(batch(1)))
    assert 990_000 < server.cli("PTTL", lane_key(LIST, LANE)) <= 1_000_000


def test_a_script_that_the_server_forgot_is_sent_again(server: RedisServer) -> None:
    """After SCRIPT FLUSH, and on a server that is new to it, the push works in one call."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        first = await client.send_batch(batch(1))
        server.cli("SCRIPT", "FLUSH")
        return [first, await client.send_batch(batch(2))]

    assert play(client_for(server), scene) == [Applied(0, 1), Applied(1, 2)]
    assert server.cli("SCRIPT", "EXISTS", LANE_SCRIPT_SHA1) == [1]


def test_a_lane_tells_its_last_number(server: RedisServer) -> None:
    """What Redis knows of a lane can be asked for: a number, beside which fences may stand, or nothing."""
    client = client_for(server)

    async def scene(client: AsyncRedisClient) -> list[int | Failed]:
        unknown = await client.last_of(LANE)
        await client.send_batch(batch(1))
        await client.fence(BatchId(LANE, 2))
        return [unknown, await client.last_of(LANE)]

    assert play(client, scene) == [0, 2]


def test_what_is_no_lane_has_no_number(server: RedisServer) -> None:
    """Something else under a lane's name is a failure, and no number."""
    server.cli("SET", lane_key(LIST, LANE), "seven")
    outcome = play(client_for(server), lambda client: client.last_of(LANE))
    assert "not the value of a lane" in failure_of(outcome).detail


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_the_health_check_leaves_the_list_alone(server: RedisServer, delivery: str) -> None:
    """It answers the list's length, and adds nothing to an empty list either."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        empty = await client.health_check()
        server.cli("RPUSH", LIST, "a", "b")
        return [empty, await client.health_check()]

    assert play(client_for(server, delivery=delivery), scene) == [Healthy(0), Healthy(2)]
    assert server.values(LIST) == [b"a", b"b"]


def test_connecting_says_nothing_to_the_server(server: RedisServer) -> None:
    """No HELLO, no CLIENT SETINFO: a proxy may not know them, a user may not have the right."""
    server.cli("CONFIG", "RESETSTAT")
    assert play(client_for(server), lambda client: client.connect()) is None
    statistics = server.info("commandstats")
    assert not [name for name in statistics if "client" in name or "hello" in name]


def test_as_many_calls_as_one_likes_share_the_connections(proxy: FaultProxy) -> None:
    """Calls beyond max_connections wait for their turn, and connections are used again."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        return await asyncio.gather(*(client.push_plain([b"v"]) for _ in range(50)))

    outcomes = play(through(proxy, max_connections=2), scene)
    assert sorted(outcome.list_length for outcome in outcomes if isinstance(outcome, Applied)) == list(
        range(1, 51)
    )
    assert proxy.connections == 2


# What it does when the network fails


def test_a_server_that_is_not_there_leaves_no_doubt() -> None:
    """A refused connection is transient, and the batch was certainly not applied."""
    client = client_for(redis_url=f"redis://{HOST}:{free_port()}/0")

    async def scene(client: AsyncRedisClient) -> list[Failure]:
        calls = (
            client.connect(),
            client.send_batch(batch(1)),
            client.push_plain([b"v"]),
            client.health_check(),
        )
        return [failure_of(await call) for call in calls]

    for failure in play(client, scene):
        assert (failure.kind, failure.code, failure.in_doubt) == (FailureKind.TRANSIENT, "CONNECTION", False)


def test_a_lost_reply_leaves_doubt_and_the_repetition_ends_it(proxy: FaultProxy, server: RedisServer) -> None:
    """The push was done and nobody knows: the attempt is one, and in doubt; the next finds it applied."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        await client.send_batch(batch(1))
        fault = proxy.drop_replies(times=1)
        lost = failure_of(await client.send_batch(batch(2)))
        assert fault.count == 1
        return [(lost.kind, lost.in_doubt), await client.send_batch(batch(2))]

    assert play(through(proxy), scene) == [(FailureKind.TRANSIENT, True), AlreadyApplied(2)]
    assert server.values(LIST) == [b"v2", b"v1"]


def test_a_reply_cut_in_half_leaves_doubt(proxy: FaultProxy, server: RedisServer) -> None:
    """Half an answer is none."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        await client.send_batch(batch(1))
        proxy.cut_reply_after(7, times=1)
        cut = failure_of(await client.send_batch(batch(2)))
        return [cut.in_doubt, await client.send_batch(batch(2))]

    assert play(through(proxy), scene) == [True, AlreadyApplied(2)]
    assert server.values(LIST) == [b"v2", b"v1"]


def test_a_request_that_arrives_after_its_retry_changes_nothing(
    proxy: FaultProxy, server: RedisServer
) -> None:
    """The first request is held, times out, is repeated with success, and let go after a later batch."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        await client.send_batch(batch(1))
        held = proxy.hold_requests(times=1)
        late = failure_of(await client.send_batch(batch(2)))
        outcomes = [late.code, await client.send_batch(batch(2)), await client.send_batch(batch(3))]
        assert held.release() > 0
        return [*outcomes, await client.send_batch(batch(4))]

    assert play(through(proxy), scene) == ["TIMEOUT", Applied(1, 2), Applied(2, 3), Applied(3, 4)]
    assert server.values(LIST) == [b"v4", b"v3", b"v2", b"v1"]


def test_a_black_hole_ends_with_the_time_out(proxy: FaultProxy) -> None:
    """Nothing waits longer than the time-outs, and the next attempt takes a new connection."""

    async def scene(client: AsyncRedisClient) -> tuple[Failure, float, object]:
        await client.connect()
        proxy.black_hole()
        loop = asyncio.get_running_loop()
        began = loop.time()
        lost = failure_of(await client.send_batch(batch(1)))
        seconds = loop.time() - began
        proxy.heal()
        return lost, seconds, await client.send_batch(batch(1))

    lost, seconds, after = play(through(proxy), scene)
    assert (lost.code, lost.in_doubt) == ("TIMEOUT", True)
    assert 0.4 < seconds < 3
    assert after == Applied(0, 1)


def test_a_connection_that_the_server_closed_is_not_used_again(server: RedisServer) -> None:
    """An idle connection that the server has closed is noticed before anything is sent on it."""

    async def scene(client: AsyncRedisClient) -> object:
        await client.send_batch(batch(1))
        assert server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 1
        await asyncio.sleep(0.05)  # the loop must have seen the end of the connection; it gives no event
        return await client.send_batch(batch(2))

    assert play(client_for(server), scene) == Applied(1, 2)


def test_a_connection_that_was_reset_fails_once(proxy: FaultProxy) -> None:
    """A reset of an idle connection may cost one attempt, and no more."""

    async def scene(client: AsyncRedisClient) -> object:
        await client.send_batch(batch(1))
        assert proxy.reset_connections() == 1
        await client.send_batch(batch(2))
        return await client.send_batch(batch(2))

    assert play(through(proxy), scene) in (Applied(1, 2), AlreadyApplied(2))


def test_a_cancelled_call_leaves_the_client_usable(proxy: FaultProxy, server: RedisServer) -> None:
    """Cancelled at any moment: no reply is taken for that of another call, and nothing is lost or doubled."""

    async def scene(client: AsyncRedisClient) -> None:
        for seq in range(1, 101):
            task = asyncio.ensure_future(client.send_batch(batch(seq)))
            for _ in range(seq % 12):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            outcome = await client.send_batch(batch(seq))
            assert outcome in (Applied(seq - 1, seq), AlreadyApplied(seq)), (seq, outcome)

    play(through(proxy, max_connections=1), scene)
    assert server.values(LIST) == [b"v%d" % seq for seq in range(100, 0, -1)]


def test_a_killed_server_comes_back(spoilt_server: RedisServer) -> None:
    """After a kill and a restart on the same data the lane is known, and the script is sent anew."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        outcomes: list[object] = [await client.send_batch(batch(1))]
        spoilt_server.kill()
        outcomes.append(failure_of(await client.send_batch(batch(2))).kind)
        spoilt_server.start()
        return [*outcomes, await client.send_batch(batch(1)), await client.send_batch(batch(2))]

    expected = [Applied(0, 1), FailureKind.TRANSIENT, AlreadyApplied(1), Applied(1, 2)]
    assert play(client_for(spoilt_server), scene) == expected


# What it does when the server refuses


def refusals(server: RedisServer, **changes: Any) -> list[Failure]:
    """What a push, a plain push and both health checks fail with."""

    async def scene(client: AsyncRedisClient) -> list[Failure]:
        outcomes = [
            await client.send_batch(batch(1)),
            await client.push_plain([b"v"]),
            await client.health_check(),
        ]
        client.scripted = False
        return [failure_of(outcome) for outcome in (*outcomes, await client.health_check())]

    return play(client_for(server, **changes), scene)


def assert_all(failures: list[Failure], kind: FailureKind, code: str) -> None:
    expected = [(kind, code, False)] * len(failures)
    assert [(failure.kind, failure.code, failure.in_doubt) for failure in failures] == expected


def test_a_replica_takes_no_writes_and_its_health_shows_it(spoilt_server: RedisServer) -> None:
    """READONLY is transient: the connection is given up, since the name may lead to the new master by now."""
    with RedisServer(appendonly="no") as master:
        spoilt_server.cli("REPLICAOF", HOST, master.port)
        assert_all(refusals(spoilt_server), FailureKind.TRANSIENT, "READONLY")


def test_after_a_failure_the_connection_is_fresh(spoilt_server: RedisServer) -> None:
    """A demoted master answers READONLY on a connection that is well; the next attempt opens another."""

    async def scene(client: AsyncRedisClient) -> object:
        await client.send_batch(batch(1))
        spoilt_server.cli("REPLICAOF", HOST, free_port())
        before = spoilt_server.info("stats")["total_connections_received"]
        failure_of(await client.send_batch(batch(2)))
        spoilt_server.cli("REPLICAOF", "NO", "ONE")
        again = await client.send_batch(batch(2))
        after = spoilt_server.info("stats")["total_connections_received"]
        assert int(after) - int(before) == 3  # two commands of this test's, and the client's new connection
        return again

    assert play(client_for(spoilt_server), scene) == Applied(1, 2)


def test_a_full_memory_takes_nothing(spoilt_server: RedisServer) -> None:
    """OOM is transient, met before the first value, and the health check sees it."""
    spoilt_server.cli("CONFIG", "SET", "maxmemory-policy", "noeviction")
    spoilt_server.cli("CONFIG", "SET", "maxmemory", "1mb")
    spoilt_server.cli("CONFIG", "SET", "maxmemory", "1")
    assert_all(refusals(spoilt_server), FailureKind.TRANSIENT, "OOM")


def test_a_key_of_the_wrong_type_needs_an_operator(server: RedisServer) -> None:
    """WRONGTYPE comes back from every way to write, and from both health checks."""
    server.cli("SET", LIST, "a string")
    assert_all(refusals(server), FailureKind.OPERATOR, "WRONGTYPE")


def test_too_few_replicas_are_transient(spoilt_server: RedisServer) -> None:
    """NOREPLICAS is known also when it comes out of the script."""
    spoilt_server.cli("CONFIG", "SET", "min-replicas-to-write", 1)
    assert_all(refusals(spoilt_server), FailureKind.TRANSIENT, "NOREPLICAS")


def test_a_missing_password_needs_an_operator() -> None:
    """NOAUTH: the server wants a password and none is set."""
    with RedisServer(appendonly="no", password="hunter2") as server:
        failures = refusals(server, redis_url=f"redis://{HOST}:{server.port}/0")
        assert_all(failures, FailureKind.OPERATOR, "NOAUTH")


def test_a_wrong_password_needs_an_operator_and_is_told_to_nobody() -> None:
    """WRONGPASS, and the password stands in no failure."""
    with RedisServer(appendonly="no", password="hunter2") as server:
        failures = refusals(server, redis_url=f"redis://:sesame99@{HOST}:{server.port}/0")
        assert_all(failures, FailureKind.OPERATOR, "WRONGPASS")
        assert "sesame99" not in repr(failures)


def test_a_password_is_used_from_either_place() -> None:
    """In the URL or in its own setting, it opens the server."""
    with RedisServer(appendonly="no", password="hun/ter2") as server:
        bare, full = (f"redis://{user}{HOST}:{server.port}/3" for user in ("", ":hun%2Fter2@"))
        in_the_url = client_for(redis_url=full)
        beside_it = client_for(redis_url=bare, redis_password="hun/ter2")
        for client in (in_the_url, beside_it):
            assert isinstance(play(client, lambda client: client.push_plain([b"v"])), Applied)
        assert "db3" in server.info("keyspace")


def test_an_unknown_database_needs_an_operator(server: RedisServer) -> None:
    """The server has sixteen; no retry makes more of them."""
    failures = refusals(server, redis_url=f"redis://{HOST}:{server.port}/99")
    assert_all(failures, FailureKind.OPERATOR, "BAD_DATABASE")


def as_user(server: RedisServer, *rules: str, **changes: Any) -> AsyncRedisClient:
    server.cli("ACL", "SETUSER", "shop", "reset", "on", ">pw", *rules)
    host, port = HOST, server.port
    return client_for(
        redis_url=f"redis://{host}:{port}/0", redis_username="shop", redis_password="pw", **changes
    )


def test_the_rights_that_are_enough(server: RedisServer) -> None:
    """A user with the commands of the script, on the list and its lanes, can do all of it."""
    rights = [
        "~plume_log_list",
        "~{plume_log_list}:*",
        "+evalsha",
        "+eval",
        "+get",
        "+set",
        "+llen",
        "+lpush",
        "+ltrim",
    ]

    async def scene(client: AsyncRedisClient) -> list[object]:
        return [
            await client.send_batch(batch(1)),
            await client.fence(BatchId(LANE, 2)),
            await client.health_check(),
        ]

    assert play(as_user(server, *rights), scene) == [Applied(0, 1), Fenced(1), Healthy(1)]


def test_a_user_without_scripts_is_told_from_one_without_the_right_to_push(server: RedisServer) -> None:
    """NOPERM that names EVALSHA means that there are no scripts; NOPERM out of the script does not."""

    def attempt(*rules: str) -> Failure:
        return failure_of(play(as_user(server, *rules), lambda client: client.send_batch(batch(1))))

    for rules, no_scripts in (
        (("~*", "+@all", "-@scripting"), True),
        (("~*", "+evalsha"), None),
        (("~*", "+@all", "-lpush"), False),
        (("~plume_log_list", "+@all"), False),
    ):
        failure = attempt(*rules)
        assert (failure.kind, failure.code) == (FailureKind.OPERATOR, "NOPERM"), rules
        if no_scripts is not None:
            assert failure.scripting_unavailable is no_scripts, rules
    assert server.values(LIST) == []


def test_a_user_who_may_touch_one_list_only_is_healthy_in_plain_mode(server: RedisServer) -> None:
    """Where the plain probe's own key is out of bounds, the length of the list must do."""
    client = as_user(server, "~plume_log_list", "+lpush", "+llen", delivery="at_least_once")
    assert play(client, lambda client: client.health_check()) == Healthy(0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_page_is_oldest_first_and_takes_nothing(server: RedisServer, side: str) -> None:
    """Distances count from the oldest value, whichever end that is; beyond the newest there is nothing."""
    client = client_for(server, redis_push_side=side)
    server.cli("LPUSH" if side == "left" else "RPUSH", LIST, *range(10))

    async def scene(client: AsyncRedisClient) -> list[object]:
        return [await client.page(*where) for where in ((0, 3), (8, 5), (10, 5), (0, 10))]

    first, last, beyond, everything = play(client, scene)
    assert (first, last, beyond) == ([b"0", b"1", b"2"], [b"8", b"9"], [])
    assert everything == [b"%d" % n for n in range(10)]
    assert server.cli("LLEN", LIST) == 10


def test_a_rehearsal_tells_what_would_be_refused_and_does_nothing(server: RedisServer) -> None:
    """A right that is missing is seen, and a push that would be taken is not done."""

    async def scene(client: AsyncRedisClient) -> list[object]:
        return [await client.would_take(word, LIST, "x") for word in ("LPUSH", "RPUSH", "LPUSH")]

    client = as_user(server, f"~{LIST}", "+lpush", "+multi")
    taken, refused, again = play(client, scene)
    assert (taken, again) == (None, None) and failure_of(refused).code == "NOPERM"
    assert server.cli("EXISTS", LIST) == 0


def test_without_transactions_nothing_is_rehearsed(server: RedisServer) -> None:
    """Outside of a transaction the request would be done: it is not sent."""
    client = as_user(server, f"~{LIST}", "+lpush", "-multi")
    outcome = play(client, lambda client: client.would_take("LPUSH", LIST, "x"))
    assert failure_of(outcome).code == "NoTransactions"
    assert server.cli("EXISTS", LIST) == 0


def test_a_value_beyond_the_servers_limit_is_refused(spoilt_server: RedisServer) -> None:
    """Refused, not transient: this batch will never do, and the next one goes on a new connection."""
    spoilt_server.cli("CONFIG", "SET", "proto-max-bulk-len", 1024 * 1024)

    async def scene(client: AsyncRedisClient) -> list[object]:
        await client.send_batch(batch(1))
        refused = failure_of(await client.send_batch(batch(2, b"x" * (2 * 1024 * 1024))))
        return [refused.kind, await client.send_batch(batch(3))]

    kind, after = play(client_for(spoilt_server), scene)
    assert after == Applied(1, 2)
    # The server may close the connection before its answer was read: then it looks like a network fault.
    assert kind in (FailureKind.REFUSED, FailureKind.TRANSIENT)


# Other ways to reach it


def test_a_unix_socket(tmp_path: Path) -> None:
    """unix:// works, with its password and its database."""
    path = tmp_path / "redis.sock"
    with RedisServer(appendonly="no", password="pw", extra_args=("--unixsocket", str(path))) as server:
        client = client_for(redis_url=f"unix://:pw@{path}?db=2")
        assert play(client, lambda client: client.send_batch(batch(1))) == Applied(0, 1)
        assert "db2" in server.info("keyspace")


def test_tls(server: RedisServer, tmp_path: Path) -> None:
    """rediss:// works with an authority of one's own and a client certificate."""
    with TlsProxy(server.port, tmp_path, require_client_certificate=True) as proxy:
        client = client_for(
            redis_url=proxy.url,
            redis_ssl_ca_file=proxy.ca_file,
            redis_ssl_cert_file=proxy.client_cert_file,
            redis_ssl_key_file=proxy.client_key_file,
        )
        assert play(client, lambda client: client.send_batch(batch(1))) == Applied(0, 1)


@pytest.mark.parametrize("trusted", [True, False], ids=["wrong host name", "unknown authority"])
def test_tls_to_somebody_else_is_refused(server: RedisServer, tmp_path: Path, trusted: bool) -> None:
    """A certificate for another host or of an unknown authority: nothing is sent, an operator is needed."""
    names = ("redis.example.org",) if trusted else ("localhost",)
    with TlsProxy(server.port, tmp_path, host_names=names) as proxy:
        ca_file = proxy.ca_file if trusted else None
        client = client_for(redis_url=proxy.url, redis_ssl_ca_file=ca_file)
        failure = failure_of(play(client, lambda client: client.send_batch(batch(1))))
    assert (failure.kind, failure.code, failure.in_doubt) == (FailureKind.OPERATOR, "CERTIFICATE", False)
    assert server.values(LIST) == []


# What it does not do


def test_importing_the_package_does_not_import_redis() -> None:
    """Redis is imported when the sink says so, in the caller's thread, and not before."""
    code = (
        "import sys; from plumelog_loguru._delivery import import_redis\n"
        "assert not any(name.split('.')[0] == 'redis' for name in sys.modules)\n"
        "import_redis(); assert 'redis.asyncio.connection' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)


def test_closing_leaves_nothing_open(proxy: FaultProxy) -> None:
    """A call that ends after the client was closed keeps no connection; closing twice is harmless."""

    async def scene(client: AsyncRedisClient) -> object:
        await client.connect()
        proxy.latency(0.1)
        task = asyncio.ensure_future(client.send_batch(batch(1)))
        await asyncio.sleep(0)
        await client.close()
        await client.close()
        outcome = await task
        assert client._connections._idle == []
        return outcome

    assert play(through(proxy), scene) == Applied(0, 1)
