#!/usr/bin/env bash
# Pillow turns a TIFF as its orientation tag says when it decodes it, and a JPEG, PNG or WebP with the same tag not.
#
# A preprocessing that opens images with Pillow, as torchvision's and timm's do, either obeys the tag
# (ImageOps.exif_transpose) or ignores it. One expects that without exif_transpose all formats are as they were stored.
# A TIFF is not: its decoder turns the pixels itself, and drops the tag. So the same photograph, saved losslessly as
# TIFF and as PNG with orientation 6, reaches a network lying in one and standing in the other. And the size changes
# while the image loads: TIFF's size before load() is that after turning.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

PILLOW=13.0.0
NUMPY=2.4.6
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "pillow==$PILLOW" "numpy==$NUMPY"

cat >turned.py <<'END'
import io

import numpy as np
import PIL
from PIL import Image

ORIENTATION = 0x0112
pixels = np.zeros((2, 4, 3), np.uint8)
pixels[0, 0] = 255  # the corner that is stored first


def decoded(form, **options):
    """Size before and after decoding, and whether the tag is still there."""
    tags = Image.Exif()
    tags[ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, exif=tags.tobytes(), **options)
    file.seek(0)
    image = Image.open(file)
    before = image.size
    image.load()
    return before, image.size, image.getexif().get(ORIENTATION)


print("Pillow", PIL.__version__, "- stored 4 wide and 2 high, orientation 6")
found = {form: decoded(form) for form in ("PNG", "JPEG", "WEBP", "TIFF")}
for form, (before, after, tag) in found.items():
    print(f"{form}: size {before} when opened, {after} when decoded; tag then: {tag}")
untouched = ((4, 2), (4, 2), 6)
assert [found[form] for form in ("PNG", "JPEG", "WEBP")] == [untouched] * 3, found
assert found["TIFF"] == ((2, 4), (2, 4), None), found
END
environment/bin/python turned.py
