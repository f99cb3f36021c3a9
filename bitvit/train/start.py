"""What a training may start from: a packed model, a training checkpoint, or the folder of a run."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitvit.checkpoint import read_network
from bitvit.checkpoint.training import class_names, normalization
from bitvit.config import Config, map_sides
from bitvit.hub import local_path
from bitvit.modelfile import load_model_file
from bitvit.preprocess import Preprocessing
from bitvit.summary import is_packed
from bitvit.train.settings import Network
from bitvit.train.unpack import unpack

__all__ = ["Start", "StartingPoint", "calibrate", "network_of", "read_start", "read_weights"]


@dataclass(frozen=True)
class Start:
    """The weights that a network begins with, under the authors' names."""

    state: Mapping[str, Tensor]
    name: str
    """Where they are from, for messages."""
    calibrated: bool = True
    """Whether the norms have statistics of images; a packed model's have none."""

    def without_head(self) -> "Start":
        """The same without the classifier, for other classes."""
        kept = {name: value for name, value in self.state.items() if not name.startswith("classifier.")}
        return dataclasses.replace(self, state=kept)


@dataclass(frozen=True)
class StartingPoint:
    """A model to start from, and what is known of it."""

    start: Start
    network: Network
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    """None: the model does not tell how its images were normalised."""
    packed: bool


def read_start(path: Path) -> StartingPoint:
    """A packed model, a checkpoint (.pth, .safetensors) or the folder of a run or of a Hugging Face model.

    A config.json beside a checkpoint is taken for its own. Raises BitvitError.
    """
    place = Path(local_path(path))
    if is_packed(place):
        model = load_model_file(place)
        state = {name: torch.from_numpy(value) for name, value in unpack(model).items()}
        start = Start(state, str(path), calibrated=model.config.norm == "layer")
        return StartingPoint(start, network_of(model.config), model.labels, model.preprocessing, packed=True)
    beside = place.parent / "config.json"
    network = read_network(place, config=beside if place.is_file() and beside.is_file() else None)
    found, config = network.checkpoint, network.config
    told = normalization(found)
    known = "assumption" not in told.source
    return StartingPoint(
        start=Start(_tensors(found.state), str(path)),
        network=network_of(config),
        labels=class_names(found.config, config.num_classes).names,
        preprocessing=Preprocessing.for_image_size(
            config.image_size, mean=told.mean, std=told.std, resize=config.image_size
        )
        if known
        else None,
        packed=False,
    )


def read_weights(path: Path) -> Start:
    """A checkpoint, .pth or .safetensors, of a network that the settings know; nothing of a .pth is executed.

    Raises BitvitError for a file that is not a checkpoint.
    """
    from bitvit.checkpoint import read_checkpoint

    return Start(_tensors(read_checkpoint(path).state), str(path))


def _tensors(state: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def network_of(config: Config) -> Network:
    """The settings of a Config; what matters in training alone has its default."""
    widths, hidden = config.hidden_sizes, config.intermediate_sizes
    first, second, third, fourth = (size // width for size, width in zip(hidden, widths, strict=True))
    tokens = map_sides(config.image_size)[3] ** 2
    return Network(
        image_size=config.image_size,
        window_size=config.window_size,
        depths=config.depths,
        widths=widths,
        expansion=(first, second, third, fourth),
        heads=config.num_heads,
        norm=config.norm,
        downsampling=config.downsampling,
        quantizer=config.quantizer,
        layer_scale=config.layer_scale,
        shift3=config.shift3,
        shift5=config.shift5,
        merge_padding=config.merge_padding,
        image_norm=config.image_norm,
        coordinates=config.coordinates,
        positions=config.positions,
        pooling=config.pooling,
        topk_ratio=(config.top_tokens + 0.5) / tokens if config.top_tokens else 1.0,
    )


@torch.no_grad()
def calibrate(model: nn.Module, pixels: Tensor) -> None:
    """Give each batch norm the statistics of what reaches it from pixels [B, 3, S, S]; the answers stay what they are.

    A norm's map is a·x + b, whatever its mean and variance. In training they are the batch's, so a and b must be said
    by these: weight = a·√(variance + eps), bias = b + a·mean.
    """
    training = model.training
    model.eval()

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])
        variance, mean = torch.var_mean(rows, 0, correction=0)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.copy_(norm.bias + (mean - norm.running_mean) * scale)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    hooks = [m.register_forward_pre_hook(measure) for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    model(pixels)
    for hook in hooks:
        hook.remove()
    model.train(training)
