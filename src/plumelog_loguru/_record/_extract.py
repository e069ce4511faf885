"""What Plumelog wants to know of a Loguru record.

:meth:`FieldExtractor.extract` runs in the thread that logs, under Loguru's lock, for every record: it takes
no lock of its own, does no I/O (but for the source lines of a traceback), and is total: each part is read in
a ``try`` of its own, which costs nothing where nothing is wrong, and a part that cannot be read is replaced
by a placeholder.
"""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .._json import encoder
from ._encode import encode
from ._model import STANDARD_KEYS, LogRecord
from ._text import cut, placeholder, text_of
from ._traceback import format_error

if TYPE_CHECKING:
    from .._settings import PlumelogSettings

_NAME_MAX_CHARS = 128
_TRACEBACK_END_CHARS = 2048  # of a traceback that is cut; the end names the error
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECONDS = [f".{ms:03d}" for ms in range(1000)]  # a look-up costs a quarter of the formatting
_ONE_SECOND = timedelta(seconds=1)
_TRACE_NAMES = ("traceId", "trace_id")  # the first that is set wins
_ODD = re.compile(r"[^\w-]")


@lru_cache(maxsize=1024)
def wire_name(name: str) -> str:
    """The name under which an extra field goes over the wire.

    Only letters, digits, ``_`` and ``-`` stay; all else becomes ``_``. A dot would make an object of the
    field in Elasticsearch, and ``@type`` or ``$ref`` makes the server refuse all the records that it fetched
    together. A leading ``_`` gets an ``x`` before it: Elasticsearch keeps ``_id``, ``_type`` and the like for
    itself. The name of a standard key gets a ``_`` after it.
    """
    name = _ODD.sub("_", name)
    if not name or name[0] == "_":
        name = "x" + name
    return name + "_" if name in STANDARD_KEYS else name


def producer_key(settings: PlumelogSettings) -> str:
    """Under which key of the wire a record says its producer; "" where it does not."""
    name = settings.producer_field
    return wire_name(name[:_NAME_MAX_CHARS]) if name else ""


