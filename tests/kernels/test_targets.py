"""Kernels for other processors of x86: the same answers on AVX2 and SSE4.2, and machine code for AVX-512."""

import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from bitvit.kernels.catalog import FUNCTIONS
from bitvit.kernels.target import LOOKUP
from tests.support.crosscompiled import X86_MACHINE, Compiled, compiled, run_python
from tests.support.golden_data import load_case

TARGETS = {
    "haswell": "+sse4.2,+avx,+avx2,+fma,+popcnt,+bmi,+bmi2,+lzcnt,+f16c",
    "nehalem": "+sse4.2,+popcnt",
}
# What all other tests run on a processor with AVX2 is the code for haswell, scheduled for another one.
OTHERS = [cpu for cpu in TARGETS if not (cpu == "haswell" and LOOKUP)]
AVX512 = ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vpopcntdq"
NAMES = [function.name for function in FUNCTIONS]
CASES = ("micro96_somefp", "micro160_odd", "micro96_gsb")

ANSWER = """
import gc, json, sys, numpy as np, bitvit
from bitvit.kernels.target import LANES
from bitvit.runtime import Workspace
gc.disable()
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

on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="forces x86 targets")


class Output(NamedTuple):
    """What the processes of this file find, each with its own place for compiled kernels."""

    answers: Mapping[str, "Future[str]"]
    objects: "Future[Compiled]"
    """For AVX-512."""


@pytest.fixture(scope="module")
def output(packed: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Output]:
    """Two processes run at a time, for together they take minutes."""
    place, arguments = tmp_path_factory.mktemp("targets"), []
    for name in CASES:
        np.save(place / f"{name}.npy", load_case(name).input)
        arguments += [str(packed(name)), str(place / f"{name}.npy")]
    with ThreadPoolExecutor(2) as pool:
        answers = {}
        for cpu in OTHERS:
            target = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": TARGETS[cpu], "NUMBA_CACHE_DIR": str(place / cpu)}
            # On one core it compiles by itself: two processes would both compile the helpers that kernels share.
            answers[cpu] = pool.submit(run_python, ANSWER, *arguments, **target, OMP_NUM_THREADS="1")
        znver4 = {"NUMBA_CPU_NAME": "znver4", "NUMBA_CPU_FEATURES": TARGETS["haswell"] + AVX512}
        yield Output(answers, pool.submit(compiled, NAMES, (), **znver4))


UNASKED = """
from bitvit.llvm import llvm
def get_host_cpu_features():
    raise RuntimeError("of this processor nothing is known")
llvm.get_host_cpu_features = get_host_cpu_features
from bitvit.kernels import target
assert target.FEATURES == "" and not target.LOOKUP and target.LANES == 8
"""


def test_a_processor_that_llvm_cannot_ask_has_no_features() -> None:
    run_python(UNASKED)


@on_x86
@pytest.mark.parametrize("cpu", OTHERS)
def test_older_processors_give_the_same_answers(cpu: str, packed: Callable[[str], Path], output: Output) -> None:
    answer = json.loads(output.answers[cpu].result())
    assert answer["lanes"] == 8
    for name in CASES:
        expected = load_case(name).logits_f64
        logits = np.array(answer["logits"][str(packed(name))])
        assert np.abs(logits - expected).max() <= 2e-5 * expected.std(), name


@on_x86
@pytest.mark.parametrize("cpu", OTHERS)
def test_pieces_do_not_depend_on_their_order(cpu: str, packed: Callable[[str], Path], output: Output) -> None:
    """A tile of one row too many must not write into the next piece, which another thread may have done before."""
    answer = json.loads(output.answers[cpu].result())
    for name in CASES:
        path = str(packed(name))
        assert answer["reversed"][path] == answer["logits"][path][0], name


@pytest.mark.skipif(sys.platform != "linux", reason="looks into ELF files")
@on_x86
def test_every_function_compiles_for_16_lanes(output: Output) -> None:
    """To machine code, which LLVM may refuse where it writes assembly."""
    assert output.objects.result().machines == dict.fromkeys(NAMES, X86_MACHINE)
