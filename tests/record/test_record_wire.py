"""What goes over the wire is what the Java server and its web page expect."""

from __future__ import annotations

import builtins
import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from plumelog_loguru._record import LogRecord, encode

MIB = 2**20
GOLDEN = Path(__file__).parent.parent / "golden" / "java-records.jsonl"


def wire(record: LogRecord) -> dict[str, Any]:
    return json.loads(encode(record, MIB))


def test_every_key_of_java_with_its_type(extractor, records) -> None:
    """Each key that the Java client sends is sent by us too, with a value of the same JSON type."""
    logger.bind(traceId="t-1").info("hello")
    logger.info("hello")
    fields = extractor()
    with_trace, without = (wire(fields.extract(record)) for record in records)
    for line in GOLDEN.read_bytes().splitlines():  # of bytes: U+2028 inside a value ends no line
        for key, value in json.loads(line).items():
            if key != "orderid":  # an MDC entry of that application
                ours = without if value is None else with_trace
                assert type(ours[key]) is type(value), key


def test_whole_record(extractor, records) -> None:
    """A plain record carries these keys and values, and no others."""
    logger.bind(order_id=42, traceId="879").warning("sold {}", 3)
    (record,) = records
    moment = record["time"]
    assert wire(extractor().extract(record)) == {
        "appName": "shop",
        "env": "prod",
        "serverName": "192.0.2.2",
        "appNameWithEnv": "shop-_-prod",
        "logType": None,
        "logLevel": "WARN",
        "className": __name__,
        "method": f"test_whole_record(test_record_wire.py:{record['line']})",
        "threadName": "MainThread",
        "content": "sold 3",
        "dtTime": int(moment.timestamp()) * 1000 + moment.microsecond // 1000,
        "dateTime": moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3],
        "seq": 1,
        "traceId": "879",
        "producer": "3f9c2a71b0d4e655",
        "order_id": "42",
    }


def test_fields_of_the_earlier_library() -> None:
    """A record is made, by position or by keyword, from the fields that the earlier library's record has."""
    names = [
        "server_name",
        "app_name",
        "env",
        "method",
        "content",
        "log_level",
        "class_name",
        "thread_name",
        "seq",
    ]
    names += ["date_time", "dt_time"]
    values = [
        "192.0.2.2",
        "shop",
        "prod",
        "f(a.py:1)",
        "hi",
        "INFO",
        "m",
        "main",
        7,
        "2026-11-22 00:00:14.873",
        1,
    ]
    by_keyword = LogRecord(**dict(zip(names, values, strict=True)))  # type: ignore[arg-type]
    assert by_keyword == LogRecord(*values)  # type: ignore[arg-type]
    assert by_keyword.to_dict()["seq"] == 7
    assert not hasattr(by_keyword, "__dict__")


def test_an_extra_never_overwrites_a_standard_key() -> None:
    """Even extras that were put straight into a record leave the standard keys alone."""
    record = LogRecord(
        "s", "a", "e", "m", "c", "INFO", "k", "t", 1, "d", 2, extras={"content": "x", "b": "y"}
    )
    assert record.to_dict()["content"] == "c"
    assert record.to_dict()["b"] == "y"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("TRACE", "DEBUG"),
        ("DEBUG", "DEBUG"),
        ("INFO", "INFO"),
        ("SUCCESS", "INFO"),
        ("WARNING", "WARN"),
        ("ERROR", "ERROR"),
        ("CRITICAL", "ERROR"),
        (0, "DEBUG"),
        (19, "DEBUG"),
        (27, "INFO"),
        (33, "WARN"),
        (99, "ERROR"),
    ],
)
def test_levels_by_number(extractor, records, level: str | int, expected: str) -> None:
    """Every level, named or custom, becomes one of the four that the web page knows."""
    logger.log(level, "x")
    assert extractor().extract(records[0]).log_level == expected


def test_level_map_is_a_setting(extractor, records) -> None:
    """Levels follow the configured thresholds."""
    logger.info("x")
    logger.critical("x")
    fields = extractor(level_map={0: "LOW", 50: "FATAL"})
    assert [fields.extract(record).log_level for record in records] == ["LOW", "FATAL"]


def test_seq_counts_without_gaps_over_threads(extractor, records) -> None:
    """Threads that extract at once get each number exactly once."""
    logger.info("x")
    fields = extractor()
    assert fields.last_seq == 0
    taken: list[int] = []

    def work() -> None:
        taken.extend([fields.extract(records[0]).seq for _ in range(500)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 2001))
    assert fields.last_seq == 2000


def test_each_extractor_is_a_producer_of_its_own(extractor) -> None:
    """Producers are 16 hexadecimal digits, drawn anew."""
    first, second = extractor(producer=None), extractor(producer=None)
    assert first.producer != second.producer
    assert len(first.producer) == 16
    int(first.producer, 16)


