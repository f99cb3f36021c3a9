"""A long run at full load: memory must stay flat."""

import resource
import threading
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import bitvit

from .promise import CheckError

SETTLING = 60.0  # seconds until memory counts
MOST_GROWTH = 1 << 20  # bytes

_EDGES = np.geomspace(1e-4, 100, 600)  # seconds: bins of 2.3 %, in place of a list that would itself grow


@dataclass(frozen=True)
class Soak:
    """What a run found."""

    seconds: float
    calls: int
    settling: float  # seconds until memory counted
    grown: int  # bytes of resident memory from then on, at most
    p50: float  # seconds
    p99: float

    def __str__(self) -> str:
        return (
            f"{self.calls:,} calls in {self.seconds:.0f} s, p50 {1000 * self.p50:.1f} ms, p99 {1000 * self.p99:.1f} ms,"
            f" memory grew by {self.grown / 2**10:.0f} KB after the first {self.settling:g} s"
        )


def resident() -> int:
    """Bytes of memory that this process occupies now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _images(size: int) -> list[bytes]:
    """Encoded ones of other sizes than the network's, if it takes them."""
    rng, files = np.random.default_rng(0), []
    for width, height in ((2 * size, 3 * size), (size, size), (3 * size, size)):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files


def soak(path: Path, seconds: float, threads: int = 2, settling: float = SETTLING) -> Soak:
    """Call a model as a service would: images decoded, single and in batches, from `threads` threads, no pause."""
    model = bitvit.load(path, threads=threads)
    classify = bitvit.Classifier(model)
    size = model.config.image_size
    images = _images(size) if model.preprocessing.resize is not None else _images(size)[1:2]
    pixels = np.random.default_rng(0).standard_normal((5, 3, size, size)).astype(np.float32)
    counts = np.zeros((threads, len(_EDGES) + 1), np.int64)
    start, stop = time.monotonic(), threading.Event()

    def work(row: NDArray[np.int64]) -> None:
        number = 0
        while not stop.is_set():
            begin = time.perf_counter()
            if number % 4 == 3:
                model(pixels)
            else:
                classify(images[number % len(images)])
            row[np.searchsorted(_EDGES, time.perf_counter() - begin)] += 1
            number += 1

    workers = [threading.Thread(target=work, args=(row,), daemon=True) for row in counts]
    for worker in workers:
        worker.start()
    base, most = None, 0
    while time.monotonic() < start + seconds:
        time.sleep(min(1.0, seconds / 20))
        used = resident()
        if time.monotonic() > start + settling:
            base = used if base is None else base
            most = max(most, used - base)
    stop.set()
    for worker in workers:
        worker.join(timeout=300)
        if worker.is_alive():
            raise CheckError("a call does not end")
    total = counts.sum(axis=0)
    reached = np.searchsorted(np.cumsum(total), [0.5 * total.sum(), 0.99 * total.sum()])
    p50, p99 = (float(_EDGES[min(place, len(_EDGES) - 1)]) for place in reached)
    return Soak(time.monotonic() - start, int(total.sum()), settling, most, p50, p99)


def check_soak(path: Path, seconds: float, settling: float = SETTLING) -> str:
    """A long run at full load on two threads."""
    found = soak(path, seconds, settling=settling)
    if found.grown > MOST_GROWTH:
        raise CheckError(f"memory grows: {found}")
    return str(found)
