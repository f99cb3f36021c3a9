"""Whether what is in a folder may be executed: only this user and root can have put it there.

The folder and its files must belong to one of the two, and nobody else may write to them. The folders around it are
held to the same, as who may write to one of those can put another folder in its place.
"""

import os
import stat
from pathlib import Path

__all__ = ["fault_around", "fault_of"]

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_OWNED = hasattr(os, "geteuid")  # files belong to users here
_trusted: set[str] = set()  # folders that were there with nothing wrong around them; each function of the cache asks


def fault_of(path: object, status: os.stat_result) -> str:
    """Why others may have written what is in a file or folder; empty if they cannot have. status: its os.lstat."""
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return f"{path}: is neither a folder nor a file"
    if not _OWNED:
        return ""
    if status.st_uid not in (0, os.geteuid()):
        return f"{path}: belongs to user {status.st_uid}, neither to this one ({os.geteuid()}) nor to root"
    return f"{path}: others may write to it, which chmod go-w would end" if status.st_mode & _BY_OTHERS else ""


def fault_around(folder: str) -> str:
    """Why others could exchange what is in a folder, which need not be there; empty if they cannot.

    folder: its real path, without links.
    """
    if not _OWNED or folder in _trusted:
        return ""
    paths = Path(folder), *Path(folder).parents
    fault = next(filter(None, map(_fault_of_outer, paths)), "")
    if not fault and paths[0].exists():
        _trusted.add(folder)
    return fault


def _fault_of_outer(path: Path) -> str:
    """Why others could exchange what is in a folder that has ours somewhere in it."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as problem:
        return f"{path}: {problem.strerror}"
    fault = fault_of(path, status)
    if not fault or not stat.S_ISDIR(status.st_mode):
        return fault
    trusted = status.st_uid in (0, os.geteuid()) or _is_outside(status.st_uid)
    # In a sticky folder nobody moves what is another's.
    alone = not status.st_mode & _BY_OTHERS or status.st_mode & stat.S_ISVTX or _is_private_group(status)
    return "" if trusted and alone else fault


def _is_private_group(status: os.stat_result) -> bool:
    """Whether the group that may write has this user alone: by custom one that has the user's number too."""
    return not status.st_mode & stat.S_IWOTH and status.st_uid == status.st_gid == os.geteuid() != 0


def _is_outside(owner: int) -> bool:
    """Whether a user's number stands for all that this user namespace does not know, root outside among them.

    In a sandbox the system's folders belong to it. Whoever made the sandbox chose what is seen of them.
    """
    try:
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="utf-8"))
        known = [line.split() for line in Path("/proc/self/uid_map").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return False
    return owner == overflow and sum(int(count) for _, _, count in known) < 2**32 - 1
