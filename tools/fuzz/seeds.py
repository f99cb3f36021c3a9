"""Small valid files to begin with, and the networks in them."""

import functools
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bitvit.checkpoint.shapes import expected_shapes
from bitvit.config import Config
from bitvit.modelfile import save_model_file
from bitvit.preprocess import Preprocessing
from bitvit.schema import expected_tensors

from .pickles import Raw, build, call, glob, namespace, pickled, storage, tensor

State = dict[str, NDArray[Any]]


# ------------------------------------------------------------------------------------------------------------- networks


def config(**changes: Any) -> Config:
    fields: dict[str, Any] = {
        "image_size": 32,
        "window_size": 1,
        "depths": (1, 1, 1, 1),
        "hidden_sizes": (4, 4, 4, 8),
        "intermediate_sizes": (4, 8, 4, 8),
        "num_heads": (1, 1, 1, 2),
        "num_classes": 3,
        "norm": "batch",
        "downsampling": "float",
        "quantizer": "levels",
        "layer_scale": True,
        "shift3": True,
        "shift5": True,
    }
    return Config(**{**fields, **changes})


CONFIGS = (
    config(),
    config(norm="layer", downsampling="binary", quantizer="gsb", layer_scale=False, shift5=False),
    config(image_size=48, num_classes=0, shift3=False, quantizer="gsb"),
    config(image_norm=True, coordinates=True, pooling="attention"),
)