class FieldExtractor:
    """Reads log records, and numbers them.

    ``producer`` and a record's ``seq`` together name a record for good: one extractor, one producer, one
    unbroken count from 1. A forked child needs an extractor of its own.
    """

    def __init__(self, settings: PlumelogSettings, *, producer: str | None = None) -> None:
        """Start counting at 1, under a name that nobody else has.

        Args:
            settings: Names, limits and mappings.
            producer: Who numbers these records; by default 16 hexadecimal digits of the operating system's
                randomness, for applications seed :mod:`random`.
        """
        self.producer = producer or os.urandom(8).hex()
        self._dumps = encoder()
        self._seq = count(1)
        self._server_name = settings.server_name
        self._app_name = settings.app_name.replace(",", "_")  # the web page splits its filter at commas
        self._env = settings.env
        self._content_limit = settings.max_content_chars
        thresholds = sorted(settings.level_map)
        self._thresholds = thresholds
        # A number below the first threshold counts as the first.
        self._levels = [settings.level_map[no] for no in (thresholds[0], *thresholds)]
        wanted = settings.extra_fields
        self._wanted = None if wanted == "all" else frozenset(() if wanted == "none" else wanted)
        key = producer_key(settings)
        self._own_extras = {key: self.producer} if key else {}
        # How every line begins: what is the same in all records. Empty where a name holds a lone surrogate.
        shared = {
            "serverName": self._server_name,
            "appName": self._app_name,
            "env": self._env,
            "appNameWithEnv": f"{self._app_name}-_-{self._env}",
            "logType": None,
        }
        try:
            self._head = self._dumps(shared)[:-1] + b","
        except TypeError:
            self._head = b""
        # The second that was formatted last: when it begins, the same in epoch ms, its text. Replaced whole,
        # never changed, so that threads may race for it.
        self._second = (_EPOCH, 0, "1970-01-01 00:00:00")

    @property
    def last_seq(self) -> int:
        """The number given last; 0 before the first."""
        # A count shows its position only in its repr. An attribute beside it would lag when two threads race.
        return int(repr(self._seq)[len("count(") : -1]) - 1

    def line(self, record: Mapping[str, Any], max_bytes: int) -> bytes:
        """What `encode` makes of what `extract` reads, at two thirds of the price.

        No `LogRecord` is built, and what all records share was encoded once. That is for the record with
        nothing odd about it; any other goes the long way round.

        Args:
            record: As Loguru hands it to sinks; never changed and never kept.
            max_bytes: The most that the line may have; at least 1,024.
        """
        seq = None
        try:
            content, class_name, thread_name = record["message"], record["name"], record["thread"].name
            if (
                record["exception"] is None
                and type(content) is type(class_name) is type(thread_name) is str
                and len(content) <= self._content_limit
                and class_name
                and self._head
            ):
                trace_id, extras = self._extras(record) if record["extra"] else (None, self._own_extras)
                date_time, dt_time = self._when(record["time"])
                wire = {
                    "method": f"{record['function']}({record['file'].name}:{record['line']})",
                    "content": content,
                    "logLevel": self._levels[bisect_right(self._thresholds, record["level"].no)],
                    "className": class_name,
                    "threadName": thread_name,
                    "dateTime": date_time,
                    "dtTime": dt_time,
                    "traceId": trace_id,
                    **extras,  # never a standard key: `wire_name` sees to it
                }
                wire["seq"] = seq = next(self._seq)
                line = self._head + self._dumps(wire)[1:]
                if len(line) <= max_bytes:
                    return line
        except Exception:  # noqa: S110  # the long way finds out which part is bad
            pass
        return encode(self.extract(record, seq), max_bytes)

    def extract(self, record: Mapping[str, Any], seq: int | None = None) -> LogRecord:
        """Read a record of Loguru's, and give it the next number.

        Args:
            record: As Loguru hands it to sinks; never changed and never kept.
            seq: Its number, if it was given one before.
        """
        try:
            date_time, dt_time = self._when(record["time"])
        except Exception:
            # No placeholder fits here, but now is never far off: records come straight from their log call.
            date_time, dt_time = self._when(datetime.now(timezone.utc))
        try:
            level = self._levels[bisect_right(self._thresholds, record["level"].no)]
        except Exception:
            level = "INFO"
        try:
            method = f"{record['function']}({record['file'].name}:{record['line']})"
        except Exception as error:
            method = placeholder(error)
        try:
            class_name = record["name"] or record["module"] or "unknown"
        except Exception as error:
            class_name = placeholder(error)
        if type(class_name) is not str:
            class_name = text_of(class_name, self._content_limit)
        try:
            thread_name = record["thread"].name
        except Exception as error:
            thread_name = placeholder(error)
        if type(thread_name) is not str:
            thread_name = text_of(thread_name, self._content_limit)
        content = self._content(record)
        trace_id, extras = self._extras(record)
        # The number comes last: whatever interrupts the reading above leaves no gap in the count.
        return LogRecord(
            self._server_name,
            self._app_name,
            self._env,
            method,
            content,
            level,
            class_name,
            thread_name,
            next(self._seq) if seq is None else seq,
            date_time,
            dt_time,
            trace_id,
            extras,
        )

    def from_message(
        self,
        message: str,
        *,
        level_name: str = "INFO",
        level_no: int = 20,
        extra: Mapping[str, object] | None = None,
        function: str = "unknown",
        file: str = "unknown",
        line: int = 0,
        module_name: str | None = None,
    ) -> LogRecord:
        """Make a record without Loguru, of this moment and this thread.

        Args:
            message: What the record says.
            level_name: Loguru's name for the level.
            level_no: Its number, which decides the level that Plumelog sees.
            extra: Extra fields, as from ``logger.bind()``.
            function: Where it was logged: the function,
            file: the file's name,
            line: the line, from 1,
            module_name: and the module.
        """
        return self.extract(
            {
                "time": datetime.now(timezone.utc),
                "level": SimpleNamespace(name=level_name, no=level_no),
                "message": message,
                "exception": None,
                "extra": extra or {},
                "function": function,
                "file": SimpleNamespace(name=file),
                "line": line,
                "name": module_name,
                "module": module_name,
                "thread": threading.current_thread(),
            }
        )

    def _when(self, moment: datetime) -> tuple[str, int]:
        """A moment as local time to the millisecond, and as epoch milliseconds.

        Most records fall into the second of the one before, so its text is kept: formatting costs more than
        everything else that is done here.
        """
        start, start_ms, text = self._second
        since = moment - start if moment.tzinfo is not None else moment.astimezone() - start
        if since.days or since.seconds:
            epoch_seconds = (since + (start - _EPOCH)) // _ONE_SECOND
            start, start_ms = _EPOCH + epoch_seconds * _ONE_SECOND, epoch_seconds * 1000
            text = datetime.fromtimestamp(epoch_seconds).isoformat(" ")
            self._second = (start, start_ms, text)
        millisecond = since.microseconds // 1000
        return text + _MILLISECONDS[millisecond], start_ms + millisecond

    def _content(self, record: Mapping[str, Any]) -> str:
        """The message, and under it the traceback where there is one, at any level."""
        limit = self._content_limit
        try:
            content = record["message"]
        except Exception as failure:
            content = placeholder(failure)
        if type(content) is not str:
            content = text_of(content, limit)
        try:
            if record["exception"] is not None:
                kind, error, frames = record["exception"]
                # Outside an ``except``, logger.exception() hands over three Nones, and they are true.
                if error is not None or kind is not None:
                    content = f"{content}\n{format_error(kind, error, frames, limit)}"
                    return cut(content, limit, tail=_TRACEBACK_END_CHARS)
        except Exception as failure:
            content = f"{content}\n{placeholder(failure)}"
        return content if len(content) <= limit else cut(content, limit)

    def _extras(self, record: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
        """The trace id, and the extra fields under the names of the wire, the producer first."""
        extras = self._own_extras.copy()
        limit = self._content_limit
        traces: dict[str, str] = {}
        try:
            given = record["extra"]
            if not given:
                return None, extras
            for name, value in given.items():
                if type(name) is not str:
                    name = text_of(name, _NAME_MAX_CHARS)
                if name in _TRACE_NAMES:
                    if value is not None:
                        traces[name] = text_of(value, limit)
                elif self._wanted is None or name in self._wanted:
                    key = wire_name(name[:_NAME_MAX_CHARS])
                    while key in extras:
                        key += "_"
                    # Most extras are short strings: text_of would give them back as they are.
                    short = type(value) is str and len(value) <= limit
                    extras[key] = value if short else text_of(value, limit)
        except Exception as error:
            extras["extra"] = placeholder(error)
        return traces.get("traceId") or traces.get("trace_id"), extras
