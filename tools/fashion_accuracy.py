"""Accuracy of a packed model on the 10,000 Fashion-MNIST test images, whose files are arrays rather than pictures.

    python tools/fashion_accuracy.py weights/bhvit-fashion.safetensors DATA

DATA is fashion_mnist.npz (arrays test_x uint8 [10000, 28, 28] and test_y), or the folder with the original files
t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz of github.com/zalandoresearch/fashion-mnist (MIT licence).
"""

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bitvit


def load_test_set(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images uint8 [10000, 28, 28] and labels uint8 [10000]."""
    if path.is_file():
        with np.load(path) as archive:
            return archive["test_x"], archive["test_y"]
    images = gzip.decompress((path / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((path / "t10k-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, help="folder for the report, its tables and drawings")
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this accuracy in percent")
    options = parser.parse_args()
    try:
        report = bitvit.evaluate(options.model, load_test_set(options.data), output=options.output)
    except (bitvit.BitvitError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"top-1 {100 * report.top1:.2f} % of {report.pictures} images, "
        f"{1e3 * report.seconds / report.pictures:.3f} ms an image with decoding"
    )
    return 0 if 100 * report.top1 >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
