"""Fresh processes: time to import, to load, for the first image and to compile; and their memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bitvit.bench.report import Startup
from bitvit.errors import BenchError
from bitvit.jit.workers import can_start_python

PROCESSES = 3
CALLS = 5  # with the largest batch, before memory is measured

_FIRST_LINES = "import json, sys, time; sys.path[:] = json.loads(sys.argv[1]); path = sys.argv[2]\n"
RUN_SCRIPT = """
threads, batch, calls = map(int, sys.argv[3:])
start = time.perf_counter()
import numpy as np, bitvit.model
found = {"import": time.perf_counter() - start}
from bitvit.system import peak_rss
found["import rss"] = peak_rss()
start = time.perf_counter()
model = bitvit.load(path, threads=threads)
found["load"] = time.perf_counter() - start
size = model.config.image_size
pixels = np.zeros((1, 3, size, size), np.float32)
start = time.perf_counter()
model(pixels)
found["first"] = time.perf_counter() - start
pixels = np.zeros((batch, 3, size, size), np.float32)
for _ in range(calls):
    model(pixels)
found["rss"] = peak_rss()
print(json.dumps(found))
"""
COMPILE_SCRIPT = """
from bitvit.jit import loader
from bitvit.model import functions_of
functions = functions_of(path)
start = time.perf_counter()
done = len(list(loader.compile_all(loader.missing_of(functions))))
print(json.dumps([done, time.perf_counter() - start]))
"""


def measure_startup(
    path: Path, threads: int, batch: int, compiled: tuple[int, float] | None, *, cold: bool
) -> Startup | None:
    """Start a few processes one after the other; None where Python cannot be started.

    compiled: how many functions this process had to compile for the model, and the seconds it took. cold: measure that
    in a process with an empty cache.
    """
    if not can_start_python():
        return None
    if cold:
        with tempfile.TemporaryDirectory() as cache:
            compiled = _python(COMPILE_SCRIPT, path, environment={"NUMBA_CACHE_DIR": cache})
    found = [_python(RUN_SCRIPT, path, threads, batch, CALLS) for _ in range(PROCESSES)]

    def median(name: str) -> float:
        return float(statistics.median(f[name] for f in found))

    def memory(name: str) -> int | None:
        return None if found[0][name] is None else int(median(name))

    count, seconds = compiled or (0, None)
    return Startup(
        import_seconds=median("import"),
        load_seconds=median("load"),
        first_inference_seconds=median("first"),
        compile_seconds=seconds,
        compiled_functions=count,
        import_rss_bytes=memory("import rss"),
        peak_rss_bytes=memory("rss"),
        threads=threads,
        infer_batch_size=batch,
    )


def _python(script: str, *arguments: object, environment: dict[str, str] | None = None) -> Any:
    """What a separate process prints, read as JSON; the current folder is not on its path."""
    path = json.dumps([*map(str, sys.path), str(Path(__file__).parents[2])])
    command = [sys.executable, "-I", "-c", _FIRST_LINES + script, path, *map(str, arguments)]
    try:
        # As `bitvit classify` has it; OpenBLAS interrupts a process that gets no threads.
        spared = {"OPENBLAS_NUM_THREADS": "1", **os.environ, **(environment or {})}
        done = subprocess.run(command, env=spared, capture_output=True, text=True, check=False)
    except OSError as problem:  # such as a limit of processes
        raise BenchError(f"the process that measures start-up cannot be started: {problem.strerror}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"the process that measures start-up ended with {done.returncode}: {last}")
    return json.loads(done.stdout)
