"""Loguru records as sinks get them, and extractors for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import loguru
import pytest
from loguru import logger

from plumelog_loguru._record import FieldExtractor
from plumelog_loguru._settings import PlumelogSettings

Extract = Callable[..., FieldExtractor]


@pytest.fixture
def extractor() -> Extract:
    """Makes an extractor from single settings."""

    def make(*, producer: str = "3f9c2a71b0d4e655", **settings: Any) -> FieldExtractor:
        known = {"app_name": "shop", "env": "prod", "server_name": "192.0.2.2"}
        return FieldExtractor(PlumelogSettings(**(known | settings)), producer=producer)

    return make


@pytest.fixture
def records() -> Iterator[list[dict[str, Any]]]:
    """The records that Loguru hands to a sink during the test."""
    seen: list[dict[str, Any]] = []

    def sink(message: loguru.Message) -> None:
        seen.append(dict(message.record))

    handler = logger.add(sink, level=0, format="{message}", catch=False)
    yield seen
    logger.remove(handler)
