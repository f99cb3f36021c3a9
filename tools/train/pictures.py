"""Write a data set's pictures as files, a folder for each class, as `bitvit evaluate` takes them. Needs no PyTorch.

python -m tools.train.pictures --data cifar10 --data-folder DATA --out PICTURES
bitvit evaluate weights/bhvit-cifar10.safetensors PICTURES
"""

import argparse
import sys
from pathlib import Path

from bitvit.errors import BitvitError
from bitvit.preprocess import open_image

from .sets import NAMES, read_source


def write_pictures(name: str, folder: Path | None, out: Path, split: str = "test") -> int:
    """Lossless pictures OUT/CLASS/NUMBER.png of a split; returns how many. A class "a/b" is the folder "a_b".

    Raises BitvitError if the set cannot be read, OSError if a file cannot be written.
    """
    source = read_source(name, folder)
    pairs = source.test if split == "test" else source.train
    for number, (picture, label) in enumerate(pairs):
        place = out / source.labels[label].replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        open_image(picture).save(place / f"{number:05}.png")
    return len(pairs)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, choices=[name for name in NAMES if name != "folder"])
    parser.add_argument("--data-folder", type=Path, help="where the set's files are; digits needs none")
    parser.add_argument("--split", choices=("test", "train"), default="test")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        count = write_pictures(options.data, options.data_folder, options.out, options.split)
    except (BitvitError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"{count} pictures in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
