"""The network, between the application and Redis."""

from __future__ import annotations

from chaos.application.world import SERVER_NAME
from chaos.faults.network import BlackHole, Flapping, HalfOpen, Late, LostReplies, Refused, Toxic
from chaos.faults.several import UntilFelt
from chaos.faults.sights import DONE_UNHEARD, NARROW, REPLY_CUT, REQUEST_CUT, REQUEST_SLICED, SLICED
from chaos.faults.world import Moved, NameLost
from chaos.scenario import Scenario

_OWN_NAMES = {"options": {"world": ["names"]}}
_BY_NAME = {"REDIS_HOST": SERVER_NAME}

SCENARIOS = [
    # Slow, in all the ways in which a network is slow.
    Scenario(
        "network/latency-below-timeout",
        "A slow network delays records, and changes nothing else: not even their order.",
        Toxic("latency", "downstream", ("slow",), {"latency": 150}),
        felt="nothing",
        in_order=True,
    ),
    Scenario(
        "network/latency-above-timeout",
        "Where every answer comes too late, records wait on the disk, and none is taken twice.",
        Toxic("latency", "downstream", ("no answer",), {"latency": 900}),
        felt="known",
    ),
    Scenario(
        "network/jitter-below-timeout",
        "Answers that come sooner and later change nothing.",
        Toxic("latency", "downstream", ("slow",), {"latency": 200, "jitter": 150}),
        felt="nothing",
        in_order=True,
    ),
    Scenario(
        "network/jitter-across-timeout",
        "Where some answers come in time and some do not, nothing is taken twice.",
        Toxic("latency", "downstream", ("slow", "no answer"), {"latency": 500, "jitter": 400}),
        seconds=3.0,
        felt="failed",
    ),
    Scenario(
        "network/bandwidth",
        "A line too narrow for what is logged delays it; what finds no room in memory waits on the disk.",
        Toxic("bandwidth", "upstream", NARROW, {"rate": 40}),
        seconds=2.0,
        felt="failed",
    ),
    Scenario(
        "network/sliced",
        "Bytes that come one by one make the same requests and the same answers.",
        Toxic("slicer", "downstream", SLICED, {"average_size": 20, "size_variation": 10, "delay": 100}),
        felt="nothing",
        in_order=True,
    ),
    Scenario(
        "network/requests-sliced",
        "Requests that arrive in small pieces are carried out once, in order.",
        Toxic(
            "slicer", "upstream", REQUEST_SLICED, {"average_size": 1000, "size_variation": 500, "delay": 1000}
        ),
        felt="nothing",
        in_order=True,
    ),
    # Away.
    Scenario(
        "network/refused",
        "While nobody listens, records wait on the disk.",
        Refused(),
        quick=True,
    ),
    Scenario(
        "network/reset",
        "Connections that are reset with what is on them cost nothing.",
        Toxic("reset_peer", "upstream", ("reset",), {"timeout": 0}),
    ),
    Scenario(
        "network/reset-answers",
        "Connections that are reset when the answer comes cost and double nothing.",
        Toxic("reset_peer", "downstream", DONE_UNHEARD, {"timeout": 20}),
        felt="known",
    ),
    Scenario(
        "network/black-hole",
        "A network that swallows all without a word is found out by time-outs, and costs nothing.",
        BlackHole(),
        quick=True,
    ),
    Scenario(
        "network/one-way-up",
        "Where requests arrive and answers do not, each request is carried out once.",
        Toxic("timeout", "downstream", DONE_UNHEARD, {"timeout": 0}),
        felt="known",
    ),
    Scenario(
        "network/one-way-down",
        "Where the server can speak and not hear, records wait on the disk.",
        Toxic("timeout", "upstream", ("no answer",), {"timeout": 0}),
    ),
    Scenario(
        "network/flapping",
        "A port that closes and opens many times a second costs nothing.",
        Flapping(),
        seconds=2.5,
        felt="failed",
    ),
    Scenario(
        "network/flapping-with-a-backlog",
        "What fails while older records wait on the disk is not overtaken under its own identity.",
        Flapping(0.05, 0.5),
        seconds=3,
        felt="failed",
        settings={"REPLAY_RATE": "300"},
        recovery_seconds=20.0,
    ),
    Scenario(
        "network/lost-reply-plain",
        "Where pushes are plain on request, what may be doubled is counted, to the record.",
        LostReplies(),
        settings={"DELIVERY": "at_least_once"},
        felt="failed",
        doubles="reported",
    ),
    Scenario(
        "network/queue-pressure",
        "A queue that is full hands on what it holds, and drops nothing.",
        BlackHole(),
        settings={"QUEUE_MAX_SIZE": "150", "BATCH_INTERVAL_SECONDS": "5", "BATCH_SIZE": "1000"},
        orders={"records_per_second": 600.0},
        recovery_seconds=30.0,
    ),
    # Cut in the middle.
    Scenario(
        "network/lost-reply",
        "A request that was carried out, and whose reply is lost, is repeated, and doubles nothing.",
        LostReplies(),
        felt="known",
        quick=True,
    ),
    Scenario(
        "network/reply-cut",
        "A reply that breaks off in the middle is no answer; its request is repeated, and doubles nothing.",
        Toxic("limit_data", "downstream", REPLY_CUT, {"bytes": 7}),
        felt="known",
    ),
    Scenario(
        "network/request-cut",
        "A batch that breaks off in the middle is not taken, and is repeated whole.",
        Toxic("limit_data", "upstream", REQUEST_CUT, {"bytes": 2000}),
        felt="failed",
    ),
    Scenario(
        "network/connections-cut-early",
        "Where a connection carries a record or two and is then cut, no record is blamed for it.",
        UntilFelt(Toxic("limit_data", "upstream", REQUEST_CUT, {"bytes": 1500}), "failed"),
        settings={"RETRY_COUNT": "0", "BATCH_SIZE": "20", "BATCH_INTERVAL_SECONDS": "0.2"},
        orders={"threads": 2, "records_per_second": 120.0},
        felt="failed",
    ),
    Scenario(
        "network/delayed-request",
        "A request that arrives after its repetition changes nothing any more.",
        Late(),
        seconds=3.0,
        felt="failed",
        quick=True,
    ),
    Scenario(
        "network/half-open",
        "A connection whose server is gone and which nobody closes is given up by its time-out.",
        HalfOpen(milliseconds=3_600_000),
        felt="failed",
    ),
    Scenario(
        "network/slow-close",
        "Requests on a connection that the server has closed, and that closes late, are sent again.",
        HalfOpen(milliseconds=400),
        felt="failed",
    ),
    # Names and addresses.
    Scenario(
        "network/name-lost",
        "While the server's name cannot be looked up, records wait on the disk.",
        NameLost("nowhere"),
        orders=_OWN_NAMES,
        settings=_BY_NAME,
    ),
    Scenario(
        "network/name-hangs",
        "A look-up that never ends holds nobody up, and when names are found again, so is the server.",
        NameLost("hanging"),
        orders=_OWN_NAMES,
        settings=_BY_NAME,
    ),
    Scenario(
        "network/address-changes",
        "The server moves to another address under its name: it is found there, nothing lost or doubled.",
        Moved(),
        orders=_OWN_NAMES,
        settings=_BY_NAME,
        needs=("second address",),
        quick=True,
    ),
]
