"""Kernels for other processors: the same answers on AVX2 and SSE4.2, and machine code for 64-bit ARM."""

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
from bitvit.kernels.target import LOOKUP
from tests.support.golden_data import load_case
from tests.support.paths import ROOT

TARGETS = {
    "haswell": "+sse4.2,+avx,+avx2,+fma,+popcnt,+bmi,+bmi2,+lzcnt,+f16c",
    "nehalem": "+sse4.2,+popcnt",
}
# What all other tests run on a processor with AVX2 is the code for haswell, scheduled for another one.
OTHERS = [cpu for cpu in TARGETS if not (cpu == "haswell" and LOOKUP)]
AVX512 = ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vpopcntdq"
ARM_KERNELS = ("mlp", "mixer", "project", "attend_levels", "float_down")
CASES = ("micro96_somefp", "micro160_odd", "micro96_gsb")

ANSWER = """
import json, sys, numpy as np, bitvit
from bitvit.kernels.target import LANES
from bitvit.runtime import Workspace
def backwards(model, image):
    workspace, program = Workspace(model.runner.program), model.runner.program
    workspace.set_image(image)
    for number, step in enumerate(program.steps):
        for piece in reversed(range(step.pieces)):
            model.runner.run_piece(workspace, number, piece)
    start = program.output.offset
    return workspace.state[start : start + program.outputs].view(np.float32).tolist()
logits, reversed_pieces = {}, {}
for path, pixels in zip(sys.argv[1::2], sys.argv[2::2]):
    model, images = bitvit.load(path, threads=1), np.load(pixels)
    logits[path] = model(images).tolist()
    reversed_pieces[path] = backwards(model, images[0])
print(json.dumps({"lanes": LANES, "logits": logits, "reversed": reversed_pieces}))
"""

# For each function, for which machine its object says that it is, and how many popcounts and multiply-adds it has.
OBJECTS = """
import re
from bitvit.jit import compiler
from bitvit.kernels.catalog import FUNCTIONS
from bitvit.kernels.target import LOOKUP
machine = compiler.machine(library=True)
for function in FUNCTIONS:
    module = compiler.llvm_code(function)
    compiler.optimize(module, machine)
    code, assembly = machine.emit_object(module), machine.emit_assembly(module)
    counts = [len(re.findall(pattern, assembly)) for pattern in (r"\\tcnt\\tv", r"\\tfml[as]\\tv")]
    print(function.name, code[18:20].hex(), *counts)
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
    znver4 = {"NUMBA_CPU_NAME": "znver4", "NUMBA_CPU_FEATURES": TARGETS["haswell"] + AVX512}
    with ThreadPoolExecutor(2) as pool:
        started = {
            "znver4 objects": pool.submit(run, OBJECTS, **znver4),
            "arm objects": pool.submit(run, OBJECTS, BITVIT_TARGET="aarch64-unknown-linux-gnu neoverse-n1 +neon"),
        }
        for cpu in OTHERS:
            target = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": TARGETS[cpu], "NUMBA_CACHE_DIR": str(place / cpu)}
            started[f"{cpu} answers"] = pool.submit(run, ANSWER, *arguments, **target)
        yield started


@on_x86
@pytest.mark.parametrize("cpu", OTHERS)
def test_older_processors_give_the_same_answers(cpu: str, packed: Callable[[str], Path], output: Output) -> None:
    answer = json.loads(output[f"{cpu} answers"].result())
    assert answer["lanes"] == 8
    for name in CASES:
        expected = load_case(name).logits_f64
        logits = np.array(answer["logits"][str(packed(name))])
        assert np.abs(logits - expected).max() <= 2e-5 * expected.std(), name


@on_x86
@pytest.mark.parametrize("cpu", OTHERS)
def test_pieces_do_not_depend_on_their_order(cpu: str, packed: Callable[[str], Path], output: Output) -> None:
    """A tile of one row too many must not write into the next piece, which another thread may have done before."""
    answer = json.loads(output[f"{cpu} answers"].result())
    for name in CASES:
        path = str(packed(name))
        assert answer["reversed"][path] == answer["logits"][path][0], name


def objects(output: Output, cpu: str) -> dict[str, tuple[str, int, int]]:
    """By function: its object's machine, popcounts and multiply-adds of vectors in its assembly."""
    lines = [line.split() for line in output[f"{cpu} objects"].result().splitlines()]
    return {name: (machine, int(popcounts), int(multiply_adds)) for name, machine, popcounts, multiply_adds in lines}


def test_kernels_for_arm_use_its_vectors(output: Output) -> None:
    """With vector popcounts (cnt on bytes) in every binary kernel, and vector multiply-adds."""
    found = objects(output, "arm")
    assert all(found[name][1] >= 14 for name in ARM_KERNELS if name != "float_down")  # two registers a row of the tile
    assert found["float_down"][2] >= 14


@on_linux
@pytest.mark.parametrize(
    ("cpu", "machine"),
    [pytest.param("znver4", X86, marks=on_x86), ("arm", ARM)],
)
def test_every_function_compiles(cpu: str, machine: str, output: Output) -> None:
    """To machine code, which LLVM may refuse where it writes assembly: for vectors of 16 lanes, and of 8 for ARM."""
    found = objects(output, cpu)
    assert {name: about[0] for name, about in found.items()} == {function.name: machine for function in FUNCTIONS}
