"""What bench_pipeline asks of the build under measurement, in processes of its own; answers in JSON.

    python tools/pipeline_parts.py parts MODEL FOLDER THREADS
    python tools/pipeline_parts.py threads MODEL

Run by its path, with the Python of the build, it imports nothing of this folder.
"""

import contextlib
import functools
import io
import itertools
import json
import statistics
import sys
import time
import unittest.mock
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

import bitvit

BATCH = 8  # images that a thread of classify computes together, at most
PORTION_SECONDS = 0.008  # that its portions take
CHUNKS, CHUNK_SECONDS = 40, 0.03  # of calls on one and on two threads in turn


def parts(path: str, folder: str, threads: int) -> dict[str, float]:
    """Processor time of Pillow's decoding and resizing and of the network, seconds for all images, one thread; what a
    Classifier on one thread needs beside them; and the time by the clock of one that answers the same images on
    `threads`."""
    files = sorted(entry for entry in Path(folder).rglob("*.*") if entry.suffix in (".jpg", ".png"))
    classifier = bitvit.Classifier(path, threads=threads, batch_size=BATCH)
    deque(classifier.attempt(list(map(str, files[: 4 * BATCH]))), maxlen=0)  # wakes everything
    found = alone(bitvit.load(path, threads=1), files)
    begin = time.perf_counter()
    deque(classifier.attempt(list(map(str, files))), maxlen=0)
    wall = time.perf_counter() - begin
    return {**found, "images": len(files), "wall": wall, "outside": outside(path, files)}


def outside(path: str, files: Sequence[Path]) -> float:
    """Processor seconds of a Classifier on one thread outside decoding, resizing and the network, which are timed
    where they are called: it is a small difference of large numbers otherwise."""
    model, inside = bitvit.load(path, threads=1), [0.0]
    classifier = bitvit.Classifier(model, batch_size=BATCH)
    with contextlib.ExitStack() as stack:
        for owner, name in (
            (Image, "open"),
            (ImageFile.ImageFile, "load"),
            (Image.Image, "resize"),
            (type(model.runner), "run"),
        ):
            stack.enter_context(unittest.mock.patch.object(owner, name, timed(getattr(owner, name), inside)))
        deque(classifier.attempt(list(map(str, files[:BATCH]))), maxlen=0)
        inside[0], begin = 0.0, time.process_time()
        deque(classifier.attempt(list(map(str, files))), maxlen=0)
        return time.process_time() - begin - inside[0]


def timed(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """The function, which adds its processor time to the total."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        begin = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            total[0] += time.process_time() - begin

    return call


def alone(model: bitvit.BHViT, files: Sequence[Path]) -> dict[str, float]:
    """The parts, in portions such as the pipeline's; what lies between them is not counted."""
    preprocessing, clock = model.preprocessing, time.process_time
    decode = resize = network = 0.0
    size, rest = 1, iter(files)
    while portion := list(itertools.islice(rest, size)):
        begin, crops = time.perf_counter(), []
        for file in portion:
            data = io.BytesIO(file.read_bytes())
            start = clock()
            image = Image.open(data)
            image.load()
            decoded = clock()
            resized = preprocessing.resized(image)
            resize += clock() - decoded
            decode += decoded - start
            crops.append(preprocessing.cropped(resized))
        start = clock()
        model.of_bytes(crops, alone=True)
        network += clock() - start
        each = (time.perf_counter() - begin) / len(portion)
        size = min(BATCH, max(1, int(PORTION_SECONDS / each)))
    return {"decode": decode, "resize": resize, "network": network}


def threads_compared(path: str) -> list[dict[str, float]]:
    """Milliseconds of a call on one and on two threads, and the median of their ratios in chunks next to each other."""
    models = [bitvit.load(path, threads=count) for count in (1, 2)]
    side = models[0].config.image_size
    found = []
    for batch in (1, 16):
        pixels = np.random.default_rng(0).standard_normal((batch, 3, side, side), np.float32)
        calls: list[Callable[[], object]] = [lambda model=model, pixels=pixels: model(pixels) for model in models]  # type: ignore[misc]
        chunks = [[chunk(call) for call in calls] for _ in range(CHUNKS)]
        one, two = (statistics.median(column) for column in zip(*chunks, strict=True))
        ratio = statistics.median(second / first for first, second in chunks)
        found.append({"batch": batch, "one": 1e3 * one, "two": 1e3 * two, "ratio": ratio})
    return found


def chunk(call: Callable[[], object]) -> float:
    """Median seconds of a call, of calls one after the other for CHUNK_SECONDS; the first one is not counted."""
    call()
    times: list[float] = []
    end = time.perf_counter() + CHUNK_SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    wanted, model, *others = sys.argv[1:]
    print(json.dumps(parts(model, others[0], int(others[1])) if wanted == "parts" else threads_compared(model)))
