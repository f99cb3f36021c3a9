"""Kernels for other processors: the same answers on AVX2 and SSE4.2, and assembly for 64-bit ARM."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
ARM_KERNELS = ("mlp", "mixer", "project", "attend_levels", "float_down")
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


Output = Mapping[str, "Future[str]"]


@pytest.fixture(scope="module")
def output(packed: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Output]:
    """What every process of this file prints; two run at a time, for together they take minutes."""
    place, arguments = tmp_path_factory.mktemp("targets"), []
    for name in CASES:
        np.save(place / f"{name}.npy", load_case(name).input)
        arguments += [str(packed(name)), str(place / f"{name}.npy")]
    nehalem = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": TARGETS["nehalem"]}
    znver4 = {"NUMBA_CPU_NAME": "znver4", "NUMBA_CPU_FEATURES": TARGETS["haswell"] + AVX512}
    with ThreadPoolExecutor(2) as pool:
        started = {
            "nehalem objects": pool.submit(run, OBJECTS, "arm", **nehalem),
            "znver4 objects": pool.submit(run, OBJECTS, **znver4),
            "arm assembly": pool.submit(run, ASSEMBLE, *ARM_KERNELS, **nehalem),
        }
        for cpu, features in TARGETS.items():
            target = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(place / cpu)}
            started[f"{cpu} answers"] = pool.submit(run, ANSWER, *arguments, **target)
        yield started


@on_x86
@pytest.mark.parametrize("cpu", TARGETS)
def test_older_processors_give_the_same_answers(cpu: str, packed: Callable[[str], Path], output: Output) -> None:
    answer = json.loads(output[f"{cpu} answers"].result())
    assert answer["lanes"] == 8
    for name in CASES:
        expected = load_case(name).logits_f64
        logits = np.array(answer["logits"][str(packed(name))])
        assert np.abs(logits - expected).max() <= 2e-5 * expected.std(), name


@on_x86
def test_kernels_assemble_for_arm(output: Output) -> None:
    """With vector popcounts (cnt on bytes) in every binary kernel, and vector multiply-adds."""
    lines = [line.split() for line in output["arm assembly"].result().splitlines()]
    counts = {name: (int(popcounts), int(multiply_adds)) for name, popcounts, multiply_adds in lines}
    assert counts.keys() == set(ARM_KERNELS)
    assert all(counts[name][0] >= 14 for name in ARM_KERNELS if name != "float_down")  # two registers a row of the tile
    assert counts["float_down"][1] >= 14


@on_linux
@on_x86
@pytest.mark.parametrize(("cpu", "machines"), [("nehalem", [X86, ARM]), ("znver4", [X86])])
def test_every_function_compiles(cpu: str, machines: list[str], output: Output) -> None:
    """To machine code, which LLVM may refuse where it writes assembly: for 8 lanes, which go to ARM too, and for 16."""
    lines = output[f"{cpu} objects"].result().splitlines()
    assert [line.split() for line in lines] == [[function.name, *machines] for function in FUNCTIONS]
