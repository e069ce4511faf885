"""An environment of its own for the earlier release, which has the same import name as ours.

It is made once, beside this file, and holds the same Loguru and the same Redis client as the environment that
runs the bench, so that only the sinks differ.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

RELEASE = "0.2.3"
_DIRECTORY = Path(__file__).resolve().parent / ".earlier-venv"


def python() -> Path | None:
    """The interpreter of that environment, made if need be; None if it cannot be, and stderr says why."""
    interpreter = _DIRECTORY / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = [f"plumelog-loguru=={RELEASE}", f"loguru=={version('loguru')}", f"redis=={version('redis')}"]
    stamp = _DIRECTORY / "made-of"
    made_of = "\n".join([sys.version, *wanted])
    if stamp.exists() and stamp.read_text() == made_of:
        return interpreter
    print(f"making an environment for plumelog-loguru {RELEASE} (once)", file=sys.stderr)
    shutil.rmtree(_DIRECTORY, ignore_errors=True)
    try:
        venv.create(_DIRECTORY, with_pip=True)
        pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"plumelog-loguru {RELEASE} cannot be installed and is left out: {error}", file=sys.stderr)
        return None
    stamp.write_text(made_of)
    return interpreter
