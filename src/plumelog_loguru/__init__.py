"""The Loguru sink for Plumelog that does not lose a log record and does not double one.

from loguru import logger
from plumelog_loguru import DurableRedisSink

logger.add(DurableRedisSink(app_name="shop"))
"""

from ._delivery import AsyncRedisClient
from ._errors import PlumelogError, SettingsError, WrongThreadError
from ._facts import DrainReport, Hook, SinkEvent, SinkStats
from ._record import FieldExtractor, LogRecord
from ._settings import PlumelogSettings
from ._sink import DurableRedisSink, RedisSink, create_redis_sink

__all__ = [
    "AsyncRedisClient",
    "DrainReport",
    "DurableRedisSink",
    "FieldExtractor",
    "Hook",
    "LogRecord",
    "PlumelogError",
    "PlumelogSettings",
    "RedisSink",
    "SettingsError",
    "SinkEvent",
    "SinkStats",
    "WrongThreadError",
    "create_redis_sink",
]
