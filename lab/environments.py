"""Python environments of their own, for packages that must not stand beside ours.

Each is made once, below the checkout's ``.tools``, and made anew when what it is made of has changed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

_DIRECTORY = Path(__file__).resolve().parents[1] / ".tools" / "environments"


def python_with(name: str, requirements: Sequence[str]) -> Path | None:
    """The interpreter of an environment with these packages, made if need be.

    Args:
        name: of the environment; a plain word.
        requirements: as for pip, exact versions.

    Returns:
        The path of its Python; None if it cannot be made, and stderr says why.
    """
    directory = _DIRECTORY / name
    interpreter = directory / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = directory / "made-of"
    made_of = "\n".join([sys.version, *requirements])
    if stamp.exists() and stamp.read_text() == made_of:
        return interpreter
    print(f"making an environment for {', '.join(requirements)} (once)", file=sys.stderr)
    shutil.rmtree(directory, ignore_errors=True)
    try:
        venv.create(directory, with_pip=True)
        pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{', '.join(requirements)} cannot be installed and is left out: {error}", file=sys.stderr)
        return None
    stamp.write_text(made_of)
    return interpreter
