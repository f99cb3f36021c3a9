#!/usr/bin/env bash
# Reading images out of a Parquet file batch by batch keeps the whole file in memory.
#
# pyarrow's ParquetFile.iter_batches is how a data set of images, a column of encoded files as Hugging Face's `datasets`
# write it, is streamed through a network. One expects memory for a batch and a row group. By default (pre_buffer=True)
# the bytes of every row group that has been read stay until the iterator ends, so a data set of 100 GB asks for as much
# memory. pre_buffer=False holds what one expects.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

PYARROW=26.0.1
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "pyarrow==$PYARROW"

cat >stream.py <<'END'
import os

import pyarrow
import pyarrow.parquet as parquet

GROUPS, ROWS, BYTES = 64, 50, 40_000  # an encoded image has some 40 kB, and does not get smaller by compression

with parquet.ParquetWriter("images.parquet", pyarrow.schema([("image", pyarrow.binary())]), use_dictionary=False) as out:
    for _ in range(GROUPS):
        out.write_table(pyarrow.table({"image": [os.urandom(BYTES) for _ in range(ROWS)]}))
size = os.path.getsize("images.parquet")


def most_held(**options):
    """The most memory of Arrow's while all batches are read, each of which is dropped at once."""
    most = 0
    for _batch in parquet.ParquetFile("images.parquet", **options).iter_batches(ROWS):
        most = max(most, pyarrow.total_allocated_bytes())
    return most


by_default, without = most_held(), most_held(pre_buffer=False)
print(f"pyarrow {pyarrow.__version__}, a file of {size / 1e6:.0f} MB in {GROUPS} row groups, read {ROWS} rows at a time")
print(f"expected: memory for a row group or two, {2 * size / GROUPS / 1e6:.0f} MB")
print(f"held at most, by default:       {by_default / 1e6:.0f} MB")
print(f"held at most, pre_buffer=False: {without / 1e6:.0f} MB")
raise SystemExit(not (by_default > 0.8 * size and without < 0.1 * size))
END
environment/bin/python stream.py