def test_producer_field_is_renamed_or_left_out(extractor, records) -> None:
    """The producer travels under the configured name, or not at all."""
    logger.info("x")
    assert extractor(producer_field="by").extract(records[0]).extras == {"by": "3f9c2a71b0d4e655"}
    assert extractor(producer_field="").extract(records[0]).extras == {}


def test_thread_is_the_records(extractor, records) -> None:
    """The thread named is the one that logged, not the one that extracts."""
    thread = threading.Thread(target=logger.info, args=("x",), name="worker-7")
    thread.start()
    thread.join()
    assert extractor().extract(records[0]).thread_name == "worker-7"


def test_class_name_is_never_null(extractor, records) -> None:
    """Code without a module name is "unknown", or goes by its file."""
    exec(compile("logger.info('x')", "<made>", "exec"), {"logger": logger, "__name__": None})
    (record,) = records
    assert record["name"] is None
    assert extractor().extract(record).class_name == "<made>"
    record["module"] = None
    assert extractor().extract(record).class_name == "unknown"


def test_commas_in_the_app_name(extractor, records) -> None:
    """The application's name has no commas, at which the web page would split it."""
    logger.info("x")
    sent = wire(extractor(app_name="shop,eu").extract(records[0]))
    assert (sent["appName"], sent["appNameWithEnv"]) == ("shop_eu", "shop_eu-_-prod")


# --- time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in a zone with an odd offset and with summer time."""
    monkeypatch.setenv("TZ", "Australia/Lord_Howe")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("zone")
@pytest.mark.parametrize("zone_of_record", [timezone.utc, timezone(timedelta(hours=-5)), None])
def test_local_time_of_any_moment(extractor, records, zone_of_record) -> None:
    """Local time and epoch milliseconds name one moment, in any zone and any order of records."""
    logger.info("x")
    fields = extractor()
    # The last two lie on both sides of the end of summer time.
    for epoch_us in (
        1795305614873999,
        1795305614000000,
        1795305613999999,
        -1,
        1775314799999000,
        1775314800000000,
    ):
        moment = datetime.fromtimestamp(0, timezone.utc) + timedelta(microseconds=epoch_us)
        local = datetime.fromtimestamp(epoch_us // 1_000_000).replace(microsecond=epoch_us % 1_000_000)
        records[0]["time"] = moment.astimezone(zone_of_record) if zone_of_record else local
        record = fields.extract(records[0])
        assert record.dt_time == epoch_us // 1000
        assert record.date_time == local.isoformat(" ", "milliseconds")


def test_a_moment_that_cannot_be_told_becomes_now(extractor, records) -> None:
    """A record whose time is broken is dated at its extraction."""
    logger.info("x")
    for broken in (None, "yesterday", datetime.min.replace(tzinfo=timezone.utc)):
        records[0]["time"] = broken
        before = time.time_ns() // 1_000_000
        assert before <= extractor().extract(records[0]).dt_time <= time.time_ns() // 1_000_000


# --- content ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_traceback_stands_under_the_message_at_any_level(extractor, records, level: str) -> None:
    """The message, a newline, the traceback with its causes."""
    try:
        try:
            int("x")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        logger.opt(exception=True).log(level, "failed")
    content = extractor().extract(records[0]).content
    assert content.startswith("failed\nTraceback (most recent call last):\n")
    assert "ValueError: invalid literal" in content
    assert "direct cause" in content
    assert content.endswith("\nRuntimeError: outer")


def test_exception_without_a_traceback(extractor, records) -> None:
    """An exception that was never raised is shown all the same."""
    logger.opt(exception=ValueError("never raised")).error("failed")
    assert extractor().extract(records[0]).content == "failed\nValueError: never raised"


def test_logger_exception_outside_an_except(extractor, records) -> None:
    """Loguru's three Nones are no exception."""
    logger.exception("nothing wrong")
    assert records[0]["exception"] is not None
    assert extractor().extract(records[0]).content == "nothing wrong"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_exception_group(extractor, records) -> None:
    """All members of a group are shown."""
    group = builtins.ExceptionGroup("many", [ValueError("one"), KeyError("two")])  # type: ignore[attr-defined]
    logger.opt(exception=group).error("failed")
    content = extractor().extract(records[0]).content
    assert "ValueError: one" in content
    assert "KeyError: 'two'" in content


def test_long_content_is_cut_with_a_mark(extractor, records) -> None:
    """Content stays within its limit, mark included, and the mark says how much is missing."""
    logger.info("x" * 5000)
    content = extractor(max_content_chars=1000).extract(records[0]).content
    kept = content.index("...[")
    assert len(content) <= 1000
    assert content == "x" * kept + f"...[{5000 - kept} characters cut]"


def test_the_end_of_a_long_traceback_survives(extractor, records) -> None:
    """What names the error is kept when a traceback is cut."""
    logger.opt(exception=ValueError("y" * 9000 + " the end")).error("failed")
    content = extractor(max_content_chars=4000).extract(records[0]).content
    assert len(content) <= 4000
    assert content.startswith("failed\nValueError: yyy")
    assert "characters cut]" in content
    assert content.endswith(" the end")


# --- extras -------------------------------------------------------------------------------------------------


def extras(extractor, records, given: dict[Any, Any], **settings: Any) -> dict[str, str]:
    logger.patch(lambda record: record.__setitem__("extra", given)).info("x")
    found = extractor(**settings).extract(records[-1]).extras
    found.pop("producer", None)
    return found


def test_values_are_strings(extractor, records) -> None:
    """Every value becomes a string: its own, or as JSON spells it, or as str() does."""
    given = {
        "s": "text", "i": 42, "huge": 2**70, "t": True, "n": None, "nan": float("nan"), "f": 1.5,
        "list": [1, "a", None], "dict": {"a": {"b": (1, 2)}, 3: "c"}, "path": Path("/a"), "bytes": b"\xff",
    }  # fmt: skip
    assert extras(extractor, records, given) == {
        "s": "text", "i": "42", "huge": str(2**70), "t": "true", "n": "null", "nan": "NaN", "f": "1.5",
        "list": '[1, "a", null]', "dict": '{"a": {"b": [1, 2]}, "3": "c"}', "path": "/a", "bytes": r"b'\xff'",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orderId", "orderId"),
        ("用户", "用户"),
        ("x-request-id", "x-request-id"),
        ("user.name", "user_name"),
        ("@type", "x_type"),
        ("$ref", "x_ref"),
        ("_id", "x_id"),
        ("", "x"),
        ("a b\n", "a_b_"),
        ("\udc80", "x_"),
        ("content", "content_"),
        ("seq", "seq_"),
        ("producer", "producer_"),
        (7, "7"),
        ("n" * 500, "n" * 128),
    ],
)
def test_names_are_made_safe(extractor, records, name: Any, expected: str) -> None:
    """Names that the server or Elasticsearch would choke on are changed, always in the same way."""
    assert extras(extractor, records, {name: "v"}) == {expected: "v"}


