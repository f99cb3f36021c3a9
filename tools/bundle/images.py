"""The images that a library is asked for, and bitvit's own answers: run in a process that NUMBA_CPU_NAME rules."""

import sys
from pathlib import Path

import numpy as np

import bitvit

__all__ = ["COUNT", "answer"]

COUNT = 6


def answer(model: str, folder: Path, name: str) -> None:
    """Write planes.bin, bytes.bin, image.ppm and, as float32, the logits of bitvit, to `folder`/`name`."""
    loaded = bitvit.load(model, threads=1)
    preprocessing, random = loaded.preprocessing, np.random.default_rng(0)
    crops = random.integers(0, 256, (COUNT, preprocessing.crop, preprocessing.crop, 3), dtype=np.uint8)
    crops[1] //= 2
    crops[2] = np.arange(preprocessing.crop)[:, None] % 256
    crops[3] = 0
    planes = np.stack([preprocessing.planes(crop) for crop in crops])
    crops.tofile(folder / "bytes.bin")
    planes.tofile(folder / "planes.bin")
    header = f"P6\n# a comment\n{preprocessing.crop} {preprocessing.crop}\n255\n".encode()
    (folder / "image.ppm").write_bytes(header + crops[0].tobytes())
    loaded(planes).tofile(folder / name)


if __name__ == "__main__":
    answer(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
