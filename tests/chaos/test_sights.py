"""What is seen through the proxy is there when the fault is, and not when it is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from chaos.faults import sights
from chaos.faults.several import Several, Turn, UntilFelt
from chaos.guardian import Guardian
from chaos.stage import Stage, StageError
from chaos.toxiproxy import start_standin

_SEEN_BY = {
    "unheard": (sights.DONE_UNHEARD, "timeout", "downstream", {"timeout": 0}),
    "request cut": (sights.REQUEST_CUT, "limit_data", "upstream", {"bytes": 2000}),
    "reply cut": (sights.REPLY_CUT, "limit_data", "downstream", {"bytes": 7}),
    "sliced": (sights.SLICED, "slicer", "downstream", {"average_size": 20, "delay": 100}),
    "requests sliced": (sights.REQUEST_SLICED, "slicer", "upstream", {"average_size": 1000, "delay": 1000}),
    "narrow": (sights.NARROW, "bandwidth", "upstream", {"rate": 40}),
}


class Fault:
    """Strikes without a trace, or with one."""

    def __init__(self, seen: int) -> None:
        self.seen = seen

    def strike(self, stage: Stage, seconds: float) -> None:
        stage.saw("something", self.seen)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage on which no program logs."""
    folder: Path = tmp_path_factory.mktemp("stage")
    with Guardian() as guardian, start_standin() as standin, Stage(folder, standin, guardian, 1) as stage:
        yield stage


@pytest.mark.parametrize("sight", _SEEN_BY)
def test_a_sight_is_seen_while_its_toxic_is_there_and_only_then(stage: Stage, sight: str) -> None:
    """A scenario whose fault did not happen has nothing to show."""
    look, toxic, stream, attributes = _SEEN_BY[sight]
    assert not look.look(stage)
    with stage.proxy.toxic(toxic, stream=stream, **attributes):  # type: ignore[arg-type]
        assert look.look(stage)
    assert not look.look(stage)


@pytest.mark.parametrize(("latency", "late"), [(60_000, 2), (0, 0)])
def test_only_what_is_carried_out_after_its_sender_gave_up_is_late(
    stage: Stage, latency: int, late: int
) -> None:
    """What is answered in time is not."""
    before, commands = stage.faults_injected, sights.LateCommands(stage)
    with stage.proxy.toxic("latency", stream="upstream", latency=latency):
        commands.send()
        commands.send()
    commands.watch()
    assert stage.faults_injected - before == late


def test_what_never_arrives_is_not_late(stage: Stage) -> None:
    """A command that was swallowed is carried out neither soon nor late."""
    before, commands = stage.faults_injected, sights.LateCommands(stage)
    with stage.proxy.down():
        commands.send()
    commands.watch()
    assert stage.faults_injected == before


def test_nothing_is_seen_while_another_fault_has_the_server(stage: Stage) -> None:
    """That is no failure of the scenario."""

    def look(stage: Stage) -> bool:
        raise ConnectionRefusedError

    before = stage.faults_injected
    sights.Sight("anything", look).watch(stage, 0.1)
    assert stage.faults_injected == before


@pytest.mark.parametrize(
    ("looks", "seen"), [((True, True, False), 2), ((True, False), 0), ((True, None, None), 1)]
)
def test_what_must_be_seen_mostly_is_not_seen_now_and_then(
    stage: Stage, looks: tuple[bool | None, ...], seen: int
) -> None:
    """A look of which nothing can be said is none."""
    given = iter(looks)

    def look(stage: Stage) -> bool:
        found = next(given)
        if found is None:
            raise ConnectionRefusedError
        return found

    before = stage.faults_injected
    sights.Sight("anything", look, mostly=True).watch(stage, 0.1 * len(looks) - 0.05)
    assert stage.faults_injected - before == seen


@pytest.mark.parametrize("latency", [0, 200])
def test_a_slow_network_is_seen_to_be_slow(stage: Stage, latency: int) -> None:
    """And a quick one is not."""
    before = stage.faults_injected
    with stage.proxy.toxic("latency", latency=latency):
        sights.answer_is("slow").watch(stage, 0.5)
    assert (stage.faults_injected > before) == bool(latency)


def test_slowness_of_the_server_itself_is_not_the_networks(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine shows nothing of the proxy."""

    def cli(*words: object, timeout: float = 5.0) -> None:
        raise TimeoutError

    monkeypatch.setattr(stage.server, "cli", cli)
    with stage.proxy.toxic("latency", latency=200), pytest.raises(TimeoutError):
        sights.answer_is("slow").look(stage)


class Felt:
    """The first program feels the third strike."""

    def __init__(self) -> None:
        self.strikes = 0

    def strike(self, stage: Stage, seconds: float) -> None:
        self.strikes += 1

    def samples(self) -> list[dict[str, object]]:
        state = "down" if self.strikes > 2 else "up"
        return [
            {"at": time.monotonic(), "redis_state": state, "spooled": 0, "retries": 0, "already_applied": 0}
        ]


@pytest.mark.parametrize(("more_seconds", "strikes"), [(60.0, 3), (0.0, 1)])
def test_a_fault_goes_on_until_it_is_felt_or_the_time_is_over(more_seconds: float, strikes: int) -> None:
    """Never for ever."""
    fault = Felt()
    stage = cast("Stage", SimpleNamespace(application=fault))
    UntilFelt(fault, "failed", more_seconds).strike(stage, 0.0)
    assert fault.strikes == strikes


@pytest.mark.parametrize("traces", [(1, 0), (0, 1)])
def test_each_of_several_faults_must_show_that_it_happened(stage: Stage, traces: tuple[int, ...]) -> None:
    """What another one shows is nothing."""
    turns = [Turn(Fault(seen), number / 2, (number + 1) / 2) for number, seen in enumerate(traces)]
    with pytest.raises(StageError, match="nothing shows that it happened"):
        Several(tuple(turns)).strike(stage, 0.1)
    Several(tuple(Turn(Fault(1), turn.begins, turn.ends) for turn in turns)).strike(stage, 0.1)
