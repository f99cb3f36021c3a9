"""How much memory this process has needed."""

import sys
from pathlib import Path


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
