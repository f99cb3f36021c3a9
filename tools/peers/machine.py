"""Where the times were measured: CPU, versions, commit, and how busy others kept the machine."""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import llvmlite.binding

from peers.packages import version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bitvit", "numpy", "numba", "llvmlite", "onnx", "onnxruntime", "openvino", "nncf", "torch")
# What matters to these engines, as LLVM calls it.
FEATURES = (
    *("sse4.2", "avx2", "avxvnni", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "avx512vpopcntdq", "amx-int8"),
    *("neon", "dotprod", "i8mm", "sve", "sve2"),
)


def environment() -> dict[str, Any]:
    """Everything about the machine that a reader of the times should know; for JSON."""
    features = llvmlite.binding.get_host_cpu_features()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_name(),
        "llvm_cpu": llvmlite.binding.get_host_cpu_name(),
        "isa": [name for name in FEATURES if features.get(name)],
        "cores": os.cpu_count(),
        "affinity": affinity(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := version(name))},
        "environment_variables": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(("OMP_", "BITVIT_NUM", "KMP_"))
        },
    }


def affinity() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """As the vendor writes it, or the architecture if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The checkout's commit, marked if bitvit was edited since; None outside a checkout."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return f"{head} with changes" if _git("status", "--porcelain", "--", "bitvit") else head
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass(frozen=True)
class Load:
    """Processor seconds of all processes, and of this one with its children, up to some moment."""

    everybody: float
    own: float
    wall: float

    @classmethod
    def now(cls) -> "Load | None":
        """None where the system does not tell."""
        if sys.platform != "linux":
            return None
        own = os.times()
        try:
            fields = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:9]
            user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in fields)
        except (OSError, ValueError, IndexError):
            return None
        ticks = user + nice + system + irq + softirq + steal
        everybody = ticks / os.sysconf("SC_CLK_TCK")
        return cls(everybody, sum(own[:4]), own.elapsed)


def share_of_others(before: Load | None, after: Load | None) -> float | None:
    """The part of the machine's processors that other processes used between two moments, 0 to 1."""
    if before is None or after is None or after.wall <= before.wall:
        return None
    seconds = (after.everybody - before.everybody) - (after.own - before.own)
    return max(0.0, seconds / (after.wall - before.wall) / (os.cpu_count() or 1))
