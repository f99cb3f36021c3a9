"""CPU inference for binarized vision transformers (BHViT): packed bits, XNOR-popcount kernels, no framework.

bitvit.convert("checkpoint.pth", "model.safetensors")
model = bitvit.load("model.safetensors")      # model(pixels) -> logits
clf = bitvit.Classifier("model.safetensors")  # clf("photo.jpg") -> [{"label", "index", "score"}]
report = bitvit.bench.measure("model.safetensors")
bitvit.evaluate("model.safetensors", "images").top1
bitvit.compare(["a.safetensors", "b.safetensors"], "images").mean["top1"]
"""

import importlib
from typing import TYPE_CHECKING, Any

from bitvit.errors import BitvitError, CheckpointError, ConfigError, ImageError, ModelFileError
from bitvit.version import __version__ as __version__

if TYPE_CHECKING:
    from bitvit import bench as bench
    from bitvit.batches import BatchClassifier
    from bitvit.classify import Classifier
    from bitvit.config import Config
    from bitvit.conversion import ConversionReport, convert
    from bitvit.evaluation import Comparison, EvalReport, compare, evaluate
    from bitvit.loading import load
    from bitvit.model import BHViT
    from bitvit.preprocess import Preprocessing

__all__ = [
    "BHViT",
    "BatchClassifier",
    "BitvitError",
    "CheckpointError",
    "Classifier",
    "Comparison",
    "Config",
    "ConfigError",
    "ConversionReport",
    "EvalReport",
    "ImageError",
    "ModelFileError",
    "Preprocessing",
    "bench",
    "compare",
    "convert",
    "evaluate",
    "load",
]

_HOMES = {
    "bitvit.batches": ("BatchClassifier",),
    "bitvit.classify": ("Classifier",),
    "bitvit.config": ("Config",),
    "bitvit.conversion": ("ConversionReport", "convert"),
    "bitvit.evaluation": ("Comparison", "EvalReport", "compare", "evaluate"),
    "bitvit.loading": ("load",),
    "bitvit.model": ("BHViT",),
    "bitvit.preprocess": ("Preprocessing",),
}


def __getattr__(name: str) -> Any:
    """Imported when first used: the engine, since it brings LLVM, and whatever brings NumPy."""
    if name == "bench":
        return importlib.import_module("bitvit.bench")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
