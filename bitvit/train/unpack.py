"""A packed model -> the parameters of a network that computes the same, to train it further.

pack.py folds norms, moves and scales into what inference needs, so what they were cannot be known. Here each folded
vector goes into one of the parameters that it was made of, and the others get the values that change nothing: norms
have a mean of 0 and a variance of 1, moves and offsets are 0. Of binary weights only the signs are left, and where no
norm follows their scale: a latent weight is its sign times that scale, or times 1/√inputs, by which the norm divides.

The network answers as the packed model does. Before it is trained, its batch norms need the statistics of images
(start.py), and how sure training was of a sign is lost: signs near zero are as firm as all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit import bits, schema
from bitvit.checkpoint.names import authors_name
from bitvit.config import Config, Place
from bitvit.errors import ConfigError
from bitvit.fold import EPS, Floats, ShiftGroup, shift_taps
from bitvit.modelfile import ModelFile
from bitvit.schema import Affine

__all__ = ["unpack"]

Parameters = Iterator[tuple[str, NDArray[Any]]]


def unpack(model: ModelFile) -> dict[str, NDArray[np.float32]]:
    """A state dict under the authors' names. Raises ConfigError for networks whose stem sees coordinates."""
    config = model.config
    if config.coordinates:
        raise ConfigError(
            f"{model.path}: its stem sees where a pixel is (coord_conv), and a packed model does not hold what is "
            "needed to train that; start from the checkpoint that it was converted from"
        )
    unfolding = _Unfolding(config)
    state: dict[str, NDArray[np.float32]] = {}
    for place in config.places():
        layer = schema.read_layer(config, place, model.tensors)
        for name, value in unfolding.layer(place, layer):
            state[authors_name(config, name)] = np.array(value, np.float32, order="C")
    return state


