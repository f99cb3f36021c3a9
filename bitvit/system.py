"""What this process may use of the machine, and has used: cores and memory."""

import contextlib
import math
import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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


def cgroup_quota(group: Path = CGROUP) -> float | None:
    """CPUs granted by the control group (v2, then v1) whose files lie in a folder; None if unlimited or unknown."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((group / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((group / "cpu/cpu.cfs_period_us").read_text())
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
