"""Training checkpoints: from a file that anyone may have written to a trained network with our names.

file      bytes of it                     inert       stand-ins for what a pickle holds
hub       folders and shards              rebuild     which globals a pickle may speak of
sniff     which format it is              pickles     the inert pickle machine
dtypes    types of numbers                state_dict  from pickle to state dict
prefixes  wrappers' names                 torchzip, legacy, safetensors: the three formats
read      read_checkpoint: file -> state dict, under the authors' names

names     the authors' names and ours     infer       state dict -> Config
shapes    what a network must hold        check       what it must not
options   what is said beside the weights claims      what that says of the network
scopes    of what a dict of it speaks     harmless    names that change nothing
training  of which images and classes     transform   how images were prepared
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
