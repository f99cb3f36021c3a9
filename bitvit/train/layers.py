"""The layers of network.py's blocks, with the authors' names of parameters (SPEC sections 3 and 7)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.config import Config
from bitvit.train import operators
from bitvit.train.estimators import binary_weight, gsb, sign

__all__ = [
    "EPS",
    "Attention",
    "BatchNorm",
    "BinaryConvolution",
    "BinaryDownsampling",
    "BinaryLinear",
    "Contraction",
    "Expansion",
    "FloatDownsampling",
    "LayerScale",
    "LevelQuantizer",
    "Options",
    "RPReLU",
    "TokenMixer",
    "norm_layer",
]

EPS = 1e-5  # of every norm (SPEC 7.0)
DILATIONS = (1, 3, 5)
GROUPS = 4


@dataclass(frozen=True)
class Options:
    """What matters in training beside the shape of the network."""

    recu: bool = False
    attention_levels: int = 3
    """The highest level of the default quantizer. Only 3 can be converted; 1 is for comparison."""
    drop_path: float = 0.0
    """Chance that the last block's branches are left out for an image; in earlier blocks it is less, linearly."""


# ------------------------------------------------------------------------------------------------------ token mixer


class TokenMixer(nn.Module):
    """x + GC of a bit map: three dilated binary convolutions (SPEC 7.3)."""

    def __init__(self, config: Config, width: int, options: Options) -> None:
        super().__init__()
        self.move = nn.Module()
        self.move.bias = nn.Parameter(torch.zeros(1, width, 1, 1))
        for k, dilation in enumerate(DILATIONS, start=1):
            self.add_module(f"cov{k}", BinaryConvolution(width, dilation, options))
            self.add_module(f"act{k}", RPReLU(width))
        self.norm = norm_layer(config, width)

    def forward(self, bits: Tensor, x: Tensor) -> Tensor:
        convolutions = [self.cov1, self.cov2, self.cov3]
        biases = [convolution.bias for convolution in convolutions]
        ys = [convolution(bits) for convolution in convolutions]
        return operators.mix(x, ys, biases, [self.act1, self.act2, self.act3], self.norm)


class BinaryConvolution(nn.Module):
    """3x3 convolution of 4 groups by binarised weights; taps outside the map add nothing (SPEC 7.3).

    The bias is added in `operators.mix`. The centred weights are not divided for ReCU here, as in the authors' code.
    """

    def __init__(self, width: int, dilation: int, options: Options) -> None:  # noqa: ARG002
        super().__init__()
        self.dilation, self.dense = dilation, False
        like = nn.Conv2d(width, width, 3, groups=GROUPS)
        self.weight, self.bias = like.weight, nn.Parameter(torch.zeros(width))

    def forward(self, bits: Tensor) -> Tensor:
        weight = binary_weight(self.weight)
        return operators.grouped_convolution(bits, weight, self.dilation, GROUPS, dense=self.dense)


# --------------------------------------------------------------------------------------------------------- attention


