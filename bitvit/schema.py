"""What a layer consists of: the tensors of a model file, named once.

A layer is a frozen dataclass whose fields are tensors, or layers again. A tensor's name is the path of fields that
leads to it, behind the layer's place in the network: `stages.2.blocks.0.attention.query.bits`. One class serves

    the specification   its fields hold TensorSpecs: `layer_specs`, `expected_tensors`
    the converter       its fields hold float64 and planes: `named_tensors` flattens it for the file
    the engine          its fields hold the file's float32 and planes: `read_layer`; layers/ adds how it is computed

Records of arrays have no use for equality, and each generated method costs time at every start: eq and repr are off.

A field that a variant does not have is None. Vectors are per channel of the layer's output unless their name says
otherwise. C is the width of a stage, I its intermediate size, S the side of its map.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitvit import bits
from bitvit.config import Config, Place

__all__ = ["TAPS", "TensorSpec", "expected_tensors", "layer_specs", "named_tensors", "read_layer"]

Array: TypeAlias = NDArray[Any]
Tensors: TypeAlias = Mapping[str, Array]

# Rows of `taps`: the offsets (dy, dx) that the shift stencil reads, the centre first; the first 5 for shift3.
TAPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2))


@dataclass(frozen=True)
class TensorSpec:
    """dtype and shape of one tensor; `features` is the bit count of a row of planes, 0 for floats."""

    shape: tuple[int, ...]
    features: int = 0
    record: "type[Rows] | None" = None
    """The record whose fields are the tensor's rows."""

    @property
    def dtype(self) -> "np.dtype[Any]":
        return np.dtype(np.uint64 if self.features else np.float32)

    @property
    def stored(self) -> str:
        """The dtype as a .safetensors names it."""
        return "U64" if self.features else "F32"


# ------------------------------------------------------------------------------------------------------------- records
class Rows:
    """Base of records of vectors that a model file keeps as the rows of one tensor."""

    def stacked(self) -> Array:
        """[rows, length], without the fields that are None."""
        return np.stack([row for row in vars(self).values() if row is not None])


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Rows):
    """v -> scale·v + bias per channel: a folded batch norm, or what follows a layer norm's normalisation."""

    scale: Array
    bias: Array

    def after(self, row_scale: Array) -> "Affine":
        """This map applied to row_scale·v."""
        return Affine(self.scale * row_scale, self.bias)

    def plus(self, offset: Array) -> "Affine":
        return Affine(self.scale, self.bias + offset)


@dataclass(frozen=True, eq=False, repr=False)
class Activation(Rows):
    """v -> RPReLU(scale·v + bias), less its outer offset; slope is that of negative values.

    With layer norm, a product v is first multiplied by row_scale and normalised over the channels.
    """

    scale: Array
    bias: Array
    slope: Array
    row_scale: Array | None = None


# -------------------------------------------------------------------------------------------------------------- layers
@dataclass(frozen=True, eq=False, repr=False)
class BinaryLinear:
    """Signs (input > threshold) against planes of signs, then an activation."""

    threshold: Array  # [in_features]
    bits: NDArray[np.uint64]  # [out_features, ceil(in_features/64)]
    affine: Activation

    @property
    def in_features(self) -> int:
        return len(self.threshold)


@dataclass(frozen=True, eq=False, repr=False)
class Projection(BinaryLinear):
    """One of query, key, value: its output is needed as signs, output > out_threshold."""

    out_threshold: Array


@dataclass(frozen=True, eq=False, repr=False)
class Convolution:
    """One 3x3 binary convolution in four groups. A row's bits are (tap row, tap column, channel of the group)."""

    bits: NDArray[np.uint64]  # [C, ceil(9·C/4/64)]
    affine: Activation


@dataclass(frozen=True, eq=False, repr=False)
class Stem:
    """4x4 patches of the image to tokens (SPEC 7.1)."""

    weight: Array  # [C, 48], patch as (channel, y, x)
    bias: Array  # [C]; with coordinates [S², C], what their channels add included
    norm: Affine | None  # layer norm
    position: Array  # [S², C]
    image_norm: Affine | None  # [3]: what follows the normalisation of the image's channels


