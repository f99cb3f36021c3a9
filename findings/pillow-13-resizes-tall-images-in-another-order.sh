#!/usr/bin/env bash
# Pillow 13 resizes tall images to other bytes than Pillow 12, and wide ones to the same.
#
# Image.resize filters in two passes, each of which rounds to 8 bits. Up to Pillow 12 the first one goes along the rows
# (but for images over 100 times as tall as wide), so one expects, as golden tests of preprocessing do, that a file gives
# the same bytes with every version. From Pillow 13.0 on the first pass goes along the columns where the height loses
# more than twice as many pixels as the width. Resized to 256 pixels across, as for ImageNet, that is so for a phone's
# screenshot of 1080 x 2400, and not for the same picture lying, nor for photographs of 3:4. About a tenth or more of
# the bytes are then off by one: a network with 1-bit activations may answer otherwise than on the machine where it was
# trained and evaluated, for tall images alone.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

BEFORE=12.3.0
AFTER=13.0.0
NUMPY=2.4.6
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

for version in "$BEFORE" "$AFTER"; do
    "$PYTHON" -m venv "$version"
    "$version/bin/pip" install --quiet --disable-pip-version-check "pillow==$version" "numpy==$NUMPY"
done

cat >resized.py <<'END'
import sys

import numpy as np
from PIL import Image

SIZES = {"tall": (1080, 2400), "wide": (2400, 1080), "photograph": (960, 1280)}  # width, height
for name, (width, height) in SIZES.items():
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = min(width, height)
    size = (256 * width // short, 256 * height // short)
    np.save(f"{sys.argv[1]}-{name}.npy", np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)))
END

cat >compared.py <<'END'
import sys

import numpy as np

for name in ("tall", "wide", "photograph"):
    before, after = (np.load(f"{version}-{name}.npy").astype(int) for version in sys.argv[1:])
    other = np.abs(before - after)
    print(f"{name}: {100 * np.mean(other > 0):.1f} % of the bytes differ, by at most {other.max()}")
    assert (np.mean(other > 0) > 0.1 and other.max() == 1) if name == "tall" else not other.any()
END
for version in "$BEFORE" "$AFTER"; do "$version/bin/python" resized.py "$version"; done
echo "Pillow $BEFORE and $AFTER, bicubic to 256 pixels across"
"$AFTER/bin/python" compared.py "$BEFORE" "$AFTER"
