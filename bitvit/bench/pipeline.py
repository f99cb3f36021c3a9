"""Image files through the pipeline of classify and evaluate: what each part of the work costs, and how fast it goes.

The parts are timed on one thread, by the processor time of that thread; then a Classifier answers the same images on
one thread and on all of them. What the process spends beyond the parts is Python's own: starting threads, handing
images over, predictions. Files are read before, so they come out of the system's cache.
"""

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bitvit.bench.machine import Load, share_of_others
from bitvit.bench.report import ImageTimes, PipelineRun
from bitvit.classify import Classifier
from bitvit.errors import BenchError, ImageError
from bitvit.images import open_image
from bitvit.model import BHViT
from bitvit.pipeline import portion_size

__all__ = ["Spent", "answered", "measure_images", "work_alone"]

ROUNDS = 3
LEAST = 50  # images that are taken, if there are so many, however long they take
TOP_K = 5  # predictions of an image, as classify makes them


@dataclass
class Spent:
    """Seconds of one thread's processor time, and what came of them."""

    decode: float = 0.0
    resize: float = 0.0
    network: float = 0.0
    taken: int = 0
    """Images, failures included."""
    pixels: int = 0
    """Of the images as they are decoded."""
    failures: dict[Path, str] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return self.decode + self.resize + self.network


def measure_images(
    models: Sequence[BHViT],
    paths: Sequence[Path],
    *,
    left_out: Sequence[str] = (),
    seconds: float = 3.0,
    batch_size: int = 8,
    say: Callable[[str], None] = lambda _text: None,
) -> ImageTimes:
    """Measure image files on their way to predictions.

    models: one network, loaded with each number of threads that is to be measured. paths: of the files; if they take
        longer than a round may, a random part of them is taken, the same every time, of LEAST images at least.
    left_out: what is not among them, for the report.
    seconds: for each of the measurements, in ROUNDS rounds.
    batch_size: as for Classifier.

    Raises BenchError if there is no image that can be read; ConfigError for a network without a classifier.
    """
    if not paths:
        raise BenchError("images is empty, expected paths of images")
    classifiers = [Classifier(model, batch_size=batch_size) for model in models]
    order = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))]
    say("images: reading them")
    first = work_alone(models[0], order, batch_size, seconds=seconds / ROUNDS, least=LEAST)
    taken = order[: first.taken]
    good = [path for path in taken if path not in first.failures]
    if not good:
        raise BenchError(f"none of the images could be read; the first: {next(iter(first.failures.values()))}")
    # A few images are taken again and again, so that starting threads does not count for more than it does with many.
    images = good * max(1, int(seconds / ROUNDS / max(first.total, 1e-3)))
    parts: list[Spent] = []
    runs: list[list[tuple[float, float]]] = [[] for _ in models]
    before = Load.now()
    for number in range(ROUNDS):
        say(f"images: round {number + 1} of {ROUNDS}")
        parts.append(work_alone(models[0], images, batch_size))
        for classifier, found in zip(classifiers, runs, strict=True):
            found.append(answered(classifier, images))
    decode, resize, network = (
        1e3 * statistics.median(getattr(spent, name) for spent in parts) / len(images)
        for name in ("decode", "resize", "network")
    )
    return ImageTimes(
        found=len(paths),
        images=len(good),
        failures=list(first.failures.values()),
        left_out=list(left_out),
        file_bytes=sum(path.stat().st_size for path in good) / len(good),
        pixels=first.pixels / len(good),
        decode_ms=decode,
        resize_ms=resize,
        network_ms=network,
        others=share_of_others(before, Load.now()),
        runs=[
            _run(model.threads, len(images), found, decode + resize + network)
            for model, found in zip(models, runs, strict=True)
        ],
    )


def work_alone(
    model: BHViT, paths: Sequence[Path], batch_size: int, *, seconds: float = float("inf"), least: int = 1
) -> Spent:
    """Do on this thread what the pipeline's threads do with images, in portions as large as theirs.

    seconds: after which no other portion is begun, once `least` images are taken. An image that cannot be read is
    noted, and left out.
    """
    spent, size = Spent(), 1
    rest, end = iter(paths), time.perf_counter() + seconds
    while (spent.taken < least or time.perf_counter() < end) and (portion := list(itertools.islice(rest, size))):
        begin, crops = time.perf_counter(), []
        for path in portion:
            start = time.thread_time()
            try:
                image = open_image(path)
                decoded = time.thread_time()
                crops.append(model.preprocessing.cropped(image))
            except ImageError as error:
                named = str(error).startswith(str(path))
                spent.failures[path] = str(error) if named else f"{path}: {error}"
                continue
            spent.decode += decoded - start
            spent.resize += time.thread_time() - decoded
            spent.pixels += image.width * image.height
        start = time.thread_time()
        if crops:
            model.of_bytes(crops, alone=True)
        spent.network += time.thread_time() - start
        spent.taken += len(portion)
        size = portion_size(time.perf_counter() - begin, len(portion), batch_size)
    return spent


def answered(classifier: Classifier, paths: Sequence[Path]) -> tuple[float, float]:
    """Seconds by the clock, and of the process's processor time, that answers to all images take."""
    begin, used = time.perf_counter(), time.process_time()
    deque(classifier.attempt(list(paths), TOP_K), maxlen=0)
    return time.perf_counter() - begin, time.process_time() - used


def _run(threads: int, images: int, found: Sequence[tuple[float, float]], parts_ms: float) -> PipelineRun:
    wall_ms, cpu_ms = (1e3 * statistics.median(column) / images for column in zip(*found, strict=True))
    return PipelineRun(
        threads=threads,
        images_per_sec=1e3 / wall_ms,
        cpu_ms=cpu_ms,
        other_ms=cpu_ms - parts_ms,
        share_of_bound=parts_ms / (threads * wall_ms),
    )
