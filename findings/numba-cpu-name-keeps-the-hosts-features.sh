#!/usr/bin/env bash
# NUMBA_CPU_NAME=nehalem compiles AVX and FMA on a host that has them: naming a processor does not choose its features.
#
# Numba's reference offers NUMBA_CPU_NAME and NUMBA_CPU_FEATURES side by side. One expects of the name what clang's
# -mcpu, GCC's -march and rustc's target-cpu do: code that this processor runs, as one wants for object code that goes
# to older machines, or to see here what they would compute. But the features of the host are given to LLVM beside the
# name, so 256-bit registers stay, and fused multiply-adds with their one rounding in place of two: the code stops with
# an illegal instruction there, and its results here are not theirs. Only the name "generic" (in any case of letters)
# drops the features too; beside every other one NUMBA_CPU_FEATURES has to be given as well.
#
# Run by hand on an x86-64 host with AVX and FMA, with a package index at hand. Exit code 0: as told above.
set -euo pipefail

NUMBA=0.68.1
LLVMLITE=0.50.0
NUMPY=2.4.6
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "numba==$NUMBA" "llvmlite==$LLVMLITE" "numpy==$NUMPY"

cat >compiled.py <<'END'
import re

import numba
import numpy as np
from llvmlite import binding

host = binding.get_host_cpu_features()
assert host.get("avx") and host.get("fma"), "this host has no AVX and FMA: nothing to be seen"


@numba.njit("void(float32[::1], float32[::1], float32[::1])", fastmath={"contract"})
def multiply_add(x, y, out):
    for i in range(len(out)):
        out[i] += x[i] * y[i]


text = multiply_add.inspect_asm(multiply_add.signatures[0])
print("AVX" if re.search(r"%[yz]mm\d", text) else "SSE", "fused" if "vfmadd" in text else "separate")
END

check() { # what is compiled, then the variables
    expected=$1
    shift
    found=$(env "$@" venv/bin/python compiled.py)
    echo "Numba $NUMBA, ${*:-the host}: $found"
    [[ $found == "$expected" ]]
}
check "AVX fused"
check "AVX fused" NUMBA_CPU_NAME=nehalem
check "AVX fused" NUMBA_CPU_NAME=x86-64-v2
check "SSE separate" NUMBA_CPU_NAME=generic
check "SSE separate" NUMBA_CPU_NAME=nehalem NUMBA_CPU_FEATURES=+sse4.2,+popcnt
