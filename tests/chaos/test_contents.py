"""The judge of each content finds nothing wrong with a record that is as it should be, and what is wrong."""

from __future__ import annotations

import json
import math
import time
from random import Random
from typing import Any

import pytest
from loguru import logger

from chaos.contents import CONTENTS, Call, id_of, problem_of_standard_fields
from plumelog_loguru._record import FieldExtractor, encode
from plumelog_loguru._settings import PlumelogSettings


def arrived(call: Call, max_chars: int = 65_536) -> dict[str, Any]:
    """What would lie in the list."""
    settings = PlumelogSettings(app_name="chaos", max_content_chars=max_chars, _env_file=None)
    extractor, records = FieldExtractor(settings), []
    number = logger.add(
        lambda message: records.append(json.loads(encode(extractor.extract(message.record), 1 << 20))),
        catch=False,
        format="{message}",
    )
    try:
        here = logger.patch(lambda record: record.update({"name": "chaos.application.program"}))
        here.bind(**call.extras).opt(exception=call.error).info(call.message)
    finally:
        logger.remove(number)
    call.afterwards()
    record: dict[str, Any] = records[0]
    return record


@pytest.mark.parametrize("content", CONTENTS)
def test_what_arrives_as_it_should_is_right(content: str) -> None:
    """Whatever is drawn."""
    dice, began_ms = Random(7), time.time() * 1000
    for number in range(40):
        max_chars = 1 << 20 if content.startswith("large") else 65_536  # as its scenarios have it
        record = arrived(CONTENTS[content].make(f"p0-0-{number}", dice), max_chars)
        assert id_of(record) == f"p0-0-{number}"
        assert CONTENTS[content].problem(record) is None
        assert problem_of_standard_fields(record, began_ms - 1, time.time() * 1000 + 1) is None


@pytest.mark.parametrize(
    "name",
    [
        *("serverName", "appName", "env", "appNameWithEnv", "logLevel", "method", "className", "threadName"),
        *("dateTime", "dtTime", "seq", "producer", "logType", "traceId"),
    ],
)
def test_a_standard_field_is_missed(name: str) -> None:
    """Gone, empty, or of another kind."""
    record = arrived(CONTENTS["plain"].make("p0-0-0", Random(7)))
    for found in ("", ["x"], 7.5) if name != "traceId" else ():
        assert problem_of_standard_fields({**record, name: found}, 0, math.inf)
    record.pop(name)
    assert problem_of_standard_fields(record, 0, math.inf)


def test_a_record_of_another_time_is_found() -> None:
    """As of another application, another level, or with another number."""
    record = arrived(CONTENTS["plain"].make("p0-0-0", Random(7)))
    assert "dtTime" in str(problem_of_standard_fields(record, record["dtTime"] + 1, math.inf))
    assert "dtTime" in str(problem_of_standard_fields(record, 0, record["dtTime"] - 1))
    for change in (
        {"appName": "shop"},
        {"logLevel": "ERROR"},
        {"seq": 0},
        {"producer": "me"},
        {"dtTime": record["dtTime"] + 1},
    ):
        assert problem_of_standard_fields({**record, **change}, 0, math.inf)


@pytest.mark.parametrize(
    ("content", "change"),
    [
        ("plain", lambda record: record.update(content=record["content"][:-1] + "?")),
        ("plain", lambda record: record.update(order=str(int(record["order"]) + 1))),
        ("plain", lambda record: record.pop("order")),
        ("plain", lambda record: record.update(threadName="another")),
        ("large now and then", lambda record: record.pop("order")),
        ("odd texts", lambda record: record.update(content=record["content"][:-1])),
        ("odd texts", lambda record: record.update(text=record["text"] + "\x00")),
        ("huge", lambda record: record.update(content=record["content"].replace("000000010", "000000011"))),
        (
            "huge",
            lambda record: record.update(content=record["content"].replace(" characters", "0 characters")),
        ),
        (
            "odd objects",
            lambda record: [record.pop(name) for name in record["content"].split(" ")[3].split(",")],
        ),
        ("changed afterwards", lambda record: record.update(plain=record["plain"][:-1] + ', "later"]')),
        ("colliding names", lambda record: record.update(appName="appName 7")),
        ("colliding names", lambda record: record.pop("a_b__")),
        ("thousands of extras", lambda record: record.pop("extra17")),
        ("errors", lambda record: record.update(content=record["content"].partition("\n")[0])),
    ],
)
def test_what_arrives_otherwise_is_found(content: str, change: Any) -> None:
    """A judge that sees nothing would be green for ever."""
    dice, found = Random(7), 0
    for number in range(40):
        record = arrived(CONTENTS[content].make(f"p0-0-{number}", dice))
        change(record)
        found += CONTENTS[content].problem(record) is not None
    assert found >= 30
