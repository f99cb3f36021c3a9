"""Checkpoint files: .safetensors and .pth to a flat state dict of NumPy arrays (SPEC section 5).

Anyone may have written such a file. Nothing in it is executed: pickles.py says why. Tensor bytes are read last, for the
chosen state dict alone; names that come from a file appear in messages quoted, escaped and cut.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint.file import open_checkpoint, sha256
from bitvit.checkpoint.legacy import read_legacy
from bitvit.checkpoint.safetensors import read_safetensors
from bitvit.checkpoint.sniff import sniff
from bitvit.checkpoint.state_dict import Content, check_finite
from bitvit.checkpoint.torchzip import read_zip
from bitvit.errors import CheckpointError, located

__all__ = ["Checkpoint", "read_checkpoint"]

_READERS: dict[str, Callable[[io.BufferedReader, bool], Content]] = {
    "safetensors": read_safetensors,
    "pth-zip": read_zip,
    "pth-legacy": read_legacy,
}


@dataclass(frozen=True)
class Checkpoint:
    """What a training checkpoint holds, as plain NumPy and Python values."""

    path: Path
    state: dict[str, NDArray[Any]]
    """Name (without 'module.') to array, C-contiguous and native-endian: float16 and bfloat16 widened to float32,
    all other dtypes as stored; no NaN, no infinity."""
    args: dict[str, Any] | None
    """The training script's options: scalars, flat lists and tuples of them, and '<type>' for anything else. None if
    the file has none."""
    sha256: str
    """Hex digest of the file's bytes."""
    has_ema: bool
    """Whether the file also holds averaged weights."""
    format: str
    """'safetensors', 'pth-zip' or 'pth-legacy'."""


def read_checkpoint(path: str | os.PathLike[str], *, ema: bool = False) -> Checkpoint:
    """Read a .safetensors or .pth training checkpoint without executing anything in it (SPEC section 5).

    The format is told by content, not by the file's name. ema=True takes the averaged weights ('model_ema') in place
    of the trained ones. Raises CheckpointError for a file that is not such a checkpoint, is damaged, asks for a
    global outside the allow-list, or holds NaN or infinities.
    """
    path = Path(path)
    with open_checkpoint(path) as file, located(path):
        try:
            form = sniff(file, path)
            content = _READERS[form](file, ema)
            digest = sha256(file)
        except OSError as problem:
            raise CheckpointError(f"cannot be read: {problem.strerror or problem}; check file and disk") from None
        check_finite(content.state)
    return Checkpoint(path, content.state, content.args, digest, content.has_ema, form)
