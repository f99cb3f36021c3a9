"""What the package offers, and that importing it costs nothing."""

import subprocess
import sys

import pytest

from bitvit import runtime
from bitvit.runtime.runner import Runner
from bitvit.runtime.workspace import Workspace


def test_what_is_offered() -> None:
    assert runtime.Runner is Runner
    assert runtime.Workspace is Workspace
    assert sorted(runtime.__all__) == ["Runner", "Workspace"]
    with pytest.raises(AttributeError, match="no attribute 'Team'"):
        runtime.Team  # noqa: B018


def test_importing_the_package_imports_no_engine() -> None:
    script = (
        "import sys, bitvit.runtime; "
        "print([n for n in sys.modules if n.startswith(('bitvit.runtime.', 'bitvit.jit', 'llvmlite', 'numba'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
