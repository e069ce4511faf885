"""Root works as the user whose spool it is, or not at all.

Files that only root can use would stop the application; and whoever may write into the directory could swap a
name for a link while root goes through it, and have root delete what is somebody else's.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from ._command import UsageError


def act_as_owner(spool_dir: Path) -> None:
    """Give up the rights of root for those of the directory's owner, whoever owns what lies in it.

    Raises:
        UsageError: the owner cannot work there, as in the volume of a pod that is gone, or cannot read what
            Python imports late; nothing is given up then.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    try:
        found = os.lstat(spool_dir)
        if found.st_uid == 0:
            found = os.stat(spool_dir)  # root's link; another's counts itself, for he may lead it anywhere
    except OSError as error:
        raise UsageError(f"the spool directory {spool_dir} cannot be read ({error.strerror})") from error
    if found.st_uid == 0:
        return
    # Root's group is no group of the owner's: the directory has it where only its user was changed.
    uid, gid = found.st_uid, found.st_gid or found.st_uid
    groups, root_gid = os.getgroups(), os.getegid()
    try:
        os.setgroups([gid])
        os.setegid(gid)
        os.seteuid(uid)
        hindrance = _hindrance(spool_dir)
    except OSError as error:
        hindrance = error.strerror or "it cannot become that user"
    if hindrance is None:
        return
    if os.geteuid() != 0:
        os.seteuid(0)
    if os.getegid() != root_gid:
        os.setegid(root_gid)
    if os.getgroups() != groups:
        os.setgroups(groups)
    raise UsageError(
        f"the spool directory {spool_dir} belongs to user {uid}, as whom this command cannot work here "
        f"({hindrance}); run it as that user, where that is possible: setpriv --reuid {uid} --regid {gid} "
        "--clear-groups plumelog-replay ..."
    )


def _hindrance(spool_dir: Path) -> str | None:
    """What keeps the user that we are now from working here."""
    if not os.access(spool_dir, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return "that user may not read and write the directory"
    for file in _files_of_code():
        if not os.access(file, os.R_OK, effective_ids=True):
            return f"that user may not read {file}"
    return None


def _files_of_code() -> list[str]:
    """One of Python's own, one of ours, and one of what is installed."""
    redis = find_spec("redis")
    return [os.__file__, __file__, *([redis.origin] if redis and redis.origin else [])]
