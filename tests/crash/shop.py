"""A small application behind gunicorn: one record for each request; and gunicorn's settings beside it.

    gunicorn --config tests/crash/shop.py [--preload --env PRELOAD=1] tests.crash.shop:application

It is started by `test_gunicorn.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger

from plumelog_loguru import DurableRedisSink

# gunicorn's own names, read from this file as its configuration
workers = 4
max_requests = 40
max_requests_jitter = 20
graceful_timeout = 3  # a worker that is told to end while it is forked never hears of it
control_socket_disable = True


def _add_sink() -> None:
    logger.remove()
    logger.add(DurableRedisSink(), format="{message}")


def post_fork(arbiter: object, worker: object) -> None:
    """Gunicorn calls it in each worker."""
    if "PRELOAD" not in os.environ:
        _add_sink()


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Log what the request asks for, and answer once that call has returned."""
    if wanted := environ["QUERY_STRING"]:
        logger.info(wanted)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]


if "PRELOAD" in os.environ and __name__ == "tests.crash.shop":
    _add_sink()
