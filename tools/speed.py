"""Time packed models: median of many calls after warm-up, and where the time goes.

    python tools/speed.py MODEL.safetensors ... [--threads 1 2] [--batch 1 8] [--repeats 200] [--layers] [--conditions]

--layers shows where the time goes; --conditions times single images also after a pause and beside a process that keeps
one core busy. --readme FILE writes the table between <!-- speed:start --> and <!-- speed:end --> of a Markdown file.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
from peers.machine import cpu_name
from peers.packages import PeersError
from peers.report import read_readme, replace_section, write

import bitvit
from bitvit.runtime import Workspace


class Timing(NamedTuple):
    """Seconds of a call."""

    model: str
    threads: int
    batch: int
    median: float
    least: float
    p90: float

    def row(self) -> str:
        cells = (f"{self.median * 1e3:.2f} ms", f"{self.least * 1e3:.2f}", f"{self.p90 * 1e3:.2f}")
        return (
            f"| {self.model} | {self.threads} | {self.batch} | {' | '.join(cells)} | {self.batch / self.median:.0f} |"
        )


HEADER = (
    "| model | threads | batch | median of a call | least | p90 | images/s |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)  # fmt: skip


def time_calls(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, sorted, after a fifth as many for warm-up."""
    times = []
    for i in range(repeats + repeats // 5):
        start = time.perf_counter()
        call()
        if i >= repeats // 5:
            times.append(time.perf_counter() - start)
    return sorted(times)


def time_model(path: Path, threads: int, batch: int, repeats: int) -> Timing:
    """Time one model on standard normal noise."""
    model = bitvit.load(path, threads=threads)
    size = model.config.image_size
    pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    times = time_calls(lambda: model(pixels), repeats)
    return Timing(path.stem, model.threads, batch, statistics.median(times), times[0], times[int(0.9 * len(times))])


def layer_times(path: Path, repeats: int) -> dict[str, float]:
    """Median seconds of each kernel of a model on one thread, summed over the steps that run it in a stage.

    The steps run in their order, so their caches are as cold as in a call; what it takes to call none is subtracted.
    """
    model = bitvit.load(path, threads=1)
    size = model.config.image_size
    image = np.random.default_rng(0).standard_normal((3, size, size)).astype(np.float32)
    program, workspace = model.runner.program, Workspace(model.runner.program)
    workspace.set_image(image)
    nothing = statistics.median(time_calls(lambda: model.runner.run_steps(workspace, 0, 0), 200))
    samples: dict[str, list[float]] = {}
    for _ in range(repeats):
        totals: dict[str, float] = {}
        for i, step in enumerate(program.steps):
            start = time.perf_counter()
            model.runner.run_steps(workspace, i, i + 1)
            name = f"{step.layer.split('.blocks')[0]} {step.kernel.name}"
            totals[name] = totals.get(name, 0.0) + time.perf_counter() - start - nothing
        for name, seconds in totals.items():
            samples.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def print_layers(path: Path, repeats: int) -> None:
    """Print `layer_times` of a model."""
    times = layer_times(path, repeats)
    print(f"\n{path.stem}, one thread, us")
    for name, seconds in times.items():
        print(f"  {name:32s} {seconds * 1e6:8.1f}")
    print(f"  {'sum':32s} {sum(times.values()) * 1e6:8.1f}")


def conditions(path: Path, repeats: int) -> dict[str, float]:
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
        "1 thread": statistics.median(time_calls(lambda: alone(image), repeats)),
        steady: statistics.median(time_calls(lambda: team(image), repeats)),
        f"{steady}, 50 ms after the call before": statistics.median(after_a_pause() for _ in range(repeats)),
    }
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(busy.pid, {max(os.sched_getaffinity(0))})
        times = time_calls(lambda: team(image), repeats)
    finally:
        busy.kill()
        busy.wait()
    return found | {f"{steady}, one core busy with another process": statistics.median(times)}


def print_conditions(path: Path, repeats: int) -> None:
    """Print `conditions` of a model."""
    found = conditions(path, repeats)
    print(f"\n{path.stem}, one image a call")
    one, steady = list(found.values())[:2]
    for name, seconds in found.items():
        against = f"{seconds / one:.2f} x one thread, {seconds / steady:.2f} x steady"
        print(f"  {name:46s} {seconds * 1e3:8.2f} ms, {against}")


def machine() -> str:
    """The processor and the versions that were measured."""
    return f"{cpu_name()}, {os.cpu_count()} cores; bitvit {bitvit.__version__}, Numba {numba.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--layers", action="store_true", help="also time each kernel on one thread")
    parser.add_argument("--conditions", action="store_true", help="also after a pause, and beside a busy process")
    parser.add_argument("--readme", type=Path)
    options = parser.parse_args()
    print(machine())
    print(HEADER)
    timings = []
    try:
        page = read_readme(options.readme, "speed") if options.readme is not None else ""
        for path in options.models:
            for threads in options.threads:
                for batch in options.batch:
                    timings.append(time_model(path, threads, batch, options.repeats))
                    print(timings[-1].row(), flush=True)
        if options.readme is not None:
            table = "\n".join([HEADER, *(timing.row() for timing in timings)])
            write(options.readme, replace_section(page, f"{table}\n\n{machine()}.", "speed"))
    except (bitvit.BitvitError, PeersError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in options.models:
        if options.layers:
            print_layers(path, options.repeats)
        if options.conditions:
            print_conditions(path, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
