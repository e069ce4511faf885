"""From a Loguru record to the line of JSON that Redis will hold.

    extract   what Plumelog wants to know of a record, as a LogRecord
    encode    a LogRecord as one line of UTF-8 JSON

Both run in the thread that logs, and both are total: whatever the record holds, a line comes out. A part that
cannot be read is replaced by a marked placeholder, that part alone.
"""

from __future__ import annotations

from ._encode import encode
from ._extract import FieldExtractor, producer_key
from ._model import LogRecord

__all__ = ["FieldExtractor", "LogRecord", "encode", "producer_key"]
