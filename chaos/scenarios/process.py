"""The process that logs: how it ends, what it does to itself, and what it is denied."""

from __future__ import annotations

from chaos.faults.gunicorn import Reloaded
from chaos.faults.living import (
    Awaited,
    Forks,
    LogsAnywhere,
    OutOfFiles,
    OutOfMemory,
    SinkComesAndGoes,
    StarvedOfCpu,
    StopsItself,
    Workers,
)
from chaos.faults.process import Ended, KilledAt, KilledInReplay, OverAtOnce, Replaced
from chaos.scenario import Scenario

_CLOSES_SOON = {"CLOSE_TIMEOUT_SECONDS": "0.5"}  # where many sinks close, and Redis is mostly away

_FIRST_CALL_MS = 1000.0  # of few calls one in a thousand is the slowest: the first, while all begins

_ENDS = [
    Scenario(
        "process/kill-9-again-and-again",
        "What a call returned from survives `kill -9`, though each successor is killed as well.",
        Ended("kill -9"),
        seconds=4,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
        quick=True,
    ),
    Scenario(
        "process/kill-9-of-three-at-once",
        "Three programs on one spool directory are killed together; one heir delivers what all of them left.",
        Ended("kill -9", programs=3),
        seconds=2,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/os-exit-under-load",
        "`os._exit` in the midst of logging runs nothing of ours, and loses nothing.",
        Ended("os._exit"),
        seconds=2,
        felt="nothing",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/sigterm",
        "SIGTERM, which nobody handles, loses nothing.",
        Ended("SIGTERM"),
        seconds=2,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/sigint-twice",
        "Ctrl-C in the middle of a call, and again while the sink closes, loses nothing.",
        Ended("SIGINT twice"),
        seconds=3,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
        may_refuse=True,
    ),
    Scenario(
        "process/interpreter-ends",
        "What threads, `atexit` and finalizers log while the interpreter ends, and Loguru takes, arrives.",
        Ended("left alone"),
        seconds=2,
        felt="nothing",
        starts_program=False,
        may_refuse=True,
        p999_ms=None,  # the sink closes under Loguru's lock
    ),
    Scenario(
        "process/execv",
        "A process that becomes another program finds what it left as the first one.",
        Replaced(),
        seconds=2,
        felt="nothing",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/over-at-once",
        "The one record of a program that ends at once arrives, whether Redis is there or not.",
        OverAtOnce(),
        seconds=2,
        felt="nothing",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/killed-in-a-replay",
        "Programs that are killed while they repeat what is spooled lose and double nothing of it.",
        KilledInReplay("program"),
        seconds=3,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/replay-command-killed",
        "`plumelog-replay drain` that is killed on its way loses and doubles nothing.",
        KilledInReplay("command"),
        seconds=3,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
]

_POINTS = [
    Scenario(
        "process/killed-in-the-journal",
        "Killed at any step of the journal, a record is there once.",
        KilledAt(
            (
                "append: not yet in the journal",
                "append: in the journal, not yet in the queue",
                "cut: the batch has no name in the journal",
                "cut: the batch has its name, and was not sent",
                "settle: delivered, and the journal does not say so",
                "settle: settled, and the room not given back",
                "advance: the room is about to be given back",
            ),
            passes=(1, 6),
        ),
        seconds=4,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/killed-between-reply-and-booking",
        "Killed between Redis's answer and its own bookkeeping, a batch is repeated, and not doubled.",
        KilledAt(
            (
                "send: nothing sent",
                "send: answered, and not booked",
                "book: about to count what was delivered",
                "book: counted, and still on the way",
            ),
            passes=(1, 8),
        ),
        seconds=3,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
        quick=True,
    ),
    Scenario(
        "process/killed-at-the-spool",
        "Killed at any step of spooling, a batch arrives once, be it in a row, in the journal or both.",
        KilledAt(
            (
                "spool: about to write a row",
                "spool: a row written, and not known",
                "spool: a row written, and still in the journal",
            ),
            passes=(1, 4),
            weather="away",
        ),
        seconds=3,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/killed-at-a-row",
        "Killed at any step of repeating a row, it is repeated as the same, and not doubled.",
        KilledAt(
            (
                "mark: about to be written",
                "mark: written, and the row not sent",
                "replay: a row delivered, and not booked",
                "delete: a row delivered, and about to go",
                "delete: a row gone, and not known",
            ),
            passes=(1, 1),
            weather="away, then back",
        ),
        seconds=4,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
    Scenario(
        "process/killed-while-it-recovers",
        "An heir that is killed while it takes over leaves to the next what it found.",
        KilledAt(
            (
                "recover: about to bring a batch in",
                "recover: a batch in a row, and still in the journal",
                "recover: a part taken over",
                "recover: a journal done with",
                "recover: a journal gone",
            ),
            passes=(1, 1),
            weather="away",
            as_heirs=True,
        ),
        seconds=3,
        felt="died",
        starts_program=False,
        p999_ms=_FIRST_CALL_MS,
    ),
]

_LIVING = [
    Scenario(
        "process/fork-under-load",
        "Children of a program with threads log through its sink, and end anyhow: all of it arrives once.",
        Forks(),
        seconds=2,
        felt="nothing",
        orders={"behaviour": "forking", "records_per_second": 40},
        settings=_CLOSES_SOON,
        p999_ms=_FIRST_CALL_MS,
        quick=True,
    ),
    *(
        Scenario(
            f"process/multiprocessing-{method}",
            f"What workers log arrives, where they are started by {method}.",
            Workers(method),
            seconds=1,
            felt="nothing",
            orders={"behaviour": "working", "records_per_second": 40},
            settings=_CLOSES_SOON,
            p999_ms=_FIRST_CALL_MS,
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    *(
        Scenario(
            f"process/gunicorn-reloads-{name}",
            f"Workers come and go, with {what}: the record of each request that was answered arrives once.",
            Reloaded(preload),
            seconds=2,
            felt="nothing",
            starts_program=False,
            p999_ms=_FIRST_CALL_MS,
            needs=("gunicorn",),
        )
        for name, what, preload in (
            ("with-preload", "a sink that was made before they were forked", True),
            ("without-preload", "a sink in each of them", False),
        )
    ),
    Scenario(
        "process/sink-comes-and-goes",
        "64 threads log while the sink is removed and added: each record that it was given arrives once.",
        SinkComesAndGoes(),
        felt="nothing",
        orders={"behaviour": "toggling", "threads": 64, "records_per_second": 20},
        settings=_CLOSES_SOON,
        may_refuse=True,
        p999_ms=None,  # Loguru lets callers wait while a sink closes
    ),
    Scenario(
        "process/signal-handlers-log",
        "Handlers of a storm of signals log in the middle of calls that log: nothing is lost, nothing hangs.",
        LogsAnywhere("storm"),
        felt="nothing",
        orders={"behaviour": "signalled"},
        may_refuse=True,
    ),
    Scenario(
        "process/finalizers-log",
        "Finalizers log wherever the garbage collector strikes, in threads of the sink as well.",
        LogsAnywhere("litter"),
        felt="nothing",
        orders={"behaviour": "littering"},
        may_refuse=True,
    ),
    Scenario(
        "process/stops-itself",
        "A process whose time stood still goes on, though Redis came and went meanwhile.",
        StopsItself(),
        felt="nothing",
        orders={"behaviour": "self-stopping"},
        p999_ms=None,
    ),
    Scenario(
        "process/starved-of-cpu",
        "A tenth of a processor makes it slow, and nothing else.",
        StarvedOfCpu(),
        felt="nothing",
        p999_ms=None,
    ),
    Scenario(
        "process/out-of-files",
        "Where no file can be opened, records wait; when one can be, they go.",
        OutOfFiles(files=48),
        felt="nothing",
        starts_program=False,
    ),
    Scenario(
        "process/out-of-memory",
        "Where memory ends, what was accepted waits; what could not be, is counted.",
        OutOfMemory(),
        felt="nothing",
        orders={"options": {"smallest_bytes": 32}},
        starts_program=False,
        loss="reported",
        may_refuse=True,
    ),
    Scenario(
        "process/asyncio",
        "An application on asyncio awaits what it logged, and waits no longer than a close may take.",
        Awaited(),
        felt="nothing",
        orders={"behaviour": "asynchronous"},
    ),
]

SCENARIOS = [*_ENDS, *_POINTS, *_LIVING]
