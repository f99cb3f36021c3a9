"""Time a packed model on one image: median of many runs after warm-up, and where the time goes.

python tools/speed.py MODEL.safetensors [--threads 1 2] [--batch 1] [--repeats 200] [--layers]
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np

import bitvit
from bitvit.model import BHViT
from bitvit.runtime import Workspace


def time_calls(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, sorted, after a fifth as many for warm-up."""
    times = []
    for i in range(repeats + repeats // 5):
        start = time.perf_counter()
        call()
        if i >= repeats // 5:
            times.append(time.perf_counter() - start)
    return sorted(times)


def layer_times(model: BHViT, image: np.ndarray, repeats: int) -> dict[str, float]:
    """Median seconds of each kernel on one thread, summed over the steps that run it."""
    program, workspace = model.runner.program, Workspace(model.runner.program)
    workspace.set_image(image)
    samples: dict[str, list[float]] = {}
    for _ in range(repeats):
        totals: dict[str, float] = {}
        for i, step in enumerate(program.steps):
            start = time.perf_counter()
            model.runner.run_steps(workspace, i, i + 1)
            name = f"{step.layer.split('.blocks')[0]} {step.kernel.name}"
            totals[name] = totals.get(name, 0.0) + time.perf_counter() - start
        for name, seconds in totals.items():
            samples.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--layers", action="store_true", help="also time each kernel on one thread")
    options = parser.parse_args()
    print(f"bitvit {bitvit.__version__}, numba {numba.__version__}, {platform.machine()} {numba.config.CPU_NAME or ''}")
    for threads in options.threads:
        model = bitvit.load(options.model, threads=threads)
        size = model.config.image_size
        for batch in options.batch:
            pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
            times = time_calls(lambda: model(pixels), options.repeats)  # noqa: B023
            median, best, p90 = statistics.median(times), times[0], times[int(0.9 * len(times))]
            print(
                f"threads {model.threads} batch {batch}: median {median * 1e3:.3f} ms, min {best * 1e3:.3f}, "
                f"p90 {p90 * 1e3:.3f} ({batch / median:.0f} images/s)"
            )
    if options.layers:
        times_by_layer = layer_times(model, pixels[0], options.repeats)
        for name, seconds in times_by_layer.items():
            print(f"  {name:32s} {seconds * 1e6:8.1f} us")
        print(f"  {'sum':32s} {sum(times_by_layer.values()) * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
