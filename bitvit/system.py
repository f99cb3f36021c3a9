"""What this process may use of the machine, and has used: cores and memory."""

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path

__all__ = ["available_threads", "cgroup_quota", "check_threads", "peak_rss"]

PROCESS = Path("/proc/self")


def available_threads() -> int:
    """Cores that this process may use: affinity, cgroup quota, OMP_NUM_THREADS, BITVIT_NUM_THREADS; the smallest."""
    try:
        limits = [len(os.sched_getaffinity(0))]
    except AttributeError:  # not Linux
        limits = [os.cpu_count() or 1]
    quota = cgroup_quota()
    if quota is not None:
        limits.append(max(1, math.ceil(quota)))
    for name in ("OMP_NUM_THREADS", "BITVIT_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            limits.append(int(value))
    return min(limits)


def check_threads(threads: object) -> None:
    """ValueError for an impossible number of threads; None stands for all cores."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, Integral) or int(threads) < 1):
        raise ValueError(f"threads is {threads!r}, expected a whole number of at least 1, or None for all cores")


def cgroup_quota(process: Path = PROCESS) -> float | None:
    """CPUs granted by the control groups (v1 and v2) that a process is in; None if unlimited or unknown.

    A group has no more than the groups around it, so it is the smallest quota from the process's own up to the root of
    what is mounted. process: its folder in /proc.
    """
    quotas = {quota for folder in _cgroup_folders(process) if (quota := _quota_of(folder)) is not None}
    return min(quotas, default=None)


def _cgroup_folders(process: Path) -> Iterator[Path]:
    """Folders of the groups that may limit a process's CPUs, in each hierarchy from its own group outwards.

    A mount shows a hierarchy from some group on, its root. A process in a container may know its group by a path that
    the mount does not show: then the root of the mount is the innermost group that can be seen.
    """
    try:
        lines, mounts = (
            (process / name).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
            for name in ("cgroup", "mountinfo")
        )
    except OSError:
        return
    groups: dict[str, str] = {}  # by controllers; "" is version 2
    for line in filter(None, lines):
        _, controllers, group = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), group)
    for mount in mounts:
        fields, _, kind = mount.partition(" - cgroup")
        if kind.startswith("2 "):
            group = groups.get("", "")
        elif kind.startswith(" ") and "cpu" in kind.rpartition(" ")[2].split(","):
            group = groups.get("cpu", "")
        else:
            continue
        root, place = map(_unescaped, fields.split(" ")[3:5])
        root = root.rstrip("/")
        is_shown = f"{group}/".startswith(f"{root}/") and ".." not in group.split("/")
        names = [name for name in group[len(root) :].split("/") if name] if is_shown else []
        yield from (Path(place, *names[:depth]) for depth in range(len(names), -1, -1))


def _unescaped(field: str) -> str:
    """A field of mountinfo, in which spaces and the like are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field) if "\\" in field else field


def _quota_of(group: Path) -> float | None:
    """CPUs granted to the group whose files lie in a folder."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us, period_us = (
            int((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")) for name in ("quota", "period")
        )
        return None if quota_us <= 0 else quota_us / period_us
    return None


def peak_rss() -> int | None:
    """Most bytes of memory that this process has had at once, None where the system does not tell.

    Not getrusage: on Linux its figure may be that of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
