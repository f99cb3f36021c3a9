"""Whether two machines answer with the same bits: every golden case and the models of weights/.

    python -m tools.arm.logits write FOLDER [NAME ...]     here: packed models, inputs, logits and their machine
    python -m tools.arm.logits compare FOLDER [NAME ...]   there: the same models again; exit code 1 if a bit differs

Models are packed once, where FOLDER is written, and read in the other place. A NAME is that of a golden case, of a
fork's network or of a file in weights/; without any, all of them are taken, the forks' only where shared/golden is.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

import bitvit
from bitvit.kernels import target
from tests.support.golden_data import case_names, fork_names, load_case, load_fork
from tests.support.paths import WEIGHTS

__all__ = ["compare", "differing", "names", "write"]

IMAGES = 8  # random ones for each model of weights/


def names() -> list[str]:
    """Of all models that this machine can make."""
    return [*case_names(), *fork_names(), *sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))]


def _pack(name: str, path: Path) -> NDArray[np.float32]:
    """Write a model and return its input, float32 [N, 3, S, S]."""
    if (WEIGHTS / f"{name}.safetensors").exists():
        shutil.copyfile(WEIGHTS / f"{name}.safetensors", path)
        side = bitvit.load(path).config.image_size
        return np.random.default_rng(0).standard_normal((IMAGES, 3, side, side), np.float32)
    case: Any = load_fork(name) if name in fork_names() else load_case(name)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.safetensors"
        save_file(dict(case.state), checkpoint)
        bitvit.convert(checkpoint, path, config=dict(case.config))
    return np.ascontiguousarray(case.input)


def _machine() -> str:
    return f"{platform.machine()}, {target.CPU}, {target.LANES} lanes"


def write(folder: Path, chosen: list[str]) -> None:
    """Pack the models, run them, and keep input and logits of each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.json").write_text(json.dumps(_machine()))
    for name in chosen:
        try:
            pixels = _pack(name, folder / f"{name}.safetensors")
        except bitvit.CheckpointError as error:  # some golden cases are there to be refused
            print(f"{name}: not packed: {error}", flush=True)
            continue
        np.savez(folder / f"{name}.npz", pixels=pixels, logits=bitvit.load(folder / f"{name}.safetensors")(pixels))


def differing(found: NDArray[np.float32], expected: NDArray[np.float32]) -> tuple[int, float]:
    """How many logits have other bits, and the largest difference as a share of their spread."""
    bits = np.ascontiguousarray(found).view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)
    gap = np.abs(found.astype(np.float64) - expected).max()
    return int(bits.sum()), float(gap / expected.astype(np.float64).std())


def compare(folder: Path, chosen: list[str]) -> bool:
    """Run the models of a folder and print a line for each; whether all logits have the bits that lie there."""
    print(f"here {_machine()}; there {json.loads((folder / 'machine.json').read_text())}")
    same = True
    for name in chosen or sorted(path.stem for path in folder.glob("*.npz")):
        began = time.monotonic()
        with np.load(folder / f"{name}.npz") as kept:
            found, expected = bitvit.load(folder / f"{name}.safetensors")(kept["pixels"]), kept["logits"]
        count, gap = differing(found, expected)
        verdict = f"{count} differ, by {gap:.1e} of the spread at most" if count else "same bits"
        print(f"{name:16} {expected.size:6} logits: {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
        same = same and not count
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    if options.what == "write":
        write(options.folder, options.names or names())
        return 0
    return 0 if compare(options.folder, options.names) else 1


if __name__ == "__main__":
    sys.exit(main())
