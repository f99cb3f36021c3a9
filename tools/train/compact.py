"""A trained BHViT as a file of a few megabytes: binary weights as bits, all else in float32.

It predicts what the network predicts. The latent weights' magnitudes are lost, so training cannot go on from it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bitvit.train.checkpoint import write_bytes
from bitvit.train.layers import BinaryDownsampling, Options
from bitvit.train.network import BHViT, binary_weights
from bitvit.train.settings import DECODER, Settings, TrainingError

__all__ = ["read_compact", "write_compact"]

KEY = "bitvit-train"


def write_compact(path: Path, model: nn.Module, settings: Settings, told: dict[str, Any]) -> None:
    """Write the network of these settings, with what else is to be told of it."""
    state: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    for name in _binary(model):
        rows = state.pop(name).flatten(1)
        bits = (rows > rows.mean(1, keepdim=True)).numpy()
        state[f"{name}.bits"] = torch.from_numpy(np.packbits(bits, axis=1))
        state[f"{name}.scale"] = rows.abs().mean(1)
    write_bytes(path, save(state, {KEY: json.dumps({"settings": settings.to_dict(), **told})}))


def read_compact(path: Path) -> tuple[BHViT, Settings, dict[str, Any]]:
    """Network in evaluation mode, settings, and what else was told. Raises TrainingError for another file.

    A binary weight is its scale times its sign: rows of the same signs and mean magnitude, which is all that counts.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        settings = DECODER.record(Settings, told.pop("settings"), str(path))
        model = BHViT(settings.network.config(len(state["classifier.weight"])), Options(settings.network.recu))
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        for name in _binary(model):
            shape, scale = shapes[name], state.pop(f"{name}.scale")
            bits = np.unpackbits(state.pop(f"{name}.bits").numpy(), axis=1, count=shape[1:].numel())
            state[name] = (scale[:, None] * (2 * torch.from_numpy(bits).float() - 1)).view(shape)
        model.load_state_dict(state)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as problem:
        raise TrainingError(f"{path}: is not a network that tools.train.gpu wrote ({problem!r})") from None
    return model.eval(), settings, told


def _binary(model: nn.Module) -> list[str]:
    names = [name for name, _ in binary_weights(model)]
    return names + [f"{name}.proj.weight" for name, m in model.named_modules() if isinstance(m, BinaryDownsampling)]
