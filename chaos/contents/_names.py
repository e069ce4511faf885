"""Extras whose names are taken, or that no server takes, and extras by the thousand."""

from __future__ import annotations

import random

from ._record import Call, Content, Record

# The names of Plumelog's own fields, of the wire and of nobody's; and what they become.
_TAKEN = (
    *("appName", "env", "serverName", "logLevel", "className", "method", "threadName", "content", "dtTime"),
    *("dateTime", "seq", "logType", "appNameWithEnv", "producer"),
)
_CHANGED = {
    "@type": "x_type",
    "$ref": "x_ref",
    "_id": "x_id",
    "": "x",
    "white space": "white_space",
    "名": "名",
}
_ALIKE = ("a.b", "a b", "a_b")  # all of them a_b, so two have to give way


def _colliding(record_id: str, dice: random.Random) -> Call:
    number = dice.randrange(10**6)
    names = [*_TAKEN, *_CHANGED, *_ALIKE, "traceId"]
    dice.shuffle(names)
    return Call(f"{record_id} {number}", {name: f"{name} {number}" for name in names})


def _problem_of_colliding(record: Record) -> str | None:
    number = record["content"].split(" ")[1]
    expected = {f"{name}_": f"{name} {number}" for name in _TAKEN}
    expected |= {as_sent: f"{name} {number}" for name, as_sent in _CHANGED.items()}
    expected |= {"traceId": f"traceId {number}", "appName": "chaos", "logLevel": "INFO"}
    for name, text in expected.items():
        if record.get(name) != text:
            return f"{name} is {record.get(name)!r}, not {text!r}"
    if {record.get("a_b"), record.get("a_b_"), record.get("a_b__")} != {
        f"{name} {number}" for name in _ALIKE
    }:
        return "of three names that become one, not all have kept their value"
    if type(record["seq"]) is not int or type(record["dtTime"]) is not int or len(record["producer"]) != 16:
        return "a field of Plumelog's is not Plumelog's"
    return None


def _many(record_id: str, dice: random.Random) -> Call:
    count = 15_000 if dice.random() < 0.05 else 1_500  # so many have no room in one record
    return Call(f"{record_id} {count}", {f"extra{place}": _value(place) for place in range(count)})


def _value(place: int) -> str:
    return f"value {place} ".ljust(60, ".")


def _problem_of_many(record: Record) -> str | None:
    count = int(record["content"].split(" ")[1])
    values = [
        (name, value) for name, value in record.items() if name.startswith("extra") and name[5:].isdigit()
    ]
    cut = int(record.get("extrasCut", 0))
    missing = count - len(values)
    if not missing <= cut <= missing + 1:  # the producer is one of them, and may be counted
        return f"{missing} of {count} extras are missing, and {cut} are said to be"
    if missing and count < 10_000:
        return f"{missing} of {count} extras are missing"
    wrong = [name for name, value in values if value != _value(int(name[5:]))]
    return f"{wrong[:5]} have other values" if wrong else None


NAMES = {
    "colliding names": Content(_colliding, _problem_of_colliding),
    "thousands of extras": Content(_many, _problem_of_many),
}