def test_names_that_become_alike_are_kept_apart(extractor, records) -> None:
    """No extra is lost to another whose name becomes the same."""
    assert extras(extractor, records, {"a.b": 1, "a_b": 2, "a b": 3}) == {
        "a_b": "1",
        "a_b_": "2",
        "a_b__": "3",
    }


def test_extra_fields_setting(extractor, records) -> None:
    """All extras, none, or those that are listed under the names they were given."""
    given = {"user.id": 1, "b": 2, "traceId": "t"}
    assert extras(extractor, records, given) == {"user_id": "1", "b": "2"}
    assert extras(extractor, records, given, extra_fields="none") == {}
    assert extras(extractor, records, given, extra_fields=["user.id", "absent"]) == {"user_id": "1"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"traceId": "a"}, "a"),
        ({"trace_id": "b"}, "b"),
        ({"trace_id": "b", "traceId": "a"}, "a"),
        ({"traceId": None, "trace_id": 7}, "7"),
        ({"traceId": ""}, None),
        ({}, None),
    ],
)
def test_trace_id(extractor, records, given: dict[str, Any], expected: str | None) -> None:
    """The trace id comes from either name, whatever extras are wanted, and is not repeated among them."""
    logger.bind(**given).info("x")
    record = extractor(extra_fields="none").extract(records[0])
    assert (record.trace_id, list(record.extras)) == (expected, ["producer"])


# --- without Loguru -----------------------------------------------------------------------------------------


def test_record_from_a_message(extractor) -> None:
    """A record made without Loguru is like one made with it, of this moment and thread, in the same count."""
    fields = extractor()
    before = time.time_ns() // 1_000_000
    record = fields.from_message(
        "hi", level_name="WARNING", level_no=30, extra={"a": 1, "trace_id": "t"},
        function="f", file="a.py", line=3, module_name="shop",
    )  # fmt: skip
    assert before <= record.dt_time <= time.time_ns() // 1_000_000
    assert record.extras == {"producer": fields.producer, "a": "1"}
    assert (record.method, record.class_name, record.thread_name) == ("f(a.py:3)", "shop", "MainThread")
    assert (record.log_level, record.trace_id, record.seq, record.content) == ("WARN", "t", 1, "hi")


def test_the_record_is_not_changed(extractor, records) -> None:
    """Loguru's record, which other sinks share, is left as it was."""
    logger.bind(a={"b": 1}, traceId="t").info("x")
    before = {**records[0], "extra": dict(records[0]["extra"])}
    extractor().extract(records[0])
    assert records[0] == before
