"""The network, between the application and Redis."""

from __future__ import annotations

from chaos.faults.network import Refused, Toxic
from chaos.scenario import Scenario

SCENARIOS = [
    Scenario(
        "network/latency-below-timeout",
        "A slow network delays records, and changes nothing else: not even their order.",
        Toxic("latency", "downstream", ("slow",), {"latency": 150}),
        felt="nothing",
        in_order=True,
    ),
    Scenario(
        "network/refused",
        "While nobody listens, records wait on the disk.",
        Refused(),
        quick=True,
    ),
    Scenario(
        "network/lost-reply",
        "A request that was carried out, and whose reply is lost, is repeated, and doubles nothing.",
        Toxic("timeout", "downstream", ("no answer", "closed", "reset"), {"timeout": 50}),
        quick=True,
    ),
    Scenario(
        "network/lost-reply-plain",
        "Where pushes are plain on request, what may be doubled is counted, to the record.",
        Toxic("timeout", "downstream", ("no answer", "closed", "reset"), {"timeout": 50}),
        settings={"DELIVERY": "at_least_once"},
        doubles="reported",
    ),
    Scenario(
        "network/queue-pressure",
        "A queue that is full hands on what it holds, and drops nothing.",
        Toxic("timeout", "upstream", ("no answer",), {"timeout": 0}),
        settings={"QUEUE_MAX_SIZE": "150", "BATCH_INTERVAL_SECONDS": "5", "BATCH_SIZE": "1000"},
        orders={"records_per_second": 600.0},
    ),
]
