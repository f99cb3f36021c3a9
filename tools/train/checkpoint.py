"""Files of a run, which are complete or not there; its state among them; and the weights that it starts from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import nn

from bitvit.checkpoint import read_checkpoint
from bitvit.files import write_file

from .settings import TrainingError

__all__ = ["load_state", "load_weights", "save_state", "write_bytes", "write_whole"]


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears under its name when it is complete and on the disk. Raises TrainingError."""

    def to_disk(file: BinaryIO) -> None:
        write(file)
        file.flush()
        os.fsync(file.fileno())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, to_disk, TrainingError)


def write_bytes(path: Path, content: bytes) -> None:
    """write_whole for content in memory."""
    write_whole(path, lambda file: file.write(content))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save tensors, numbers and containers of them."""
    write_whole(path, lambda file: torch.save(state, file))


def load_state(path: Path, digest: str) -> dict[str, Any] | None:
    """The state saved at `path`, None if there is none. TrainingError if it belongs to a run with other settings."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["digest"]
    except Exception as problem:  # a damaged archive raises nearly anything
        raise TrainingError(f"{path}: cannot be read ({problem}); delete it to start again") from None
    if found != digest:
        raise TrainingError(f"{path}: from a run with other settings or data; choose another --out, or delete it")
    return state


def load_weights(model: nn.Module, path: Path) -> None:
    """Give a model the weights of a checkpoint, .pth or .safetensors; nothing of a .pth is executed.

    A classifier for another number of classes is left as it is. Raises BitvitError for a file that is not a
    checkpoint, TrainingError for one of another network.
    """
    found = {name: torch.from_numpy(np.array(value)) for name, value in read_checkpoint(path).state.items()}
    own = model.state_dict()
    head = "classifier.weight"
    if head in found and head in own and len(found[head]) != len(own[head]):
        found |= {name: value for name, value in own.items() if name.startswith("classifier.")}
    for name in sorted(own.keys() | found.keys()):
        if name not in found or name not in own or found[name].shape != own[name].shape:
            there, here = (list(state[name].shape) if name in state else "missing" for state in (found, own))
            raise TrainingError(
                f"--start-from {path}: {name} is {there}, expected {here}; the checkpoint is of another network "
                "than the settings': image size, window, widths and options must be the same"
            )
    model.load_state_dict(found)