def _random(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.uniform(0.1, 1.0, shape).astype(np.float32)


@functools.cache
def checkpoint_state(config: Config) -> State:
    """A checkpoint of random weights."""
    rng = np.random.default_rng(0)
    state = {name: _random(shape, rng) for name, shape in expected_shapes(config).items()}
    return {name: v - np.float32(0.5) if name.endswith("proj.weight") else v for name, v in state.items()}


def packed_tensors(config: Config) -> State:
    """The tensors of a packed model, random too."""
    rng = np.random.default_rng(0)
    tensors: State = {}
    for name, spec in expected_tensors(config).items():
        if spec.features:
            used = rng.random((spec.shape[0], 64 * spec.shape[1])) < 0.5
            used[:, spec.features :] = False
            tensors[name] = np.packbits(used, axis=1, bitorder="little").view(np.uint64)
        else:
            tensors[name] = _random(spec.shape, rng)
    return tensors


def write_packed(path: Path, config: Config) -> None:
    """A packed model of random weights, with labels if it has classes."""
    save_model_file(
        path,
        packed_tensors(config),
        config=config,
        preprocessing=Preprocessing.for_image_size(config.image_size),
        labels=tuple(f"label {k}" for k in range(config.num_classes)) or None,
        source_sha256="0" * 64,
    )


def small_file(name: str) -> bytes:
    """A .safetensors of one tensor."""
    return save({name: np.arange(5, dtype=np.float32)})


# ----------------------------------------------------------------------------------------------------------------- .pth


@dataclass(frozen=True)
class PthSeed:
    """A pickle and the storages that it speaks of."""

    code: bytes
    storages: dict[str, bytes] = field(default_factory=dict)
    legacy: bool = False


_FIVE = np.arange(5, dtype=np.float32).tobytes()
_SIX = np.arange(6, dtype=np.float32).tobytes()
_STORAGES = {"0": _FIVE, "1": _SIX}
_FOUR = {"2": b"\x01\x02\xff\x00"}  # signed bytes


def _training_script() -> bytes:
    """All that a training checkpoint holds, in small."""
    hooks = call("collections", "OrderedDict")
    weights = {"module.w": tensor("0", (5,)), "module.v": tensor("1", (2, 3))}
    dtype = call("numpy", "dtype", "f8", False, True)
    rest: dict[str, object] = {
        "path": call("pathlib", "PosixPath", "/", "data"),
        "dtype": glob("torch", "bfloat16"),
        "device": call("torch", "device", "cuda", 0),
        "scalar": call("numpy._core.multiarray", "scalar", dtype, call("_codecs", "encode", "\xff", "latin1")),
        "betas": (0.9, 0.999),
        "none": None,
        "set": call("builtins", "set", [1, 2]),
        "when": call("datetime", "datetime", call("_codecs", "encode", "\x07", "latin1")),
        "phase": call("__main__", "Phase", 1),
        "settings": build(Raw(glob("__main__", "Settings").code + b")\x81"), {"lr": 0.1, "steps": [1, 2]}),
        "zone": call("__builtin__", "getattr", glob("zoneinfo", "ZoneInfo"), "_unpickle"),
    }
    return pickled(
        {
            "model": weights,
            "lazy": call(
                "torch._utils", "_rebuild_tensor_v2", storage("0", 5), 0, (5,), (1,), False, hooks, {"neg": True}
            ),
            "quantized": call("torch._utils", "_rebuild_qtensor", storage("2", 4, "QInt8Storage"), 0, (4,), (1,)),
            "model_ema": {"w": tensor("0", (5,)), "v": tensor("1", (3, 2), (1, 3), count=6)},
            "optimizer": {"state": {0: {"step": 3, "exp_avg": tensor("0", (4,), (1,), 1, count=5)}}},
            "args": namespace(**rest),
            "epoch": 7,
            "parameter": call("torch._utils", "_rebuild_parameter", tensor("0", (5,)), True, hooks),
        }
    )


def _untyped() -> bytes:
    hooks = call("collections", "OrderedDict")
    base = storage("1", 24, "UntypedStorage")
    args = (base, 1, (2,), (1,), False, hooks, glob("torch", "uint16"))
    return pickled({"w": call("torch._utils", "_rebuild_tensor_v3", *args)})


def _weight_call() -> tuple[Raw, tuple[object, ...]]:
    """How a tensor is rebuilt: the function and its arguments."""
    hooks = call("collections", "OrderedDict")
    return glob("torch._utils", "_rebuild_tensor_v2"), (storage("0", 5), 0, (5,), (1,), False, hooks)


def _pickles() -> list[bytes]:
    """What else may be in a checkpoint: several networks, averages alone, a module, options in every form."""
    weight, block = Raw(tensor("0", (5,)).code), "vit.encoder.layerA.0.w"
    module = build(Raw(glob("torch.nn.modules.linear", "Linear").code + b")\x81"), {"training": True})
    said = {"window_size": 7, "model": {"depths": [1, 1, 1, 1]}, "text": '{"gsb": true}', "cmd": "--window-size 7"}
    rebuild, args = _weight_call()
    typed: tuple[object, ...] = (rebuild, glob("torch", "Tensor"), args, {})
    contents: list[object] = [
        {"a": {block: weight}, "b": {block: weight}},
        {"net": {block: weight}, "lr": 0.1},
        {"model_ema": {"w": weight}},
        {"state_dict": {"ema": {"w": weight}}, "epoch": 1},
        {"net": module},
        [1, 2],
        {"n_averaged": weight, "module.w": weight},
        {"module.w": weight, "w": weight},
        {f"x.{block}": weight, f"y.{block}": weight, "z": weight},
        {f"x.{block}": weight, f"ema.{block}": weight},
        {f"x.{block}": weight, "z": weight},
        {"w": weight, "args": said, "config": said, "hparams": namespace(**said), "cfg": '{"shift3": false}'},
        {"w": call("torch._tensor", "_rebuild_from_type_v2", *typed)},
        {
            "w": weight,
            "x": call("copy_reg", "_reconstructor", glob("__main__", "X"), glob("__builtin__", "object"), None),
        },
        {"w": weight, "x": call("collections", "OrderedDict", [["a", 1]]), "y": call("__builtin__", "list", [1])},
        {"w": weight, "opt": call("omegaconf.dictconfig", "DictConfig"), "args": 5},
    ]
    return [pickled(content) for content in contents]


PTH_SEEDS = (
    PthSeed(pickled({"w": tensor("0", (5,)), "v": tensor("1", (2, 3))}), _STORAGES),
    PthSeed(_training_script(), _STORAGES | _FOUR),
    PthSeed(_untyped(), _STORAGES),
    PthSeed(pickled({"model": {"w": tensor("0", (5,)), "v": tensor("1", (6,))}}), _STORAGES, legacy=True),
    PthSeed(_training_script(), _STORAGES | _FOUR, legacy=True),
    *(PthSeed(code, _STORAGES) for code in _pickles()),
    *(PthSeed(pickle.dumps({"a": [1, 2.5, None], "b": ("x", b"y"), "c": {1}}, protocol)) for protocol in range(6)),
)


OTHER_FILES = (
    b"",
    b"<html>",
    b"{}",
    b"\x08\x07\x12\x07pytorch",
    b"\x89PNG\r\n",
    b"GGUF\x03",
    b"PK\x05\x06" + bytes(18),
)
"""What people take for a model, or how it begins."""