@dataclass(frozen=True)
class _Unfolding:
    """Parameters, under our names, of each layer of a model file; the inverse of pack.py's _Folding."""

    config: Config

    def layer(self, place: Place, layer: Any) -> Parameters:
        name = place.name
        match place.kind:
            case "stem":
                yield from self.stem(name, layer)
            case "downsample":
                binary = self.config.downsampling == "binary"
                yield from self.binary_downsample(name, layer) if binary else self.float_downsample(name, layer)
            case "conv_block":
                yield from self.mixer(f"{name}.mixer", layer.mixer)
                yield from self.mlp(f"{name}.mlp", layer.mlp)
            case "attention_block":
                yield from self.attention(f"{name}.attention", layer.attention)
                yield from self.mlp(f"{name}.mlp", layer.mlp)
            case "head":
                yield from self.head(name, layer)

    # --------------------------------------------------------------------------------------------------- parameters
    def norm(self, name: str, affine: Affine) -> Parameters:
        """A norm whose map is `affine`: of a batch norm all of it, of a layer norm what follows normalising."""
        if self.config.norm == "layer":
            yield from ((f"{name}.weight", affine.scale), (f"{name}.bias", affine.bias))
            return
        zeros = np.zeros(len(affine.scale))
        yield f"{name}.weight", affine.scale * np.sqrt(1 + EPS)
        yield f"{name}.bias", affine.bias
        yield f"{name}.running_mean", zeros
        yield f"{name}.running_var", zeros + 1
        yield f"{name}.num_batches_tracked", np.zeros(())

    def rprelu(self, name: str, slope: Floats, move2: Floats | None = None) -> Parameters:
        yield f"{name}.move1", np.zeros(len(slope))
        yield f"{name}.slope", slope
        yield f"{name}.move2", np.zeros(len(slope)) if move2 is None else move2

    def signs(self, planes: NDArray[np.uint64], features: int, scale: Floats) -> Floats:
        """Latent weights [out, features] of that scale in each row."""
        signs: Floats = np.where(bits.unpack(planes, features), 1.0, -1.0)
        return scale[:, None] * signs

    def linear(self, name: str, layer: schema.BinaryLinear, norm: str, move2: Floats | None = None) -> Parameters:
        """Norm, activation and offset of a binary linear layer."""
        affine = layer.affine
        if affine.row_scale is None:
            root = np.sqrt(layer.in_features)
            yield from self.norm(norm, Affine(affine.scale * root, affine.bias))
        else:
            yield from self.norm(norm, Affine(affine.scale, affine.bias))
        yield from self.rprelu(f"{name}.rprelu", affine.slope, move2)

    def weight(self, layer: schema.BinaryLinear) -> Floats:
        """Latent weights [out, in] of a binary linear layer."""
        scale = layer.affine.row_scale
        if scale is None:
            scale = np.full(len(layer.bits), 1 / np.sqrt(layer.in_features))
        return self.signs(layer.bits, layer.in_features, scale)

    # ------------------------------------------------------------------------------------------------------- layers
    def stem(self, name: str, layer: schema.Stem) -> Parameters:
        width = len(layer.weight)
        yield f"{name}.weight", layer.weight.reshape(width, 3, 4, 4)
        yield f"{name}.bias", layer.bias
        yield from self.norm(f"{name}.norm", layer.norm or Affine(np.ones(width), np.zeros(width)))
        if self.config.positions == "learned":
            side = self.config.map_sides[0]
            yield f"{name}.position", layer.position.T.reshape(1, width, side, side)
        if layer.image_norm is not None:
            yield f"{name}.image_norm.weight", layer.image_norm.scale
            yield f"{name}.image_norm.bias", layer.image_norm.bias

    def mixer(self, name: str, layer: schema.TokenMixer) -> Parameters:
        width = len(layer.norm.scale)
        yield from self.norm(f"{name}.norm", layer.norm)
        yield f"{name}.move", np.zeros((1, width, 1, 1))
        for k, conv in enumerate(layer.convs):
            latent = self.signs(conv.bits, 9 * (width // 4), conv.affine.scale)
            yield f"{name}.convs.{k}.weight", latent.reshape(width, 3, 3, -1).transpose(0, 3, 1, 2)
            yield f"{name}.convs.{k}.bias", conv.affine.bias
            yield from self.rprelu(f"{name}.convs.{k}.rprelu", conv.affine.slope, None if k else layer.shift)
        yield from self.norm(f"{name}.out_norm", layer.out)

    def attention(self, name: str, layer: schema.Attention) -> Parameters:
        width = len(layer.norm.scale)
        yield from self.norm(f"{name}.norm", layer.norm)
        yield f"{name}.max_share", layer.max_share.reshape(1, 1, width)
        yield f"{name}.token_norm.weight", layer.token_norm.scale
        yield f"{name}.token_norm.bias", layer.token_norm.bias
        for z, projection in (("query", layer.query), ("key", layer.key), ("value", layer.value)):
            yield f"{name}.{z}.move", -projection.threshold
            yield f"{name}.{z}.weight", self.weight(projection)
            yield from self.linear(f"{name}.{z}", projection, f"{name}.{z}.norm")
            yield f"{name}.{z}.out_move", -projection.out_threshold
        yield from self.quantizer(name, layer.quantizer)
        yield from self.norm(f"{name}.context.norm", Affine(layer.context.scale, layer.context.bias))
        yield from self.rprelu(f"{name}.context.rprelu", layer.context.slope)
        yield f"{name}.fine_share", layer.fine_share.reshape(1, width, 1, 1)
        yield from self.contraction(f"{name}.output", layer.output, layer.out)

    def quantizer(self, name: str, values: Floats) -> Parameters:
        if self.config.quantizer == "gsb":
            yield from ((f"{name}.clip.{k}", value.reshape(())) for k, value in enumerate(values))
        else:
            yield f"{name}.quantizer.alpha", values[0]
            yield f"{name}.quantizer.zero_point", values[1]
            yield f"{name}.quantizer.init_state", np.ones(1)

    def contraction(self, name: str, layer: schema.BinaryLinear, out: Affine) -> Parameters:
        """A binary linear layer with the map that follows: v -> out(v)."""
        yield f"{name}.move", -layer.threshold
        yield f"{name}.weight", self.weight(layer)
        if self.config.layer_scale:
            yield from self.linear(name, layer, f"{name}.norm")
            yield f"{name}.layer_scale.alpha", out.scale
            yield f"{name}.layer_scale.move", out.bias
        else:
            yield from self.linear(name, layer, f"{name}.norm", out.bias)

    def mlp(self, name: str, layer: schema.MLP) -> Parameters:
        yield from self.norm(f"{name}.norm", layer.norm)
        yield f"{name}.fc1.move", -layer.fc1.threshold
        yield f"{name}.fc1.weight", self.weight(layer.fc1)
        yield from self.linear(f"{name}.fc1", layer.fc1, f"{name}.fc1.norm")
        out = layer.out
        if layer.taps is not None:
            taps = layer.taps.astype(np.float64)
            if self.config.norm == "batch":  # the stencil reads x itself, and a constant stands for the norm's bias
                taps = np.divide(taps, layer.norm.scale, out=np.zeros_like(taps), where=layer.norm.scale != 0)
                out = out.plus(-taps.sum(axis=0) * layer.norm.bias)
            yield from self.shifts(f"{name}.shifts", taps)
        yield from self.contraction(f"{name}.fc2", layer.fc2, out)

    def shifts(self, name: str, taps: Floats) -> Parameters:
        """The layer scales of the shift residuals that make these taps, [5 or 9, C].

        The taps are linear in the scales, alike in all channels of a quarter: a network of four channels tells how.
        """
        width, reaches = taps.shape[1], [r for r, has in ((1, self.config.shift3), (2, self.config.shift5)) if has]
        unknowns = np.eye(3 * len(reaches)).reshape(-1, len(reaches), 3)
        equations = np.stack(
            [
                shift_taps(
                    [ShiftGroup(r, *np.repeat(row[:, None], 4, 1)) for r, row in zip(reaches, one, strict=True)], 4
                )
                for one in unknowns
            ]
        )  # [scales, taps, quarter]
        scales = np.zeros((len(reaches), 3, width))
        for q in range(4):
            own = np.arange(width) // -(-width // 4) == q
            solution = np.linalg.lstsq(equations[:, :, q].T, taps[:, own], rcond=None)[0]
            scales[:, :, own] = solution.reshape(len(reaches), 3, -1)
        for reach, group in zip(reaches, scales, strict=True):
            for way, alpha in zip(("h", "w", "ch"), group, strict=True):
                yield f"{name}.{way}{2 * reach + 1}.alpha", alpha
                yield f"{name}.{way}{2 * reach + 1}.move", np.zeros(width)

    def float_downsample(self, name: str, layer: schema.FloatDownsample) -> Parameters:
        width, before = len(layer.weight), len(layer.norm.scale)
        yield from self.norm(f"{name}.norm", layer.norm)
        yield f"{name}.weight", layer.weight.reshape(width, 2, 2, before).transpose(0, 3, 1, 2)
        yield from self.norm(f"{name}.out_norm", layer.out_norm or Affine(np.ones(width), np.zeros(width)))
        yield f"{name}.position", layer.position[None]

    def binary_downsample(self, name: str, layer: schema.BinaryDownsample) -> Parameters:
        width, before = len(layer.bits), len(layer.norm.scale)
        yield from self.norm(f"{name}.norm", layer.norm)
        yield f"{name}.move", -layer.threshold.reshape(1, before, 1, 1)
        yield f"{name}.weight", self.weight(layer).reshape(width, 2, 2, before).transpose(0, 3, 1, 2)
        yield from self.linear(name, layer, f"{name}.out_norm")
        yield f"{name}.position", layer.position[None]

    def head(self, name: str, layer: schema.Head) -> Parameters:
        yield from self.norm(f"{name}.norm", layer.norm)
        if layer.pooling is not None:
            batch, scale = self.config.norm == "batch", layer.norm.scale
            pooling = np.divide(layer.pooling, scale, where=scale != 0, out=np.zeros_like(scale)) if batch else None
            yield f"{name}.pooling.weight", (layer.pooling if pooling is None else pooling)[None]
            yield f"{name}.pooling.bias", np.zeros(1)
        if layer.weight is not None and layer.bias is not None:
            yield f"{name}.weight", layer.weight
            yield f"{name}.bias", layer.bias
