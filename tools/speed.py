"""Time packed models with bitvit.bench, for docs/benchmarks.md; and under conditions that a benchmark avoids.

    python -m tools.speed MODEL.safetensors ... [--threads 1 2] [--batch 1 8] [--seconds 3] [--conditions]

--conditions times single images also after a pause and beside a process that keeps one core busy. --record FILE stores
the results (docs/benchmarks.json). For everything else: bitvit bench.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import bitvit
from bitvit.bench import BenchReport, measure
from bitvit.bench.formats import Grid, digits, grid_markdown, machine_facts
from bitvit.bench.measuring import Amount, timed
from tools.results import check_record, store

COLUMNS = ("model", "threads", "batch", "median of a call", "least", "p90", "images/s")


def record(reports: list[BenchReport]) -> dict[str, Any]:
    """What docs/benchmarks.json keeps of the reports: a row for each model, number of threads and batch size."""
    machine, software = (line.partition(": ")[2] for line in machine_facts(reports[-1]))
    return {
        "machine": machine,
        "software": software,
        "warnings": [f"{report.model.name}: {warning}" for report in reports for warning in report.warnings],
        "results": [
            {
                "model": report.model.name,
                "threads": result.threads,
                "batch": result.infer_batch_size,
                "p50_ms": result.p50_ms,
                "min_ms": result.min_ms,
                "p90_ms": result.p90_ms,
                "images_per_s": result.infer_samples_per_sec,
            }
            for report in reports
            for result in report.results
        ],
    }


def table(stored: dict[str, Any]) -> str:
    """The table of a `record`, with machine and software below."""
    rows = [
        (
            *(row["model"], str(row["threads"]), str(row["batch"]), f"{digits(row['p50_ms'])} ms"),
            *(digits(row["min_ms"]), "–" if row["p90_ms"] is None else digits(row["p90_ms"])),
            f"{row['images_per_s']:.0f}",
        )
        for row in stored["results"]
    ]
    below = ". ".join([stored["machine"], stored["software"], *stored["warnings"]])
    return f"{grid_markdown(Grid('', COLUMNS, rows))}\n{below}."


def median_seconds(model: bitvit.BHViT, image: np.ndarray, repeats: int) -> float:
    """Median of a call after a fifth as many for warm-up."""
    timed(lambda: model(image), Amount(repeats // 5 + 1, 0.0))
    return statistics.median(timed(lambda: model(image), Amount(repeats, 0.0)))


def conditions(path: Path, repeats: int = 200) -> dict[str, float]:
    """Median seconds of a call on one image: steady, after 50 ms of idleness, and beside a busy process."""
    alone, team = bitvit.load(path, threads=1), bitvit.load(path)
    size = team.config.image_size
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)

    def after_a_pause() -> float:
        time.sleep(0.05)
        start = time.perf_counter()
        team(image)
        return time.perf_counter() - start

    steady = f"{team.threads} threads"
    found = {
        "1 thread": median_seconds(alone, image, repeats),
        steady: median_seconds(team, image, repeats),
        f"{steady}, 50 ms after the call before": statistics.median(after_a_pause() for _ in range(repeats)),
    }
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(busy.pid, {max(os.sched_getaffinity(0))})
        seconds = median_seconds(team, image, repeats)
    finally:
        busy.kill()
        busy.wait()
    return found | {f"{steady}, one core busy with another process": seconds}


def print_conditions(path: Path) -> None:
    """Print `conditions` of a model."""
    found = conditions(path)
    print(f"\n{path.stem}, one image a call")
    one, steady = list(found.values())[:2]
    for name, seconds in found.items():
        against = f"{seconds / one:.2f} x one thread, {seconds / steady:.2f} x steady"
        print(f"  {name:46s} {seconds * 1e3:8.2f} ms, {against}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="packed model")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", default=[1, 2], help="default: 1 2")
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", default=[1], help="images per call (default 1)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row (default 3)")
    parser.add_argument(
        "--conditions", action="store_true", help="also time calls after a pause, and beside a busy process"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="store the results in this file")
    options = parser.parse_args()
    amounts = {"batch_sizes": options.batch, "threads": options.threads, "seconds": options.seconds}
    try:
        check_record(options.record)
        found = record([measure(path, startup=False, **amounts) for path in options.models])
        print(table(found))
        if options.record is not None:
            store(options.record, "speed", found)
    except bitvit.BitvitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in options.models if options.conditions else ():
        print_conditions(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
