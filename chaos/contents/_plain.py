"""Records with nothing odd about them, but for their length."""

from __future__ import annotations

import random

from ._record import Call, Content, problem_of_signed, signed


def _plain(record_id: str, dice: random.Random) -> Call:
    return Call(signed(record_id, "x" * dice.choice((0, 20, 100, 400))), {"order": dice.randrange(10**6)})


def _large_now_and_then(record_id: str, dice: random.Random) -> Call:
    if dice.random() > 0.05:
        return _plain(record_id, dice)
    return Call(signed(record_id, "x" * 1_047_900))  # a record of almost a mebibyte; none can be longer


PLAIN = {
    "plain": Content(_plain, problem_of_signed),
    "large now and then": Content(_large_now_and_then, problem_of_signed),
}
