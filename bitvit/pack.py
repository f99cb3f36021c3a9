"""The layers of a packed model from a trained network's parameters: folded, and their signs packed.

Parameters have the model file's names here, for both sides of the conversion: checkpoint/names.py has renamed them.
What is folded: batch norms into scale and bias; a move before a sign into a threshold; an RPReLU's outer move into
whatever comes next; layer scales into `out`; the shift residuals into one stencil; the outer norm and the positions of
a float downsampling into its weights and a row per token.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitvit import bits, schema
from bitvit.config import Config, Place
from bitvit.errors import CheckpointError
from bitvit.fold import (
    Floats,
    ShiftGroup,
    batch_norm,
    binarize,
    coordinate_map,
    pool_adjacent,
    shift_taps,
    sinusoidal_positions,
)
from bitvit.modelfile import MAX_VALUE
from bitvit.schema import Activation, Affine

if TYPE_CHECKING:
    from bitvit.checkpoint import TrainedNetwork

__all__ = ["MAX_ZERO_SHARE", "Packed", "pack"]

MAX_ZERO_SHARE = 1e-5  # of the binary weights; trained ones have about 1e-10 (SPEC 8.2)


@dataclass(frozen=True)
class Packed:
    """The tensors of a model file, and what became of the binary weights."""

    tensors: dict[str, NDArray[Any]]
    binary_weights: int
    zeros: dict[str, int]
    """Centred weights that are exactly 0, by the authors' name of their tensor; they became -1."""

    @property
    def zero_weights(self) -> int:
        return sum(self.zeros.values())

    def notes(self) -> list[str]:
        """A warning about zero weights, or CheckpointError if they are too many to be an accident."""
        if not self.zeros:
            return []
        named = ", ".join(f"{name} ({count})" for name, count in list(self.zeros.items())[:4])
        what = f"{self.zero_weights} of {self.binary_weights} centred weights are exactly 0: {named}"
        if self.zero_weights > MAX_ZERO_SHARE * self.binary_weights:
            raise CheckpointError(
                f"{what}. Such weights ignore their input (SPEC 8.2), which one bit cannot hold, and these are too"
                " many to be an accident of rounding; was the model pruned, or trained in float16?"
            )
        return [f"{what}; they became -1, so the answers differ a little from PyTorch's"]


def pack(network: "TrainedNetwork") -> Packed:
    """Fold and pack a trained network. Raises CheckpointError for parameters that one bit or float32 cannot hold."""
    folding = _Folding(network)
    tensors: dict[str, NDArray[Any]] = {}
    for place in network.config.places():
        for name, tensor in schema.named_tensors(folding.layer(place), place.name):
            tensors[name] = tensor if tensor.dtype == np.uint64 else _narrow(name, tensor)
    return Packed(tensors, folding.binary_weights, folding.zeros)


