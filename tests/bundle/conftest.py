"""One bundle for all tests of a process: the smallest of models, for this processor, with the library for Python."""

import shutil
import sys
from pathlib import Path

import pytest

from bitvit.bundle.writing import BundleReport, write_bundle


@pytest.fixture(scope="package")
def written(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> BundleReport:
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("bundles are built on Linux, with a C compiler")
    return write_bundle(tiny, tmp_path_factory.mktemp("bundle") / "tiny", cpus=["native"], python=True)


@pytest.fixture(scope="package")
def bundle(written: BundleReport) -> Path:
    """Its folder, to be read only."""
    return written.folder


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A folder of its own to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copied"))
