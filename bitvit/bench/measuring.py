"""measure: times of a packed model, as a report.

Every cell (mode, threads, batch size) is measured in five parts, interleaved with those of the other cells, so that a
change of the machine's speed affects all cells alike, and shows in the spread of their medians.
"""

import dataclasses
import gc
import hashlib
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitvit.bench.limits import measure_limits, popcount_rate
from bitvit.bench.machine import Load, environment, share_of_others
from bitvit.bench.pipeline import measure_images
from bitvit.bench.profile import profile as profile_model
from bitvit.bench.report import MODES, BenchReport, Mode, ModelFacts, PreprocessingTimes, Profile, Result, describe
from bitvit.bench.startup import measure_startup
from bitvit.bench.together import run_together
from bitvit.errors import BenchError
from bitvit.hub import local_path
from bitvit.images import ImageSource, open_image
from bitvit.jit import loader
from bitvit.model import BHViT, functions_of, load
from bitvit.summary import Summary, summarize
from bitvit.system import available_threads

PARTS = 5
SECONDS = 3.0
WARM_UP_SECONDS, WARM_UP_CALLS = 0.3, 3
PREPROCESSING_SECONDS = 0.5
PHOTO = (500, 375)  # pixels of a typical image of ImageNet


def measure(
    model: str | os.PathLike[str],
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] | None = None,
    modes: Sequence[Mode] = ("latency",),
    warmup: int | None = None,
    iterations: int | None = None,
    seconds: float | None = None,
    image: ImageSource | None = None,
    images: Sequence[str | os.PathLike[str]] | None = None,
    left_out: Sequence[str] = (),
    profile: bool = False,
    startup: bool = True,
    cold: bool = False,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure a packed model on float32 pixels, every combination of mode, threads and batch size.

        report = bitvit.bench.measure("model.safetensors", batch_sizes=[1, 8], threads=[1, 2])
        report.results[0].p50_ms

    model: path of a packed model.
    threads: default one entry, all that the process may use.
    modes: "latency", calls one after the other with all threads; "throughput", as many callers at once, each with one.
    warmup: calls before a cell is measured; default 0.3 s of them, 3 at least.
    iterations, seconds: of each cell, one of the two; default 3 s. There are always 5 calls at least.
    image: the image whose preprocessing is timed; default a synthetic JPEG, or none if there are images.
    images: image files whose way to predictions is measured, on 1 thread and on each number of threads.
    left_out: what was found beside them, for the report.
    profile: also find where the time of one image on one thread goes.
    startup: also start a few processes, to time import, loading and the first image, and to measure their memory.
    cold: also start one that compiles the kernels with an empty cache.
    progress: called with a line of text on what is being measured.

    Raises ModelFileError, ImageError; BenchError for more threads than there are; ValueError for impossible arguments.
    """
    batch_sizes, threads = _counts("batch_sizes", batch_sizes), _threads(threads)
    _check_amounts(modes, warmup, iterations, seconds)
    say = progress or (lambda _text: None)
    path = Path(local_path(model))
    say("reading the model")
    compiled = _compile(path)
    summary = summarize(path)
    models = {n: load(path, threads=n) for n in {1, *threads}}
    cells = [Cell(mode, n, b) for mode in dict.fromkeys(modes) for n in threads for b in batch_sizes]
    pixels = _pixels(max(batch_sizes), models[1].config.image_size)
    prepared = measure_preprocessing(models[1], image) if image is not None or images is None else None
    from_files = None
    if images is not None:
        from_files = measure_images(
            [models[n] for n in sorted(models)],
            [Path(image) for image in images],
            left_out=left_out,
            seconds=seconds or SECONDS,
            say=say,
        )
    started = None
    if startup:
        say("starting processes")
        started = measure_startup(path, max(threads), max(batch_sizes), compiled, cold=cold)
    say("limits of the machine")
    popcounts = {n: popcount_rate(n) for n in threads}
    measure_cells(cells, models, pixels, Amount(iterations, seconds or SECONDS), warmup, say)
    popcounts = {n: max(rate, popcount_rate(n)) for n, rate in popcounts.items()}
    limits = measure_limits() if profile else None
    profiled: Profile | None = None
    if limits is not None:
        say("profile")
        limits = dataclasses.replace(limits, binary_macs=max(limits.binary_macs, popcounts.get(1, 0.0)))
        profiled = profile_model(models[1], summary.rows, seconds=2.0 if seconds is None else seconds, limits=limits)
        popcounts[1] = limits.binary_macs
    return BenchReport(
        model=_facts(path, models[1], summary),
        environment=environment(),
        startup=started,
        preprocessing=prepared,
        results=[cell.result(summary.computed_binary_macs, popcounts[cell.threads]) for cell in cells],
        profile=profiled,
        images=from_files,
    )


# ------------------------------------------------------------------------------------------------------ arguments
def _counts(name: str, values: Sequence[int]) -> list[int]:
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"{name} is {values!r}, expected whole numbers of at least 1")
    return list(dict.fromkeys(values))


def _threads(values: Sequence[int] | None) -> list[int]:
    most = available_threads()
    wanted = [most] if values is None else _counts("threads", values)
    if max(wanted) > most:
        raise BenchError(
            f"{max(wanted)} threads: this process may use {most} (CPU affinity, cgroup quota, OMP_NUM_THREADS and"
            " BITVIT_NUM_THREADS; the smallest wins); ask for fewer, or raise the limit"
        )
    return wanted


def _check_amounts(modes: Sequence[Mode], warmup: int | None, iterations: int | None, seconds: float | None) -> None:
    if not modes or any(mode not in MODES for mode in modes):
        raise ValueError(f"modes is {modes!r}, expected some of {MODES}")
    if iterations is not None and seconds is not None:
        raise ValueError("iterations and seconds: give one of the two")
    if warmup is not None and warmup < 0:
        raise ValueError(f"warmup is {warmup}, expected at least 0")
    if iterations is not None and iterations < 1:
        raise ValueError(f"iterations is {iterations}, expected at least 1")
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ValueError(f"seconds is {seconds}, expected more than 0")


# ---------------------------------------------------------------------------------------------------- the model
def _compile(path: Path) -> tuple[int, float] | None:
    """Compile what the model needs and the cache lacks: number of functions, seconds; None if nothing is missing."""
    missing = loader.missing_of(functions_of(path))
    if not missing:
        return None
    start = time.perf_counter()
    done = len(list(loader.compile_all(missing)))
    return done, time.perf_counter() - start


def _facts(path: Path, model: BHViT, summary: Summary) -> ModelFacts:
    program = model.runner.program
    content = path.read_bytes()
    return ModelFacts(
        name=path.stem,
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        weight_bytes=program.const.nbytes,
        workspace_bytes=4 * (program.state_size + program.scratch_size),
        infer_img_size=model.config.image_size,
        num_classes=model.config.num_classes,
        param_count=(summary.binary_weights + summary.float_parameters) / 1e6,
        binary_macs=summary.binary_macs,
        float_macs=summary.float_macs,
        computed_binary_macs=summary.computed_binary_macs,
    )


# ------------------------------------------------------------------------------------------------------- calls
@dataclass(frozen=True)
class Amount:
    """How much to measure: a number of calls, or seconds if it is None."""

    iterations: int | None
    seconds: float

    def part(self, i: int) -> "Amount":
        """The share of the i-th of PARTS; together they make up the whole."""
        if self.iterations is None:
            return Amount(None, self.seconds / PARTS)
        return Amount(max(1, (self.iterations * (i + 1)) // PARTS - (self.iterations * i) // PARTS), 0.0)

    def reached(self, calls: int, start: float) -> bool:
        if self.iterations is not None:
            return calls >= self.iterations
        return calls > 0 and time.perf_counter() - start >= self.seconds


@dataclass
class Cell:
    """One mode, number of threads and batch size, and what has been measured of it."""

    mode: Mode
    threads: int
    batch: int
    parts: list[list[float]] = field(default_factory=list)  # seconds of each call, part by part
    seconds: float = 0.0
    loads: list[tuple[Load | None, Load | None]] = field(default_factory=list)  # before and after each part

    def measure(self, call: Callable[[], object], amount: Amount) -> None:
        """One part."""
        before, start = Load.now(), time.perf_counter()
        times = timed(call, amount) if self.mode == "latency" else timed_together(call, amount, self.threads)
        self.seconds += time.perf_counter() - start
        self.loads.append((before, Load.now()))
        self.parts.append(times)

    def result(self, binary_macs: int, limit: float) -> Result:
        """binary_macs: computed for an image; limit: binary multiply-adds a second."""
        times = np.array([t for part in self.parts for t in part])
        rate = len(times) * self.batch / self.seconds
        return Result(
            mode=self.mode,
            threads=self.threads,
            infer_batch_size=self.batch,
            infer_samples_per_sec=rate,
            infer_step_time=1e3 * float(times.mean()),
            std_ms=1e3 * float(times.std()),
            min_ms=1e3 * float(times.min()),
            p50_ms=1e3 * float(np.median(times)),
            p90_ms=percentile_ms(times, 90),
            p95_ms=percentile_ms(times, 95),
            p99_ms=percentile_ms(times, 99),
            max_ms=1e3 * float(times.max()),
            iterations=len(times),
            seconds=self.seconds,
            binary_gmacs_per_sec=rate * binary_macs / 1e9,
            limit_gmacs_per_sec=limit / 1e9,
            share_of_limit=rate * binary_macs / limit,
            spread=spread(self.parts),
            others=self._others(),
        )

    def _others(self) -> float | None:
        """Over all parts."""
        known = [(b, a) for b, a in self.loads if b is not None and a is not None]
        everybody = sum(a.everybody - b.everybody for b, a in known)
        own = sum(a.own - b.own for b, a in known)
        return share_of_others(Load(0.0, 0.0, 0.0), Load(everybody, own, sum(a.wall - b.wall for b, a in known)))


def percentile_ms(times: NDArray[np.float64], percent: int) -> float | None:
    """Milliseconds that so many percent of the calls did not exceed; None if fewer than one call lies beyond."""
    enough = len(times) * (100 - percent) >= 100
    return 1e3 * float(np.percentile(times, percent)) if enough else None


def spread(parts: Sequence[Sequence[float]]) -> float:
    """How far the medians of the parts of a series lie apart, relative to the median of all.

    On a quiet machine it is a few percent; a difference between two models below it means nothing.
    """
    medians = [statistics.median(part) for part in parts]
    return (max(medians) - min(medians)) / statistics.median([t for part in parts for t in part])


def timed(call: Callable[[], object], amount: Amount) -> list[float]:
    """Seconds of each call, one after the other."""
    times: list[float] = []
    start = time.perf_counter()
    while not amount.reached(len(times), start):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return times


def timed_together(call: Callable[[], object], amount: Amount, callers: int) -> list[float]:
    """Seconds of each call when so many threads call at once, each one call after the other."""
    share = amount if amount.iterations is None else Amount(-(-amount.iterations // callers), 0.0)
    times: list[list[float]] = [[] for _ in range(callers)]

    def work(i: int) -> None:
        times[i] = timed(call, share)

    run_together(work, callers)
    return [t for one in times for t in one]


def _pixels(batch: int, size: int) -> NDArray[np.float32]:
    """Float32 [batch, 3, size, size]. BenchError if memory does not hold so many."""
    try:
        return np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    except (MemoryError, ValueError):  # the latter for sizes that no memory could have
        raise BenchError(
            f"batch size {batch}: {12e-9 * batch * size**2:,.1f} GB of pixels do not fit into memory; choose a"
            " smaller one"
        ) from None


def measure_cells(
    cells: list[Cell],
    models: dict[int, BHViT],
    pixels: NDArray[np.float32],
    amount: Amount,
    warmup: int | None,
    say: Callable[[str], None],
) -> None:
    """Part by part, one cell after the other; Python does not collect garbage meanwhile."""

    def call(cell: Cell) -> Callable[[], object]:
        model, images = models[cell.threads if cell.mode == "latency" else 1], pixels[: cell.batch]
        return lambda: model(images)

    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for i in range(PARTS):
            for number, cell in enumerate(cells):
                say(f"{number + 1} of {len(cells)}: {describe(cell.mode, cell.threads, cell.batch)}")
                if i == 0:
                    _warm_up(call(cell), warmup)
                else:
                    call(cell)()  # wakes the threads, and brings the weights back into the caches
                cell.measure(call(cell), amount.part(i))
    finally:
        if collecting:
            gc.enable()


def _warm_up(call: Callable[[], object], calls: int | None) -> None:
    end, done = time.perf_counter() + WARM_UP_SECONDS, 0
    while done < calls if calls is not None else done < WARM_UP_CALLS or time.perf_counter() < end:
        call()
        done += 1


# ------------------------------------------------------------------------------------------------- preprocessing
def measure_preprocessing(model: BHViT, image: ImageSource | None = None) -> PreprocessingTimes:
    """Time separately what is done with an image before the network. Raises ImageError."""
    preprocessing = model.preprocessing
    if image is None:
        size = PHOTO if preprocessing.resize is not None else (preprocessing.crop, preprocessing.crop)
        photo = _photo(*size)
        source: ImageSource = photo
        name = f"synthetic JPEG, {size[0]} x {size[1]} pixels, {len(photo) / 1e3:.0f} kB"
    else:
        source = image
        opened = open_image(image)
        label = os.fspath(image) if isinstance(image, str | os.PathLike) else type(image).__name__
        name = f"{label}, {opened.width} x {opened.height} pixels"
    times: list[tuple[float, float, float]] = []
    end = time.perf_counter() + PREPROCESSING_SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        opened = open_image(source)
        decoded = time.perf_counter()
        crop = preprocessing.cropped(opened)
        resized = time.perf_counter()
        if model.config.image_norm:
            preprocessing.planes(crop)
        times.append((decoded - start, resized - decoded, time.perf_counter() - resized))
    decode, resize, normalise = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    return PreprocessingTimes(name, decode, resize, normalise if model.config.image_norm else None)


def _photo(width: int, height: int) -> bytes:
    """A JPEG with as much detail as a photograph: noise on several scales."""
    rng, image = np.random.default_rng(0), np.zeros((height, width, 3))
    for scale in (64, 16, 4, 1):
        coarse = rng.integers(0, 256, (-(-height // scale), -(-width // scale), 3), np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image += np.asarray(layer) * (0.05 if scale == 1 else 0.3)
    file = io.BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
