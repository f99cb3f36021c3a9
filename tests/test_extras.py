"""Packages that only some functions need."""

import shlex
import sys

import pytest

from bitvit.errors import BitvitError
from bitvit.extras import require


@pytest.mark.parametrize(
    ("package", "remedy"),
    [
        ("matplotlib.figure", "needs matplotlib, which is not installed: PYTHON -m pip install 'bitvit[evaluate]'"),
        ("pyarrow.parquet", "needs pyarrow, which is not installed: PYTHON -m pip install 'bitvit[parquet]'"),
    ],
)
def test_a_missing_package(package: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BitvitError) as error:
        require(package, "this")
    assert str(error.value) == f"this {remedy}".replace("PYTHON", shlex.quote(sys.executable))
