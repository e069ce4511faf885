"""The one table: what each error means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

import pytest
from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser  # where redis-py reads replies has no public name

from plumelog_loguru._delivery._failures import classify
from plumelog_loguru._delivery._outcomes import FailureKind

TRANSIENT, OPERATOR, REFUSED = FailureKind.TRANSIENT, FailureKind.OPERATOR, FailureKind.REFUSED

# Replies as servers send them, without the leading "-".
REPLIES = [
    ("LOADING Redis is loading the dataset in memory", TRANSIENT, "LOADING"),
    ("BUSY Redis is busy running a script. You can only call SCRIPT KILL.", TRANSIENT, "BUSY"),
    ("UNKILLABLE Sorry the script already executed write commands", TRANSIENT, "UNKILLABLE"),
    ("INPROG Failover already in progress.", TRANSIENT, "INPROG"),
    ("ERR max number of clients reached", TRANSIENT, "MAXCLIENTS"),
    ("ERR max number of clients + cluster connections reached", TRANSIENT, "MAXCLIENTS"),
    ("NOSCRIPT No matching script. Please use EVAL.", TRANSIENT, "NOSCRIPT"),
    ("READONLY You can't write against a read only replica.", TRANSIENT, "READONLY"),
    ("READONLY You can't write. script: 3a, on @user_script:7.", TRANSIENT, "READONLY"),
    ("@user_script: 7: -READONLY You can't write against a read only replica.", TRANSIENT, "READONLY"),
    ("@user_script: 7: -OOM command not allowed when used memory > 'maxmemory'.", TRANSIENT, "OOM"),
    ("ERR Error running script (call to f_3a): @user_script:7: -MISCONF Redis is", TRANSIENT, "MISCONF"),
    ("MASTERDOWN Link with MASTER is down", TRANSIENT, "MASTERDOWN"),
    ("CLUSTERDOWN The cluster is down", TRANSIENT, "CLUSTERDOWN"),
    ("TRYAGAIN Multiple keys request during rehashing of slot", TRANSIENT, "TRYAGAIN"),
    ("MOVED 3999 127.0.0.1:6381", TRANSIENT, "MOVED"),
    ("ASK 3999 127.0.0.1:6381", TRANSIENT, "ASK"),
    ("OOM command not allowed when used memory > 'maxmemory'.", TRANSIENT, "OOM"),
    ("MISCONF Redis is configured to save RDB snapshots, but it's unable to.", TRANSIENT, "MISCONF"),
    ("NOREPLICAS Not enough good replicas to write.", TRANSIENT, "NOREPLICAS"),
    ("NOAUTH Authentication required.", OPERATOR, "NOAUTH"),
    ("ERR Protocol error: unauthenticated multibulk length", OPERATOR, "NOAUTH"),
    ("WRONGPASS invalid username-password pair or user is disabled.", OPERATOR, "WRONGPASS"),
    ("ERR invalid password", OPERATOR, "WRONGPASS"),
    ("ERR wrong number of arguments for 'auth' command", OPERATOR, "WRONGPASS"),
    ("ERR Client sent AUTH, but no password is set", OPERATOR, "WRONGPASS"),
    ("NOPERM this user has no permissions to run the 'lpush' command", OPERATOR, "NOPERM"),
    ("ERR The user executing the script can't run this command or subcommand", OPERATOR, "NOPERM"),
    ("ERR ACL failure in script: User bob has no permissions to run the 'set' command", OPERATOR, "NOPERM"),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", OPERATOR, "WRONGTYPE"),
    ("CROSSSLOT Keys in request don't hash to the same slot", OPERATOR, "CROSSSLOT"),
    ("DENIED Redis is running in protected mode", OPERATOR, "DENIED"),
    ("ERR unknown command 'EVALSHA', with args beginning with: 'x'", OPERATOR, "UNKNOWN_COMMAND"),
    ("ERR DB index is out of range", OPERATOR, "BAD_DATABASE"),
    ("ERR SELECT is not allowed in cluster mode", OPERATOR, "BAD_DATABASE"),
    ("ERR Protocol error: invalid bulk length", REFUSED, "TOO_LARGE"),
    ("ERR Protocol error: invalid multibulk length", REFUSED, "TOO_LARGE"),
    ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", REFUSED, "TOO_LARGE"),
]


def reply_error(line: str) -> Exception:
    """The exception that the installed redis-py makes of an error reply."""
    parse: Callable[[str], object] = BaseParser.parse_error
    error = parse(line)
    assert isinstance(error, Exception)
    return error


@pytest.mark.parametrize(("line", "kind", "code"), REPLIES, ids=[code for _, _, code in REPLIES])
def test_an_error_reply_is_known_and_leaves_no_doubt(line: str, kind: FailureKind, code: str) -> None:
    """Each reply of the table has its kind and code, whatever redis-py makes of it, and was not applied."""
    failure = classify(reply_error(line))
    assert (failure.kind, failure.code, failure.in_doubt) == (kind, code, False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis_errors.ConnectionError("Connection closed by server."), "CONNECTION"),
        (
            redis_errors.ConnectionError("Error 111 connecting to localhost:1. Connection refused."),
            "CONNECTION",
        ),
        (redis_errors.TimeoutError("Timeout reading from localhost:6379"), "TIMEOUT"),
        (asyncio.TimeoutError(), "TIMEOUT"),
        (ConnectionResetError(104, "Connection reset by peer"), "CONNECTION"),
        (RuntimeError("cannot schedule new futures after shutdown"), "RuntimeError"),
        (IndexError("list index out of range"), "IndexError"),
        (redis_errors.RedisClusterException("Redis Cluster cannot be connected."), "RedisClusterException"),
        (redis_errors.InvalidResponse("Protocol Error: b'HTTP/1.1'"), "InvalidResponse"),
        (reply_error("ERR Connection timed out"), "ERR"),
        (reply_error("WEIRD something nobody has heard of"), "WEIRD"),
        (reply_error("PARTIAL some values stay in the list: OOM"), "PARTIAL"),
        (reply_error("ERR Error running script: user_script:9: attempt to index a nil value"), "ERR"),
    ],
)
def test_all_else_is_transient_and_in_doubt(error: Exception, code: str) -> None:
    """Network faults, foreign exceptions, replies never heard of: try again, and it may have been applied."""
    failure = classify(error)
    assert (failure.kind, failure.code, failure.in_doubt) == (TRANSIENT, code, True)
    assert failure.detail


def test_what_was_never_sent_is_not_in_doubt() -> None:
    """An error that came before the first byte left cannot have applied anything."""
    assert not classify(redis_errors.ConnectionError("refused"), sent=False).in_doubt


def test_a_refused_certificate_needs_an_operator() -> None:
    """Trying again cures no certificate; redis-py shows it as a ConnectionError."""
    error = redis_errors.ConnectionError("Error 1 connecting")
    error.__context__ = ssl.SSLCertVerificationError(1, "Hostname mismatch")
    failure = classify(error)
    assert (failure.kind, failure.code, failure.in_doubt) == (OPERATOR, "CERTIFICATE", False)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ERR unknown command `EVALSHA`, with args beginning with: `a`", True),
        ("ERR unknown command 'eval', with args beginning with: 'a'", True),
        ("ERR unsupported command 'EVALSHA'", True),
        ("NOPERM this user has no permissions to run the 'evalsha' command", True),
        ("NOPERM this user has no permissions to run the 'eval' command or its subcommand", True),
        ("NOPERM this user has no permissions to run the 'lpush' command", False),
        ("NOPERM this user has no permissions to access one of the keys used as arguments", False),
        ("ERR unknown command 'AUTH', with args beginning with: 'eval'", False),
        ("NOSCRIPT No matching script. Please use EVAL.", False),
        ("OOM command not allowed when used memory > 'maxmemory'. script: eval", False),
    ],
)
def test_only_an_answer_that_names_eval_means_no_scripts(line: str, expected: bool) -> None:
    """Falling back to plain pushes gives up a promise: nothing but a clear refusal of scripts allows it."""
    assert classify(reply_error(line)).scripting_unavailable is expected


@pytest.mark.parametrize(
    "line",
    [
        "ERR unknown command 'AUTH', with args beginning with: 'bob' 'hunter2' ",
        "ERR unknown command `AUTH`, with args beginning with: `hunter2`, ",
    ],
)
def test_what_a_server_echoes_is_cut_off(line: str) -> None:
    """A server without AUTH repeats its arguments; the password among them goes nowhere."""
    assert "hunter2" not in repr(classify(reply_error(line)))


def test_the_detail_is_one_short_line() -> None:
    """Newlines, control characters and lone surrogates become blanks, and a long text is cut."""
    detail = classify(redis_errors.ConnectionError("a\nb\x1b[31m\udc80" + "x" * 10_000)).detail
    assert detail.isprintable()
    assert len(detail) <= 300


def test_an_error_that_cannot_be_shown_is_classified_all_the_same() -> None:
    """An exception whose text raises has its type for a code."""

    class Hostile(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert classify(Hostile()).code == "Hostile"
