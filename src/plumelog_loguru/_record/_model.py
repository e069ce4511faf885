"""What one log record says to Plumelog, and under which keys.

The Java server and its web page know these keys by heart: a wrong spelling or a null where it expects text
takes the record, or a whole page of records, out of sight. So they stand here once.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class LogRecord:
    """A log record in Plumelog's terms. Not frozen: that makes it seven times as dear, at every log call."""

    server_name: str
    app_name: str
    env: str
    method: str
    content: str
    log_level: str
    class_name: str
    thread_name: str
    seq: int  # counts from 1 in its producer, without gaps
    date_time: str  # local time, "2026-11-22 00:00:14.873"
    dt_time: int  # the same moment in epoch milliseconds
    trace_id: str | None = None
    extras: dict[str, str] = field(default_factory=dict)  # flat; names as they go over the wire

    def to_dict(self) -> dict[str, object]:
        """The record under the keys of the wire. An extra never takes the place of a standard key."""
        wire: dict[str, object] = {
            "serverName": self.server_name,
            "appName": self.app_name,
            "env": self.env,
            "method": self.method,
            "content": self.content,
            "logLevel": self.log_level,
            "className": self.class_name,
            "threadName": self.thread_name,
            "seq": self.seq,
            # A space and no zone: the ISO form makes Elasticsearch map the field as a date, and it then
            # rejects every record that a Java application sends that day.
            "dateTime": self.date_time,
            "dtTime": self.dt_time,
            "traceId": self.trace_id,
            "logType": None,
            "appNameWithEnv": f"{self.app_name}-_-{self.env}",
        }
        for name, text in self.extras.items():  # cheaper than any way of merging two dicts
            if name not in wire:
                wire[name] = text
        return wire


STANDARD_KEYS = frozenset(LogRecord("", "", "", "", "", "", "", "", 0, "", 0).to_dict())
"""The keys that no extra field may take."""
