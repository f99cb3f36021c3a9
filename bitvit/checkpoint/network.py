"""A trained network: a checkpoint that is known to be a binary BHViT, its Config, and its tensors under our names."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bitvit.checkpoint import names
from bitvit.checkpoint.check import check_state, refuse_foreign
from bitvit.checkpoint.claims import read_claims
from bitvit.checkpoint.hub import ConfigSource, read_config
from bitvit.checkpoint.infer import assumptions, config_of
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

    assumed: tuple[str, ...] = ()
    """What neither the tensors nor config.json nor the options said, in words."""

    def notes(self) -> list[str]:
        """What was found, and what was assumed, if anything was."""
        assumed = "; ".join(self.assumed)
        said = [f"assumed, as neither the checkpoint nor a config.json says it: {assumed}"] if assumed else []
        return [*self.checkpoint.notes, *said]

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


def read_network(
    path: str | os.PathLike[str], *, config: ConfigSource = None, ema: bool = False, ignore: Collection[str] = ()
) -> TrainedNetwork:
    """Read a training checkpoint and find out which network it is of.

    config: config.json of the training run, as a path, the folder that it is in, or its fields; needed only for what
    shapes do not tell. Default: that of the folder, if path is the folder of a Hugging Face model.
    ema: take the averaged weights. ignore: fields of config.json and options of the training that change nothing,
    though they are not known. Raises CheckpointError or ConfigError.
    """
    from bitvit.checkpoint.read import read_checkpoint  # with zipfile and pickletools, which few programs need

    return trained_network(read_checkpoint(path, ema=ema), config, ignore)


def trained_network(
    checkpoint: "Checkpoint", config: ConfigSource = None, ignore: Collection[str] = ()
) -> TrainedNetwork:
    """The network of a checkpoint that has been read. Arguments and errors as for `read_network`."""
    fields = checkpoint.config if config is None else read_config(config)
    sequence = []
    if (state := _plain_classifier(checkpoint.state)) is not checkpoint.state:
        checkpoint = dataclasses.replace(checkpoint, state=state)
        sequence = ["what stands before the classifier in its Sequential is dropout"]
    with located(checkpoint.path):
        refuse_foreign(checkpoint.state)
        claims = read_claims(fields, checkpoint.args, ignore)
        inferred = config_of(checkpoint.state, claims)
    if fields is None:
        checkpoint = dataclasses.replace(checkpoint, notes=(*checkpoint.notes, *_unread_config(checkpoint.files)))
    assumed = (*assumptions(inferred, claims), *sequence)
    return dataclasses.replace(_checked(checkpoint, inferred), assumed=assumed)


def _unread_config(files: Sequence[Path]) -> list[str]:
    """A note about a config.json beside a checkpoint: it may be another network's, so it is not read."""
    beside = sorted({file.parent / "config.json" for file in files})
    return [f"{path} lies beside it and was not read; to use it: --config {path}" for path in beside if path.is_file()]


def _plain_classifier(state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The state dict with `classifier.weight` for `classifier.1.weight`, all that a Sequential holds."""
    layers = {name.rpartition(".")[0] for name in state if name.startswith("classifier.")}
    if len(layers) != 1 or not (layer := layers.pop()).removeprefix("classifier.").isdecimal():
        return state
    return {
        f"classifier{name.removeprefix(layer)}" if name.startswith(f"{layer}.") else name: tensor
        for name, tensor in state.items()
    }


def _checked(checkpoint: "Checkpoint", config: Config) -> TrainedNetwork:
    with located(checkpoint.path):
        check_state(checkpoint.state, config)
    return TrainedNetwork(checkpoint, config, names.rename(config, checkpoint.state))
