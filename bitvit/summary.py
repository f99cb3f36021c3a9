"""What a packed model or a checkpoint consists of: parameters, multiply-accumulates (MACs) and bytes, layer by layer.

How MACs are counted, for one image and from the Config alone, so that a checkpoint and its packed model agree:

- a convolution or linear layer: output pixels x output channels x inputs of one output, taps outside the map included;
- query, key, value: on every token of every window, the merged tokens once a window, as the training code computes
  them. They are the same in all windows, and bitvit computes them once an image: what it leaves out is counted apart,
  as repeated MACs;
- attention scores and context: windows x N² x C each, with N = window² + merged tokens. The context is one product of
  2-bit levels with signs and counts once;
- element-wise work (norms, RPReLU, scales, shifts, pooling, softmax) does not count.

OPs = float MACs + binary MACs / 64, as the literature on binary networks (and the BHViT paper) counts.
"""

import math
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bitvit.checkpoint import read_network
from bitvit.checkpoint.shapes import is_optional
from bitvit.config import Config, Place, PlaceKind
from bitvit.errors import ConfigError
from bitvit.hub import local_path
from bitvit.modelfile import METADATA_KEY, load_model_file
from bitvit.preprocess import Preprocessing
from bitvit.tensorfile import FormatError, read_header

__all__ = ["Layer", "Row", "Summary", "is_packed", "layers", "summarize"]

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One layer. Parameters and bytes are those of its tensors in this very file."""

    name: str  # attribute path in the model
    type: str
    shape: tuple[int, ...]  # of its weight, () if it has none
    binary_weights: int  # parameters of one bit
    float_parameters: int
    binary_macs: int
    float_macs: int
    repeated_macs: int  # of binary_macs, those that bitvit leaves out
    bytes: int

    @property
    def computed_binary_macs(self) -> int:
        """Those that bitvit computes: without the repeated ones."""
        return self.binary_macs - self.repeated_macs


@dataclass(frozen=True)
class Summary:
    """A packed model or a checkpoint. For a packed model the rows' bytes add up to the file's size."""

    path: Path
    packed: bool
    config: Config
    preprocessing: Preprocessing | None  # None: a checkpoint
    labels: tuple[str, ...] | None
    sha256: str  # of the checkpoint's bytes
    version: str | None  # of the bitvit that wrote a packed model
    checksum: str | None  # of a packed model: its bytes give it; None: it carries none
    bytes: int  # size of the file
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()  # what was found in a checkpoint, and assumed of its network

    @property
    def binary_weights(self) -> int:
        return sum(row.binary_weights for row in self.rows)

    @property
    def float_parameters(self) -> int:
        return sum(row.float_parameters for row in self.rows)

    @property
    def binary_macs(self) -> int:
        return sum(row.binary_macs for row in self.rows)

    @property
    def float_macs(self) -> int:
        return sum(row.float_macs for row in self.rows)

    @property
    def computed_binary_macs(self) -> int:
        return sum(row.computed_binary_macs for row in self.rows)

    @property
    def ops(self) -> float:
        """Float MACs plus binary MACs at 64 a time."""
        return self.float_macs + self.binary_macs / 64


def summarize(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    ignore: Collection[str] = (),
) -> Summary:
    """Summarise a packed model or a training checkpoint.

    config: config.json of the training run, as a path or a dict; only for a checkpoint whose shapes do not tell all.
    ignore: fields of it and options of the training that are not known but change nothing.
    Raises ModelFileError, CheckpointError or ConfigError.
    """
    path = Path(local_path(path))
    if not is_packed(path):
        return _summarize_checkpoint(path, config, ignore)
    if config is not None:
        raise ConfigError(
            f"{path}: is a packed model, which holds its configuration; leave out --config (config=), it is for"
            " checkpoints"
        )
    return _summarize_packed(path)


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file, and it is a .safetensors with bitvit's metadata."""
    path = Path(path)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return METADATA_KEY in read_header(file, path.stat().st_size).metadata
    except (FormatError, OSError):
        return False


def _summarize_packed(path: Path) -> Summary:
    model = load_model_file(path)
    rows = _rows(model.config, model.tensors, packed=True)
    size = path.stat().st_size
    return Summary(
        path=path,
        packed=True,
        config=model.config,
        preprocessing=model.preprocessing,
        labels=model.labels,
        sha256=model.source_sha256,
        version=model.version,
        checksum=model.checksum,
        bytes=size,
        rows=(*rows, _rest("(header)", size, rows)),
    )


def _summarize_checkpoint(
    path: Path, config_json: str | os.PathLike[str] | Mapping[str, Any] | None, ignore: Collection[str]
) -> Summary:
    network = read_network(path, config=config_json, ignore=ignore)
    rows = _rows(network.config, network.parameters, packed=False)
    size = sum(file.stat().st_size for file in network.checkpoint.files)
    return Summary(
        path=path,
        packed=False,
        config=network.config,
        preprocessing=None,
        labels=None,
        sha256=network.checkpoint.sha256,
        version=None,
        checksum=None,
        bytes=size,
        rows=(*rows, _rest("(container, training state)", size, rows)),
        notes=tuple(network.notes()),
    )


def _rest(name: str, size: int, rows: Iterable[Row]) -> Row:
    """What a file holds besides the tensors of the rows; nothing if they were widened when read (half precision)."""
    return Row(name, "", (), 0, 0, 0, 0, 0, max(0, size - sum(row.bytes for row in rows)))