def _narrow(name: str, folded: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = folded.astype(np.float32)
    if not (np.abs(narrow) <= MAX_VALUE).all():  # false for NaN
        raise CheckpointError(
            f"folding '{name}' gives NaN, infinity or numbers beyond {MAX_VALUE:.0e}; a norm's running_var is negative"
            " or a parameter is far out of range. Check the checkpoint's training log for divergence"
        )
    return narrow


@dataclass
class _Folding:
    """Makes the layers of a model file, in float64, from a network's parameters; each method takes a layer's name."""

    network: "TrainedNetwork"
    zeros: dict[str, int] = field(default_factory=dict)
    binary_weights: int = 0

    def layer(self, place: Place) -> schema.Layer:
        name, stage = place.name, place.stage
        match place.kind:
            case "stem":
                return self.stem(name)
            case "downsample":
                binary = self.config.downsampling == "binary"
                return self.binary_downsample(name) if binary else self.float_downsample(name)
            case "conv_block":
                return schema.ConvBlock(self.mixer(f"{name}.mixer"), self.mlp(f"{name}.mlp", stage))
            case "attention_block":
                return schema.AttentionBlock(self.attention(f"{name}.attention"), self.mlp(f"{name}.mlp", stage))
            case "head":
                return self.head(name)

    # --------------------------------------------------------------------------------------------- parameters
    @property
    def config(self) -> Config:
        return self.network.config

    def raw(self, name: str) -> NDArray[Any]:
        """A parameter as the checkpoint has it."""
        return self.network.parameters[name]

    def get(self, name: str) -> Floats:
        """A float parameter, flattened to one dimension if it has only one longer than 1."""
        value = self.raw(name).astype(np.float64)
        return value.reshape(-1) if value.size == max(value.shape, default=1) else value

    def norm(self, name: str) -> Affine:
        """The affine map of a norm: all of a batch norm, the part after normalisation of a layer norm."""
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        if self.config.norm == "layer":
            return Affine(weight, bias)
        with np.errstate(invalid="ignore", divide="ignore"):
            return batch_norm(weight, bias, self.get(f"{name}.running_mean"), self.get(f"{name}.running_var"))

    def planes(self, name: str, weight: NDArray[Any]) -> tuple[NDArray[np.uint64], Floats]:
        """Packed signs and row scales of a parameter, laid out as latent weights [out, in]."""
        binary = binarize(weight)
        self.binary_weights += weight.size
        if binary.zeros:
            self.zeros[self.network.authors_name(name)] = binary.zeros
        return bits.pack(binary.positive), binary.scale

    def linear(self, name: str, weight: NDArray[Any], norm: Affine, threshold: Floats) -> dict[str, Any]:
        """The fields of a schema.BinaryLinear; `norm.bias` holds what else is added before RPReLU."""
        packed, row_scale = self.planes(f"{name}.weight", weight)
        norm, slope = norm.plus(-self.get(f"{name}.rprelu.move1")), self.get(f"{name}.rprelu.slope")
        if self.config.norm == "layer":
            affine = Activation(norm.scale, norm.bias, slope, row_scale)
        else:
            affine = Activation(norm.after(row_scale).scale, norm.bias, slope)
        return {"threshold": threshold, "bits": packed, "affine": affine}

    def layer_scale(self, name: str, inner: Floats) -> Affine:
        """The map v -> LS(v + inner) of a layer scale (identity if the model has none); LS is alpha·v + move."""
        if not self.config.layer_scale:
            return Affine(np.ones_like(inner), inner)
        alpha, move = self.get(f"{name}.alpha"), self.get(f"{name}.move")
        return Affine(alpha, alpha * inner + move)

    # ------------------------------------------------------------------------------------------------- layers
    def stem(self, name: str) -> schema.Stem:
        weight, bias = self.raw(f"{name}.weight").astype(np.float64), self.get(f"{name}.bias")
        if self.config.coordinates:
            bias = bias + coordinate_map(weight[:, 3:], self.config.image_size)
        weight = weight[:, :3].reshape(len(weight), -1)
        norm: Affine | None = self.norm(f"{name}.norm")
        if self.config.norm == "batch" and norm is not None:
            weight, bias, norm = weight * norm.scale[:, None], bias * norm.scale + norm.bias, None
        return schema.Stem(weight, bias, norm, self.positions(name), self.image_norm(f"{name}.image_norm"))

    def positions(self, name: str) -> Floats:
        """The stem's positions [S², C]."""
        if self.config.positions == "sinusoidal":
            return sinusoidal_positions(self.config.hidden_sizes[0], self.config.map_sides[0])
        position = self.raw(f"{name}.position").astype(np.float64)[0]
        return position.reshape(len(position), -1).T

    def image_norm(self, name: str) -> Affine | None:
        return Affine(self.get(f"{name}.weight"), self.get(f"{name}.bias")) if self.config.image_norm else None

    def mixer(self, name: str) -> schema.TokenMixer:
        norm = self.norm(f"{name}.norm").plus(self.get(f"{name}.move"))
        shift: Floats = np.zeros(())
        convs = []
        for k in range(3):
            conv = f"{name}.convs.{k}"
            weight = self.raw(f"{conv}.weight")
            # channels last, as the bits of a tap are adjacent
            packed, scale = self.planes(f"{conv}.weight", weight.transpose(0, 2, 3, 1).reshape(len(weight), -1))
            bias = self.get(f"{conv}.bias") - self.get(f"{conv}.rprelu.move1")
            convs.append(schema.Convolution(packed, Activation(scale, bias, self.get(f"{conv}.rprelu.slope"))))
            shift = shift + self.get(f"{conv}.rprelu.move2")
        one, two, three = convs
        out = self.norm(f"{name}.out_norm")
        if self.config.norm == "layer":
            return schema.TokenMixer(norm, (one, two, three), shift, out)
        return schema.TokenMixer(norm, (one, two, three), None, out.plus(out.scale * shift))

    def attention(self, name: str) -> schema.Attention:
        token_norm = Affine(self.get(f"{name}.token_norm.weight"), self.get(f"{name}.token_norm.bias"))
        projections = {z: self.projection(f"{name}.{z}") for z in ("query", "key", "value")}
        moved: Floats = np.zeros(())
        for z in projections:
            moved = moved + self.get(f"{name}.{z}.rprelu.move2")
        context = self.norm(f"{name}.context.norm").plus(moved - self.get(f"{name}.context.rprelu.move1"))
        slope = self.get(f"{name}.context.rprelu.slope")
        # The context's outer move passes through fine/coarse mixing unchanged: p·(F + m) + (1 - p)·(K + m).
        moved = self.get(f"{name}.context.rprelu.move2")
        out = f"{name}.output"
        norm, threshold = self.norm(f"{out}.norm").plus(moved), -(moved + self.get(f"{out}.move"))
        return schema.Attention(
            norm=self.norm(f"{name}.norm"),
            max_share=self.get(f"{name}.max_share"),
            token_norm=token_norm,
            **projections,
            quantizer=self.quantizer(name),
            context=Activation(context.scale, context.bias, slope),
            fine_share=self.get(f"{name}.fine_share"),
            output=schema.BinaryLinear(**self.linear(out, self.raw(f"{out}.weight"), norm, threshold)),
            out=self.layer_scale(f"{out}.layer_scale", self.get(f"{out}.rprelu.move2")),
        )

    def projection(self, name: str) -> schema.Projection:
        """One of query, key, value."""
        norm, threshold = self.norm(f"{name}.norm"), -self.get(f"{name}.move")
        linear = self.linear(name, self.raw(f"{name}.weight"), norm, threshold)
        offset = self.get(f"{name}.rprelu.move2") + self.get(f"{name}.out_move")
        self.refuse_structural_zeros(f"{name}.rprelu.slope", offset)
        return schema.Projection(**linear, out_threshold=-offset)

    def quantizer(self, name: str) -> Floats:
        if self.config.quantizer == "levels":
            return np.stack([self.get(f"{name}.quantizer.alpha"), self.get(f"{name}.quantizer.zero_point")])
        clip = np.array([self.raw(f"{name}.clip.{k}") for k in range(3)], np.float64).reshape(3)
        if clip[0] == 0:
            raise CheckpointError(
                f"'{self.network.authors_name(f'{name}.clip.0')}' is exactly 0, and probabilities are divided by it;"
                " the model is degenerate. Convert an earlier checkpoint of the run"
            )
        return clip

    def mlp(self, name: str, stage: int) -> schema.MLP:
        width, hidden = self.config.hidden_sizes[stage], self.config.intermediate_sizes[stage]
        norm, fc1, fc2 = self.norm(f"{name}.norm"), f"{name}.fc1", f"{name}.fc2"
        first = self.linear(fc1, self.raw(f"{fc1}.weight"), self.norm(f"{fc1}.norm"), -self.get(f"{fc1}.move"))
        moved = self.get(f"{fc1}.rprelu.move2")
        offset = moved + self.get(f"{fc2}.move")
        self.refuse_structural_zeros(f"{fc1}.rprelu.slope", offset)
        after = self.norm(f"{fc2}.norm").plus(pool_adjacent(moved, hidden // width))
        second = self.linear(fc2, self.raw(f"{fc2}.weight"), after, -offset)
        taps, constant = self.shifts(f"{name}.shifts", width, norm)
        out = self.layer_scale(f"{fc2}.layer_scale", self.get(f"{fc2}.rprelu.move2")).plus(constant)
        return schema.MLP(norm, schema.BinaryLinear(**first), schema.BinaryLinear(**second), out, taps)

    def shifts(self, name: str, width: int, norm: Affine) -> tuple[Floats | None, Floats]:
        """The stencil of the shift residuals, if there are any, and their constant part per channel."""
        groups, constant = [], np.zeros(width)
        for reach, present in ((1, self.config.shift3), (2, self.config.shift5)):
            if not present:
                continue
            ways = [f"{name}.{way}{2 * reach + 1}" for way in ("h", "w", "ch")]
            groups.append(ShiftGroup(reach, *(self.get(f"{way}.alpha") for way in ways)))
            constant += sum(self.get(f"{way}.move") for way in ways)
        if not groups:
            return None, constant
        taps = shift_taps(groups, width)
        if self.config.norm == "batch":  # the stencil of N2 = scale·x + bias reads x itself
            constant += taps.sum(axis=0) * norm.bias
            taps = taps * norm.scale
        return taps, constant

    def patches(self, name: str) -> tuple[NDArray[Any], Floats]:
        """A downsampling's weight [out, (row, column, channel)] and positions [tokens, out]."""
        weight = self.raw(f"{name}.weight").transpose(0, 2, 3, 1)
        return weight.reshape(len(weight), -1), self.raw(f"{name}.position").astype(np.float64)[0]

    def binary_downsample(self, name: str) -> schema.BinaryDownsample:
        weight, position = self.patches(name)
        linear = self.linear(name, weight, self.norm(f"{name}.out_norm"), -self.get(f"{name}.move"))
        position = position + self.get(f"{name}.rprelu.move2")
        return schema.BinaryDownsample(**linear, norm=self.norm(f"{name}.norm"), position=position)

    def float_downsample(self, name: str) -> schema.FloatDownsample:
        narrow, position = self.patches(name)
        weight, out_norm = narrow.astype(np.float64), self.norm(f"{name}.out_norm")
        norm = self.norm(f"{name}.norm")
        if self.config.norm == "layer":
            return schema.FloatDownsample(norm, weight, out_norm, position)
        return schema.FloatDownsample(norm, out_norm.scale[:, None] * weight, None, position + out_norm.bias)

    def head(self, name: str) -> schema.Head:
        norm, pooling = self.norm(f"{name}.norm"), self.pooling(f"{name}.pooling")
        if not self.config.num_classes:
            return schema.Head(norm, pooling, None, None)
        return schema.Head(norm, pooling, self.raw(f"{name}.weight").astype(np.float64), self.get(f"{name}.bias"))

    def pooling(self, name: str) -> Floats | None:
        """Attention pooling's weight. A softmax does not see what is added to all scores: biases drop out."""
        if self.config.pooling != "attention":
            return None
        weight = self.get(f"{name}.weight").reshape(-1)
        scale: Floats = self.norm("head.norm").scale
        return weight * scale if self.config.norm == "batch" else weight

    # -------------------------------------------------------------------------------------------------- zeros
    def refuse_structural_zeros(self, slope: str, offset: Floats) -> None:
        """sgn(0) = 0 has no bit, and a slope of 0 with no offset behind it turns every negative input into 0."""
        count = int(((self.get(slope) == 0) & (offset == 0)).sum())
        if count:
            raise CheckpointError(
                f"{count} channels of '{self.network.authors_name(slope)}' are 0 with no offset behind them, so their"
                " signs would often be exactly 0, which one bit cannot hold (SPEC 8.2). Train with a nonzero slope or"
                " move"
            )
