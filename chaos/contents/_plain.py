"""Records with nothing odd about them, but for their length."""

from __future__ import annotations

import random
import threading

from ._record import Call, Content, Record, problem_of_signed, signed


def _plain(record_id: str, dice: random.Random) -> Call:
    return _with_order(record_id, dice, dice.choice((0, 20, 100, 400)))


def _with_order(record_id: str, dice: random.Random, length: int) -> Call:
    order, thread_name = dice.randrange(10**6), threading.current_thread().name
    return Call(signed(record_id, "x" * length, order, thread_name), {"order": order})


def _problem_of_plain(record: Record) -> str | None:
    return problem_of_signed(record, "order", "threadName")


def _bare(record_id: str, dice: random.Random) -> Call:
    return Call(signed(record_id, "x" * dice.choice((0, 20, 100, 400))), {"order": dice.randrange(10**6)})


def _large_now_and_then(record_id: str, dice: random.Random) -> Call:
    if dice.random() > 0.05:
        return _plain(record_id, dice)
    return _with_order(record_id, dice, 1_047_900)  # a record of almost a mebibyte; none can be longer


PLAIN = {
    "plain": Content(_plain, _problem_of_plain),
    "message only": Content(_bare, problem_of_signed),  # for sinks that send no other field
    "large now and then": Content(_large_now_and_then, _problem_of_plain),
}
