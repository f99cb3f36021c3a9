"""Tests of bitvit.

Several processes of pytest-xdist share the cores: numerical libraries that start as many threads as there are cores, and
let them spin, would take five times as long. So each process has one; they are read when a library is loaded.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
