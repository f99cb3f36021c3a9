"""Each kernel against the machine's limit, measured beside it.

    python -m tools.bench_kernels [MODEL.safetensors] [--repeats 50] [--json FILE] [--record FILE]

The limit is what one core reaches in xor + popcount + add on registers alone, or in lookups (bitvit.bench.limits). The
first table is the binary matrix product (float32 out), the second the same over widths that are not multiples of
a vector or a word: padding costs something, but no width may fall off a cliff. With a model, a third table gives each
of its kernels, on one thread. --json writes the result alone, --record stores it with others (docs/benchmarks.json).
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit

import bitvit
from bitvit.bench.limits import popcount_rate
from bitvit.bench.machine import commit, cpu_name
from bitvit.bench.measuring import Amount, timed
from bitvit.bench.profile import profile
from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.matmul import LANE_POPCOUNT, binary_product
from bitvit.kernels.target import CPU, LANES, OUTPUTS, TILE_ROWS
from bitvit.panels import natural, padded, pair_units, product_panels
from bitvit.program import aligned_zeros
from bitvit.summary import summarize
from tools.results import check_record, store, write_text

SHAPES = [
    (3136, 64, 512), (3136, 512, 64), (784, 128, 1024), (784, 1024, 128), (196, 256, 1024), (196, 1024, 256),
    (196, 256, 256), (49, 512, 2048), (49, 2048, 512), (49, 512, 512),
]  # fmt: skip
WIDTHS = [64, 72, 80, 96, 112, 120, 128, 144, 160, 176, 192, 224, 256, 288, 320, 352, 384, 448, 512]


@njit(**OPTIONS)
def _count_matmul(bits, pairs, rows, words, panels, width, out):  # type: ignore[no-untyped-def]
    binary_product(bits, pairs, rows, words, panels, width, 0, out, rows)


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median of a call after warm-up."""
    timed(call, Amount(repeats // 5 + 1, 0.0))
    return statistics.median(timed(call, Amount(repeats, 0.0)))


def matmul_rate(m: int, k: int, n: int, repeats: int) -> float:
    """Useful binary multiply-adds a second of a product [m, k] x [k, n]; padding is not counted."""
    rng = np.random.default_rng(0)
    words, width, rows = -(-k // LANE_BITS), padded(n), padded(m, TILE_ROWS)
    bits = aligned_zeros(rows * words + 64)
    bits[:] = rng.integers(0, 2**32, len(bits), dtype=np.uint32)
    panels = product_panels(rng.random((n, k)) < 0.5, natural(n), natural(k, LANE_BITS)).reshape(-1)
    pairs = aligned_zeros(pair_units(rows, words) + 64)
    out = aligned_zeros(rows * padded(n, OUTPUTS) + 64).view(np.float32)
    return m * k * n / median_seconds(lambda: _count_matmul(bits, pairs, rows, words, panels, width, out), repeats)


def share_of_limit(m: int, k: int, n: int, repeats: int) -> float:
    """Rate of a product over the limit measured before and after it: the median of five such ratios."""
    ratios = []
    for _ in range(5):
        before = popcount_rate()
        rate = matmul_rate(m, k, n, repeats)
        ratios.append(2 * rate / (before + popcount_rate()))
    return statistics.median(ratios)


def model_results(path: Path) -> dict[str, Any]:
    """Microseconds of each kernel of a model on one thread, summed over the steps of a stage, and of a call."""
    summary = summarize(path)
    found = profile(bitvit.load(path, threads=1), summary.rows)
    kernels: dict[str, float] = {}
    for part in found.parts:
        name = f"{part.layer.split('.blocks')[0]} {part.kernel}"
        kernels[name] = kernels.get(name, 0.0) + 1e6 * part.seconds
    return {
        "model": path.stem,
        "kernels": [{"kernel": name, "us": us} for name, us in kernels.items()],
        "sum us": sum(kernels.values()),
        "binary MACs": summary.computed_binary_macs,
        "end to end": found.end_to_end_seconds,
    }


def measure(model: Path | None, repeats: int) -> dict[str, Any]:
    """All tables, as the JSON file holds them."""
    limit = popcount_rate()
    result: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_name(),
        "target": CPU,
        "lanes": LANES,
        "rows": TILE_ROWS,
        "lane popcount": LANE_POPCOUNT,
        "limit": limit,
        "bitvit": bitvit.__version__,
        "numba": numba.__version__,
    }
    result["shapes"] = [{"shape": s, "share": share_of_limit(*s, repeats)} for s in SHAPES]
    result["widths"] = []
    for width in WIDTHS:
        share = share_of_limit(196, width, 4 * width, repeats)
        before = result["widths"][-1]["share"] if result["widths"] else share
        result["widths"].append({"width": width, "share": share, "against the width before": before / share})
    if model is not None:
        result |= model_results(model)
        result["over the limit"] = result["end to end"] * limit / result["binary MACs"]
    return result


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        f"The limit is {result['limit'] / 1e12:.2f}·10¹² binary multiply-adds a second on one core ({result['cpu']},"
        f" {result['target']}; {', commit '.join(filter(None, (result['date'][:10], result['commit'])))}); tiles are"
        f" {result['rows']} x {result['lanes']}.",
        "",
        "| product M x K x N | share of the limit |",
        "|---|--:|",
        *(f"| {' x '.join(map(str, row['shape']))} | {row['share']:.0%} |" for row in result["shapes"]),
        "",
        "| width C (196 x C x 4·C) | share of the limit | cost a MAC against the row above |",
        "|---|--:|--:|",
        *(f"| {r['width']} | {r['share']:.0%} | {r['against the width before']:.2f} x |" for r in result["widths"]),
    ]
    if "kernels" in result:
        lines += [
            "",
            f"| kernels of {result['model']}, one thread | µs |",
            "|---|--:|",
            *(f"| {row['kernel']} | {row['us']:.0f} |" for row in result["kernels"]),
            f"| sum | {result['sum us']:.0f} |",
            "",
            f"End to end it takes {result['end to end'] * 1e3:.2f} ms, {result['over the limit']:.2f} x what the limit"
            f" says for its {result['binary MACs'] / 1e9:.2f}·10⁹ binary multiply-adds.",
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--record", type=Path, metavar="FILE")
    options = parser.parse_args()
    try:
        check_record(options.record)
        result = measure(options.model, options.repeats)
        print(markdown(result))
        if options.record is not None:
            store(options.record, "kernels", result)
        if options.json is not None:
            write_text(options.json, json.dumps(result, indent=1) + "\n")
    except bitvit.BitvitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
