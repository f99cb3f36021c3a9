"""Tests of bitvit.

Several processes of pytest-xdist share the cores. Numerical libraries that start a thread for each core, and let it
spin while it waits, would take them five times as long: NumPy's gets one thread, and PyTorch's may not spin. They read
that when they are loaded. OMP_NUM_THREADS stays as it is, for bitvit heeds it too.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