@dataclass(frozen=True, eq=False, repr=False)
class TokenMixer:
    """X + NORM(Σ RPReLU(conv(sgn(N1 + move)))) over three dilations (SPEC 7.3)."""

    norm: Affine
    convs: tuple[Convolution, Convolution, Convolution]
    shift: Array | None  # layer norm: what is added to the sum before it
    out: Affine


@dataclass(frozen=True, eq=False, repr=False)
class Attention:
    """X + OUT(ATT(N1)): windowed binary attention with merged tokens (SPEC 7.4)."""

    norm: Affine
    max_share: Array
    token_norm: Affine
    query: Projection
    key: Projection
    value: Projection
    quantizer: Array  # [2, heads] steps and zero points, or [3] shared steps (gsb)
    context: Activation
    fine_share: Array
    output: BinaryLinear
    out: Affine


@dataclass(frozen=True, eq=False, repr=False)
class MLP:
    """X + MLP(N2) + SHIFT(N2) (SPEC 7.5, 7.6)."""

    norm: Affine
    fc1: BinaryLinear
    fc2: BinaryLinear
    out: Affine
    taps: Array | None  # [5 or 9, C]


@dataclass(frozen=True, eq=False, repr=False)
class ConvBlock:
    """A GC block."""

    mixer: TokenMixer
    mlp: MLP


@dataclass(frozen=True, eq=False, repr=False)
class AttentionBlock:
    """A ViT block."""

    attention: Attention
    mlp: MLP


@dataclass(frozen=True, eq=False, repr=False)
class FloatDownsample:
    """2x2 patches through real weights; the outer batch norm and the positions are folded (SPEC 7.7, some-fp)."""

    norm: Affine  # of the input's channels
    weight: Array  # [C, 4·(C before)], features (row, column, channel)
    out_norm: Affine | None  # layer norm behind
    position: Array  # [S², C]


@dataclass(frozen=True, eq=False, repr=False)
class BinaryDownsample(BinaryLinear):
    """2x2 patches through binary weights, with a pooled shortcut (SPEC 7.7). The threshold is one pixel's."""

    norm: Affine  # of the input's channels
    position: Array  # [S², C]

    @property
    def in_features(self) -> int:
        return 4 * len(self.threshold)


@dataclass(frozen=True, eq=False, repr=False)
class Head:
    """Norm, mean over the tokens, classifier; without a classifier the pooled features are the output (SPEC 7.2)."""

    norm: Affine
    pooling: Array | None  # [C]: a token's score is its product with it, before a batch norm or behind a layer norm
    weight: Array | None  # [classes, C]
    bias: Array | None


Layer: TypeAlias = Stem | ConvBlock | AttentionBlock | FloatDownsample | BinaryDownsample | Head


# ------------------------------------------------------------------------------------------------------- specification
def expected_tensors(config: Config) -> dict[str, TensorSpec]:
    """Name -> dtype and shape of every tensor of a model file."""
    return {
        name: spec for place in config.places() for name, spec in named_tensors(layer_specs(config, place), place.name)
    }


def layer_specs(config: Config, place: Place) -> Layer:
    """The layer of a place with TensorSpecs for tensors."""
    stage = place.stage
    width, tokens = config.hidden_sizes[stage], config.map_sides[stage] ** 2
    layer = config.norm == "layer"
    match place.kind:
        case "stem":
            bias = _floats(tokens, width) if config.coordinates else _floats(width)
            image_norm = _affine(3) if config.image_norm else None
            norm = _affine(width) if layer else None
            return Stem(_floats(width, 48), bias, norm, _floats(tokens, width), image_norm)
        case "downsample":
            before, position = config.hidden_sizes[stage - 1], _floats(tokens, width)
            if config.downsampling == "binary":
                binary = _binary(config, width, before, taps=4)
                return BinaryDownsample(**binary, norm=_affine(before), position=position)
            out_norm = _affine(width) if layer else None
            return FloatDownsample(_affine(before), _floats(width, 4 * before), out_norm, position)
        case "conv_block":
            return ConvBlock(_mixer(config, width), _mlp(config, stage))
        case "attention_block":
            return AttentionBlock(_attention(config, stage), _mlp(config, stage))
        case "head":
            classes = config.num_classes
            weight, bias = (_floats(classes, width), _floats(classes)) if classes else (None, None)
            return Head(_affine(width), _floats(width) if config.pooling == "attention" else None, weight, bias)


