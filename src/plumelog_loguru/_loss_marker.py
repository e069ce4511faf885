"""Losses, said in the stream itself: 'N records lost, REASON, from TIME to TIME'.

Who reads the log elsewhere has neither our statistics nor our standard error. So after a loss an ordinary
record says so, under a number of this producer's own.

- One marker for each reason and burst: when no more was lost for a second, or ten seconds after the first
  while it goes on. What finds no room waits here, and is added up.
- No marker begets another for ever. While Redis is away, what the spool dropped for want of room or for its
  age is marked by Redis only: a marker in a full spool would push out a row, which would need a marker. One
  that the spool refused is taken back, and waits for Redis too.

It collects, and is told when there is room; everything here runs in the loop thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from ._clock import Clock
from ._handoff import HandOff
from ._record import FieldExtractor, encode
from ._spool import dt_time_ms

_QUIET_SECONDS = 1.0
_LONGEST_SECONDS = 10.0
# What the spool drops by its own limits; a marker that is spooled for it may be the next.
_BY_THE_SPOOL = frozenset({"spool_full", "expired"})


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that were lost in one burst for one reason."""

    reason: str
    records: int
    in_all: int  # for this reason, since the sink was constructed
    first_ms: int  # epoch milliseconds: when the records were logged where that is known, else were lost
    last_ms: int

    def __str__(self) -> str:
        return (
            f"{self.records} records lost, {self.reason}, "
            f"from {_time(self.first_ms)} to {_time(self.last_ms)}"
        )


def marker_line(extractor: FieldExtractor, max_bytes: int, loss: Loss) -> bytes:
    """The record that says what was lost, in the bytes that Redis will hold."""
    level, level_no = ("WARNING", 30) if loss.reason == "expired" else ("ERROR", 40)
    record = extractor.from_message(
        str(loss),
        level_name=level,
        level_no=level_no,
        function="marker_line",
        file="_loss_marker.py",
        module_name="plumelog_loguru",
    )
    # Whichever fields of the application's are wanted: these say what the record is there for.
    record.extras = {
        **record.extras,
        "lostReason": loss.reason,
        "lostRecords": str(loss.records),
        "lostInAll": str(loss.in_all),
    }
    return encode(record, max_bytes)


@dataclass(slots=True)
class _Burst:
    loss: Loss
    began: float  # monotonic seconds
    latest: float
    for_redis: bool  # the spool has refused its marker already


class LossMarkers:
    """Collects losses, and makes a marker of each burst when it is time for one."""

    def __init__(
        self,
        line: Callable[[Loss], bytes],
        handoff: HandOff,
        clock: Clock,
        *,
        tell_queue_loss: Callable[[int], None] = lambda _records: None,
    ) -> None:
        """``line`` makes a record of a loss; ``tell_queue_loss`` hears of those that nobody else tells of."""
        self.made = 0
        self._line = line
        self._handoff = handoff
        self._clock = clock
        self._tell_queue_loss = tell_queue_loss
        self._bursts: dict[str, _Burst] = {}
        self._in_all: dict[str, int] = {}
        self._last: dict[str, tuple[bytes, Loss]] = {}  # by reason: the marker that was made last
        self._looked_ms = clock.epoch_ms()

    def lost(self, records: int, reason: str, first_ms: int = 0, last_ms: int = 0) -> None:
        """Records are lost; the times are those of the first and the last of them, 0 where unknown."""
        now, now_ms = self._clock.monotonic(), self._clock.epoch_ms()
        in_all = self._in_all[reason] = self._in_all.get(reason, 0) + records
        self._add(Loss(reason, records, in_all, first_ms or now_ms, last_ms or now_ms), now)

    def is_due(self, *, at_once: bool = False, spooled: bool = False) -> bool:
        """Whether `make` would make a marker."""
        self._look_at_queue()
        return self._next(at_once, spooled) is not None

    def make(self, *, at_once: bool = False, spooled: bool = False) -> bytes | None:
        """The marker of a burst that is over, or goes on for long; None where there is none.

        Args:
            at_once: do not wait for the end of a burst.
            spooled: there is room in the spool only, so leave out what only Redis should be told.
        """
        self._look_at_queue()
        reason = self._next(at_once, spooled)
        if reason is None:
            return None
        loss = self._bursts[reason].loss
        line = self._line(loss)
        del self._bursts[reason]
        self._last[reason] = line, loss
        self.made += 1
        return line

    def take_back(self, values: Sequence[bytes]) -> None:
        """The spool refused these; if they are a marker, Redis is to be told what it said."""
        for line, loss in self._last.values():
            if len(values) == 1 and values[0] == line:
                self._add(loss, self._clock.monotonic())
                self._bursts[loss.reason].for_redis = True

    def _next(self, at_once: bool, spooled: bool) -> str | None:
        now = self._clock.monotonic()
        for reason, burst in self._bursts.items():
            is_over = now >= burst.latest + _QUIET_SECONDS or now >= burst.began + _LONGEST_SECONDS
            if (at_once or is_over) and not (spooled and (burst.for_redis or reason in _BY_THE_SPOOL)):
                return reason
        return None

    def _add(self, loss: Loss, now: float) -> None:
        burst = self._bursts.get(loss.reason)
        if burst is None:
            self._bursts[loss.reason] = _Burst(loss, now, now, for_redis=False)
            return
        burst.latest = now
        burst.loss = replace(
            loss,
            records=burst.loss.records + loss.records,
            in_all=max(burst.loss.in_all, loss.in_all),
            first_ms=min(burst.loss.first_ms, loss.first_ms),
            last_ms=max(burst.loss.last_ms, loss.last_ms),
        )

    def _look_at_queue(self) -> None:
        """Callers count what the full queue lost, and tell nobody."""
        since_ms, self._looked_ms = self._looked_ms, self._clock.epoch_ms()
        evicted, refused = self._handoff.evicted, self._handoff.refused_full
        lost = evicted + refused - self._in_all.get("queue_full", 0)
        if lost > 0:
            span = self._handoff.take_evicted_span()
            first_ms, last_ms = map(dt_time_ms, span) if span else (since_ms, self._looked_ms)
            self.lost(lost, "queue_full", first_ms, last_ms)
            self._tell_queue_loss(lost)


def _time(ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(ms / 1000, timezone.utc).astimezone()
    except (ValueError, OverflowError, OSError):  # no time that a clock shows; a record can claim any
        return f"{ms} ms"
    return moment.isoformat(" ", "milliseconds")
