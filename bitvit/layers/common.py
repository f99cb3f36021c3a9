"""The layers of BHViT: frozen arrays as the model file holds them; each emits its steps into a program.

`emit` does at load what the kernels expect at run time: reorders planes into panels, interleaves vectors, builds index
tables. Batch and layer norm differ in the kernels chosen and in whether a norm needs a step of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit import bits
from bitvit.kernels import catalog
from bitvit.kernels.catalog import LANE_BITS
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.program import (
    ADDRESS_CELL,
    Builder,
    Map,
    Region,
    binary_panels,
    float_panels,
    interleave,
    natural,
    padded,
    take,
)

Tensors = Mapping[str, NDArray[Any]]
Vector = NDArray[np.float32]
NEVER = np.inf  # a threshold that no value exceeds: the bit stays 0


@dataclass(frozen=True)
class Affine:
    """scale·x + bias per channel: a folded batch norm, or what follows a layer norm's normalisation."""

    scale: Vector
    bias: Vector

    @classmethod
    def read(cls, tensors: Tensors, name: str) -> "Affine":
        return cls(*tensors[name])

    @classmethod
    def maybe(cls, tensors: Tensors, name: str) -> "Affine | None":
        return cls.read(tensors, name) if name in tensors else None


@dataclass(frozen=True)
class BinaryLinear:
    """Signs (input > threshold) against weight planes, then scale·dot + bias, to be followed by RPReLU's slope.

    With layer norm, row_scale·dot is normalised over the outputs before scale and bias.
    """

    threshold: Vector
    planes: NDArray[np.uint64]  # [out_features, ceil(in_features/64)]
    in_features: int
    scale: Vector
    bias: Vector
    slope: Vector
    row_scale: Vector | None

    @classmethod
    def read(cls, tensors: Tensors, prefix: str, in_features: int) -> "BinaryLinear":
        affine = tensors[f"{prefix}.affine"]
        return cls(
            threshold=tensors[f"{prefix}.threshold"],
            planes=tensors[f"{prefix}.bits"],
            in_features=in_features,
            scale=affine[0],
            bias=affine[1],
            slope=affine[2],
            row_scale=affine[3] if len(affine) == 4 else None,
        )

    def panels(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Weights in kernel order."""
        return binary_panels(bits.unpack(self.planes, self.in_features), rows, columns)

    @property
    def start(self) -> int:
        """What kernels' counters start at: half dots, popcount - K // 2."""
        return -(self.in_features // 2)

    def half_affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and bias as kernels apply them: under batch norm to half dots.

        dot = -2·half + (K mod 2), so scale·dot + bias = (-2·scale)·half + (bias + scale·(K mod 2)).
        """
        scale, bias = self.scale.astype(np.float64), self.bias.astype(np.float64)
        return (scale, bias) if self.row_scale is not None else (-2 * scale, bias + scale * (self.in_features % 2))

    def affine(self, order: NDArray[np.int64], more: NDArray[np.float64] | float = 0) -> tuple[Vector, Vector, Vector]:
        """Scale, bias + more and slope - 1 in kernel order."""
        scale, bias = self.half_affine()
        return take(scale, order), take(bias + more, order), take(self.slope.astype(np.float64) - 1, order)

    def prescale(self, order: NDArray[np.int64]) -> NDArray[np.float32]:
        """Layer norm only: half dots -> row_scale·dot, interleaved."""
        if self.row_scale is None:
            return np.zeros(0, np.float32)
        scale = self.row_scale.astype(np.float64)
        return interleave(take(-2 * scale, order), take(scale * (self.in_features % 2), order))


def _valid(b: Builder, features: int, order: NDArray[np.int64] | None = None, key: Any = None) -> int:
    """Table of 1 for lanes that hold a feature and 0 for padding."""
    order = natural(features) if order is None else order
    return b.shared(("valid", features, key), lambda: (order >= 0).astype(np.float32))


def _piece_rows(rows: int, most: int) -> int:
    """Rows of a piece: whole tiles, at most `most`, and about 16 pieces a map so that a team stays in balance."""
    return min(most, max(TILE_ROWS, padded(-(-rows // 16), TILE_ROWS)))


def _pieces(rows: int, piece_rows: int) -> int:
    return -(-rows // piece_rows)


def _layer_norm(b: Builder, x: Map, affine: Affine, layer: str) -> Region:
    """A step that normalises every token of x into a buffer of its own."""
    out = b.state("normalized", (padded(x.rows, TILE_ROWS) + TILE_ROWS) * x.stride)
    order = natural(x.channels)
    b.step(
        catalog.layer_norm,
        layer,
        _pieces(x.rows, 56),
        rows=x.rows,
        piece_rows=56,
        channels=x.channels,
        width=x.width,
        stride=x.stride,
        source=x.region,
        out=out,
        affine=b.const(interleave(take(affine.scale, order), take(affine.bias, order))),
        valid=_valid(b, x.channels),
    )
    return out


def _source(b: Builder, x: Map, norm: Affine, layer_norm: bool, layer: str) -> tuple[Region, Affine]:
    """Where kernels read N(x) from, and the affine map they still have to apply: x and the batch norm, or the
    normalised copy and the identity."""
    if not layer_norm:
        return x.region, norm
    return _layer_norm(b, x, norm, layer), Affine(np.ones_like(norm.scale), np.zeros_like(norm.bias))


# --------------------------------------------------------------------------------------------------------- stem
@dataclass(frozen=True)
class Stem:
    """4x4 patches of the image -> tokens."""

    image_size: int
    weight: NDArray[np.float32]  # [C, 48]
    bias: Vector
    norm: Affine | None  # layer norm
    position: NDArray[np.float32]  # [S², C]

    @classmethod
    def read(cls, tensors: Tensors, image_size: int) -> "Stem":
        norm = Affine.maybe(tensors, "stem.norm")
        return cls(image_size, tensors["stem.weight"], tensors["stem.bias"], norm, tensors["stem.position"])

    def emit(self, b: Builder) -> Map:
        rows, channels = self.position.shape
        out = b.map(math.isqrt(rows), channels)
        order = natural(channels)
        piece_rows = _piece_rows(rows, 56)
        norm = self.norm or Affine(np.ones(channels, np.float32), np.zeros(channels, np.float32))
        b.step(
            catalog.stem if self.norm is None else catalog.stem_ln,
            "stem",
            _pieces(rows, piece_rows),
            rows=rows,
            piece_rows=piece_rows,
            side=out.side,
            image_side=self.image_size,
            channels=channels,
            width=out.width,
            stride=out.stride,
            pixels=ADDRESS_CELL,
            out=out.region,
            panels=b.const(float_panels(self.weight, natural(48))),
            bias=b.const(take(self.bias, order)),
            norm=b.const(interleave(take(norm.scale, order), take(norm.bias, order))),
            position=b.const(_rows_padded(self.position)),
            valid=_valid(b, channels),
            patches=b.scratch("patches", piece_rows * catalog.DEPTH),
        )
        return out


def _rows_padded(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """[rows, C] -> [rows to TILE_ROWS, C to LANES], zeros added."""
    rows, channels = table.shape
    return np.pad(table, ((0, padded(rows, TILE_ROWS) - rows), (0, padded(channels) - channels)))


# ------------------------------------------------------------------------------------------------------- mixer
@dataclass(frozen=True)
class Convolution:
    """One 3x3 binary convolution in four groups, with bias and RPReLU's slope."""

    planes: NDArray[np.uint64]  # [C, ceil(features/64)]
    features: int  # 9·C/4: (tap row, tap column, channel of the group)
    scale: Vector
    bias: Vector
    slope: Vector

    @classmethod
    def read(cls, tensors: Tensors, prefix: str, features: int) -> "Convolution":
        return cls(tensors[f"{prefix}.bits"], features, *tensors[f"{prefix}.affine"])

    @property
    def positive(self) -> NDArray[np.bool_]:
        """[C, features]"""
        return bits.unpack(self.planes, self.features)


@dataclass(frozen=True)
class TokenMixer:
    """X + NORM(Σ RPReLU(conv(sgn(N1 + move)))) over three dilations (SPEC 7.3)."""

    name: str
    norm: Affine
    convs: tuple[Convolution, Convolution, Convolution]
    shift: Vector | None  # layer norm: what is added to the sum before it
    out: Affine

    @classmethod
    def read(cls, tensors: Tensors, name: str) -> "TokenMixer":
        norm = Affine.read(tensors, f"{name}.norm")
        features = 9 * (len(norm.scale) // 4)
        one, two, three = (Convolution.read(tensors, f"{name}.convs.{k}", features) for k in range(3))
        return cls(name, norm, (one, two, three), tensors.get(f"{name}.shift"), Affine.read(tensors, f"{name}.out"))

    def emit(self, b: Builder, x: Map) -> Map:
        layer_norm = self.shift is not None
        group = x.channels // catalog.GROUPS
        group_words = -(-group // LANE_BITS)
        words = -(-9 * group // LANE_BITS)
        packed = group % LANE_BITS != 0
        plane_row = x.side + 2 * catalog.BORDER
        plane = plane_row**2
        planes = b.state(f"planes.{x.side}.{group}", catalog.GROUPS * group_words * plane)
        source, norm = self.norm, self.norm
        region = x.region
        if layer_norm:
            # the move before the sign is folded into the norm's bias, and nothing else reads this norm
            region, norm = _source(b, x, source, True, self.name)
        side_pieces = _pieces(x.side, 4)
        b.step(
            catalog.mixer_signs,
            self.name,
            side_pieces,
            side=x.side,
            piece_rows=4,
            stride=x.stride,
            group=group,
            group_words=group_words,
            plane=plane,
            plane_row=plane_row,
            source=region,
            norm=b.const(self._sign_norm(norm, group)),
            planes=planes,
        )
        out = x  # in place: a pixel's residual is read where its sum is written, and the signs are in the planes
        taps_row = padded(x.side)
        offsets, entries = _tap_tables(group, plane, plane_row, taps_row)
        piece_rows = max(1, -(-x.side // 28))
        out_order = natural(x.channels)
        b.step(
            catalog.mixer_ln if layer_norm else catalog.mixer,
            self.name,
            _pieces(x.side, piece_rows),
            side=x.side,
            piece_rows=piece_rows,
            channels=x.channels,
            width=x.width,
            stride=x.stride,
            group=group,
            words=words,
            start=-(9 * group // 2),
            packed=int(packed),
            taps_row=taps_row,
            plane_row=plane_row,
            planes=planes,
            residual=x.region,
            out=out.region,
            offsets=b.shared(("offsets", x.side, group), lambda: offsets),
            entries=b.shared(("entries", x.side, group), lambda: entries),
            entry_count=len(entries),
            panels=b.const(self._panels(group)),
            affine=b.const(self._affine(group)),
            biases=b.const(self._biases(group)),
            classes=b.shared(("classes", x.side), lambda: _tap_classes(x.side)),
            shift=b.const(take(self.shift, out_order)) if self.shift is not None else 0,
            out_affine=b.const(interleave(take(self.out.scale, out_order), take(self.out.bias, out_order))),
            valid=_valid(b, x.channels),
            taps=b.scratch("taps", 12 * words * taps_row),
            mixed=b.scratch("mixed", padded(x.side, TILE_ROWS) * (x.width + LANES)),
        )
        return out

    def _sign_norm(self, norm: Affine, group: int) -> NDArray[np.float32]:
        orders = [_group_order(g, group, padded(group)) for g in range(catalog.GROUPS)]
        order = np.concatenate(orders)
        return interleave(take(norm.scale, order), take(norm.bias, order, fill=-1.0))

    def _output_order(self, group: int) -> list[NDArray[np.int64]]:
        """Output channels of each (group, chunk)."""
        orders = [_group_order(g, group, padded(group)) for g in range(catalog.GROUPS)]
        return [order[i : i + LANES] for order in orders for i in range(0, len(order), LANES)]

    def _panels(self, group: int) -> NDArray[np.uint32]:
        columns = natural(9 * group, LANE_BITS)
        signs = [c.positive for c in self.convs]
        parts = [binary_panels(positive, o, columns) for o in self._output_order(group) for positive in signs]
        return np.concatenate(parts)

    def _affine(self, group: int) -> NDArray[np.float32]:
        parts = [
            interleave(take(-2 * c.scale.astype(np.float64), o), take(c.slope.astype(np.float64) - 1, o))
            for o in self._output_order(group)
            for c in self.convs
        ]
        return np.concatenate(parts)

    def _biases(self, group: int) -> NDArray[np.float32]:
        """[group][chunk][dilation][16 sets of missing taps][LANES]: bias + scale·(correction - 2·(K // 2))."""
        order, missing, biases = np.array(self._output_order(group)), np.array(_missing_taps()), []
        for conv in self.convs:
            ones = conv.positive.reshape(-1, 9, group).sum(axis=2)
            correction = group * (9 - missing.sum(axis=1)) + 2 * ones @ missing.T - 9 * group // 2 * 2
            biases.append(conv.bias[:, None] + conv.scale.astype(np.float64)[:, None] * correction)
        found = np.where((order >= 0)[..., None], np.stack(biases)[:, order], 0)
        ordered: NDArray[np.float32] = found.transpose(1, 0, 3, 2).astype(np.float32)
        return ordered  # found: [dilation][group, chunk][lane][set]


def _group_order(g: int, group: int, length: int) -> NDArray[np.int64]:
    """Channels of group g, then -1 up to a length."""
    return np.concatenate([g * group + np.arange(group), np.full(length - group, -1)])


def _missing_taps() -> list[NDArray[np.bool_]]:
    """For each of the 16 classes 4·rows + columns (bit 0: the first is missing, bit 1: the last): which of 9 taps."""
    sets = []
    for row in range(4):
        for column in range(4):
            rows = np.array([row & 1, 0, row & 2], bool)
            columns = np.array([column & 1, 0, column & 2], bool)
            sets.append((rows[:, None] | columns).reshape(9))
    return sets


def _tap_classes(side: int) -> NDArray[np.int32]:
    """int32 [dilation][position to TILE_ROWS]: LANES·(1 if the first tap is off the map + 2 if the last is)."""
    position = np.arange(padded(side, TILE_ROWS))
    rows = [LANES * ((position < d) + 2 * (position >= side - d)) for d in catalog.DILATIONS]
    classes = np.stack(rows).astype(np.int32)
    classes[:, side:] = 0
    return classes


def _tap_tables(group: int, plane: int, plane_row: int, taps_row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where word j of (group g, dilation d) is found, int32 [g][d][j], and how it is packed, int32 [entry][8].

    Bit t·group + c of a dot is tap t, channel c. Without packing, word t·group_words + w is plane word w at tap t.
    """
    group_words, words = -(-group // LANE_BITS), -(-9 * group // LANE_BITS)
    offsets, entries = [], []
    for g in range(catalog.GROUPS):
        for d, dilation in enumerate(catalog.DILATIONS):
            first = (g * 3 + d) * words
            found = []
            for t in range(9):
                step = (t // 3 - 1) * dilation * plane_row + (t % 3 - 1) * dilation
                found += [
                    (
                        t * group + w * LANE_BITS,
                        min(LANE_BITS, group - w * LANE_BITS),
                        (g * group_words + w) * plane + step,
                    )
                    for w in range(group_words)
                ]
            if group % LANE_BITS == 0:
                offsets += [at for _, _, at in found]
                continue
            offsets += [(first + j) * taps_row for j in range(words)]
            packing: dict[int, list[tuple[int, int, int]]] = {}
            for bit, length, at in found:
                j, shift = divmod(bit, LANE_BITS)
                packing.setdefault(first + j, []).append((at, shift, 0))
                if shift + length > LANE_BITS:
                    packing.setdefault(first + j + 1, []).append((at, 0, LANE_BITS - shift))
            for word, parts in packing.items():
                twos = parts + parts[-1:] * (len(parts) % 2)  # an odd part out is paired with itself: x | x = x
                entries += [(i == 0, word, *twos[i], *twos[i + 1]) for i in range(0, len(twos), 2)]
    return np.array(offsets, np.int32), np.array(entries, np.int32).reshape(-1, 8)


# --------------------------------------------------------------------------------------------------------- mlp
@dataclass(frozen=True)
class MLP:
    """X + MLP(N2) + SHIFT(N2) (SPEC 7.5, 7.6)."""

    name: str
    norm: Affine
    fc1: BinaryLinear
    fc2: BinaryLinear
    out: Affine
    taps: NDArray[np.float32] | None  # [5 or 9, C]

    @classmethod
    def read(cls, tensors: Tensors, name: str) -> "MLP":
        norm = Affine.read(tensors, f"{name}.norm")
        fc1 = BinaryLinear.read(tensors, f"{name}.fc1", len(norm.scale))
        fc2 = BinaryLinear.read(tensors, f"{name}.fc2", len(fc1.scale))
        return cls(name, norm, fc1, fc2, Affine.read(tensors, f"{name}.out"), tensors.get(f"{name}.taps"))

    def emit(self, b: Builder, x: Map) -> Map:
        layer_norm = self.fc1.row_scale is not None
        source, norm = _source(b, x, self.norm, layer_norm, self.name)
        out = b.map(x.side, x.channels, after=x)
        width, ratio = x.width, len(self.fc1.scale) // x.channels
        natural_order, hidden_order = natural(x.channels), _hidden_order(x.channels, ratio)
        hidden = width * ratio
        hidden_words = -(-hidden // LANE_BITS)
        words = -(-width // LANE_BITS)
        period = x.channels // math.gcd(x.channels, ratio)
        starts = [c % period for c in range(0, width, LANES)]
        span = padded(max(starts) + LANES)
        piece_rows = _piece_rows(x.rows, 56)
        threshold1 = take(self.fc1.threshold, natural_order, NEVER)
        # see kernels/mlp.py for what becomes of fc1's bias: hidden values less slope·bias
        hidden_scale, hidden_bias, hidden_slope = self.fc1.affine(hidden_order)
        moved = self.fc1.slope.astype(np.float64) * self.fc1.half_affine()[1]
        threshold2 = take(self.fc2.threshold - moved, hidden_order, NEVER)
        pooled = moved.reshape(-1, ratio).mean(axis=1)
        scale2, bias2, slope2 = self.fc2.affine(natural_order, pooled)
        hidden_columns = np.concatenate([hidden_order, np.full(hidden_words * LANE_BITS - hidden, -1)])
        taps = np.zeros((9, x.channels), np.float32)
        if self.taps is not None:
            taps[: len(self.taps)] = self.taps
        if not layer_norm:
            taps[0] += 1  # the residual: what the stencil reads is the map itself
        b.step(
            catalog.mlp_ln if layer_norm else catalog.mlp,
            self.name,
            _pieces(x.rows, piece_rows),
            rows=x.rows,
            piece_rows=piece_rows,
            side=x.side,
            channels=x.channels,
            width=width,
            stride=x.stride,
            ratio=ratio,
            span=span,
            period=period,
            words=words,
            hidden_words=hidden_words,
            start1=self.fc1.start,
            start2=self.fc2.start,
            shifts=int(self.taps is not None),
            source=source,
            residual=x.region,
            out=out.region,
            norm=b.const(interleave(take(norm.scale, natural_order), take(norm.bias, natural_order), threshold1)),
            panels1=b.const(self.fc1.panels(hidden_order, natural(x.channels, LANE_BITS))),
            affine1=b.const(interleave(hidden_scale, -hidden_bias, hidden_slope, threshold2)),
            panels2=b.const(self.fc2.panels(natural_order, hidden_columns)),
            affine2=b.const(
                interleave(
                    np.float32(ratio) * scale2,
                    np.float32(ratio) * bias2,
                    slope2,
                    take(self.out.scale / np.float32(ratio), natural_order),
                    take(self.out.bias, natural_order),
                )
            ),
            taps=b.const(interleave(*(take(tap, natural_order) for tap in taps))),
            valid=_valid(b, x.channels),
            valid_hidden=_valid(b, x.channels * ratio, hidden_order, ratio) if layer_norm else 0,
            prescale1=b.const(self.fc1.prescale(hidden_order)),
            prescale2=b.const(self.fc2.prescale(natural_order)),
            bits=b.scratch(f"mlp.bits.{width}", padded(piece_rows, TILE_ROWS) * words),
            tiled=b.scratch("mlp.tiled", padded(piece_rows, TILE_ROWS) * ratio * span),
            hidden_bits=b.scratch(f"mlp.hidden.{hidden}", padded(piece_rows, TILE_ROWS) * hidden_words),
            pooled=b.scratch("pooled", padded(piece_rows, TILE_ROWS) * width),
            z=b.scratch("z", padded(piece_rows, TILE_ROWS) * (hidden if layer_norm else width)),
            row=b.scratch("row", width + 2 * LANES),
        )
        return out


def _hidden_order(channels: int, ratio: int) -> NDArray[np.int64]:
    """Hidden features in kernel order: per LANES channels c, `ratio` vectors of features ratio·c + j."""
    c = natural(channels).reshape(-1, 1, LANES)
    j = np.arange(ratio).reshape(1, -1, 1)
    return np.where(c >= 0, ratio * c + j, -1).reshape(-1)


# --------------------------------------------------------------------------------------------------- attention
@dataclass(frozen=True)
class LevelQuantizer:
    """Attention probabilities in four levels, a step and a zero point a head."""

    alpha: Vector
    zero_point: Vector

    kernel = catalog.attend_levels
    planes = 2

    def table(self) -> NDArray[np.float32]:
        return np.stack([self.alpha, self.zero_point], axis=1).astype(np.float32).reshape(-1)


@dataclass(frozen=True)
class GsbQuantizer:
    """Attention probabilities as three weighted masks with shared steps (SPEC 7.4.6)."""

    clip: Vector  # a, a2, a3

    kernel = catalog.attend_gsb
    planes = 3

    def table(self) -> NDArray[np.float32]:
        a, a2, a3 = (float(v) for v in self.clip)
        floor = float(np.float32(1e-5))
        fa, fa2, fa3 = max(a, floor), max(a2, floor), max(a3, floor)
        high, low = (0.9, 0.7) if a > 0 else (2.0, 2.0)
        # A = fa·(base + (fa2 - 1)·t1 + (fa3 - fa2)·t2)
        return np.array([a, high, low, fa, fa * (fa2 - 1), fa * (fa3 - fa2)], np.float32)


@dataclass(frozen=True)
class Projection:
    """One of query, key, value: a binary linear layer and the threshold of its output's sign."""

    linear: BinaryLinear
    out_threshold: Vector

    @classmethod
    def read(cls, tensors: Tensors, prefix: str, width: int) -> "Projection":
        return cls(BinaryLinear.read(tensors, prefix, width), tensors[f"{prefix}.out_threshold"])


@dataclass(frozen=True)
class Attention:
    """X + OUT(ATT(N1)): windowed binary attention with merged tokens (SPEC 7.4)."""

    name: str
    num_heads: int
    window: int
    norm: Affine
    max_share: Vector
    token_norm: Affine
    projections: tuple[Projection, Projection, Projection]
    quantizer: LevelQuantizer | GsbQuantizer
    context: Affine
    context_slope: Vector
    fine_share: Vector
    output: BinaryLinear
    out: Affine

    @classmethod
    def read(cls, tensors: Tensors, name: str, num_heads: int, window: int) -> "Attention":
        norm = Affine.read(tensors, f"{name}.norm")
        width = len(norm.scale)
        q, k, v = (Projection.read(tensors, f"{name}.{z}", width) for z in ("query", "key", "value"))
        quantizer: LevelQuantizer | GsbQuantizer
        steps = tensors[f"{name}.quantizer"]
        quantizer = GsbQuantizer(steps) if steps.ndim == 1 else LevelQuantizer(*steps)
        scale, bias, slope = tensors[f"{name}.context"]
        return cls(
            name=name,
            num_heads=num_heads,
            window=window,
            norm=norm,
            max_share=tensors[f"{name}.max_share"],
            token_norm=Affine.read(tensors, f"{name}.token_norm"),
            projections=(q, k, v),
            quantizer=quantizer,
            context=Affine(scale, bias),
            context_slope=slope,
            fine_share=tensors[f"{name}.fine_share"],
            output=BinaryLinear.read(tensors, f"{name}.output", width),
            out=Affine.read(tensors, f"{name}.out"),
        )

    def emit(self, b: Builder, x: Map) -> Map:
        layer_norm = self.output.row_scale is not None
        source, norm = _source(b, x, self.norm, layer_norm, self.name)
        order, words = natural(x.channels), -(-x.width // LANE_BITS)
        merged = (x.side // self.window) ** 2
        tokens = padded(x.rows + merged, TILE_ROWS)
        signs = b.state(f"signs.{x.width}", 3 * words * tokens)
        shortcut = b.state("shortcut", tokens * x.stride)
        pixels = b.shared(
            ("pixels", x.side, self.window, x.stride), lambda: _window_pixels(x.side, self.window, x.stride)
        )
        self._emit_project(b, x, source, norm, order, words, merged, signs, shortcut, pixels)
        context = self._emit_attend(b, x, words, merged, signs)
        coarse = self._emit_coarsen(b, x, order, merged, context, shortcut)
        return self._emit_output(b, x, order, words, merged, context, shortcut, coarse, pixels)

    def _emit_project(
        self, b: Builder, x: Map, source: Region, norm: Affine, order: NDArray[np.int64], words: int, merged: int,
        signs: Region, shortcut: Region, pixels: int,
    ) -> None:  # fmt: skip
        rows = x.rows + merged
        piece_rows = _piece_rows(rows, 28)
        share = self.max_share.astype(np.float64)
        layers = [p.linear for p in self.projections]
        affines = [
            interleave(*p.linear.affine(order), take(p.out_threshold, order, NEVER)).reshape(-1)
            for p in self.projections
        ]
        b.step(
            catalog.project if layers[0].row_scale is None else catalog.project_ln,
            self.name,
            _pieces(rows, piece_rows),
            rows=rows,
            piece_rows=piece_rows,
            side=x.side,
            window=self.window,
            channels=x.channels,
            width=x.width,
            stride=x.stride,
            words=words,
            start=layers[0].start,
            plane=padded(rows, TILE_ROWS),
            source=source,
            signs=signs,
            shortcut=shortcut,
            pixels=pixels,
            norm=b.const(
                interleave(
                    take(norm.scale, order),
                    take(norm.bias, order),
                    take(share, order),
                    take((1 - share) / self.window**2, order),
                )
            ),
            token_norm=b.const(interleave(take(self.token_norm.scale, order), take(self.token_norm.bias, order))),
            thresholds=b.const(interleave(*(take(p.threshold, order, NEVER) for p in layers))),
            panels=b.const(np.concatenate([p.panels(order, natural(x.channels, LANE_BITS)) for p in layers])),
            affine=b.const(np.concatenate(affines)),
            prescale=b.const(np.concatenate([p.prescale(order).reshape(-1) for p in layers])),
            valid=_valid(b, x.channels),
            tokens=b.scratch("tokens", piece_rows * x.stride),
            bits=b.scratch(f"project.bits.{x.width}", 3 * piece_rows * words),
            z=b.scratch("z", 3 * piece_rows * x.width),
        )

    def _emit_attend(self, b: Builder, x: Map, words: int, merged: int, signs: Region) -> Region:
        windows, window_tokens = merged, self.window**2
        keys = window_tokens + merged
        keys_padded, rows_padded = padded(keys, LANE_BITS), padded(keys, TILE_ROWS)
        head_dim = x.channels // self.num_heads
        key_words, dim_padded = -(-head_dim // LANE_BITS), padded(head_dim)
        token_words = keys_padded // LANE_BITS
        context = b.state("context", windows * rows_padded * x.stride)
        quantizer = np.concatenate([_softmax_steps(head_dim), self.quantizer.table()])
        b.step(
            self.quantizer.kernel,
            self.name,
            windows * self.num_heads,
            heads=self.num_heads,
            head_dim=head_dim,
            window_tokens=window_tokens,
            merged=merged,
            windows=windows,
            width=x.width,
            stride=x.stride,
            row_words=words,
            plane=padded(x.rows + merged, TILE_ROWS),
            planes=self.quantizer.planes,
            keys_padded=keys_padded,
            key_words=key_words,
            token_words=token_words,
            dim_padded=dim_padded,
            rows_padded=rows_padded,
            signs=signs,
            context=context,
            quantizer=b.const(quantizer),
            keys_table=b.shared(("keys", keys), lambda: _keys_table(keys)),
            head_bits=b.scratch("head_bits", 3 * key_words * keys_padded + LANES),
            transposed=b.scratch("transposed", token_words * dim_padded),
            scores=b.scratch("scores", rows_padded * keys_padded),
            plane_words=b.scratch("plane_words", self.quantizer.planes * rows_padded * token_words),
            counts=b.scratch("counts", self.quantizer.planes * rows_padded),
            weights=b.scratch("weights", LANES),
        )
        return context

    def _context_affine(self, order: NDArray[np.int64]) -> NDArray[np.float32]:
        slope = take(self.context_slope.astype(np.float64) - 1, order)
        return interleave(take(self.context.scale, order), take(self.context.bias, order), slope)

    def _emit_coarsen(
        self, b: Builder, x: Map, order: NDArray[np.int64], merged: int, context: Region, shortcut: Region
    ) -> Region:
        coarse = b.state("coarse", merged * x.width)
        window_tokens = self.window**2
        piece_rows = max(1, merged // 16)
        b.step(
            catalog.coarsen if self.output.row_scale is None else catalog.coarsen_ln,
            self.name,
            _pieces(merged, piece_rows),
            merged=merged,
            piece_rows=piece_rows,
            windows=merged,
            window_tokens=window_tokens,
            rows_padded=padded(window_tokens + merged, TILE_ROWS),
            width=x.width,
            stride=x.stride,
            channels=x.channels,
            context=context,
            shortcut=shortcut,
            coarse=coarse,
            affine=b.const(self._context_affine(order)),
            valid=_valid(b, x.channels),
        )
        return coarse

    def _emit_output(
        self, b: Builder, x: Map, order: NDArray[np.int64], words: int, merged: int, context: Region, shortcut: Region,
        coarse: Region, pixels: int,
    ) -> Map:  # fmt: skip
        out = x  # in place: a pixel's residual is read where its sum is written
        window_tokens = self.window**2
        piece_rows = _piece_rows(x.rows, 28)
        b.step(
            catalog.output if self.output.row_scale is None else catalog.output_ln,
            self.name,
            _pieces(x.rows, piece_rows),
            rows=x.rows,
            piece_rows=piece_rows,
            window_tokens=window_tokens,
            rows_padded=padded(window_tokens + merged, TILE_ROWS),
            channels=x.channels,
            width=x.width,
            stride=x.stride,
            words=words,
            start=self.output.start,
            source=x.region,
            out=out.region,
            context=context,
            shortcut=shortcut,
            coarse=coarse,
            pixels=pixels,
            context_affine=b.const(self._context_affine(order)),
            fine=b.const(take(self.fine_share, order)),
            thresholds=b.const(take(self.output.threshold, order, NEVER)),
            panels=b.const(self.output.panels(order, natural(x.channels, LANE_BITS))),
            affine=b.const(
                interleave(*self.output.affine(order), take(self.out.scale, order), take(self.out.bias, order))
            ),
            prescale=b.const(self.output.prescale(order)),
            valid=_valid(b, x.channels),
            mixed=b.scratch("tokens", piece_rows * x.stride),
            bits=b.scratch(f"output.bits.{x.width}", piece_rows * words),
            z=b.scratch("z", piece_rows * x.width),
        )
        return out


def _window_pixels(side: int, window: int, stride: int) -> NDArray[np.int32]:
    """Element offset of token r's pixel: windows row-major, pixels row-major inside each (SPEC 7.4.1).

    Up to whole tiles, spare rows of the map follow.
    """
    n = side // window
    pixels = np.arange(side**2).reshape(n, window, n, window).transpose(0, 2, 1, 3).reshape(-1)
    spare = np.arange(side**2, padded(side**2, TILE_ROWS))
    offsets: NDArray[np.int32] = (stride * np.concatenate([pixels, spare])).astype(np.int32)
    return offsets


def _keys_table(keys: int) -> NDArray[np.uint32]:
    """[penalty (int32)][present][floor], see kernels/attention.py."""
    real = np.arange(padded(keys, LANE_BITS)) < keys
    penalty = np.where(real, 0, 1 << 20).astype(np.uint32)
    present = real.astype(np.float32).view(np.uint32)
    floor = np.where(real, 0, -1e30).astype(np.float32).view(np.uint32)
    return np.concatenate([penalty, present, floor])


def _softmax_steps(head_dim: int) -> NDArray[np.float32]:
    """-2·log2(e)/√d as a 12-bit high part and the rest: j·high is exact in float32 for j < 2^12."""
    step = -2 * math.log2(math.e) / math.sqrt(head_dim)
    mantissa, exponent = math.frexp(step)
    high = math.ldexp(round(mantissa * 4096), exponent - 12)
    return np.array([high, step - high], np.float32)


# ------------------------------------------------------------------------------------------------ downsampling
@dataclass(frozen=True)
class FloatDownsample:
    """2x2 patches through real weights (some-fp); the outer batch norm and the positions are folded."""

    name: str
    norm: Affine
    weight: NDArray[np.float32]  # [out, 4·in], features (row, column, channel)
    out_norm: Affine | None  # layer norm behind
    position: NDArray[np.float32]  # [tokens, out]

    @classmethod
    def read(cls, tensors: Tensors, name: str) -> "FloatDownsample":
        out_norm = Affine.maybe(tensors, f"{name}.out_norm")
        return cls(
            name, Affine.read(tensors, f"{name}.norm"), tensors[f"{name}.weight"], out_norm, tensors[f"{name}.position"]
        )

    def emit(self, b: Builder, x: Map) -> Map:
        channels, side = self.weight.shape[0], x.side // 2
        layer_norm = self.out_norm is not None
        source, norm = _source(b, x, self.norm, layer_norm, self.name)
        out = b.map(side, channels, after=x)
        order = natural(channels)
        pixel = natural(x.channels)
        columns = np.concatenate([np.where(pixel >= 0, pixel + t * x.channels, -1) for t in range(4)])
        position = b.const(_rows_padded(self.position))
        zero = np.zeros(out.width, np.float32)
        affine = self.out_norm or Affine(zero, zero)
        piece_rows = _piece_rows(out.rows, 28)
        column_pieces = 2 if out.rows < 16 * TILE_ROWS and out.width % (4 * LANES) == 0 and not layer_norm else 1
        b.step(
            catalog.float_down_ln if layer_norm else catalog.float_down,
            self.name,
            _pieces(out.rows, piece_rows) * column_pieces,
            rows=out.rows,
            piece_rows=piece_rows,
            column_pieces=column_pieces,
            side=x.side,
            out_side=side,
            in_width=x.width,
            in_stride=x.stride,
            channels=channels,
            width=out.width,
            stride=out.stride,
            source=source,
            out=out.region,
            norm=b.const(interleave(take(norm.scale, pixel), take(norm.bias, pixel))),
            panels=b.const(float_panels(self.weight, columns)),
            bias=b.const(zero) if layer_norm else position,
            bias_stride=0 if layer_norm else out.width,
            affine=b.const(interleave(take(affine.scale, order), take(affine.bias, order))),
            position=position,
            valid=_valid(b, channels),
            patches=b.scratch("patches", piece_rows * 4 * x.width),
        )
        return out


@dataclass(frozen=True)
class BinaryDownsample:
    """2x2 patches through binary weights, with a pooled shortcut."""

    name: str
    norm: Affine
    linear: BinaryLinear
    position: NDArray[np.float32]

    @classmethod
    def read(cls, tensors: Tensors, name: str) -> "BinaryDownsample":
        norm = Affine.read(tensors, f"{name}.norm")
        linear = BinaryLinear.read(tensors, name, 4 * len(norm.scale))
        return cls(name, norm, linear, tensors[f"{name}.position"])

    def emit(self, b: Builder, x: Map) -> Map:
        layer_norm = self.linear.row_scale is not None
        channels, side = len(self.linear.scale), x.side // 2
        source, norm = _source(b, x, self.norm, layer_norm, self.name)
        out = b.map(side, channels, after=x)
        order, in_order = natural(channels), natural(x.channels)
        pixel = natural(x.channels, LANE_BITS)
        columns = np.concatenate([np.where(pixel >= 0, pixel + t * x.channels, -1) for t in range(4)])
        words = len(columns) // LANE_BITS
        piece_rows = _piece_rows(out.rows, 28)
        threshold = take(self.linear.threshold, in_order, NEVER)
        b.step(
            catalog.binary_down_ln if layer_norm else catalog.binary_down,
            self.name,
            _pieces(out.rows, piece_rows),
            rows=out.rows,
            piece_rows=piece_rows,
            side=x.side,
            out_side=side,
            in_channels=x.channels,
            in_width=x.width,
            in_stride=x.stride,
            channels=channels,
            width=out.width,
            stride=out.stride,
            words=words,
            start=self.linear.start,
            source=source,
            out=out.region,
            norm=b.const(interleave(take(norm.scale, in_order), take(norm.bias, in_order), threshold)),
            panels=b.const(self.linear.panels(order, columns)),
            affine=b.const(interleave(*self.linear.affine(order))),
            position=b.const(_rows_padded(self.position)),
            prescale=b.const(self.linear.prescale(order)),
            valid=_valid(b, channels),
            bits=b.scratch(f"down.bits.{x.width}", piece_rows * words),
            pooled=b.scratch("pooled", piece_rows * (x.width + 2 * LANES)),
            z=b.scratch("z", piece_rows * out.width),
        )
        return out


# -------------------------------------------------------------------------------------------------------- head
@dataclass(frozen=True)
class Head:
    """Norm, mean over the tokens, classifier; without a classifier the pooled features are the output."""

    norm: Affine
    layer_norm: bool
    weight: NDArray[np.float32] | None  # [classes, C]
    bias: Vector | None

    @classmethod
    def read(cls, tensors: Tensors, *, layer_norm: bool) -> "Head":
        norm = Affine.read(tensors, "head.norm")
        return cls(norm, layer_norm, tensors.get("head.weight"), tensors.get("head.bias"))

    def emit(self, b: Builder, x: Map) -> tuple[Region, int]:
        """Returns the region of the output and its length."""
        # A batch norm is affine, so it may follow the mean over the tokens. Folding it into the classifier as well
        # would let large channel means cancel there.
        source, affine = _source(b, x, self.norm, self.layer_norm, "head")
        order = natural(x.channels)
        pooled = b.state("pooled", x.width)
        b.step(
            catalog.pool,
            "head",
            _pieces(x.width, 4 * LANES),
            rows=x.rows,
            piece_width=4 * LANES,
            width=x.width,
            stride=x.stride,
            source=source,
            affine=b.const(interleave(take(affine.scale, order), take(affine.bias, order))),
            out=pooled,
        )
        if self.weight is None or self.bias is None:
            return pooled, x.channels
        classes = len(self.weight)
        columns = catalog.CLASSIFY_COLUMNS
        logits = b.state("logits", padded(classes, columns))
        b.step(
            catalog.classify,
            "head",
            _pieces(classes, columns),
            depth=x.channels,
            source=pooled,
            panels=b.const(float_panels(self.weight, order[: x.channels], columns)),
            bias=b.const(take(self.bias, natural(classes, columns))),
            out=logits,
        )
        return logits, classes
