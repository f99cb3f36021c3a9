#!/usr/bin/env bash
# Pillow 11.2.1 to 12.3 lend wrong pixels through the Arrow C data interface when rows are aligned; Pillow 13 refuses.
#
# PILLOW_ALIGNMENT (documented: 1, 2, 4, ... 128) puts each row of an image at an aligned address, as vector code likes
# it; Pillow's own answers do not depend on it. Since 11.2.1 an image can be given to pyarrow, polars, DuckDB or nanoarrow
# without a copy. One expects the same pixels, or, as for an image in several blocks, a ValueError. But up to 12.3.0 what
# is lent begins where the block does, not where the aligned first row is, and takes rows for adjacent that are not:
# as many values as there should be, in the right shape, none of them at its place, and no word. 13.0.0 raises.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

FIRST=11.2.1
LAST=12.3.0
MENDED=13.0.0
PYARROW=26.0.1
NUMPY=2.4.6
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "pyarrow==$PYARROW" "numpy==$NUMPY"
for version in "$FIRST" "$LAST" "$MENDED"; do
    venv/bin/pip install --quiet --disable-pip-version-check --no-deps --target "$version" "pillow==$version"
done

cat >lent.py <<'END'
import numpy as np
import pyarrow
from PIL import Image

pixels = np.random.default_rng(0).integers(0, 256, (5, 10, 3), dtype=np.uint8)
image = Image.fromarray(pixels)
assert np.array_equal(np.asarray(image), pixels)  # Pillow's own way out
try:
    lent = np.asarray(pyarrow.array(image).flatten()).reshape(5, 10, 4)[:, :, :3]
    print("right" if np.array_equal(lent, pixels) else f"wrong, {100 * np.mean(lent == pixels):.0f} % as they should be")
except ValueError as problem:
    print(f"ValueError: {problem}")
END

check() { # version, alignment, how the answer begins
    found=$(PYTHONPATH="$1" PILLOW_ALIGNMENT="$2" venv/bin/python lent.py)
    echo "Pillow $1, PILLOW_ALIGNMENT=$2, pyarrow $PYARROW: $found"
    [[ $found == "$3"* ]]
}
for version in "$FIRST" "$LAST" "$MENDED"; do check "$version" 1 right; done
check "$FIRST" 64 wrong
check "$LAST" 64 wrong
check "$MENDED" 64 ValueError
