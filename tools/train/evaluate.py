"""Top-1 of a packed model on the whole test split of a data set, by the engine.

python -m tools.train.evaluate weights/bhvit-cifar10.safetensors --data cifar10 --data-folder DATA --at-least 80
"""

import argparse
import sys
from pathlib import Path

import bitvit
from bitvit.errors import BitvitError

from . import data
from .export import engine_predictions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, choices=data.NAMES)
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--at-least", type=float, default=0.0, help="exit with 1 below this percentage")
    options = parser.parse_args()
    try:
        size = bitvit.load(options.model).config.image_size
        pictures = data.load(options.data, options.data_folder, size)
        correct = engine_predictions(options.model, pictures) == pictures.test.labels.numpy()
    except (BitvitError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    accuracy = 100 * float(correct.mean())
    print(f"top-1 {accuracy:.2f} % of {len(correct)} pictures")
    return 0 if accuracy >= options.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
