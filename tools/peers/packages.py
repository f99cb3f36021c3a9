"""The peers' packages are optional: imported when first needed, and named to the user when missing."""

import importlib
import importlib.util
import sys
from typing import Any

REMEDY = {"torch": "pip install torch", "": "pip install 'bitvit[bench]'"}


class PeersError(Exception):
    """What the user of compare_peers can mend; the text says how."""


def installed(*names: str) -> bool:
    """Whether all these top-level packages can be found, without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in names)


def require(name: str) -> Any:
    """Import a module of an optional package. PeersError says how to install what is missing or broken.

    Intel's usage statistics, which NNCF sends unless told otherwise, stay off.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        found = "cannot be imported" if installed(package) else "is not installed"
        remedy = REMEDY.get(package, REMEDY[""])
        raise PeersError(f"{package} {found} ({error}); {remedy}") from None
