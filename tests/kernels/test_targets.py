"""Kernels for other processors: the same answers on AVX2 and SSE4.2, and assembly for 64-bit ARM."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitvit.kernels.catalog import FUNCTIONS
from tests.support.golden_data import load_case
from tests.support.paths import ROOT

TARGETS = {
    "haswell": "+sse4.2,+avx,+avx2,+fma,+popcnt,+bmi,+bmi2,+lzcnt,+f16c",
    "nehalem": "+sse4.2,+popcnt",
}
AVX512 = ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vpopcntdq"
CASES = ("micro96_somefp", "micro160_odd", "micro96_gsb")

ANSWER = """
import json, sys, numpy as np, bitvit
from bitvit.kernels.target import LANES
logits = {}
for model, pixels in zip(sys.argv[1::2], sys.argv[2::2]):
    logits[model] = bitvit.load(model)(np.load(pixels)).tolist()
print(json.dumps({"lanes": LANES, "logits": logits}))
"""

# What Numba writes is free of x86 until it is optimised, but for the hint to a waiting core and the clock, so LLVM can
# take it to another target: as_arm(code) is the optimised module of a function for 64-bit ARM.
AS_ARM = """
import re, sys
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
from bitvit.jit import compiler
from bitvit.kernels import catalog
triple = "aarch64-unknown-linux-gnu"
machine = llvm.Target.from_triple(triple).create_target_machine(cpu="neoverse-n1", opt=3)

def as_arm(code):
    code = re.sub('target triple = ".*"', f'target triple = "{triple}"', code)
    code = re.sub('target datalayout = ".*"', f'target datalayout = "{machine.target_data}"', code)
    code = code.replace("call void @llvm.x86.sse2.pause()", "call void @llvm.aarch64.hint(i32 1)")
    code = code.replace("declare void @llvm.x86.sse2.pause()", "declare void @llvm.aarch64.hint(i32 immarg)")
    assert "llvm.x86" not in code
    module = llvm.parse_assembly(code)
    compiler.optimize(module, machine)
    return module

"""
ASSEMBLE = f"""{AS_ARM}
for name in sys.argv[1:]:
    assembly = machine.emit_assembly(as_arm(str(compiler.llvm_code(getattr(catalog, name)))))
    print(name, len(re.findall(r"\\tcnt\\tv", assembly)), len(re.findall(r"\\tfml[as]\\tv", assembly)))
"""
# Names, and for which machine an ELF file says that it is: for x86-64, and if asked for, for 64-bit ARM.
OBJECTS = f"""{AS_ARM}
for function in catalog.FUNCTIONS:
    module = compiler.llvm_code(function)
    code = str(module)
    compiler.optimize(module, compiler.machine())
    objects = [compiler.machine().emit_object(module)]
    if "arm" in sys.argv:
        objects.append(machine.emit_object(as_arm(code)))
    print(function.name, *(found[18:20].hex() for found in objects))
"""
X86, ARM = "3e00", "b700"

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into ELF files")
on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="forces x86 targets")


def run(script: str, *arguments: str, **environment: str) -> str:
    """Standard output of a Python process with its own place for compiled kernels."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@on_x86
@pytest.mark.parametrize("cpu", TARGETS)
def test_older_processors_give_the_same_answers(cpu: str, packed: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = []
    for name in CASES:
        np.save(tmp_path / f"{name}.npy", load_case(name).input)
        arguments += [str(packed(name)), str(tmp_path / f"{name}.npy")]
    environment = {
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": TARGETS[cpu],
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    answer = json.loads(run(ANSWER, *arguments, **environment))
    assert answer["lanes"] == 8
    for name in CASES:
        expected = load_case(name).logits_f64
        logits = np.array(answer["logits"][str(packed(name))])
        assert np.abs(logits - expected).max() <= 2e-5 * expected.std(), name


@on_x86
def test_kernels_assemble_for_arm() -> None:
    """With vector popcounts (cnt on bytes) in every binary kernel, and vector multiply-adds."""
    kernels = ("mlp", "mixer", "project", "attend_levels", "float_down")
    environment = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": TARGETS["nehalem"]}
    lines = [line.split() for line in run(ASSEMBLE, *kernels, **environment).splitlines()]
    counts = {name: (int(popcounts), int(multiply_adds)) for name, popcounts, multiply_adds in lines}
    assert counts.keys() == set(kernels)
    assert all(counts[name][0] >= 14 for name in kernels if name != "float_down")  # two registers a row of the tile
    assert counts["float_down"][1] >= 14


@on_linux
@on_x86
@pytest.mark.parametrize("cpu", ["znver4", "nehalem"])
def test_every_function_compiles(cpu: str) -> None:
    """To machine code, which LLVM may refuse where it writes assembly: for 16 lanes and for 8, which go to ARM too."""
    features = TARGETS["haswell"] + AVX512 if cpu == "znver4" else TARGETS[cpu]
    targets = ["arm"] if cpu == "nehalem" else []
    lines = run(OBJECTS, *targets, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES=features).splitlines()
    assert [line.split() for line in lines] == [[f.name, X86, *(ARM for _ in targets)] for f in FUNCTIONS]
