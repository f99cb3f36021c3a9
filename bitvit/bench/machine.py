"""Where something was measured: processor, versions, commit, and how busy others kept the machine."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from bitvit.kernels import target
from bitvit.system import available_threads, cgroup_quota
from bitvit.version import __version__

LEAST_SECONDS = 0.5  # shorter spans tell nothing of the load: the system counts in hundredths of a second
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "numba", "llvmlite", "safetensors", "pillow")
# Features of a processor that matter to inference engines, as LLVM calls them.
FEATURES = (
    *("sse4.2", "avx2", "avxvnni", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "avx512vpopcntdq", "amx-int8"),
    *("neon", "dotprod", "i8mm", "sve", "sve2"),
)
VARIABLES = ("OMP_", "BITVIT_", "NUMBA_", "KMP_")  # prefixes of those that may change the times


@dataclass(frozen=True)
class Environment:
    """Everything about machine and software that a reader of the times should know."""

    date: str  # ISO 8601, UTC
    bitvit: str  # version
    commit: str | None  # of the checkout, "… with changes" if bitvit was edited since; None: not a checkout
    cpu: str  # as the vendor writes it
    target: str  # the processor that kernels were compiled for, as LLVM calls it
    instruction_set: str  # that the binary kernels ran on
    features: list[str]  # of FEATURES, those that the processor has
    cores: int  # of the machine
    affinity: list[int]  # CPUs this process may run on; empty if the system does not tell
    cgroup_quota: float | None  # cores granted by the control group; None: no limit
    available_threads: int  # what affinity, quota and environment variables leave
    threading_layer: str
    system: str
    python: str
    versions: dict[str, str]  # of packages
    variables: dict[str, str]  # environment variables that may matter


def environment(packages: Iterable[str] = PACKAGES) -> Environment:
    """The environment of this process."""
    return Environment(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bitvit=__version__,
        commit=commit(),
        cpu=cpu_name(),
        target=target.CPU,
        instruction_set=instruction_set(),
        features=[name for name in FEATURES if target.target_has(name)],
        cores=os.cpu_count() or 1,
        affinity=affinity(),
        cgroup_quota=cgroup_quota(),
        available_threads=available_threads(),
        threading_layer="none: own threads",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={name: found for name in packages if (found := version(name))},
        variables={name: value for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)},
    )


def instruction_set() -> str:
    """What the binary kernels count bits with on the target, as kernels/target.py chooses."""
    if target.target_has("avx512vpopcntdq"):
        return "AVX-512 VPOPCNTDQ"
    names = {
        "avx512bitalg": "AVX-512 BITALG",
        "avx512bw": "AVX-512BW",
        "avx512f": "AVX-512F",
        "avx2": "AVX2",
        "ssse3": "SSSE3",
        "sse4.2": "SSE4.2",
        "neon": "NEON",
    }
    found = next((name for feature, name in names.items() if target.target_has(feature)), platform.machine())
    return f"{found}, bits counted by {'tables' if found == 'AVX2' else 'bytes'}"


def cpu_name() -> str:
    """As the vendor writes it, or the architecture if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def affinity() -> list[int]:
    """The CPUs that this process may run on; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def version(package: str) -> str | None:
    """Version of an installed package, None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checkout's commit, marked if bitvit was edited since; None outside a checkout of bitvit itself."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")) != ROOT:  # installed somewhere below another project
            return None
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
    """The part of the machine's processors that others used between two moments, 0 to 1.

    Others are all other processes, and what a hypervisor took away. None where the system does not tell, or for less
    than LEAST_SECONDS.
    """
    if before is None or after is None or after.wall - before.wall < LEAST_SECONDS:
        return None
    seconds = (after.everybody - before.everybody) - (after.own - before.own)
    return min(1.0, max(0.0, seconds / (after.wall - before.wall) / (os.cpu_count() or 1)))
