"""Networks by their Config, and what a training leaves behind of each: state dict, config.json, options."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint.shapes import expected_shapes
from bitvit.config import Config

State = dict[str, NDArray[Any]]
TINY = Config(
    image_size=224,
    window_size=7,
    depths=(2, 2, 6, 2),
    hidden_sizes=(64, 128, 256, 512),
    intermediate_sizes=(512, 1024, 1024, 2048),
    num_heads=(1, 1, 4, 8),
    num_classes=1000,
    norm="batch",
    downsampling="float",
    quantizer="levels",
    layer_scale=True,
    shift3=True,
    shift5=True,
)
# Small enough to make a state dict of it for every test; its stages can all be told apart.
MICRO = replace(
    TINY,
    image_size=32,
    window_size=1,
    depths=(1, 2, 2, 1),
    hidden_sizes=(4, 8, 16, 32),
    intermediate_sizes=(8, 8, 32, 32),
    num_heads=(1, 1, 2, 4),
    num_classes=5,
)
PAIRWISE_ALIKE = replace(
    MICRO, depths=(1, 2, 2, 1), hidden_sizes=(8, 8, 16, 16), intermediate_sizes=(8, 8, 32, 32), num_heads=(1, 1, 2, 2)
)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm": "layer"},
    {"downsampling": "binary"},
    {"layer_scale": False},
    {"shift3": False},
    {"shift5": False},
    {"num_classes": 0},
    {"depths": (3, 1, 1, 4)},
    {"intermediate_sizes": (4, 8, 16, 32)},
    {"image_size": 48},
    {"image_size": 224, "window_size": 7},
    {"hidden_sizes": (8, 8, 16, 16), "intermediate_sizes": (8, 16, 32, 16), "num_heads": (1, 1, 2, 2)},
    {"hidden_sizes": (8, 8, 16, 16), "intermediate_sizes": (8, 16, 32, 32), "num_heads": (1, 1, 2, 4)},
]


def zeros(config: Config) -> State:
    """A state dict of the right names and shapes."""
    return {
        name: np.zeros(shape, np.int64 if name.endswith("num_batches_tracked") else np.float32)
        for name, shape in expected_shapes(config).items()
    }


def config_json(config: Config) -> dict[str, Any]:
    """The config.json of a network."""
    return {
        "image_size": config.image_size,
        "window_size": config.window_size,
        "depths": list(config.depths),
        "hidden_size": list(config.hidden_sizes),
        "intermediate_size": list(config.intermediate_sizes),
        "num_attention_heads": list(config.num_heads),
        "num_hidden_layersA": sum(config.depths[:2]),
        "num_hidden_layersB": sum(config.depths[2:]),
        "patch_size": 4,
        "hidden_act": "gelu",
    }


def run_args(config: Config) -> dict[str, Any]:
    """The training script's options for a network."""
    return {
        "input_size": config.image_size,
        "nb_classes": config.num_classes,
        "shift3": config.shift3,
        "shift5": config.shift5,
        "replace_ln_bn": config.norm == "batch",
        "disable_layerscale": not config.layer_scale,
        "gsb": config.quantizer == "gsb",
        "some_fp": config.downsampling == "float",
        "weight_bits": 1,
        "input_bits": 1,
        "model": "configs/net/config.json",
        "lr": 5e-4,
    }
