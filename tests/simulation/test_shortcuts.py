"""Each rule of the lanes is there for a reason: without it, some schedule loses or doubles a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from plumelog_loguru._batch import AttemptedBy, Batch, BatchId, new_lane_id
from plumelog_loguru._courier import Courier
from plumelog_loguru._delivery import AlreadyApplied, Failure, Fenced, LiveLane, Outcome, Sender
from plumelog_loguru._dissection import Dissection, Step
from plumelog_loguru._on_the_way import Head
from plumelog_loguru._replayer import Replayer
from plumelog_loguru._spool import Block, SpooledRow, SpoolKeeper

from .disk import SimulatedPart
from .schedule import play
from .test_simulation import SCHEDULES
from .world import Violation, World

Patch = pytest.MonkeyPatch


def _anew() -> BatchId:
    return BatchId(new_lane_id(), 1)


def go_on_in_the_lane_of_a_spilled_batch(patch: Patch) -> None:
    patch.setattr(LiveLane, "freeze", lambda self: None)


def spill_without_the_identity(patch: Patch) -> None:
    offer = SpoolKeeper.offer

    def changed(self: SpoolKeeper, block: Block, *, from_loop: bool) -> None:
        block.batch = None
        offer(self, block, from_loop=from_loop)

    patch.setattr(SpoolKeeper, "offer", changed)


def replay_under_a_fresh_identity(patch: Patch) -> None:
    fetch = Replayer.fetch

    async def changed(self: Replayer) -> SpooledRow | None:
        in_hand = self._in_hand
        row = await fetch(self)
        if row is not None and row is not in_hand:
            assert self._dissection is not None
            (root,) = self._dissection._nodes
            root.batch = replace(root.batch, id=_anew())
        return row

    patch.setattr(Replayer, "fetch", changed)


def hand_out_rows_out_of_order(patch: Patch) -> None:
    next_row = SpoolKeeper._next_row
    held: dict[SpoolKeeper, SpooledRow] = {}

    def changed(self: SpoolKeeper, by: AttemptedBy) -> SpooledRow | None:
        if self in held:
            return held.pop(self)
        first = next_row(self, by)
        second = next_row(self, by) if first is not None else None
        if first is None or second is None:
            return first
        held[self] = first
        return second

    patch.setattr(SpoolKeeper, "_next_row", changed)


def repeat_what_was_already_applied(patch: Patch) -> None:
    send = Sender.send

    async def changed(self: Sender, batch: Batch) -> Outcome:
        outcome = await send(self, batch)
        if isinstance(outcome, AlreadyApplied):
            return await send(self, replace(batch, id=_anew()))
        return outcome

    patch.setattr(Sender, "send", changed)


def acknowledge_before_the_delivery(patch: Patch) -> None:
    deliver = Replayer.deliver

    async def changed(self: Replayer, row: SpooledRow) -> Step:
        self._source.acknowledge(row)
        return await deliver(self, row)

    patch.setattr(Replayer, "deliver", changed)


def take_refused_for_not_in_doubt(patch: Patch) -> None:
    attempt_failed = Courier._attempt_failed

    def changed(self: Courier, head: Head, failure: Failure) -> None:
        attempt_failed(self, head, failure)
        if not failure.in_doubt:
            head.batch = Batch(self._lane.next_id(), head.batch.values)

    patch.setattr(Courier, "_attempt_failed", changed)


def go_on_with_the_lane_of_an_adopted_part(patch: Patch) -> None:
    init = SimulatedPart.__init__

    def changed(self: SimulatedPart, *arguments: Any) -> None:
        init(self, *arguments)
        self._lane = f"{self.id:0>32}"  # the same for each owner, and its numbers begin at 1 again

    patch.setattr(SimulatedPart, "__init__", changed)


def divide_without_a_fence(patch: Patch) -> None:
    async def changed(self: Sender, batch: Batch) -> Fenced:
        return Fenced(0)

    patch.setattr(Sender, "fence", changed)


def divide_under_fresh_identities(patch: Patch) -> None:
    patch.setattr(BatchId, "child", lambda self, number: _anew())


def settle_the_second_half_first(patch: Patch) -> None:
    go_behind = Dissection._go_behind

    def changed(self: Dissection, node: Any) -> Step:
        step = go_behind(self, node)
        if len(node.batch.values) > 1:
            self._nodes[-2:] = reversed(self._nodes[-2:])
        return step

    patch.setattr(Dissection, "_go_behind", changed)


def pass_by_a_batch_that_is_not_fenced(patch: Patch) -> None:
    async def changed(self: Dissection, work: object) -> None:
        return None

    patch.setattr(Dissection, "_ask", changed)
    condemn = Dissection._condemn

    def stuck(self: Dissection, node: Any) -> None:
        condemn(self, node)
        self._fenced = True

    patch.setattr(Dissection, "_condemn", stuck)


@pytest.mark.parametrize(
    ("shortcut", "harm"),
    [
        (go_on_in_the_lane_of_a_spilled_batch, "lost"),
        (spill_without_the_identity, "doubled"),
        (replay_under_a_fresh_identity, "doubled"),
        (hand_out_rows_out_of_order, "lost"),
        (repeat_what_was_already_applied, "doubled"),
        (acknowledge_before_the_delivery, "lost"),
        (take_refused_for_not_in_doubt, "doubled"),
        (go_on_with_the_lane_of_an_adopted_part, "lost"),
        (divide_without_a_fence, "doubled"),
        (divide_under_fresh_identities, "doubled"),
        (settle_the_second_half_first, "lost"),
        (pass_by_a_batch_that_is_not_fenced, "lost"),
    ],
)
def test_a_shortcut_is_found_out(
    shortcut: Callable[[Patch], None], harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shortcut, one of the schedules that every test run plays loses or doubles a record."""
    shortcut(monkeypatch)
    for seed in range(SCHEDULES):
        try:
            play(World(seed))
        except Violation as violation:
            if str(violation).startswith(harm):
                print(f"found by seed {seed}")
                return
    pytest.fail(f"{SCHEDULES} schedules, and no record was {harm}")
