"""The lane script, run on real servers through a client of the tests' own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.servers import RedisServer, ReplyError
from plumelog_loguru._delivery._lane_script import (
    LANE_SCRIPT,
    LANE_SCRIPT_SHA1,
    lane_key,
    parse_answer,
    parse_probe,
)
from plumelog_loguru._delivery._outcomes import AlreadyApplied, Applied, Fenced

LIST = "plume_log_list"
LANE = lane_key(LIST, "a" * 32)


def run(
    server: RedisServer, mode: str, seq: int, *values: str, ttl_ms: int = 60_000, script: str = LANE_SCRIPT
) -> Any:
    return server.cli("EVAL", script, 2, LIST, LANE, mode, seq, ttl_ms, *values, timeout=30.0)


def push(server: RedisServer, seq: int, *values: str) -> Applied | AlreadyApplied | Fenced:
    return parse_answer(run(server, "right", seq, *values))


def fence(server: RedisServer, seq: int) -> Applied | AlreadyApplied | Fenced:
    return parse_answer(run(server, "fence", seq))


def test_a_batch_is_pushed_once_however_often_it_is_sent(server: RedisServer) -> None:
    """The first push applies, every repetition is told so and changes nothing."""
    assert push(server, 1, "a", "b") == Applied(last_found=0, list_length=2)
    assert push(server, 1, "a", "b") == AlreadyApplied(last_found=1)
    assert push(server, 2, "c") == Applied(last_found=1, list_length=3)
    assert server.values(LIST) == [b"a", b"b", b"c"]


def test_a_request_that_arrives_late_changes_nothing(server: RedisServer) -> None:
    """A request of a batch that was repeated, and overtaken by later ones, is taken for applied."""
    push(server, 1, "a")
    push(server, 2, "b")
    push(server, 3, "c")
    assert push(server, 1, "a") == AlreadyApplied(last_found=3)
    assert server.values(LIST) == [b"a", b"b", b"c"]


def test_left_and_right_leave_the_order_of_the_plain_commands(server: RedisServer) -> None:
    """Pushed on the left, the last value comes first, also over the border between two chunks."""
    values = [str(number) for number in range(5_003)]
    for mode, command in (("left", "LPUSH"), ("right", "RPUSH")):
        server.cli("FLUSHALL")
        run(server, mode, 1, *values)
        server.cli(command, "plain", *values)
        assert server.values(LIST) == server.values("plain")


def test_twenty_thousand_values_go_in_one_push(server: RedisServer) -> None:
    """Lua unpacks 7,999 values at most; the script takes any number."""
    values = [str(number) for number in range(20_000)]
    assert push(server, 1, *values) == Applied(last_found=0, list_length=20_000)
    assert server.values(LIST) == [value.encode() for value in values]


def test_a_fence_keeps_a_late_request_out(server: RedisServer) -> None:
    """After a fence the batch's own request finds itself fenced, and the lane goes on."""
    push(server, 1, "a")
    assert fence(server, 2) == Fenced(last_found=1)
    assert push(server, 2, "late") == Fenced(last_found=2)
    assert push(server, 3, "c") == Applied(last_found=2, list_length=2)
    assert server.values(LIST) == [b"a", b"c"]


def test_a_fence_finds_out_that_the_batch_was_applied(server: RedisServer) -> None:
    """A fence that comes after the push says so, and leaves no mark."""
    push(server, 1, "a")
    assert fence(server, 1) == AlreadyApplied(last_found=1)
    assert server.cli("GET", LANE) == b"1"


def test_a_fence_finds_its_mark_after_later_batches(server: RedisServer) -> None:
    """Marks accumulate: a step repeated much later gets the same answer, and no other number matches."""
    fence(server, 4)
    push(server, 5, "e")
    fence(server, 14)
    push(server, 15, "o")
    assert server.cli("GET", LANE) == b"15 4 14"
    assert fence(server, 4) == fence(server, 14) == Fenced(last_found=15)
    assert fence(server, 1) == fence(server, 5) == fence(server, 15) == AlreadyApplied(last_found=15)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(("push", "fence")), st.integers(1, 12)), max_size=25))
def test_any_sequence_of_requests_follows_the_model(
    server: RedisServer, steps: list[tuple[str, int]]
) -> None:
    """In whatever order requests come: each value is in the list at most once, and the answer says which."""
    server.cli("FLUSHALL")
    last, fenced, expected = 0, set[int](), list[bytes]()
    for step, seq in steps:
        answer = push(server, seq, f"v{seq}") if step == "push" else fence(server, seq)
        if seq in fenced:
            assert answer == Fenced(last)
        elif seq <= last:
            assert answer == AlreadyApplied(last)
        elif step == "push":
            expected.append(b"v%d" % seq)
            assert answer == Applied(last, len(expected))
            last = seq
        else:
            fenced.add(seq)
            assert answer == Fenced(last)
            last = seq
        assert server.values(LIST) == expected


def test_the_lane_lives_on_from_its_last_use(server: RedisServer) -> None:
    """Every answer renews the lane's time to live, 'already applied' and a fence too."""
    for mode, seq in (("right", 1), ("right", 1), ("fence", 2), ("fence", 2)):
        if server.cli("EXISTS", LANE):
            server.cli("PEXPIRE", LANE, 5_000)
        run(server, mode, seq, "v")
        assert server.cli("PTTL", LANE) > 50_000


