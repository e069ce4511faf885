"""Toxiproxy, found or built or imitated, and driven through toxiproxy-python.

The wrapper mends what that library leaves open: one server for each process, requests without a time-out,
errors that are taken for answers, toxics that cannot be changed, and names that break a URL.
"""

from chaos.toxiproxy._find import build_server, find_server
from chaos.toxiproxy._http import ToxiproxyError
from chaos.toxiproxy._proxy import Proxy
from chaos.toxiproxy._server import Toxiproxy, start_server, start_standin, start_toxiproxy

__all__ = [
    "Proxy",
    "Toxiproxy",
    "ToxiproxyError",
    "build_server",
    "find_server",
    "start_server",
    "start_standin",
    "start_toxiproxy",
]
