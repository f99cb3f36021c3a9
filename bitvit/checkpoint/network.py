"""A trained network: a checkpoint that is known to be a binary BHViT, its Config, and its tensors under our names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bitvit.checkpoint import names
from bitvit.checkpoint.check import check_state
from bitvit.checkpoint.hub import ConfigSource, read_config
from bitvit.checkpoint.infer import infer_config
from bitvit.config import Config
from bitvit.errors import located

if TYPE_CHECKING:
    from bitvit.checkpoint.read import Checkpoint

__all__ = ["TrainedNetwork", "read_network", "trained_network"]


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """Complete, and with exactly the tensors that its Config asks for."""

    checkpoint: "Checkpoint"
    config: Config
    parameters: Mapping[str, NDArray[Any]]
    """Our name -> array of every tensor of the checkpoint, in its order; shapes as `shapes.parameter_shapes` has them,
    any float type; those that `shapes.is_optional` names may be missing."""

    def authors_name(self, name: str) -> str:
        """What a tensor of ours is called in the checkpoint."""
        return names.authors_name(self.config, name)

    @classmethod
    def from_state(
        cls, state: Mapping[str, NDArray[Any]], config: Config, name: str = "state dict"
    ) -> "TrainedNetwork":
        """A network in memory. state: under the authors' names; name: for messages. Raises CheckpointError."""
        from bitvit.checkpoint.read import Checkpoint

        return _checked(Checkpoint(Path(name), dict(state), None, "", False, "memory"), config)


def read_network(path: str | os.PathLike[str], *, config: ConfigSource = None, ema: bool = False) -> TrainedNetwork:
    """Read a training checkpoint and find out which network it is of.

    config: config.json of the training run, as a path, the folder that it is in, or its fields; needed only for what
    shapes do not tell. Default: that of the folder, if path is the folder of a Hugging Face model.
    ema: take the averaged weights. Raises CheckpointError or ConfigError.
    """
    from bitvit.checkpoint.read import read_checkpoint  # with zipfile and pickletools, which few programs need

    return trained_network(read_checkpoint(path, ema=ema), config)


def trained_network(checkpoint: "Checkpoint", config: ConfigSource = None) -> TrainedNetwork:
    """The network of a checkpoint that has been read. Arguments and errors as for `read_network`."""
    fields = checkpoint.config if config is None else read_config(config)
    with located(checkpoint.path):
        inferred = infer_config(checkpoint.state, args=checkpoint.args, config_json=fields)
    return _checked(checkpoint, inferred)


def _checked(checkpoint: "Checkpoint", config: Config) -> TrainedNetwork:
    with located(checkpoint.path):
        check_state(checkpoint.state, config)
    return TrainedNetwork(checkpoint, config, names.rename(config, checkpoint.state))
