"""A record for each request, behind gunicorn; gunicorn's own settings stand beside the application.

gunicorn --config chaos/application/shop.py [--preload --env PRELOAD=1] chaos.application.shop:application
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger

from chaos.application.sinks import SINKS
from chaos.contents import CONTENTS

# gunicorn's own names, read from this file as its configuration
workers = 2
max_requests = 60
max_requests_jitter = 30
graceful_timeout = 3  # a worker that is told to end while it is forked never hears of it
control_socket_disable = True


def _add_sink() -> None:
    logger.remove()
    SINKS[os.environ["SINK"]]().add_to(logger)


def post_fork(arbiter: object, worker: object) -> None:
    """Gunicorn calls it in each worker."""
    if "PRELOAD" not in os.environ:
        _add_sink()


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Log what the request asks for, and answer once that call has returned."""
    if record_id := environ["QUERY_STRING"]:
        call = CONTENTS["plain"].make(record_id, random.Random())
        logger.bind(**call.extras).info(call.message)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]


if "PRELOAD" in os.environ and __name__ == "chaos.application.shop":
    _add_sink()
