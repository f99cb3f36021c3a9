"""Where the time of one image goes: each step of the program with its work, its bytes and its limit."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bitvit.bench.limits import Limits, measure_limits
from bitvit.bench.report import Part, Profile
from bitvit.errors import BenchError
from bitvit.kernels.catalog import Kind
from bitvit.model import BHViT
from bitvit.program import Step
from bitvit.runtime import Workspace
from bitvit.summary import Row

KINDS: tuple[Kind, ...] = get_args(Kind)
LEAST_RUNS = 10
ROUND_CALLS, ROUND_SECONDS = 5, 0.02  # profiled and ordinary calls alternate in rounds of at least this length
# Rows of the summary below an attention layer -> the kernel that does their work and holds their weights.
_ATTENTION = {"query": "project", "key": "project", "value": "project", "": "project", "output": "output"}


def profile(model: BHViT, rows: Iterable[Row], *, seconds: float = 2.0, limits: Limits | None = None) -> Profile:
    """Profile a model on one thread, for about so many seconds; see `Profile`.

    rows: of `summarize`, for the work of each layer. limits: measured now if not given.
    """
    limits = limits or measure_limits()
    steps = model.runner.program.steps
    times, calls, calling = step_times(model, seconds)
    work = _work(steps, rows)
    parts = []
    for step, spent, (binary, real, weights) in zip(steps, typical(times), work, strict=True):
        moved = 4 * step.moved
        least, bound = limits.seconds(binary, real, weights + moved)
        name = step.kernel.name
        parts.append(Part(step.layer, name, step.kind, float(spent), binary, real, weights, moved, least, bound))
    kinds = [_sum([part for part in parts if part.kind == kind]) for kind in KINDS]
    return Profile(
        parts=parts,
        kinds=kinds,
        seconds=sum(part.seconds for part in parts),
        calling_seconds=calling,
        end_to_end_seconds=float(typical(np.array(calls)[:, None])[0]),
        runs=len(times),
        limits=limits,
    )


def typical(runs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the middle half of runs [runs, steps], ranked by their totals: [steps].

    What interrupts a run does not count, as with medians. But medians of steps add up to less than the median of the
    totals, 2 % for a model of 70 steps, as each leaves out another run's delays.
    """
    order = np.argsort(runs.sum(axis=1))
    quarter = len(runs) // 4
    return runs[order[quarter : len(runs) - quarter]].mean(axis=0)


def step_times(model: BHViT, seconds: float) -> tuple[NDArray[np.float64], list[float], float]:
    """Seconds [runs, steps] of each step; [calls] of about as many ordinary calls; the median call without an image.

    The two alternate in rounds: each finds its own memory in the caches, and both meet the same load of the machine.
    """
    runner, size = model.runner, model.config.image_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    workspace, ticks = Workspace(runner.program), np.zeros(len(runner.program.steps) + 1, np.int64)
    workspace.set_image(pixels[0])
    run, runs = runner.timed_steps(workspace, ticks), list[NDArray[np.float64]]()
    walls, calls = list[float](), list[float]()
    end = time.perf_counter() + seconds
    while len(runs) < LEAST_RUNS or time.perf_counter() < end:
        for wall in _round(run):
            walls.append(wall)
            runs.append(np.diff(ticks).astype(np.float64))
        calls += _round(lambda: model(pixels))
    found = np.array(runs)
    if not found.any():
        raise BenchError("the clock of this kind of processor cannot be read between steps; measure without a profile")
    tick = float(np.median(np.array(walls) / found.sum(axis=1)))  # calling takes some 1e-6 s, of 1e-3 and more
    return found * tick, calls, float(np.median(list(_round(lambda: model(pixels[:0])))))


def _round(call: Callable[[], object]) -> Iterator[float]:
    """Seconds of each call of a round but the first, which warms the caches."""
    call()
    end, done = time.perf_counter() + ROUND_SECONDS, 0
    while done < ROUND_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start
        done += 1


def _sum(parts: list[Part]) -> Part:
    """Parts of one kind together."""
    least = {bound: sum(p.limit_seconds for p in parts if p.bound == bound) for bound in ("popcount", "fma", "bytes")}
    return Part(
        layer="",
        kernel="",
        kind=parts[0].kind,
        seconds=sum(p.seconds for p in parts),
        binary_macs=sum(p.binary_macs for p in parts),
        float_macs=sum(p.float_macs for p in parts),
        weight_bytes=sum(p.weight_bytes for p in parts),
        activation_bytes=sum(p.activation_bytes for p in parts),
        limit_seconds=sum(least.values()),
        bound=max(least, key=lambda bound: least[bound]),
    )


# ------------------------------------------------------------------------------------------------ work of a step
def _work(steps: list[Step], rows: Iterable[Row]) -> list[tuple[int, int, int]]:
    """Binary MACs that the engine computes, float MACs and bytes of weights of each step."""
    work = [[0, 0, 0] for _ in steps]
    for row in rows:
        i = _step_of(row.name, steps)
        if i is not None:
            for k, amount in enumerate((row.computed_binary_macs, row.float_macs, row.bytes)):
                work[i][k] += amount
    return [(binary, real, weights) for binary, real, weights in work]


def _step_of(row: str, steps: list[Step]) -> int | None:
    """The step that does the work of a row; None for what is not a layer, such as the file's header.

    In an attention _ATTENTION tells, elsewhere the last step of a layer does it all.
    """
    layers = [i for i, step in enumerate(steps) if row == step.layer or row.startswith(f"{step.layer}.")]
    if layers and steps[layers[0]].layer.endswith(".attention"):
        kernel = _ATTENTION.get(row[len(steps[layers[0]].layer) + 1 :], "attend")
        layers = [i for i in layers if steps[i].kernel.base.startswith(kernel)]
    return layers[-1] if layers else None
