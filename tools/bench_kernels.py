"""Each kernel against the machine's limit, measured beside it.

    python tools/bench_kernels.py [MODEL.safetensors] [--repeats 50] [--json FILE]

The limit is what one core reaches in xor + popcount + add on registers alone, in binary multiply-adds a second. The
first table is the binary matrix product (int32 counts out), the second the same over widths that are not multiples of
a vector or a word: padding costs something, but no width may fall off a cliff. With a model, a third table gives each
of its kernels, on one thread.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit
from speed import layer_times, time_calls

import bitvit
from bitvit.kernels.matmul import LANE_POPCOUNT, half_dots, ones
from bitvit.kernels.simd import load, load_rows, splat_rows, store_rows
from bitvit.kernels.step import OPTIONS
from bitvit.kernels.target import LANES, ROWS
from bitvit.program import aligned_zeros, padded
from bitvit.summary import summarize

SHAPES = [
    (3136, 64, 512), (3136, 512, 64), (784, 128, 1024), (784, 1024, 128), (196, 256, 1024), (196, 1024, 256),
    (196, 256, 256), (49, 512, 2048), (49, 2048, 512), (49, 512, 512),
]  # fmt: skip
WIDTHS = [64, 72, 80, 96, 112, 120, 128, 144, 160, 176, 192, 224, 256, 288, 320, 352, 384, 448, 512]


@njit(**OPTIONS)
def _limit(words, steps):  # type: ignore[no-untyped-def]
    a, b = splat_rows(np.uint32(0), ROWS), splat_rows(np.uint32(0), ROWS)
    x, step, rows = load(words, 0), load(words, LANES), load_rows(words, 2 * LANES, LANES, ROWS)
    for _ in range(steps):
        a += ones(rows ^ x)
        x = x + step
        b += ones(rows ^ x)
        x = x + step
    store_rows(words, 0, LANES, a + b)


@njit(**OPTIONS)
def _count_matmul(bits, rows, words, panels, width, out):  # type: ignore[no-untyped-def]
    for n in range(0, width, LANES):
        for m in range(0, rows, ROWS):
            store_rows(out, m * width + n, width, half_dots(bits, m * words, words, panels, n * words, 0))


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of a call after warm-up."""
    return statistics.median(time_calls(call, repeats))


def machine_limit(repeats: int) -> float:
    """Binary multiply-adds a second of one core."""
    words, steps = aligned_zeros((ROWS + 2) * LANES), 20_000
    words[:] = np.random.default_rng(0).integers(0, 2**32, len(words), dtype=np.uint32)
    return steps * 2 * ROWS * LANES * 32 / median_seconds(lambda: _limit(words, steps), repeats)


def matmul_rate(m: int, k: int, n: int, repeats: int) -> float:
    """Useful binary multiply-adds a second of a product [m, k] x [k, n]; padding is not counted."""
    rng = np.random.default_rng(0)
    words, width, rows = -(-k // 32), padded(n), padded(m, ROWS)
    bits, panels = aligned_zeros(rows * words + 64), aligned_zeros(width * words + 64)
    for array in (bits, panels):
        array[:] = rng.integers(0, 2**32, len(array), dtype=np.uint32)
    out = aligned_zeros(rows * width + 64)
    return m * k * n / median_seconds(lambda: _count_matmul(bits, rows, words, panels, width, out), repeats)


def model_rows(path: Path, repeats: int) -> list[dict[str, Any]]:
    """Median microseconds of each kernel of a model, one thread, summed over the steps of a stage."""
    return [{"kernel": name, "us": 1e6 * seconds} for name, seconds in layer_times(path, repeats).items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    repeats = options.repeats
    limit = machine_limit(repeats)
    result: dict[str, Any] = {
        "cpu": numba.config.CPU_NAME or "host",
        "lanes": LANES,
        "rows": ROWS,
        "lane popcount": LANE_POPCOUNT,
        "limit": limit,
        "bitvit": bitvit.__version__,
        "numba": numba.__version__,
    }
    print(f"limit {limit / 1e12:.3f}e12 binary MAC/s a core; tile {ROWS} x {LANES}, lane popcount {LANE_POPCOUNT}")
    print("\nproduct M x K x N        share of the limit")
    result["shapes"] = [{"shape": s, "share": matmul_rate(*s, repeats) / machine_limit(repeats)} for s in SHAPES]
    for row in result["shapes"]:
        print(f"{'{} x {} x {}'.format(*row['shape']):24s} {row['share']:6.1%}")
    print("\nwidth (196 x width x 4·width)   share   cost a MAC against the width before")
    result["widths"] = []
    for width in WIDTHS:
        share = matmul_rate(196, width, 4 * width, repeats) / machine_limit(repeats)
        before = result["widths"][-1]["share"] if result["widths"] else share
        result["widths"].append({"width": width, "share": share, "against the width before": before / share})
        print(f"{width:5d} {share:26.1%} {before / share:12.2f}")
    if options.model is not None:
        result["kernels"] = model_rows(options.model, repeats)
        total = sum(row["us"] for row in result["kernels"])
        macs = summarize(options.model).binary_macs
        print(f"\nkernels of {options.model.name}, us on one thread")
        for row in result["kernels"]:
            print(f"{row['kernel']:34s} {row['us']:9.1f}")
        over = total * 1e-6 * limit / macs
        print(f"{'sum':34s} {total:9.1f}, {over:.2f} x the limit of its {macs / 1e9:.2f} G binary MACs")
        result |= {"sum": total, "over the limit": over}
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
