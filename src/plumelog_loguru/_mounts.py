"""What kind of file system a path lies on."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path


def read_mountinfo() -> str:
    """What this process sees mounted, as the kernel lists it; "" where it has no such list."""
    with suppress(OSError):
        return Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    return ""


def file_system_in(mountinfo: str, path: str) -> str:
    """The type of the file system that a real path lies on; "" where ``mountinfo`` does not tell."""
    best, found = -1, ""
    for line in mountinfo.splitlines():
        mount, _, rest = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not rest:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of two mounts on one point the later one is seen
            best, found = len(point), rest.split(" ")[0]
    return found
