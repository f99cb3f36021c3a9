"""A process that feeds mutated files to a reader and reports what came of them, a line of JSON at a time.

    python -m tools.fuzz.worker FORMAT SEED START COUNT FOLDER

Input number n depends on the format, the seed and n alone. Before each, its number is written to the file `at` in the
folder, so that whoever started the process knows which one killed or hung it.
"""

import collections
import contextlib
import gc
import json
import mmap
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bitvit import convert
from bitvit.checkpoint import Checkpoint, read_checkpoint
from bitvit.checkpoint.network import trained_network
from bitvit.errors import BitvitError
from bitvit.jit import cache, loader
from bitvit.model import BHViT, functions_of
from bitvit.modelfile import ModelFile, load_model_file
from bitvit.system import peak_rss

from . import pth, tensors
from .guard import Executed, Guard, Hang, limit_memory
from .seeds import PTH_SEEDS

FORMATS = ("pth", "safetensors", "packed")
REPORT_EVERY = 1000  # inputs
WARM_UP = 300  # inputs
USE_EVERY = {"pth": 1, "safetensors": 1, "packed": 4}  # of the files that can be read; a network takes its time


def make_mutant(form: str, seed: int, index: int, seeds: tensors.Seeds) -> bytes:
    """Input number `index`."""
    rng = Random(f"{form} {seed} {index}")
    if form == "pth":
        return pth.mutant(rng)
    return (tensors.mutant if form == "safetensors" else tensors.mutant_of_packed)(rng, seeds)


def _convert(found: Checkpoint, folder: Path) -> None:
    trained_network(found)
    convert(found.path, folder / "converted.safetensors")


def _run(file: ModelFile, _folder: Path) -> None:
    """One image through the network."""
    model = BHViT(file, threads=1)
    size = model.config.image_size
    model(np.full((1, 3, size, size), 0.25, np.float32))


Reader = Callable[[Path], Any]
User = Callable[[Any, Path], None]

# How a file is read, and what is done with what was read.
_STEPS: dict[str, tuple[Reader, User]] = {
    "pth": (read_checkpoint, _convert),
    "safetensors": (read_checkpoint, _convert),
    "packed": (load_model_file, _run),
}


class Worker:
    """One run over a range of inputs."""

    def __init__(self, form: str, seed: int, folder: Path) -> None:
        self.form, self.seed, self.folder = form, seed, folder
        self.read, self.use = _STEPS[form]
        self.path = folder / "input"
        self.seeds = tensors.Seeds(folder)
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.messages: set[str] = set()
        self.slowest = 0.0
        self.read_files = 0
        at = folder / "at"
        at.write_bytes(bytes(16))
        with at.open("r+b") as file:
            self.at = mmap.mmap(file.fileno(), 16)
        self.guard = Guard()

    def warm_up(self) -> None:
        """Read all seeds: what is imported or compiled once must not count for the first mutants."""
        wholes = {
            "pth": [pth.whole(seed) for seed in PTH_SEEDS],
            "safetensors": [*self.seeds.small, *self.seeds.networks],
            "packed": self.seeds.packed,
        }
        for data in wholes[self.form]:
            self.path.write_bytes(data)
            if self.form == "packed":
                loader.addresses(functions_of(self.path))
            with contextlib.suppress(BitvitError):  # no BHViT
                self.use(self.read(self.path), self.folder)
        for index in range(WARM_UP):
            self.path.write_bytes(make_mutant(self.form, -1, index, self.seeds))
            with contextlib.suppress(Exception):
                self.use(self.read(self.path), self.folder)

    def run(self, start: int, count: int) -> None:
        before = peak_rss() or 0
        for index in range(start, start + count):
            self.at[:8] = index.to_bytes(8, "little")
            data = make_mutant(self.form, self.seed, index, self.seeds)
            self.path.write_bytes(data)
            failure = self.feed()
            if failure is not None:
                report({"failure": failure, "index": index})
            if (index + 1 - start) % REPORT_EVERY == 0 or index + 1 == start + count:
                done = {"done": index + 1, "slowest": self.slowest, "grown": (peak_rss() or 0) - before}
                report({**done, "outcomes": self.outcomes, "messages": sorted(self.messages)})
                self.outcomes.clear()
                self.messages.clear()

    def feed(self) -> str | None:
        """Let the reader have the input; returns what is wrong with what it did, if anything."""
        begin = time.process_time()
        failure, outcome = None, ""
        try:
            with self.guard.timing():
                with self.guard.reading():
                    found = self.read(self.path)
                outcome = "read, "
                self.read_files += 1
                if self.read_files % USE_EVERY[self.form] == 0:
                    self.use(found, self.folder)
                    outcome = "used"
            self.outcomes[outcome.rstrip(", ")] += 1
        except BitvitError as error:
            self.outcomes[outcome + type(error).__name__] += 1
            self.messages.add(_pattern(str(error)))
            if str(self.path) not in str(error):
                failure = f"a message without the file's name: {error}"
        except (Exception, SystemExit, Executed, Hang):
            failure = traceback.format_exc()
        seconds = time.process_time() - begin
        self.slowest = max(self.slowest, seconds)
        if self.guard.seen and failure is None:  # something caught it
            failure = f"not let through: {self.guard.seen[0]}"
        return failure


def _pattern(message: str) -> str:
    """What messages of one kind have in common."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|b'[^']*'", "'…'", message.partition(": ")[2])
    return re.sub(r"-?[\d.]+", "#", plain)[:70]


def report(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main(arguments: list[str]) -> None:
    form, folder = arguments[0], Path(arguments[4])
    seed, start, count = map(int, arguments[1:4])
    warnings.simplefilter("error")
    worker = Worker(form, seed, folder)
    worker.warm_up()
    gc.collect()
    gc.freeze()
    limit_memory()
    worker.run(start, count)


if __name__ == "__main__":
    assert cache.folder() is not None, "kernels would be compiled for every process"
    main(sys.argv[1:])
