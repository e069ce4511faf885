"""``python -m chaos.standin``: a stand-in for Toxiproxy, until it is stopped."""

from __future__ import annotations

import argparse
import contextlib

from chaos.standin._http import Server


def main() -> None:
    """Serve until Ctrl-C or a signal."""
    parser = argparse.ArgumentParser(prog="python -m chaos.standin", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="of the HTTP interface")
    parser.add_argument("--port", type=int, default=8474, help="of the HTTP interface")
    arguments = parser.parse_args()
    with Server(arguments.host, arguments.port) as server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


main()
