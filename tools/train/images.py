"""Write a data set's images as files, a folder for each class, as `bitvit evaluate` takes them. Needs no PyTorch.

python -m tools.train.images --data cifar10 --data-folder DATA --out IMAGES
bitvit evaluate weights/bhvit-cifar10.safetensors IMAGES
"""

import argparse
import sys
from pathlib import Path

from bitvit.errors import BitvitError
from bitvit.images import open_image

from .sets import NAMES, read_source


def write_images(name: str, folder: Path | None, out: Path, split: str = "test") -> int:
    """Lossless images OUT/CLASS/NUMBER.png of a split; returns how many. A class "a/b" is the folder "a_b".

    Raises BitvitError if the set cannot be read, OSError if a file cannot be written.
    """
    source = read_source(name, folder)
    pairs = source.test if split == "test" else source.train
    for number, (image, label) in enumerate(pairs):
        place = out / source.labels[label].replace("/", "_")
        place.mkdir(parents=True, exist_ok=True)
        open_image(image).save(place / f"{number:05}.png")
    return len(pairs)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.train.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, choices=NAMES)
    parser.add_argument("--data-folder", type=Path, help="where the set's files are; digits needs none")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the images into")
    options = parser.parse_args(arguments)
    try:
        count = write_images(options.data, options.data_folder, options.out, options.split)
    except (BitvitError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"{count} images in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
