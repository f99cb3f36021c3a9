"""Where the times were measured, as the comparison's JSON has it: bitvit's own facts, and the peers' versions."""

import os
import platform
from typing import Any

from bitvit.bench import machine

PACKAGES = ("bitvit", "numpy", "numba", "llvmlite", "onnx", "onnxruntime", "openvino", "nncf", "torch")


def environment() -> dict[str, Any]:
    """Everything about the machine that a reader of the times should know; for JSON."""
    own = machine.environment()
    return {
        "date": own.date,
        "commit": own.commit,
        "cpu": own.cpu,
        "llvm_cpu": own.target,
        "isa": own.features,
        "cores": own.cores,
        "affinity": affinity(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := machine.version(name))},
        "environment_variables": own.variables,
    }


def affinity() -> int:
    """How many cores this process may run on."""
    return len(machine.affinity()) or os.cpu_count() or 1
