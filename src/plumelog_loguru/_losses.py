"""What is lost, or put aside as a dead letter, said wherever somebody may look for it.

In the stream (`_loss_marker.py`), on stderr, to the hooks; what the spool has lost is booked as well. Whoever
drops records of its own books them itself, and tells here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from ._ledger import Ledger
from ._loss_marker import LossMarkers
from ._redis_health import Tell


class Losses:
    """Says what is lost, and what became a dead letter."""

    def __init__(
        self, markers: LossMarkers, ledger: Ledger, tell: Tell, report: Callable[[str, str], None]
    ) -> None:
        """``report(kind, sentence)`` tells a person."""
        self._markers = markers
        self._ledger = ledger
        self._tell = tell
        self._report = report

    def lost(self, records: int, reason: str, first_ms: int = 0, last_ms: int = 0) -> None:
        """Records are lost; the times are those of the first and the last of them, 0 where unknown."""
        self._markers.lost(records, reason, first_ms, last_ms)
        self.tell(records, reason)

    def tell(self, records: int, reason: str) -> None:
        """Records are lost, and their marker is taken care of."""
        self._report(f"dropped-{reason}", f"{records} records are lost: {reason}")
        self._tell("dropped", records=records, reason=reason)

    def lost_by_spool(
        self, part_id: str, records: int, reason: str, first_ms: int = 0, last_ms: int = 0
    ) -> None:
        """Records that counted as spooled are lost."""
        self._ledger.spool_lost(part_id, records, reason)
        self.lost(records, reason, first_ms, last_ms)

    def lost_by_server(self, records: int, which: str) -> None:
        """Redis has forgotten what it acknowledged; at most so many records."""
        self._ledger.server_lost += records
        self._report(
            "server-lost",
            f"Redis has forgotten what it acknowledged: {which}, at most {records} records",
        )
        self._tell("server_lost_data", records=records, detail=which)

    def put_aside(self, reasons: Iterable[str], spool_dir: Path | None) -> None:
        """Records are dead letters now; the reason is given for each."""
        for reason, records in Counter(reasons).items():
            self._tell("dead_lettered", records=records, reason=reason)
            self._report(
                "dead-lettered",
                f"{records} records are refused by Redis ({reason}); they lie in the dead letters of the "
                f"spool directory {spool_dir}",
            )
