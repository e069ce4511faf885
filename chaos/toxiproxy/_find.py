"""Where a Toxiproxy server comes from: PATH, the tools folder of this checkout, or Go."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "2.12.0"
NAME = "toxiproxy-server"

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"

_MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"
_BUILD_SECONDS = 300.0


def find_server() -> Path | None:
    """Find a server binary on ``PATH``, or in the tools folder; None where there is none."""
    on_path = shutil.which(NAME)
    if on_path:
        return Path(on_path)
    tool = TOOLS / "bin" / NAME
    return tool if os.access(tool, os.X_OK) else None


def build_server(timeout: float = _BUILD_SECONDS) -> Path | None:
    """Build the server into the tools folder with Go; None where there is no Go, or it fails.

    Two that build at once do not harm each other: each builds in a folder of its own, and what is built takes
    its name in one step.

    Args:
        timeout: seconds.
    """
    go = shutil.which("go")
    if go is None:
        return None
    print(f"building Toxiproxy {VERSION} with Go, once", file=sys.stderr)
    built = TOOLS / "bin" / NAME
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=TOOLS) as folder:
        with subprocess.Popen(
            [go, "install", _MODULE],
            env={**os.environ, "GOBIN": folder},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                said = f"not done within {timeout:.0f} seconds".encode()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # Go's compilers too
        if process.returncode != 0:
            print(f"Go did not build Toxiproxy:\n{said.decode(errors='replace')}", file=sys.stderr)
            return None
        (Path(folder) / "server").replace(built)
    return built


def version_inside(binary: Path) -> str | None:
    """The version that Go has written into a binary: one built by ``go install`` calls itself ``git``."""
    found = re.search(rb"mod\tgithub\.com/Shopify/toxiproxy/v2\tv([0-9.]+)", binary.read_bytes())
    return found and found[1].decode()
