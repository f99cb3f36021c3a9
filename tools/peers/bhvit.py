"""A BHViT checkpoint as a float32 ONNX graph: the operators that the training code runs in evaluation mode.

What the graph is given for free, against that code: every binary weight is a ready float32 matrix of ±scale, products
work on rows [B * tokens, C], where norms and PReLUs need no transposition, and dropout is gone. Batch norms stay nodes;
folding them is each peer's own business.

Layouts: maps are [B, C, S, S] between and inside the convolutional blocks, as PyTorch holds them; rows are
[B * tokens, C]; `Map` and plain names tell which is which. Section numbers are those of docs/SPEC.md.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint.names import module
from bitvit.config import Config
from bitvit.verify.reference import DILATIONS, EPS, GROUPS, GSB_FLOOR, PATCH, binary_weight
from tools.peers.graph import INPUT, Graph

State = Mapping[str, NDArray[Any]]
ROW, MAP = (1, -1), (-1, 1, 1)  # shapes of a parameter per channel, for rows and for maps


class Map(NamedTuple):
    """The name of a feature map [B, channels, side, side]."""

    name: str
    channels: int
    side: int


def bhvit_model(state: State, config: Config, batch: int, *, latent: bool = False) -> Any:
    """The network as an ONNX model, pixels [batch, 3, S, S] -> logits [batch, L].

    state: checkpoint tensors under the names of SPEC 3; config: their shape, from `infer_config`. Every variant of the
    authors' network is supported, of what forks have added (SPEC 7.9) only the padding; else NotImplementedError.
    Without a classifier the output is the pooled features. latent: keep the trained weights and
    binarise them in the graph, in every call, as the training code does.
    """
    if config.image_norm or config.coordinates or config.positions != "learned" or config.pooling != "mean":
        raise NotImplementedError("peers are compared on the authors' network, without a fork's additions")
    network = _Network(state, config, batch, latent)
    size, outputs = config.image_size, config.num_classes or config.hidden_sizes[3]
    return network.graph.model(network.build(), "BHViT", (batch, 3, size, size), (batch, outputs))


class _Network:
    """Appends one part of the network after the other to `graph`; x is a part's input."""

    def __init__(self, state: State, config: Config, batch: int, latent: bool) -> None:
        self.graph = Graph()
        self.state, self.config, self.batch, self.latent = state, config, batch, latent

    def build(self) -> str:
        """Stem, blocks, head (SPEC 7.2)."""
        x = self.stem()
        for place in self.config.places():
            prefix, stage = module(self.config, place), place.stage
            if place.kind == "downsample":
                x = self.downsample(prefix, x, stage)
            elif place.kind == "conv_block":
                x = self.gc_block(prefix, x)
            elif place.kind == "attention_block":
                x = self.vit_block(prefix, x, self.config.num_heads[stage])
        return self.head(x)

    # ------------------------------------------------------------------------------------------------- stem, head
    def stem(self) -> Map:
        """Convolution, norm, GELU, positions (SPEC 7.1)."""
        g, path = self.graph, "vit.embeddings"
        proj = f"{path}.patch_embeddings.proj"
        weight, bias = g.float32(self.state[f"{proj}.weight"]), self.vector(f"{proj}.bias")
        y = g.op("Conv", INPUT, weight, bias, kernel_shape=(PATCH, PATCH), strides=(PATCH, PATCH))
        x = Map(y, self.config.hidden_sizes[0], self.config.map_sides[0])
        x = self.norm_map(f"{path}.patch_embeddings.norm", x)
        y = g.op("Add", g.gelu(x.name), g.float32(self.state[f"{path}.position_embeddings"]))
        return x._replace(name=y)

    def head(self, x: Map) -> str:
        """Norm, mean over the map, classifier (SPEC 7.2)."""
        pooled = self.mean(self.norm_map("vit.layernorm", x).name, 2, 3)
        if not self.config.num_classes:
            return pooled
        weight, bias = self.graph.float32(self.state["classifier.weight"]), self.vector("classifier.bias")
        return self.graph.op("Gemm", pooled, weight, bias, transB=1)

    # ----------------------------------------------------------------------------------------------------- blocks
    def gc_block(self, prefix: str, x: Map) -> Map:
        """Token mixer, MLP, shifts (SPEC 7.3)."""
        mixed = self.token_mixer(f"{prefix}.GC", self.norm_map(f"{prefix}.layernorm_before", x))
        return self.feed_forward(prefix, self.add(x, mixed.name))

    def vit_block(self, prefix: str, x: Map, heads: int) -> Map:
        """Attention, MLP, shifts (SPEC 7.4)."""
        normed = self.norm_map(f"{prefix}.layernorm_before", x)
        attended = self.attention(f"{prefix}.attention.attention", normed, heads)
        return self.feed_forward(prefix, self.add(x, self.attention_output(f"{prefix}.attention.output", attended)))

    def feed_forward(self, prefix: str, x: Map) -> Map:
        """x + MLP(norm(x)) + SHIFT(norm(x))."""
        normed = self.norm_map(f"{prefix}.layernorm_after", x)
        return self.add(x, self.mlp(prefix, normed), *self.shifts(prefix, normed))

    def token_mixer(self, prefix: str, x: Map) -> Map:
        """Three dilated convolutions of one map of signs, padded with zeros (SPEC 7.3)."""
        bits = self.binarise(x.name, f"{prefix}.move.bias", MAP)
        branches = []
        for k, d in enumerate(DILATIONS, start=1):
            weight, bias = self.weight(f"{prefix}.cov{k}.weight"), self.vector(f"{prefix}.cov{k}.bias")
            y = self.graph.op(
                "Conv", bits, weight, bias, kernel_shape=(3, 3), dilations=(d, d), pads=(d, d, d, d), group=GROUPS
            )
            branches.append(self.rprelu(f"{prefix}.act{k}", y, MAP))
        return self.norm_map(f"{prefix}.norm", x._replace(name=self.sum(*branches)))

    def mlp(self, prefix: str, x: Map) -> str:
        """Two binary linear layers with shortcuts, a map -> the name of a map (SPEC 7.5)."""
        g, inner, outer = self.graph, f"{prefix}.intermediate", f"{prefix}.output"
        ratio = len(self.state[f"{inner}.dense.weight"]) // x.channels
        rows = self.to_rows(x)
        hidden = self.norm_rows(f"{inner}.norm", self.binary_linear(f"{inner}.dense", rows, f"{inner}.move"))
        tiled = rows if ratio == 1 else g.op("Concat", *[rows] * ratio, axis=1)
        hidden = self.rprelu(f"{inner}.rprelu", g.op("Add", hidden, tiled), ROW)
        y = self.norm_rows(f"{outer}.norm", self.binary_linear(f"{outer}.dense", hidden, f"{outer}.move"))
        pooled = hidden if ratio == 1 else self.mean(g.reshape(hidden, -1, x.channels, ratio), 2)
        y = self.rprelu(f"{outer}.rprelu", g.op("Add", y, pooled), ROW)
        return self.to_map(self.layer_scale(f"{outer}.layerscale", y, ROW), x)

    def shifts(self, prefix: str, x: Map) -> list[str]:
        """The shift residuals that the model has, to be added (SPEC 7.6)."""
        terms = []
        for size, reach in ((3, 1), (5, 2)):
            if f"{prefix}.layerscale_h{size}.alpha" in self.state:
                shifted = {"h": self.rolled_mean(x, reach, 2), "w": self.rolled_mean(x, reach, 3)}
                shifted["ch"] = self.rolled_quarters(x, reach)
                terms += [self.layer_scale(f"{prefix}.layerscale_{k}{size}", y, MAP) for k, y in shifted.items()]
        return terms

    def rolled_mean(self, x: Map, reach: int, axis: int) -> str:
        """Mean of x rolled by -reach ... reach along an axis."""
        rolled = [self.graph.roll(x.name, step, x.side, axis) for step in range(-reach, reach + 1)]
        return self.graph.op("Div", self.sum(*rolled), self.graph.float32(len(rolled)))

    def rolled_quarters(self, x: Map, reach: int) -> str:
        """Channel quarters rolled down, up, right and left."""
        quarter = math.ceil(x.channels / 4)
        moves = ((reach, 2), (-reach, 2), (reach, 3), (-reach, 3))
        rolled = []
        for i, (step, axis) in enumerate(moves):
            part = self.graph.slice(x.name, i * quarter, min((i + 1) * quarter, x.channels), 1)
            rolled.append(self.graph.roll(part, step, x.side, axis))
        return self.graph.op("Concat", *rolled, axis=1)

    def downsample(self, prefix: str, x: Map, stage: int) -> Map:
        """2x2 convolution of stride 2, real or binary (SPEC 7.7)."""
        g, binary = self.graph, self.config.downsampling == "binary"
        out = Map("", self.config.hidden_sizes[stage], self.config.map_sides[stage])
        patch = {"kernel_shape": (2, 2), "strides": (2, 2)}
        x = self.norm_map(f"{prefix}.norm0", x)
        inputs = self.binarise(x.name, f"{prefix}.move", MAP) if binary else x.name
        weight = self.weight(f"{prefix}.proj.weight") if binary else g.float32(self.state[f"{prefix}.proj.weight"])
        out = self.norm_map(f"{prefix}.norm", out._replace(name=g.op("Conv", inputs, weight, **patch)))
        if binary:
            average = g.op("AveragePool", x.name, **patch)
            out = self.add(out, g.op("Concat", *[average] * (out.channels // x.channels), axis=1))
            out = out._replace(name=self.rprelu(f"{prefix}.rprelu", out.name, MAP))
        positions = self.state[f"{prefix}.position_embeddings"].reshape(1, out.side, out.side, out.channels)
        return self.add(out, g.float32(positions.transpose(0, 3, 1, 2)))

    # -------------------------------------------------------------------------------------------------- attention
    def attention(self, prefix: str, x: Map, heads: int) -> Map:
        """Windowed binary attention with merged tokens (SPEC 7.4.1 to 7.4.8)."""
        g, w, c = self.graph, self.config.window_size, x.channels
        windows = (x.side // w) ** 2
        tokens, rows = w * w + windows, self.token_set(f"{prefix}.token_FA", x)
        real, bits = [], []
        for name in ("query", "key", "value"):
            real.append(self.projection(prefix, name, rows))
            bits.append(self.binarise(real[-1], f"{prefix}.move{name[0]}2", ROW))
        q, k, v = (g.transpose(g.reshape(y, self.batch * windows, tokens, heads, c // heads), 0, 2, 1, 3) for y in bits)
        scores = g.op("MatMul", q, g.transpose(k, 0, 1, 3, 2))
        probs = g.op("Softmax", g.op("Div", scores, g.float32(math.sqrt(c // heads))), axis=3)
        context = g.transpose(g.op("MatMul", self.quantise(prefix, probs), v), 0, 2, 1, 3)
        context = self.norm_rows(f"{prefix}.norm_context", g.reshape(context, -1, c))
        mixed = self.rprelu(f"{prefix}.rprelu_context", self.sum(context, *real), ROW)
        return self.fuse(f"{prefix}.parm", g.reshape(mixed, self.batch, windows, tokens, c), x)

    def token_set(self, prefix: str, x: Map) -> str:
        """Map -> rows [B * windows * (w * w + windows), C]: a window's pixels, the merged tokens; layer norm."""
        g, w, n, c = self.graph, self.config.window_size, x.side // self.config.window_size, x.channels
        split = g.transpose(g.reshape(x.name, self.batch, c, n, w, n, w), 0, 2, 4, 3, 5, 1)
        fine = g.reshape(split, self.batch, n * n, w * w, c)
        merged = g.transpose(g.reshape(self.merged(prefix, x), self.batch, 1, c, n * n), 0, 1, 3, 2)
        coarse = g.op("Expand", merged, g.int64(self.batch, n * n, n * n, c))
        tokens = g.reshape(g.op("Concat", fine, coarse, axis=2), -1, c)
        return self.layer_norm(f"{prefix}.norm", tokens)

    def merged(self, prefix: str, x: Map) -> str:
        """[B, C, n, n]: a1 * max + (1 - a1) * average of cells that reach out of the map (SPEC 7.4.2)."""
        w = self.config.window_size
        cells = {"kernel_shape": (w, w), "strides": (w, w), "pads": (self.config.padding,) * 4}
        maximum = self.graph.op("MaxPool", x.name, **cells)
        average = self.graph.op("AveragePool", x.name, **cells, count_include_pad=1)
        return self.blend(f"{prefix}.a1", maximum, average)

    def blend(self, share: str, first: str, second: str) -> str:
        """share * first + (1 - share) * second, two maps and a parameter per channel."""
        shares = self.state[share].astype(np.float32)
        one = self.graph.op("Mul", first, self.graph.float32(shares, *MAP))
        return self.graph.op("Add", one, self.graph.op("Mul", second, self.graph.float32(1 - shares, *MAP)))

    def projection(self, prefix: str, name: str, rows: str) -> str:
        """Real query, key or value of rows [M, C] (SPEC 7.4.4)."""
        z = name[0]
        y = self.norm_rows(f"{prefix}.norm{z}", self.binary_linear(f"{prefix}.{name}", rows, f"{prefix}.move{z}"))
        return self.rprelu(f"{prefix}.rprelu{z}", self.graph.op("Add", y, rows), ROW)

    def quantise(self, prefix: str, probs: str) -> str:
        """Probabilities [B * windows, heads, N, N] -> quantised ones (SPEC 7.4.6)."""
        g = self.graph
        if self.config.quantizer == "gsb":
            return self.gsb(prefix, probs)
        alpha, zero_point = (self.vector(f"{prefix}.att_prob_quantizer.{k}", *MAP) for k in ("alpha", "zero_point"))
        scaled = g.op("Add", g.op("Div", g.op("Mul", probs, g.float32(3)), alpha), zero_point)
        return g.op("Mul", g.op("Clip", g.op("Round", scaled), g.float32(0), g.float32(3)), alpha)

    def gsb(self, prefix: str, probs: str) -> str:
        """The gsb quantizer of the probabilities."""
        g = self.graph
        clips = [self.state[f"{prefix}.att_prob_clip{i}"].reshape(()) for i in ("", "2", "3")]
        a, a2, a3 = (g.float32(max(float(clip), GSB_FLOOR)) for clip in clips)
        q = g.op("Div", probs, g.float32(clips[0]))
        largest = g.op("ReduceMax", q, axes=(3,), keepdims=1)
        base = g.op("Clip", g.op("Round", q), g.float32(0), g.float32(1))
        t2, t1 = (
            g.op("Cast", g.op("Greater", q, g.op("Mul", largest, g.float32(share))), to=1) for share in (0.9, 0.7)
        )
        near = g.op("Add", g.op("Sub", base, t1), g.op("Mul", g.op("Sub", t1, t2), a2))
        return g.op("Mul", g.op("Add", near, g.op("Mul", t2, a3)), a)

    def fuse(self, parm: str, mixed: str, x: Map) -> Map:
        """Tokens [B, windows, w * w + windows, C] -> map: parm * fine + (1 - parm) * coarse (SPEC 7.4.8)."""
        g, w, n, c = self.graph, self.config.window_size, x.side // self.config.window_size, x.channels
        fine = g.reshape(g.slice(mixed, 0, w * w, 2), self.batch, n, n, w, w, c)
        fine = g.reshape(g.transpose(fine, 0, 5, 1, 3, 2, 4), self.batch, c, x.side, x.side)
        means = self.mean(g.slice(mixed, w * w, w * w + n * n, 2), 1)
        grid = g.reshape(g.transpose(means, 0, 2, 1), self.batch, c, n, n)
        nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        coarse = grid if w == 1 else g.op("Resize", grid, "", g.float32((1, 1, w, w)), **nearest)
        return x._replace(name=self.blend(parm, fine, coarse))

    def attention_output(self, prefix: str, x: Map) -> str:
        """Output projection with its own shortcut, a map -> the name of a map (SPEC 7.4.9)."""
        rows = self.to_rows(x)
        y = self.norm_rows(f"{prefix}.norm", self.binary_linear(f"{prefix}.dense", rows, f"{prefix}.move"))
        y = self.rprelu(f"{prefix}.rprelu", self.graph.op("Add", y, rows), ROW)
        return self.to_map(self.layer_scale(f"{prefix}.layerscale", y, ROW), x)

    # -------------------------------------------------------------------------------------------------- operators
    def vector(self, name: str, *shape: int) -> str:
        """A parameter per channel as a constant, [C] if no shape is given."""
        return self.graph.float32(self.state[name], *shape or (-1,))

    def weight(self, name: str) -> str:
        """A binarised weight, ±scale, in the shape of the latent one (SPEC 8.1); a matrix [O, K] becomes [K, O]."""
        if self.latent:
            return self.binarised(self.state[name])
        scale, signs = binary_weight(self.state[name], np.float32)
        weight = signs * scale.reshape(-1, *[1] * (signs.ndim - 1))
        return self.graph.float32(weight.T if weight.ndim == 2 else weight)

    def binarised(self, latent: NDArray[Any]) -> str:
        """`weight` as nodes of the graph."""
        g, weight, axes = self.graph, self.graph.float32(latent), tuple(range(1, latent.ndim))
        scale = g.op("ReduceMean", g.op("Abs", weight), axes=axes, keepdims=1)
        signs = g.op("Sign", g.op("Sub", weight, g.op("ReduceMean", weight, axes=axes, keepdims=1)))
        scaled = g.op("Mul", signs, scale)
        return g.transpose(scaled, 1, 0) if latent.ndim == 2 else scaled

    def batch_norm(self, prefix: str, x: str) -> str:
        """Over axis 1, of maps and of rows (SPEC 7.0)."""
        vectors = [self.vector(f"{prefix}.{name}") for name in ("weight", "bias", "running_mean", "running_var")]
        return self.graph.op("BatchNormalization", x, *vectors, epsilon=EPS)

    def layer_norm(self, prefix: str, x: str) -> str:
        """Over the last axis."""
        weight, bias = self.vector(f"{prefix}.weight"), self.vector(f"{prefix}.bias")
        return self.graph.op("LayerNormalization", x, weight, bias, epsilon=EPS)

    def norm_rows(self, prefix: str, x: str) -> str:
        return self.batch_norm(prefix, x) if self.config.norm == "batch" else self.layer_norm(prefix, x)

    def norm_map(self, prefix: str, x: Map) -> Map:
        if self.config.norm == "batch":
            return x._replace(name=self.batch_norm(prefix, x.name))
        return x._replace(name=self.to_map(self.layer_norm(prefix, self.to_rows(x)), x))

    def rprelu(self, prefix: str, x: str, shape: tuple[int, ...]) -> str:
        """PReLU between two moves (SPEC 1); `shape` is ROW or MAP."""
        t = self.graph.op("Sub", x, self.vector(f"{prefix}.move1", *shape))
        t = self.graph.op("PRelu", t, self.vector(f"{prefix}.prelu.weight", *shape))
        return self.graph.op("Add", t, self.vector(f"{prefix}.move2", *shape))

    def layer_scale(self, prefix: str, x: str, shape: tuple[int, ...]) -> str:
        """x * alpha + move, or x itself if the model has no such layer scale."""
        if f"{prefix}.alpha" not in self.state:
            return x
        scaled = self.graph.op("Mul", x, self.vector(f"{prefix}.alpha", *shape))
        return self.graph.op("Add", scaled, self.vector(f"{prefix}.move", *shape))

    def binarise(self, x: str, offset: str, shape: tuple[int, ...]) -> str:
        """sgn(x + offset) as -1, 0, +1."""
        return self.graph.op("Sign", self.graph.op("Add", x, self.vector(offset, *shape)))

    def binary_linear(self, prefix: str, rows: str, offset: str) -> str:
        """Rows [M, K] -> [M, O]: sign, then the product with ±scale."""
        return self.graph.op("MatMul", self.binarise(rows, offset, ROW), self.weight(f"{prefix}.weight"))

    def to_rows(self, x: Map) -> str:
        """Map [B, C, S, S] -> rows [B * S * S, C]."""
        return self.graph.reshape(self.graph.transpose(x.name, 0, 2, 3, 1), -1, x.channels)

    def to_map(self, rows: str, like: Map) -> str:
        """The inverse of `to_rows`."""
        tokens = self.graph.reshape(rows, self.batch, like.side, like.side, like.channels)
        return self.graph.transpose(tokens, 0, 3, 1, 2)

    def mean(self, x: str, *axes: int) -> str:
        return self.graph.op("ReduceMean", x, axes=axes, keepdims=0)

    def sum(self, *terms: str) -> str:
        """Of one or more, left to right."""
        total = terms[0]
        for term in terms[1:]:
            total = self.graph.op("Add", total, term)
        return total

    def add(self, x: Map, *terms: str) -> Map:
        return x._replace(name=self.sum(x.name, *terms))
