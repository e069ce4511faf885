"""Texts that break those who handle them carelessly, and texts too long to go over the wire as they are."""

from __future__ import annotations

import random
import re
from functools import lru_cache

from ._record import Call, Content, Record, problem_of_signed, signed

MAX_CHARS = 65_536  # of a message and of an extra: what the library says of its settings
_MARK = re.compile(r"\.\.\.\[(\d+) characters cut\]")

_ODD_WORDS = (
    *("\x00", "\n", "\r", "\r\n", "\t", "\x0b", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\ufeff"),
    *("\ud800", "\udfff", "\ud83d\ude00", "\ude00\ud83d", "\udc80"),  # halves, pairs of halves, wrong pairs
    *("\ufffe", "\uffff", "\U0010ffff", "\u202e", "\u0301" * 9, "👨‍👩‍👧", "日志", "ß", "İ"),
    *(
        "{}",
        "{0}",
        "{missing}",
        "{{",
        "}",
        "%s",
        "%(x)d",
        "<red>",
        "</>",
        "\\",
        "\\ud800",
        '"',
        "'",
        "</script>",
    ),
    *('{"content": "x"}', "@type", "$ref", "*3\r\n$5\r\nLPUSH\r\n", "0 records lost, none, from "),
)


def arrives_as(text: str) -> str:
    """How a text stands in the list: UTF-8 has no bytes for half a surrogate pair, so it is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _odd_text(dice: random.Random) -> str:
    words = [
        dice.choice(_ODD_WORDS) if dice.random() < 0.5 else chr(dice.randrange(0x110000)) for _ in range(30)
    ]
    return "".join(words)


def _odd(record_id: str, dice: random.Random) -> Call:
    payload, extra = _odd_text(dice), _odd_text(dice)
    message = signed(record_id, arrives_as(payload)).removesuffix(arrives_as(payload)) + payload
    return Call(message, {"text": extra, "textSigned": signed("", arrives_as(extra))})


def _problem_of_odd(record: Record) -> str | None:
    if record["textSigned"] != signed("", record["text"]):
        return f"its extra is {record['text']!r}, which was signed {record['textSigned']!r}"
    return problem_of_signed(record)


@lru_cache(maxsize=8)  # whoever shows it should cost no more than showing costs
def long_text(length: int, letter: str = "") -> str:
    """A text of this length, of which each part tells its place; or of a single letter."""
    return (
        letter * length
        if letter
        else "".join(f"{place:09d}," for place in range(0, length + 10, 10))[:length]
    )


def is_cut_from(text: str, whole: str) -> bool:
    """Whether a text is the whole, or its beginning and a mark that counts what is missing."""
    mark = _MARK.search(text)
    if mark is None:
        return text == whole
    return (
        mark.end() == len(text)
        and whole.startswith(text[: mark.start()])
        and mark.start() + int(mark[1]) == len(whole)
    )


def _huge(record_id: str, dice: random.Random) -> Call:
    """One in ten has a message of megabytes, and one in ten extras that together do not fit a record."""
    length, wide = dice.choice(((66_000, 0), *((70_000, 0),) * 7, (2_000_000, 0), (100, 8)))
    wide_extras = {f"wide{number}": long_text(MAX_CHARS, "日") for number in range(wide)}
    return Call(f"{record_id} {length} {long_text(length)}", {"wide": wide, **wide_extras})


def _problem_of_huge(record: Record) -> str | None:
    content = record["content"]
    record_id, length, _ = content.split(" ", 2)
    if len(content) > MAX_CHARS:
        return f"it has {len(content)} characters"
    if not is_cut_from(content, f"{record_id} {length} {long_text(int(length))}"):
        return f"of {length} characters it is no beginning: {content[:40]!r}…{content[-40:]!r}"
    for number in range(int(record["wide"])):
        text = record[f"wide{number}"]
        if not is_cut_from(text, long_text(MAX_CHARS, "日")):
            return f"wide{number} is no beginning of what was logged: {text[:40]!r}…{text[-40:]!r}"
    return None


TEXTS = {
    "odd texts": Content(_odd, _problem_of_odd),
    "huge": Content(_huge, _problem_of_huge),
}