def test_a_lost_lane_shows_in_the_answer(server: RedisServer) -> None:
    """A server that has lost its data answers a lower last number than the client knows."""
    push(server, 7, "a")
    server.cli("FLUSHALL")
    assert push(server, 8, "b") == Applied(last_found=0, list_length=1)


def fail_on(command: str, nth: int, text: str = "OOM made up") -> str:
    """The script as it is, on a server whose nth such command fails, and LTRIM too where `text` says so."""
    shim = f"""\
local real, count = redis, 0
local redis = {{pcall = function(command, ...)
  if command == '{command}' then
    count = count + 1
    if count == {nth} then return {{err = '{text}'}} end
  end
  if command == 'LTRIM' and '{text}' == 'OOM and no way back' then return {{err = 'NOPERM LTRIM'}} end
  return real.pcall(command, ...)
end}}
"""
    return shim + LANE_SCRIPT


@pytest.mark.parametrize("mode", ["left", "right"])
@pytest.mark.parametrize("before", [[], ["x", "y"]])
@pytest.mark.parametrize(
    ("command", "nth"),
    [("LPUSH", 1), ("LPUSH", 3), ("SET", 1), ("SET", 2), ("GET", 1)],
    ids=["first chunk", "third chunk", "lane before", "lane after", "reading the lane"],
)
def test_a_push_that_fails_leaves_nothing(
    server: RedisServer, mode: str, before: list[str], command: str, nth: int
) -> None:
    """Whichever command fails, what went in before is taken out again, and a repetition applies."""
    command = "RPUSH" if command == "LPUSH" and mode == "right" else command
    if before:
        server.cli("RPUSH", LIST, *before)
    values = [str(number) for number in range(12_000)]
    with pytest.raises(ReplyError, match="OOM made up"):
        run(server, mode, 1, *values, script=fail_on(command, nth))
    assert server.values(LIST) == [value.encode() for value in before]
    assert server.cli("GET", LANE) in (None, b"0")
    assert parse_answer(run(server, mode, 1, *values)) == Applied(0, len(before) + 12_000)


def test_a_push_that_cannot_be_undone_says_so(server: RedisServer) -> None:
    """Where the way back fails too, the error has a code of its own, which leaves the batch in doubt."""
    script = fail_on("LPUSH", 2, "OOM and no way back")
    with pytest.raises(ReplyError, match=r"^PARTIAL "):
        run(server, "left", 1, *map(str, range(6_000)), script=script)


def test_the_probe_writes_its_lane_and_reads_the_length(server: RedisServer) -> None:
    """A probe answers the list's length, leaves the list alone, and writes its own lane for a short time."""
    server.cli("RPUSH", LIST, "a", "b")
    assert parse_probe(run(server, "probe", 0, ttl_ms=60_000)) == 2
    assert server.values(LIST) == [b"a", b"b"]
    assert 0 < server.cli("PTTL", LANE) <= 60_000


@pytest.mark.parametrize("mode", ["left", "right", "probe"])
def test_a_wrong_type_shows(server: RedisServer, mode: str) -> None:
    """Where the list's name belongs to something else, the server's own error comes back; no lane moves."""
    server.cli("SET", LIST, "a string")
    with pytest.raises(ReplyError, match=r"^WRONGTYPE "):
        run(server, mode, 1, "v")
    assert server.cli("GET", LANE) == b"0"


def test_the_hash_is_the_servers(server: RedisServer) -> None:
    """The SHA-1 under which the script is called is the one under which the server keeps it."""
    assert server.cli("SCRIPT", "LOAD", LANE_SCRIPT) == LANE_SCRIPT_SHA1.encode()


@pytest.mark.parametrize(
    ("list_key", "expected"),
    [
        ("plume_log_list", "{plume_log_list}:lane:x"),
        ("{logs}:plume", "{logs}:lane:x"),
        ("plume{logs}", "{logs}:lane:x"),
        ("a{b}{c}", "{b}:lane:x"),
        ("{{b}}", "{{b}:lane:x"),
        ("a{open", "{a{open}:lane:x"),
        ("日志", "{日志}:lane:x"),
    ],
)
def test_a_lane_shares_the_slot_of_its_list(list_key: str, expected: str) -> None:
    """The lane's key carries the list's own hash tag where it has one, else the whole name as the tag."""
    assert lane_key(list_key, "x") == expected


def test_names_without_a_tag_of_their_own_stand_whole() -> None:
    """An empty tag is none for Redis, so the whole name counts."""
    assert lane_key("a{}b", "x") == "{a{}b}:lane:x"


@pytest.mark.parametrize(
    "answer", [None, b"OK", [], [b"applied"], [b"applied", 1, b"2"], [b"alive", 0, 1], 3]
)
def test_an_answer_that_is_not_the_scripts_is_refused(answer: object) -> None:
    """What a proxy makes up never passes for 'applied'."""
    with pytest.raises(ValueError, match="not an answer"):
        parse_answer(answer)
