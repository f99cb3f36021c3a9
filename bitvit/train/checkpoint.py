"""Files of a run, which are complete or not there; its state among them; and the weights that it starts from."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from bitvit.files import write_file
from bitvit.train.settings import TrainingError

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
    """Save tensors, numbers and containers of them. Raises TrainingError."""

    def save(file: BinaryIO) -> None:
        try:
            torch.save(state, file)
        except RuntimeError as problem:  # with which PyTorch ends its archive after an error of the system
            raise problem.__context__ if isinstance(problem.__context__, OSError) else problem from None

    write_whole(path, save)


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
        raise TrainingError(
            f"{path}: from a run with other settings or data; choose another folder for the run, or delete it"
        )
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Give a model the weights of a state dict under the authors' names; name: where they are from, for messages.

    A classifier for another number of classes is left as it is. Raises TrainingError for weights of another network.
    """
    found, own = dict(state), model.state_dict()
    head = "classifier.weight"
    if head in own and (head not in found or len(found[head]) != len(own[head])):
        found |= {name: value for name, value in own.items() if name.startswith("classifier.")}
    for key in sorted(own.keys() | found.keys()):
        if key not in found or key not in own or found[key].shape != own[key].shape:
            there, here = (list(side[key].shape) if key in side else "missing" for side in (found, own))
            raise TrainingError(
                f"{name}: {key} is {there}, expected {here}; the checkpoint is of another network than the settings': "
                "image size, window, widths and options must be the same"
            )
    model.load_state_dict(found)
