"""Folders of the cache that nothing uses any more: each version of what makes kernels, and each processor, leaves one.

A folder's time is that of its last use, to the day. These times are compared with each other, not with the clock: one
that is wrong for a moment would have everything removed. What is swept is surely bitvit's own: a folder of this user's
that is named as the cache names one, and holds nothing but files of compiled functions and of their claims.
"""

import contextlib
import os
import re
import stat
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["KEPT_DAYS", "mark_used", "sweep"]

KEPT_DAYS = 30  # between the last use of a folder and that of another beside it
_DAY = 86400.0  # seconds
_FOLDER = re.compile(r"[0-9a-f]{24}")
_FILE = re.compile(r"\w+\.o|\.\w+\.[0-9a-f]{16}|\.lock")  # complete, what a crash has left of one, claims


def mark_used(folder: Path) -> None:
    """Note that a folder's functions are used; at most once a day."""
    with contextlib.suppress(OSError):  # a read-only one, which nobody sweeps either
        if abs(time.time() - folder.stat().st_mtime) > _DAY:  # also where the clock was ahead
            os.utime(folder)


def sweep(used: Path) -> None:
    """Remove the folders beside `used` that were last used more than KEPT_DAYS before one of the others was."""
    with contextlib.suppress(OSError):
        others = [folder for folder in used.parent.iterdir() if folder != used and _FOLDER.fullmatch(folder.name)]
        times = {folder: status.st_mtime for folder in others if _is_own_folder(status := folder.lstat())}
        now = time.time()
        newest = max((last for last in times.values() if last <= now), default=0.0)
        for folder, last in times.items():
            if newest - last > KEPT_DAYS * _DAY:
                files = list(folder.iterdir())
                if _are_ours(files):
                    _remove(folder, files)


def _is_own_folder(status: os.stat_result) -> bool:
    return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "geteuid") or status.st_uid == os.geteuid())


def _are_ours(files: Sequence[Path]) -> bool:
    """Whether a folder's content is files of compiled functions alone."""
    return all(_FILE.fullmatch(file.name) and stat.S_ISREG(file.lstat().st_mode) for file in files)


def _remove(folder: Path, files: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # another process sweeps too, or has begun to use it
        for file in files:
            file.unlink(missing_ok=True)
        folder.rmdir()
