"""What the server says of itself and of its models."""

from typing import Any

from bitvit.serve.registry import Registry, Served
from bitvit.version import __version__

__all__ = ["model_metadata", "models_metadata", "server_metadata"]


def server_metadata() -> dict[str, Any]:
    """Open Inference Protocol v2's."""
    return {"name": "bitvit", "version": __version__, "extensions": ["classification", "binary_tensor_data"]}


def model_metadata(served: Served) -> dict[str, Any]:
    """Open Inference Protocol v2's. A request has one of the inputs."""
    return {
        "name": served.name,
        "versions": ["1"],
        "platform": "bitvit",
        "inputs": [
            {"name": "pixels", "datatype": "FP32", "shape": [-1, 3, served.size, served.size]},
            {"name": "images", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "base64 in JSON"}},
        ],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, len(served.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
        ],
        "parameters": {"inputs": "one of pixels (normalised planes R, G, B) and images (encoded image files)"},
    }


def models_metadata(registry: Registry) -> dict[str, Any]:
    """What the page shows to choose from."""
    models = [{"name": served.name, "classes": len(served.labels), "image_size": served.size} for served in registry]
    return {"models": models, "default": registry.default.name}