# ---------------------------------------------------------------------------------------------- layers of a Config


@dataclass(frozen=True)
class Layer:
    """A layer as the Config fixes it; it owns the tensors under its name that no longer name claims."""

    name: str
    type: str
    shape: tuple[int, ...]
    macs: int
    binary: bool
    repeated_macs: int = 0


def layers(config: Config) -> Iterator[Layer]:
    """All layers, in the network's order."""
    for place in config.places():
        yield from _LAYERS[place.kind](config, place)


def _stem(config: Config, place: Place) -> Iterator[Layer]:
    shape = (config.hidden_sizes[0], 3, 4, 4)  # coordinates are folded into a map of biases
    yield Layer(place.name, "conv 4x4", shape, config.map_sides[0] ** 2 * math.prod(shape), False)


def _downsampling(config: Config, place: Place) -> Iterator[Layer]:
    binary, s = config.downsampling == "binary", place.stage
    shape = (config.hidden_sizes[s], config.hidden_sizes[s - 1], 2, 2)
    macs = config.map_sides[s] ** 2 * math.prod(shape)
    yield Layer(place.name, "binary conv 2x2" if binary else "conv 2x2", shape, macs, binary)


def _conv_block(config: Config, place: Place) -> Iterator[Layer]:
    mixer, width = f"{place.name}.mixer", config.hidden_sizes[place.stage]
    shape = (width, width // 4, 3, 3)
    macs = config.map_sides[place.stage] ** 2 * math.prod(shape)
    for k, dilation in enumerate((1, 3, 5)):
        yield Layer(f"{mixer}.convs.{k}", f"binary conv 3x3, dilation {dilation}", shape, macs, True)
    yield Layer(mixer, "norms", (), 0, False)
    yield from _mlp(config, place)


def _attention_block(config: Config, place: Place) -> Iterator[Layer]:
    attention, width, side = f"{place.name}.attention", config.hidden_sizes[place.stage], config.map_sides[place.stage]
    windows = (side // config.window_size) ** 2
    tokens = config.window_size**2 + windows  # one merged token stands for each window
    square = (width, width)
    for name in ("query", "key", "value"):
        macs, repeated = windows * tokens * width**2, (windows - 1) * windows * width**2
        yield Layer(f"{attention}.{name}", "binary linear", square, macs, True, repeated)
    product = windows * tokens**2 * width
    yield Layer(f"{attention}.scores", "binary product", (), product, True)
    yield Layer(f"{attention}.context", "binary product", (), product, True)
    yield Layer(f"{attention}.output", "binary linear", square, side**2 * width**2, True)
    yield Layer(attention, "norms, quantizer", (), 0, False)
    yield from _mlp(config, place)


def _mlp(config: Config, place: Place) -> Iterator[Layer]:
    mlp, s = f"{place.name}.mlp", place.stage
    width, hidden = config.hidden_sizes[s], config.intermediate_sizes[s]
    macs = config.map_sides[s] ** 2 * width * hidden
    yield Layer(f"{mlp}.fc1", "binary linear", (hidden, width), macs, True)
    yield Layer(f"{mlp}.fc2", "binary linear", (width, hidden), macs, True)
    yield Layer(mlp, "norm, shifts", (), 0, False)


def _head(config: Config, place: Place) -> Iterator[Layer]:
    shape = (config.num_classes, config.hidden_sizes[3]) if config.num_classes else ()
    yield Layer(place.name, "linear" if shape else "norm", shape, math.prod(shape) if shape else 0, False)


_LAYERS: Mapping[PlaceKind, Callable[[Config, Place], Iterator[Layer]]] = {
    "stem": _stem,
    "downsample": _downsampling,
    "conv_block": _conv_block,
    "attention_block": _attention_block,
    "head": _head,
}


# ------------------------------------------------------------------------------------------------ tensors to rows


def _rows(config: Config, tensors: Tensors, *, packed: bool) -> list[Row]:
    """One row a layer, in the network's order, with its tensors' parameters and bytes."""
    owned: dict[str, dict[str, NDArray[Any]]] = {layer.name: {} for layer in layers(config)}
    for name, tensor in tensors.items():
        owned[_longest_prefix(name, owned)][name] = tensor
    return [_row(layer, owned[layer.name], packed) for layer in layers(config)]


def _longest_prefix(tensor: str, prefixes: Container[str]) -> str:
    """Every tensor has one: its file was checked against the Config."""
    parts = tensor.split(".")
    return next(name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in prefixes)


def _row(layer: Layer, tensors: Tensors, packed: bool) -> Row:
    weights = math.prod(layer.shape) if layer.binary and layer.shape else 0
    floats = sum(t.size for name, t in tensors.items() if t.dtype.kind == "f" and not is_optional(name))
    return Row(
        name=layer.name,
        type=layer.type,
        shape=layer.shape,
        binary_weights=weights,
        float_parameters=floats
        if packed
        else floats - weights,  # a checkpoint holds them as floats, of use only as bits
        binary_macs=layer.macs if layer.binary else 0,
        float_macs=0 if layer.binary else layer.macs,
        repeated_macs=layer.repeated_macs,
        bytes=sum(tensor.nbytes for tensor in tensors.values()),
    )
