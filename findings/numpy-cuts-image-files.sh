#!/usr/bin/env bash
# An image file on its way to an inference server loses its last bytes in np.array([data]), and nobody says so.
#
# Servers of the Open Inference Protocol (Triton, KServe) take encoded images as a tensor of type BYTES, which clients
# make of a NumPy array: InferInput(..., "BYTES").set_data_from_numpy(np.array([data])). One expects that the server
# receives `data`. NumPy makes that array of type S, whose items end before their trailing NULs. JPEG, PNG and WebP end
# in other bytes, so every test passes. A BMP, a PPM or an uncompressed TIFF ends in its last pixels, and where these
# are black the file arrives shorter: then one picture of a thousand "is truncated" on the server, though it is whole on
# disk. dtype=object keeps it.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

TRITONCLIENT=2.73.0
NUMPY=2.4.6
PILLOW=13.0.0
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check \
    "tritonclient[http]==$TRITONCLIENT" "numpy==$NUMPY" "pillow==$PILLOW"

cat >sent.py <<'END'
import io

import numpy as np
import tritonclient.http as triton
from PIL import Image

HEADER = 4  # bytes in front of an item in the protocol's binary form: its length


def arrives(array):
    """What the client puts into a request's body for the only item of an array."""
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(array)
    body, begin = triton.InferenceServerClient.generate_request_body([tensor])
    return body[begin:][HEADER:]


def state(data):
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError as problem:
        return f"gives {type(problem).__name__}: {problem}"
    return "decodes"


image = Image.new("RGB", (8, 8), "white")
image.paste("black", (0, 0, 8, 2)), image.paste("black", (0, 6, 8, 8))  # the first and the last rows
for form in ("PNG", "BMP", "PPM", "TIFF"):
    file = io.BytesIO()
    image.save(file, form)
    data = file.getvalue()
    kept = arrives(np.array([data], dtype=object))
    assert kept == data
    cut = arrives(np.array([data]))
    print(f"{form}: {len(data)} bytes on disk, {len(cut)} arrive of np.array([data]), which {state(cut)}")
END

cat >expected <<'END'
PNG: 82 bytes on disk, 82 arrive of np.array([data]), which decodes
BMP: 246 bytes on disk, 198 arrive of np.array([data]), which gives OSError: image file is truncated (0 bytes not processed)
PPM: 203 bytes on disk, 155 arrive of np.array([data]), which gives OSError: image file is truncated (0 bytes not processed)
TIFF: 332 bytes on disk, 284 arrive of np.array([data]), which gives OSError: image file is truncated (0 bytes not processed)
END
echo "numpy $NUMPY, tritonclient $TRITONCLIENT, Pillow $PILLOW"
environment/bin/python sent.py | tee seen
diff expected seen
