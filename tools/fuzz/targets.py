"""The targets, and of each the modules whose lines and branches its inputs are to reach.

Nothing of bitvit is imported here: it is to be imported when somebody watches.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .target import Target

__all__ = ["KINDS", "ROOT", "Kind", "all_modules"]

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Kind:
    """A class of targets."""

    module: str
    """In this package."""
    name: str
    readers: tuple[str, ...]
    """Modules of bitvit, or packages."""

    def make(self, folder: Path) -> "Target":
        """folder: an empty one, for the target's files."""
        kind: type[Target] = getattr(importlib.import_module(f"tools.fuzz.{self.module}"), self.name)
        return kind(folder)

    def watches(self, module: str) -> bool:
        """Whether a module is one of the readers."""
        return any(f"{module}.".startswith(f"{reader}.") for reader in self.readers)

    def modules(self) -> list[str]:
        """The readers, packages taken apart."""
        return [module for module in all_modules() if self.watches(module)]


def all_modules() -> list[str]:
    """The names of all modules of bitvit, none of which is imported."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "bitvit").rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def _modules(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


KINDS = {
    "pth": Kind("checkpoints", "Pth", ("bitvit.checkpoint",)),
    "safetensors": Kind(
        "checkpoints",
        "Safetensors",
        ("bitvit.checkpoint", *_modules("bitvit", "conversion fold pack tensorfile")),
    ),
    "packed": Kind("checkpoints", "Packed", _modules("bitvit", "config modelfile preprocess schema tensorfile")),
    "config": Kind(
        "texts",
        "ConfigJson",
        (
            *_modules("bitvit.checkpoint", "claims harmless hub infer options training transform"),
            *_modules("bitvit", "config labels files"),
        ),
    ),
    "index": Kind("texts", "Index", _modules("bitvit", "checkpoint.hub checkpoint.read tensorfile files")),
    "labels": Kind("texts", "Labels", _modules("bitvit", "labels evaluation.classes evaluation.words files")),
    "csv": Kind("texts", "Table", _modules("bitvit", "evaluation.dataset columns evaluation.classes files")),
    "parquet": Kind("tables", "Cells", _modules("bitvit", "parquet evaluation.rows columns sources images nopaths")),
    "http": Kind(
        "bodies",
        "Http",
        _modules("bitvit.serve", "application classification explaining infer messages registry tensors"),
    ),
    "bundle": Kind("folders", "Manifest", _modules("bitvit", "bundle.manifest config preprocess")),
    "state": Kind("folders", "State", ("bitvit.evaluation.state",)),
}
"""By the name that the command knows them by."""
