"""Cycles of the inner loops on 64-bit ARM, as llvm-mca estimates them; a loop by hand and Larq's beside them.

    python -m tools.arm.cycles [--larq FILE] [CPU ...]

Needs llvm-mca 19 and clang 19 (Debian's llvm-19, clang-19, libc6-dev-arm64-cross). CPUs: cortex-a72, cortex-a76 and
apple-m1 if none is named. --larq: larq_compute_engine/core/indirect_bgemm/kernel_8x4x4_aarch64.h of Larq Compute
Engine, whose block of 128 bits by eight outputs by four pixels is taken from there. LLVM has no model of the A76 of its
own and takes Neoverse N1's, the same core; its model of Apple's cores is that of an older one, with three vector units.

Mind that these are estimates: no cache misses, no branches.
"""

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.test_neon import counted, innermost_loops
from tests.support.crosscompiled import compiled_for_arm

__all__ = ["Loop", "cycles", "larq", "ours"]

MODELS = {"cortex-a72": "cortex-a72", "cortex-a76": "neoverse-n1", "apple-m1": "apple-m1"}
TILE_MACS = 4 * 16 * 32  # of a word of four rows and two panels
ITERATIONS = 200


@dataclass(frozen=True)
class Loop:
    """A loop's instructions and the binary products that one pass computes."""

    name: str
    code: list[str]
    macs: int


def ours(cpu: str) -> list[Loop]:
    """The hidden layer's loop and the output layer's."""
    code = compiled_for_arm(cpu, (), ["mlp"]).assembly["mlp"]
    loops = [loop for loop in innermost_loops(code) if counted(loop, "cnt") == 16]
    return [Loop(name, loop, TILE_MACS) for name, loop in zip(("hidden layer", "output layer"), loops, strict=True)]


def by_hand(cpu: str) -> Loop:
    """What clang makes of binary_product.c."""
    source = Path(__file__).with_name("binary_product.c")
    command = ["clang-19", "--target=aarch64-linux-gnu", f"-mcpu={cpu}", "-O3", "-S", "-o", "-", str(source)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (loop,) = (loop for loop in innermost_loops(text) if counted(loop, "cnt") == 24)
    return Loop("C with intrinsics, 6 x 4", loop, 6 * 16 * 32)


def larq(header: Path) -> Loop:
    """The block of Larq's kernel with its loop's two instructions, in registers of our choice."""
    found = re.search(r"#define XOR_POPCOUNT_ACCUM_LOAD_BLOCK_128(.*?)\n/\*\*", header.read_text(), re.DOTALL)
    if found is None:
        raise SystemExit(f"{header}: is not Larq's kernel_8x4x4_aarch64.h: it has no XOR_POPCOUNT_ACCUM_LOAD_BLOCK_128")
    names = [*(f"a_{i}" for i in range(4)), *(f"w_{i}" for i in range(8)), *(f"accum_{i}" for i in range(4))]
    registers = {name: str(16 + i) for i, name in enumerate(names)}
    code = ["subs w1, w1, #1"]
    for line in re.findall(r'"(.*?)\\n\\t"', found.group(1)):
        line = re.sub(r"%\[a_ptr_(\d)\]", r"x\1", line).replace("%[w_ptr]", "x6").replace("[x1]", "[x7]")
        code.append(re.sub(r"(%q?)\[(\w+)\]", lambda m: ("q" if "q" in m[1] else "v") + registers[m[2]], line))
    return Loop("Larq, 8 x 4", [*code, "b.gt 0b"], 8 * 4 * 128)


def cycles(loop: Loop, cpu: str) -> float:
    """Of one pass."""
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write("\n".join(["0:", *(re.sub(r"\.L\w+", "0b", line) for line in loop.code), ""]))
        file.flush()
        command = ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={MODELS[cpu]}", f"-iterations={ITERATIONS}", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"Total Cycles:\s+(\d+)", text)[0]) / ITERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--larq", type=Path, metavar="FILE")
    parser.add_argument("cpus", nargs="*", metavar="CPU", default=list(MODELS))
    options = parser.parse_args()
    print("| processor | loop | instructions per 1000 MACs | cycles per 1000 MACs |\n|---|---|--:|--:|")
    for cpu in options.cpus:
        for loop in [*ours(cpu), by_hand(cpu), *([larq(options.larq)] if options.larq else [])]:
            kilo = loop.macs / 1000
            print(f"| {cpu} | {loop.name} | {len(loop.code) / kilo:.1f} | {cycles(loop, cpu) / kilo:.1f} |")


if __name__ == "__main__":
    main()
