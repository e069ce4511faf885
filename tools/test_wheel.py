"""Build the wheel, install it where the sources cannot be seen, and run the tests against it.

    python tools/test_wheel.py [--every-python] [pytest's arguments]

Needs nothing but Python with venv and pip. Each interpreter gets an environment of its own under
`.test-venvs`, made anew whenever pyproject.toml is newer than it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
AT_ONCE = 2  # the tests mostly wait: for servers, clocks and processes that are killed
# What tests the tools and not the library: on the oldest Python and the newest, not on those between.
OF_THE_TOOLS = ("tests/bench", "tests/chaos", "tests/lab")


def run(*command: str | Path) -> None:
    """Run it in the repository, and end with its exit code if it fails."""
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        sys.exit(code)


def answer(*command: str | Path) -> str | None:
    """What it prints, run away from the sources; None if it cannot be started or fails."""
    try:
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find(version: str) -> Path | None:
    """The interpreter of a version: on PATH, or among those that pyenv keeps."""
    on_path = shutil.which(f"python{version}")
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in (sys.executable, on_path, *reversed(of_pyenv)):
        # Asked, not believed: pyenv puts a stand-in on PATH for each version, whether it may be used or not.
        question = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        if candidate and answer(candidate, "-c", question) == version:
            return Path(candidate)
    return None


def environment(version: str, interpreter: Path) -> Path:
    """The Python of an environment that has everything but the wheel."""
    path = ROOT / ".test-venvs" / version
    python, ready = path / "bin" / "python", path / "ready"
    if not ready.exists() or ready.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        shutil.rmtree(path, ignore_errors=True)
        run(interpreter, "-m", "venv", path)
        run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
        run(python, "-m", "pip", "install", "--quiet", "--group", "test", "--group", "build")
        ready.touch()
    return python


def build_wheel(python: Path) -> Path:
    """The wheel of the sources as they are now."""
    folder = ROOT / "build" / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def prepare(version: str, interpreter: Path, wheel: Path) -> Path:
    """The Python of an environment in which the wheel is installed."""
    python = environment(version, interpreter)
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[cli]")
    run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel)
    where = answer(python, "-c", "import plumelog_loguru; print(plumelog_loguru.__file__)")
    if where is None or not Path(where).is_relative_to(ROOT / ".test-venvs"):
        sys.exit(f"the tests would run against {where}, not against the wheel")
    return python


def test(version: str, interpreter: Path, wheel: Path, arguments: list[str]) -> tuple[int, str]:
    """Run the tests, each line under the name of its Python; gives pytest's exit code and its last line."""
    python, last = prepare(version, interpreter, wheel), ""
    # A folder for each: pytest narrows the rights of the one that all its runs share whenever one begins.
    with (
        TemporaryDirectory(prefix="plumelog-", ignore_cleanup_errors=True) as folder,
        subprocess.Popen(
            [python, "-m", "pytest", *arguments],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env={**os.environ, "PYTEST_DEBUG_TEMPROOT": folder},
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{version:4}  {line}", end="", flush=True)
            last = line.strip() or last
        process.wait()
    return process.returncode, last


def main(arguments: list[str]) -> None:
    """Test on the Python that runs this, or on every one that is there."""
    every = "--every-python" in arguments
    arguments = [argument for argument in arguments if argument != "--every-python"]
    versions = PYTHONS if every else (f"{sys.version_info.major}.{sys.version_info.minor}",)
    found = {version: interpreter for version in versions if (interpreter := find(version))}
    missing = [version for version in versions if version not in found]
    if not found:
        sys.exit(f"no Python with venv and pip was found among {', '.join(versions)}")
    os.environ.pop("PYTHONPATH", None)  # it could show the sources to the tests
    wheel = build_wheel(environment(*next(iter(found.items()))))
    without = [f"--ignore={folder}" for folder in OF_THE_TOOLS]
    ends = {next(iter(found)), list(found)[-1]}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {
            version: pool.submit(
                test, version, path, wheel, arguments if version in ends else without + arguments
            )
            for version, path in found.items()
        }
    ended = {version: one.result() for version, one in runs.items()}
    print()
    for version, (_, last) in ended.items():
        print(f"Python {version}, {found[version]}:\n{last}")
    print(f"tested on Python {', '.join(found)}" + (f"; not found: {', '.join(missing)}" if missing else ""))
    sys.exit(max(code for code, _ in ended.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