class Attention(nn.Module):
    """Windowed binary attention with merged tokens, [B, S, S, C] -> [B, S, S, C] (SPEC 7.4.1 to 7.4.8)."""

    def __init__(self, config: Config, stage: int, options: Options) -> None:
        super().__init__()
        width = config.hidden_sizes[stage]
        self.window, self.heads = config.window_size, config.num_heads[stage]
        self.token_FA = MergedTokens(width, config.window_size, config.padding)
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            self.register_parameter(f"move{letter}", nn.Parameter(torch.zeros(width)))
            self.add_module(name, BinaryLinear(width, width, options))
            self.add_module(f"norm{letter}", norm_layer(config, width))
            self.add_module(f"rprelu{letter}", RPReLU(width))
            self.register_parameter(f"move{letter}2", nn.Parameter(torch.zeros(width)))
        self.quantizer_steps(config, options)
        self.norm_context = norm_layer(config, width)
        self.rprelu_context = RPReLU(width)
        self.parm = nn.Parameter(torch.full((1, width, 1, 1), 0.5))

    def quantizer_steps(self, config: Config, options: Options) -> None:
        self.gsb = config.quantizer == "gsb"
        if self.gsb:
            self.att_prob_clip = nn.Parameter(torch.tensor(0.1))
            self.att_prob_clip2 = nn.Parameter(torch.tensor(2.0))
            self.att_prob_clip3 = nn.Parameter(torch.tensor(3.0))
        else:
            self.att_prob_quantizer = LevelQuantizer(self.heads, options.attention_levels)

    def forward(self, x: Tensor) -> Tensor:
        side, batch = x.shape[1], len(x)
        tokens = self.token_FA(x)  # [B, S² + M, C]: every pixel once, window by window, then the merged tokens
        bits, real = zip(*(self.project(tokens, name) for name in ("query", "key", "value")), strict=True)
        square = self.window**2
        merged = side * side // square
        query, key, value = bits
        context = self.attend(query, key, value, square, merged)  # [B, windows, N, C]
        residual = operators.by_window(real[0] + real[1] + real[2], square, merged)
        _, mixed = operators.expand(context, residual, self.norm_context, self.rprelu_context, None)
        fine, coarse = mixed.split([square, merged], 2)
        share, n = self.parm.flatten().to(x.dtype), side // self.window
        spread = coarse.mean(1).view(batch, n, 1, n, 1, -1).expand(-1, -1, self.window, -1, self.window, -1)
        fine = fine.reshape(batch, n, n, self.window, self.window, -1).transpose(2, 3)
        return (share * fine + (1 - share) * spread).reshape(x.shape)

    def project(self, tokens: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """Query, key or value of tokens [B, N, C]: its bits and its real values (SPEC 7.4.4)."""
        z = name[0]
        y = self.get_submodule(name)(operators.move_sign(tokens, self.get_parameter(f"move{z}")))
        norm, rprelu = self.get_submodule(f"norm{z}"), self.get_submodule(f"rprelu{z}")
        return operators.expand(y, tokens, norm, rprelu, self.get_parameter(f"move{z}2"))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, square: int, merged: int) -> Tensor:
        """Contexts [B, windows, N, C] of bits [B, S² + M, C] (SPEC 7.4.5 to 7.4.7)."""
        if self.gsb:
            shares = operators.softmax_scores(query, key, self.heads, square, merged)
            shares = gsb(shares, self.att_prob_clip, self.att_prob_clip2, self.att_prob_clip3)
            return operators.weighted(shares, value, square, merged)
        return self.att_prob_quantizer(query, key, value, square, merged)


class MergedTokens(nn.Module):
    """Map [B, S, S, C] -> normalised tokens [B, S² + M, C]: pixels window by window, then pooled cells (SPEC 7.4.2)."""

    def __init__(self, width: int, window: int, padding: int) -> None:
        super().__init__()
        self.window, self.padding = window, padding
        self.a1 = nn.Parameter(torch.full((1, 1, width), 0.5))
        self.norm = nn.LayerNorm(width, EPS)  # also in batch-norm networks

    def forward(self, x: Tensor) -> Tensor:
        batch, side, _, width = x.shape
        w, n = self.window, side // self.window
        fine = x.reshape(batch, n, w, n, w, width).transpose(2, 3).reshape(batch, side * side, width)
        planes, edge = x.permute(0, 3, 1, 2), self.padding
        highest = functional.max_pool2d(planes, w, w, edge).flatten(2).transpose(1, 2)
        mean = functional.avg_pool2d(planes, w, w, edge).flatten(2).transpose(1, 2)
        share = self.a1.to(x.dtype)
        merged = share * highest + (1 - share) * mean
        return self.norm(torch.cat([fine, merged], 1)).to(x.dtype)


class LevelQuantizer(nn.Module):
    """Attention with probabilities of few levels, of a learned step per head (SPEC 7.4.6, default)."""

    def __init__(self, heads: int, highest: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(heads))
        self.zero_point = nn.Parameter(torch.zeros(heads))
        self.register_buffer("init_state", torch.zeros(1))
        self.highest = highest
        self.measuring = False

    def forward(self, query: Tensor, key: Tensor, value: Tensor, square: int, merged: int) -> Tensor:
        if self.measuring:
            self.measure(3 * operators.softmax_scores(query, key, len(self.alpha), square, merged))
        return operators.attend(query, key, value, self.alpha, self.zero_point, square, merged, self.highest)

    def measure(self, x: Tensor) -> None:
        """First step and zero point from a batch: 2 mean|x| / sqrt(highest), and a tenth of the least x."""
        heads = x.transpose(0, -3).flatten(1)
        self.alpha.copy_(2 * heads.abs().mean(1) / math.sqrt(self.highest))
        self.zero_point.copy_(0.9 * self.zero_point + 0.1 * heads.amin(1))
        self.init_state.fill_(1)


# --------------------------------------------------------------------------------------------- MLP and downsampling


