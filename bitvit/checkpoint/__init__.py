"""Training checkpoints: from a file that anyone may have written to a trained network with our names.

file      bytes of it                     values    what a pickle may hold, and becomes
sniff     which format it is              pickles   the inert pickle machine
elements  types of numbers                state     from pickle to state dict
torchzip, legacy, safetensors             the three formats
read      read_checkpoint: file -> state dict, under the authors' names

names     the authors' names and ours     infer     state dict -> Config
shapes    what a network must hold        check     what it must not
network   read_network: file -> TrainedNetwork
"""

from typing import TYPE_CHECKING, Any

from bitvit.checkpoint.network import TrainedNetwork, read_network

if TYPE_CHECKING:
    from bitvit.checkpoint.read import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "TrainedNetwork", "read_checkpoint", "read_network"]


def __getattr__(name: str) -> Any:
    """Reading brings zipfile and pickletools: imported when first used."""
    if name in ("Checkpoint", "read_checkpoint"):
        from bitvit.checkpoint import read

        return getattr(read, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
