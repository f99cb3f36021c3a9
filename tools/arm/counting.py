"""The two halves of tools/arm/count: what is emulated, and what adds up the blocks that the plugin counted.

    python -m tools.arm.counting MODEL FOLDER CALLS    under qemu: run images; leaves the functions' code in FOLDER
    python tools/arm/counting.py FOLDER CPU            afterwards: instructions an image, by kernel, and cycles

FOLDER/blocks is the plugin's. Cycles are estimated where llvm-mca-19 and llvm-objdump-19 are installed: those of the
BLOCKS that were executed most, each as if it were repeated, by LLVM's model of a CPU, times how often it was executed.
"""

import bisect
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

__all__ = ["Blocks", "estimated_cycles", "execute", "executed"]

BLOCKS = 150
ITERATIONS = 50

Blocks = dict[tuple[str, int, int], float]
"""How often an image executes a block, by (function, offset in it, number of instructions)."""


def execute(model: str, folder: Path, calls: int) -> None:
    """Run so many images on one thread, and write down where the functions are and what they consist of."""
    import numpy as np

    import bitvit
    from bitvit.jit import cache
    from bitvit.jit.loader import addresses
    from bitvit.kernels.catalog import FUNCTIONS

    loaded = bitvit.load(model, threads=1)
    side = loaded.config.image_size
    image = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    for _ in range(calls):
        loaded(image)
    places = dict(zip((function.name for function in FUNCTIONS), addresses(FUNCTIONS), strict=True))
    for name in places:
        (folder / f"{name}.o").write_bytes(cache.read(name) or b"")
    (folder / "places.json").write_text(json.dumps({"calls": calls, "places": places}))


def executed(folder: Path) -> Blocks:
    """The blocks of kernels; what lies behind no function is not theirs."""
    found = json.loads((folder / "places.json").read_text())
    places = sorted((address, name) for name, address in found["places"].items())
    starts, blocks = [address for address, _ in places], Counter[tuple[str, int, int]]()
    for line in (folder / "blocks").read_text().splitlines():
        address, instructions, times = line.split()
        at = bisect.bisect(starts, int(address, 16)) - 1
        offset = int(address, 16) - starts[at]
        if at >= 0 and offset < (folder / f"{places[at][1]}.o").stat().st_size:  # which is longer than its code
            blocks[places[at][1], offset, int(instructions)] += int(times)
    return {block: times / found["calls"] for block, times in blocks.items()}


def _code(folder: Path, name: str) -> dict[int, str]:
    """A function's instructions by their offsets."""
    command = ["llvm-objdump-19", "-d", "--no-show-raw-insn", str(folder / f"{name}.o")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"^([0-9a-f]+) <{name}>:", text, re.MULTILINE)
    start = int(found[1], 16) if found else 0
    lines = re.finditer(r"^\s*([0-9a-f]+):\s+(.*)$", text, re.MULTILINE)
    return {int(line[1], 16) - start: re.sub(r"\s*<.*?>|//.*", "", line[2]) for line in lines}


def estimated_cycles(folder: Path, blocks: Blocks, cpu: str) -> float:
    """Cycles an image; blocks beyond the first BLOCKS are taken to be as fast as these."""
    code: dict[str, dict[int, str]] = {}
    cycles = instructions = 0.0
    for (name, offset, length), times in sorted(blocks.items(), key=lambda block: -block[0][2] * block[1])[:BLOCKS]:
        if name not in code:
            code[name] = _code(folder, name)
        lines = code[name]
        text = "".join(lines.get(offset + 4 * i, "nop") + "\n" for i in range(length))
        command = ["llvm-mca-19", "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}", "-"]
        answer = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
        cycles += int(re.findall(r"Total Cycles:\s+(\d+)", answer)[0]) / ITERATIONS * times
        instructions += length * times
    return cycles * sum(length * times for (_, _, length), times in blocks.items()) / instructions


def main() -> None:
    if len(sys.argv) == 4:
        execute(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        return
    folder = Path(sys.argv[1])
    blocks, counts = executed(folder), Counter[str]()
    for (name, _, length), times in blocks.items():
        counts[name] += round(length * times)
    print(f"{'all kernels':20} {counts.total() / 1e6:10.3f} M instructions")
    for name, count in counts.most_common():
        if count > counts.total() / 1000:
            print(f"{name:20} {count / 1e6:10.3f} M {count / counts.total():6.1%}")
    if shutil.which("llvm-mca-19") and shutil.which("llvm-objdump-19"):
        cpu = {"cortex-a76": "neoverse-n1"}.get(sys.argv[2], sys.argv[2])
        print(f"{'an estimate':20} {estimated_cycles(folder, blocks, cpu) / 1e6:10.3f} M cycles by LLVM's {cpu}")


if __name__ == "__main__":
    main()
