"""The two halves of tools/arm/count: what is emulated, and what adds up the blocks that the plugin counted.

python -m tools.arm.counting MODEL BLOCKS CALLS    under qemu: run images; writes where functions are beside BLOCKS
python tools/arm/counting.py BLOCKS                afterwards: instructions an image, by kernel
"""

import bisect
import json
import sys
from collections import Counter
from pathlib import Path

__all__ = ["by_function", "execute"]


def execute(model: str, blocks: Path, calls: int) -> None:
    """Run so many images on one thread, and write down where the functions are."""
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
    places = {
        function.name: (address, len(cache.read(function.name) or b""))  # an object file is longer than its code
        for function, address in zip(FUNCTIONS, addresses(FUNCTIONS), strict=True)
    }
    blocks.with_suffix(".json").write_text(json.dumps({"calls": calls, "places": places}))


def by_function(blocks: Path) -> dict[str, float]:
    """Instructions of each function an image; what lies behind no function is not of the kernels."""
    found = json.loads(blocks.with_suffix(".json").read_text())
    places = sorted((address, size, name) for name, (address, size) in found["places"].items())
    starts, total = [address for address, _, _ in places], Counter[str]()
    for line in blocks.read_text().splitlines():
        address, instructions, times = line.split()
        at = bisect.bisect(starts, int(address, 16)) - 1
        if at >= 0 and int(address, 16) - starts[at] < places[at][1]:
            total[places[at][2]] += int(instructions) * int(times)
    return {name: count / found["calls"] for name, count in total.most_common()}


def main() -> None:
    if len(sys.argv) == 4:
        execute(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        return
    counts = by_function(Path(sys.argv[1]))
    total = sum(counts.values())
    print(f"{'all kernels':20} {total / 1e6:10.3f} M")
    for name, count in counts.items():
        if count > total / 1000:
            print(f"{name:20} {count / 1e6:10.3f} M {count / total:6.1%}")


if __name__ == "__main__":
    main()
