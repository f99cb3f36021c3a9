"""Time and peak memory of converting a checkpoint and of a first prediction, each in a process of its own.

    python -m tools.footprint CHECKPOINT [--config config.json]

Peak memory is the process's largest resident set; for the conversion, less that of a process that only imports bitvit.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PEAK = "\nfrom bitvit.system import peak_rss; print(peak_rss() / 2**20)"
_IMPORT = "import bitvit, numpy"
_CONVERT = "import sys, bitvit; bitvit.convert(sys.argv[1], sys.argv[2], config=sys.argv[3] or None)"
_PREDICT = """
import sys, numpy, bitvit
model = bitvit.load(sys.argv[2])
size = model.config.image_size
for _ in range(5):
    model(numpy.zeros((1, 3, size, size), numpy.float32))
"""


def run(script: str, *arguments: str) -> tuple[float, float]:
    """Seconds and peak megabytes of a Python process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script + _PEAK, *arguments], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.footprint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="BHViT checkpoint, .safetensors or .pth")
    parser.add_argument("--config", default="", help="config.json, for what the checkpoint does not tell")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = options.checkpoint, str(Path(folder) / "model.safetensors"), options.config
        _, base = run(_IMPORT)
        seconds, peak = run(_CONVERT, *arguments)
        print(f"convert: {seconds:.2f} s with start-up, peak {peak:.0f} MB, {peak - base:.0f} MB above import")
        seconds, peak = run(_PREDICT, *arguments)
        print(f"first predictions, compiling if the cache is cold: {seconds:.2f} s, peak {peak:.0f} MB")
        seconds, peak = run(_PREDICT, *arguments)
        print(f"first predictions, warm cache: {seconds:.2f} s with start-up, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
