"""Root works as the user whose spool it is: files that only root can use would stop the application."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path


def act_as_owner(spool_dir: Path) -> None:
    """Give up the rights of root for those of the owner, if everything in the directory has the same one.

    Not by giving files away afterwards: whoever may write there could have root give away a file of root's.
    Where the owner cannot come there, as into the volume of a pod that is gone, or cannot read what Python
    imports late, root stays root.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    with suppress(OSError):
        owners = [os.lstat(path) for path in (spool_dir, *spool_dir.iterdir())]
        if len({owner.st_uid for owner in owners}) != 1:
            return
        root_gid = os.getegid()
        os.setegid(owners[0].st_gid)
        os.seteuid(owners[0].st_uid)
        if not _works_here(spool_dir):
            os.seteuid(0)
            os.setegid(root_gid)


def _works_here(spool_dir: Path) -> bool:
    redis = find_spec("redis")
    code = [os.__file__, __file__, *([redis.origin] if redis and redis.origin else [])]
    return os.access(spool_dir, os.R_OK | os.W_OK | os.X_OK, effective_ids=True) and all(
        os.access(file, os.R_OK, effective_ids=True) for file in code
    )
