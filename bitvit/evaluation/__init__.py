"""Labelled images and packed models in, figures out.

    from bitvit.evaluation import Layout, Outputs, compare, evaluate

    report = evaluate("model.safetensors", "images", outputs=Outputs(report="report"))
    compare(["a.safetensors", "b.safetensors"], "table.csv", layout=Layout(path_column="photo")).mean["top1"]

evaluating  evaluate and compare, from the arguments to what they return
dataset     folders, CSV files and arrays as labelled images
classes     the data's class names matched with a model's
words       when two class names are the same
job         one model's part of the work, and the runner of all parts
state       the file from which a stopped evaluation goes on
metrics     figures of logits and true classes
spill       logits that are too large for memory
confusion   which class was answered for which
report      what was found, as objects and JSON
overview    the same in a few lines, and as HTML
tables      CSV, JSON, and a row for each image
drawings    the confusion matrix and the calibration diagram
fonts       class names as they can be drawn
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvit.evaluation.dataset import Layout
    from bitvit.evaluation.evaluating import Options, Outputs, compare, evaluate
    from bitvit.evaluation.job import Progress
    from bitvit.evaluation.report import Comparison, EvalReport, Failure

__all__ = [
    "Comparison",
    "EvalReport",
    "Failure",
    "Layout",
    "Options",
    "Outputs",
    "Progress",
    "compare",
    "evaluate",
]

_HOMES = {
    "dataset": ("Layout",),
    "evaluating": ("Options", "Outputs", "compare", "evaluate"),
    "job": ("Progress",),
    "report": ("Comparison", "EvalReport", "Failure"),
}


def __getattr__(name: str) -> Any:
    """Imported when first used, so that a program that only wants one module does not import them all."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"bitvit.evaluation.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