class Expansion(nn.Module):
    """First half of the MLP, RPReLU(NORM(BLIN(x)) + tile(x)): signs [.., I] with the next move, and pooled [.., C]
    (SPEC 7.5)."""

    def __init__(self, config: Config, inputs: int, outputs: int, options: Options) -> None:
        super().__init__()
        self.move = nn.Parameter(torch.zeros(inputs))
        self.dense = BinaryLinear(inputs, outputs, options)
        self.norm = norm_layer(config, outputs)
        self.rprelu = RPReLU(outputs)

    def forward(self, x: Tensor, bits: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
        y = self.dense(bits)
        return operators.expand(y, x, self.norm, self.rprelu, move, y.shape[-1] // x.shape[-1])


class Contraction(nn.Module):
    """x + LS(RPReLU(NORM(BLIN) + pooled)), from signs [.., I]: second half of the MLP (SPEC 7.5), and with I = C, where
    pooling is the identity, the attention's output (SPEC 7.4.9)."""

    def __init__(self, config: Config, inputs: int, outputs: int, options: Options) -> None:
        super().__init__()
        self.move = nn.Parameter(torch.zeros(inputs))
        self.dense = BinaryLinear(inputs, outputs, options)
        self.norm = norm_layer(config, outputs)
        self.rprelu = RPReLU(outputs)
        self.layerscale = LayerScale(outputs, 1.0) if config.layer_scale else None

    def forward(self, bits: Tensor, pooled: Tensor, x: Tensor) -> Tensor:
        return operators.contract(self.dense(bits), pooled, x, self.norm, self.rprelu, self.layerscale)


class FloatDownsampling(nn.Module):
    """2x2 convolution of stride 2 with real weights (SPEC 7.7, some_fp); stage is 1, 2 or 3."""

    def __init__(self, config: Config, stage: int) -> None:
        super().__init__()
        before, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
        self.norm0 = norm_layer(config, before)
        self.proj = nn.Conv2d(before, width, 2, stride=2, bias=False)
        self.norm = norm_layer(config, width)
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, config.map_sides[stage] ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.proj(self.norm0(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return operators.place(y, self.position_embeddings.view(1, *y.shape[1:]))


class BinaryDownsampling(nn.Module):
    """2x2 binary convolution of stride 2 with an average as its shortcut (SPEC 7.7, binary)."""

    def __init__(self, config: Config, stage: int) -> None:
        super().__init__()
        before, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
        self.norm0 = norm_layer(config, before)
        self.move = nn.Parameter(torch.zeros(1, before, 1, 1))
        self.proj = nn.Conv2d(before, width, 2, stride=2, bias=False)
        self.norm = norm_layer(config, width)
        self.rprelu = RPReLU(width)
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, config.map_sides[stage] ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        planes = self.norm0(x).permute(0, 3, 1, 2)
        y = functional.conv2d(sign(planes + self.move), binary_weight(self.proj.weight), stride=2)
        y = self.norm(y.permute(0, 2, 3, 1))
        average = functional.avg_pool2d(planes, 2).permute(0, 2, 3, 1)
        y = self.rprelu(y + operators.tile(average, y.shape[-1]))
        return operators.place(y, self.position_embeddings.view(1, *y.shape[1:]))


# --------------------------------------------------------------------------------------------------------- operators


class BinaryLinear(nn.Module):
    """Bits [.., K] by a binarised weight [O, K]; never a bias (SPEC 1, BLIN)."""

    def __init__(self, inputs: int, outputs: int, options: Options) -> None:
        super().__init__()
        self.weight = nn.Linear(inputs, outputs, bias=False).weight
        self.recu = options.recu

    def forward(self, bits: Tensor) -> Tensor:
        return functional.linear(bits, binary_weight(self.weight, recu=self.recu and self.training))


class RPReLU(nn.Module):
    """PReLU between two moves, per channel (SPEC 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.move1 = nn.Parameter(torch.zeros(width))
        self.prelu = nn.PReLU(width)
        self.move2 = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        t = (x - self.move1).view(-1, x.shape[-1])
        return functional.prelu(t, self.prelu.weight).view(x.shape) + self.move2


class LayerScale(nn.Module):
    """x * alpha + move, per channel (SPEC 1, LS)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((width,), scale))
        self.move = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha + self.move


class BatchNorm(nn.BatchNorm1d):
    """Batch norm over all axes but the last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)


def norm_layer(config: Config, width: int) -> nn.Module:
    return BatchNorm(width, EPS) if config.norm == "batch" else nn.LayerNorm(width, EPS)
