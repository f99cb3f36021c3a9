"""A trained network: a checkpoint that is known to be a binary BHViT, its Config, and its tensors under our names."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bitvit.checkpoint import names
from bitvit.checkpoint.check import check_state
from bitvit.checkpoint.infer import infer_config
from bitvit.config import Config
from bitvit.errors import ConfigError, located
from bitvit.files import read_json

if TYPE_CHECKING:
    from bitvit.checkpoint.read import Checkpoint

__all__ = ["TrainedNetwork", "read_network", "trained_network"]

ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | None
"""config.json of the training run: its path, or its fields, of which only those are needed that shapes do not tell."""


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

    config: config.json of the training run, as a path or its fields; needed only for what shapes do not tell.
    ema: take the averaged weights. Raises CheckpointError or ConfigError.
    """
    from bitvit.checkpoint.read import read_checkpoint  # with zipfile and pickletools, which few programs need

    return trained_network(read_checkpoint(path, ema=ema), config)


def trained_network(checkpoint: "Checkpoint", config: ConfigSource = None) -> TrainedNetwork:
    """The network of a checkpoint that has been read. Arguments and errors as for `read_network`."""
    fields = _read_config(config)
    with located(checkpoint.path):
        inferred = infer_config(checkpoint.state, args=checkpoint.args, config_json=fields)
    return _checked(checkpoint, inferred)


def _checked(checkpoint: "Checkpoint", config: Config) -> TrainedNetwork:
    with located(checkpoint.path):
        check_state(checkpoint.state, config)
    return TrainedNetwork(checkpoint, config, names.rename(config, checkpoint.state))


def _read_config(config: ConfigSource) -> Mapping[str, Any] | None:
    """The fields of a config.json. Raises ConfigError."""
    if config is None or isinstance(config, Mapping):
        return config
    read = read_json(config, ConfigError, "the config.json of the model")
    if not isinstance(read, dict):
        where = os.fspath(config)
        raise ConfigError(f"{where}: holds a JSON {type(read).__name__}, expected an object with fields such as depths")
    return read