# They return Any, since the fields of a layer are declared as the arrays that they become.
def _floats(*shape: int) -> Any:
    return TensorSpec(shape)


def _planes(out: int, features: int) -> Any:
    return TensorSpec((out, bits.words(features)), features)


def _affine(width: int) -> Any:
    return TensorSpec((2, width), record=Affine)


def _activation(width: int, *, row_scale: bool = False) -> Any:
    return TensorSpec((4 if row_scale else 3, width), record=Activation)


def _binary(config: Config, out: int, inputs: int, taps: int = 1) -> dict[str, Any]:
    return {
        "threshold": _floats(inputs),
        "bits": _planes(out, taps * inputs),
        "affine": _activation(out, row_scale=config.norm == "layer"),
    }


def _mixer(config: Config, width: int) -> TokenMixer:
    conv = Convolution(_planes(width, 9 * (width // 4)), _activation(width))
    return TokenMixer(
        _affine(width), (conv, conv, conv), _floats(width) if config.norm == "layer" else None, _affine(width)
    )


def _attention(config: Config, stage: int) -> Attention:
    width, heads = config.hidden_sizes[stage], config.num_heads[stage]
    projection = Projection(**_binary(config, width, width), out_threshold=_floats(width))
    return Attention(
        norm=_affine(width),
        max_share=_floats(width),
        token_norm=_affine(width),
        query=projection,
        key=projection,
        value=projection,
        quantizer=_floats(3) if config.quantizer == "gsb" else _floats(2, heads),
        context=_activation(width),
        fine_share=_floats(width),
        output=BinaryLinear(**_binary(config, width, width)),
        out=_affine(width),
    )


def _mlp(config: Config, stage: int) -> MLP:
    width, hidden = config.hidden_sizes[stage], config.intermediate_sizes[stage]
    shifts = len(TAPS) if config.shift5 else 5 if config.shift3 else 0
    return MLP(
        norm=_affine(width),
        fc1=BinaryLinear(**_binary(config, hidden, width)),
        fc2=BinaryLinear(**_binary(config, width, hidden)),
        out=_affine(width),
        taps=_floats(shifts, width) if shifts else None,
    )


# ----------------------------------------------------------------------------------------- between layers and the file
def named_tensors(layer: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(name, tensor or TensorSpec) of everything in a layer whose own name is `name`."""
    if layer is None:
        return
    if isinstance(layer, Rows):
        yield name, layer.stacked()
    elif isinstance(layer, tuple):
        for index, part in enumerate(layer):
            yield from named_tensors(part, f"{name}.{index}")
    elif dataclasses.is_dataclass(layer) and not isinstance(layer, TensorSpec):
        for field in dataclasses.fields(layer):
            yield from named_tensors(getattr(layer, field.name), f"{name}.{field.name}")
    else:
        yield name, layer


def read_layer(config: Config, place: Place, tensors: Tensors) -> Layer:
    """The layer of a place, from the tensors of a checked model file: float32 and uint64."""
    layer: Layer = _filled(layer_specs(config, place), place.name, tensors)
    return layer


def _filled(specs: Any, name: str, tensors: Tensors) -> Any:
    """The inverse of `named_tensors`: tensors in the places of their specifications."""
    if specs is None:
        return None
    if isinstance(specs, TensorSpec):
        return tensors[name] if specs.record is None else specs.record(*tensors[name])
    if isinstance(specs, tuple):
        return tuple(_filled(part, f"{name}.{index}", tensors) for index, part in enumerate(specs))
    parts = {field.name: getattr(specs, field.name) for field in dataclasses.fields(specs)}
    return type(specs)(**{field: _filled(part, f"{name}.{field}", tensors) for field, part in parts.items()})
