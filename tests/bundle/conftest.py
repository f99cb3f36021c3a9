"""One bundle for all tests: of the smallest of models, for this processor, with the library for Python."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from bitvit.bundle.writing import write_bundle


@pytest.fixture(scope="session")
def bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, to be read only. Whichever of xdist's processes is first makes it, as that takes seconds."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("bundles are built on Linux, with a C compiler")
    import fcntl

    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    folder = place / "bundle-of-tiny"
    with (place / "bundle-of-tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            write_bundle(tiny, folder, cpus=["native"], python=True)
    return folder


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A folder of its own to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copied"))
