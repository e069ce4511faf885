"""The judge of each content finds nothing wrong with a record that is as it should be, and what is wrong."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from loguru import logger

from chaos.contents import CONTENTS, Call, id_of
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
        logger.bind(**call.extras).opt(exception=call.error).info(call.message)
    finally:
        logger.remove(number)
    call.afterwards()
    record: dict[str, Any] = records[0]
    return record


@pytest.mark.parametrize("content", CONTENTS)
def test_what_arrives_as_it_should_is_right(content: str) -> None:
    """Whatever is drawn."""
    dice = Random(7)
    for number in range(40):
        max_chars = 1 << 20 if content.startswith("large") else 65_536  # as its scenarios have it
        record = arrived(CONTENTS[content].make(f"p0-0-{number}", dice), max_chars)
        assert id_of(record) == f"p0-0-{number}"
        assert CONTENTS[content].problem(record) is None


@pytest.mark.parametrize(
    ("content", "change"),
    [
        ("plain", lambda record: record.update(content=record["content"][:-1] + "?")),
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
