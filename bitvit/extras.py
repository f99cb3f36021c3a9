"""Packages that only some functions need: imported when they are used, with a word on how to install them."""

import importlib
import shlex
import sys
from types import ModuleType
from typing import Any

from bitvit.errors import BitvitError

__all__ = ["figure", "require"]


def require(package: str, purpose: str, extra: str = "evaluate") -> ModuleType:
    """Import an optional package. Raises BitvitError, with the command that installs it.

    extra: of bitvit, that has it.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.split(".")[0]
        wanted = "'bitvit[parquet]'" if name == "pyarrow" else f"'bitvit[{extra}]'"
        python = shlex.quote(sys.executable or "python")  # a bare pip may be another environment's
        raise BitvitError(f"{purpose} needs {name}, which is not installed: {python} -m pip install {wanted}") from None


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches; not one of pyplot's, which would look for a screen.

    Raises BitvitError without matplotlib.
    """
    return require("matplotlib.figure", "drawing").Figure(figsize=(width, height), layout="constrained")
