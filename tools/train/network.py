"""BHViT in PyTorch, for training: SPEC section 7 with the parameter names and shapes of section 3.

    pixels -> stem -> GC blocks, down, GC blocks, down, ViT blocks, down, ViT blocks -> head -> logits

    GC block    x' = x + GC(norm(x))                     y = x' + MLP(norm(x')) + SHIFT(norm(x'))
    ViT block   x' = x + OUT(ATT(norm(x)))               y = x' + MLP(norm(x')) + SHIFT(norm(x'))

Maps are [B, S, S, C] and tokens [B, N, C], channels last throughout; a convolution sees the same memory as a
channels-last NCHW tensor. Works in float32, float64 and under autocast, on any device.

One thing differs from the authors' code, in training only: an image's merged tokens are projected to query, key and
value once, not once for each window, so those three norms count them once in their statistics. In evaluation the two
are the same (SPEC 9.10), and with single-pixel windows it saves most of the attention's work.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.config import Config

from . import operators
from .estimators import binary_weight, gsb, sign

__all__ = ["BHViT", "Options", "binary_weights"]

EPS = 1e-5  # of every norm (SPEC 7.0)
DILATIONS = (1, 3, 5)
GROUPS = 4
SHIFT_SCALE = 0.1  # a shift residual's first weight


@dataclass(frozen=True)
class Options:
    """What matters in training beside the shape of the network."""

    recu: bool = False
    attention_levels: int = 3
    """The highest level of the default quantizer. Only 3 can be converted; 1 is for comparison."""
    drop_path: float = 0.0
    """Chance that the last block's branches are left out for an image; in earlier blocks it is less, linearly."""


class BHViT(nn.Module):
    """The network of a Config: pixels [B, 3, S, S], normalised, -> logits [B, classes]."""

    def __init__(self, config: Config, options: Options | None = None) -> None:
        super().__init__()
        if not config.num_classes:
            raise ValueError("num_classes is 0, expected at least 1: there is nothing to train")
        self.config = config
        options = options or Options()
        self.vit = nn.Module()
        self.vit.embeddings = Stem(config)
        self.vit.encoder = Encoder(config, options)
        self.vit.layernorm = _norm(config, config.hidden_sizes[3])
        self.pool = TokenPooling(config)
        self.classifier = nn.Linear(config.hidden_sizes[3], config.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.vit.encoder(self.vit.embeddings(pixels))
        return self.classifier(self.pool(self.vit.layernorm(x).flatten(1, 2)))

    @torch.no_grad()
    def initialise(self, pixels: Tensor) -> None:
        """Set the attention quantizers' first steps from a batch; to be called once, before training."""
        quantizers = [module for module in self.modules() if isinstance(module, LevelQuantizer)]
        training = self.training
        self.train()
        kept = {name: value.clone() for name, value in self.named_buffers() if "running" in name or "num_" in name}
        for quantizer in quantizers:
            quantizer.measuring = True
        self(pixels)
        for quantizer in quantizers:
            quantizer.measuring = False
        for name, value in self.named_buffers():
            if name in kept:
                value.copy_(kept[name])
        self.train(training)


def binary_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The latent weights that are binarised, by name; without the downsampling layers', as the regulariser wants."""
    for name, module in model.named_modules():
        if isinstance(module, BinaryLinear | BinaryConvolution):
            yield f"{name}.weight", module.weight


# ------------------------------------------------------------------------------------------------- stem and encoder


class Stem(nn.Module):
    """Pixels [B, 3, S, S] -> [B, S0, S0, C0]: convolution, norm, GELU, positions (SPEC 7.1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, side = config.hidden_sizes[0], config.map_sides[0]
        if config.positions == "learned":
            self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, width, side, side))
        else:
            self.register_buffer("position_embeddings", _sinusoidal(width, side), persistent=False)
        self.stain_norm = nn.Module()
        if config.image_norm:
            self.stain_norm.inorm = nn.InstanceNorm2d(3, EPS, affine=True)
        self.image_norm, self.coordinates = config.image_norm, config.coordinates
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.proj = nn.Conv2d(5 if config.coordinates else 3, width, 4, stride=4)
        self.patch_embeddings.norm = _norm(config, width)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.image_norm:
            pixels = self.stain_norm.inorm(pixels)
        if self.coordinates:
            batch, _, height, width = pixels.shape
            y, x = (torch.linspace(-1, 1, side, device=pixels.device).to(pixels.dtype) for side in (height, width))
            grid = torch.stack(torch.meshgrid(y, x, indexing="ij"))
            pixels = torch.cat([pixels, grid.expand(batch, -1, -1, -1)], 1)
        x = self.patch_embeddings.proj(pixels).permute(0, 2, 3, 1)
        x = functional.gelu(self.patch_embeddings.norm(x))
        return operators.place(x, self.position_embeddings.permute(0, 2, 3, 1))


def _sinusoidal(width: int, side: int) -> Tensor:
    """Positions that are not learned, [1, C0, S0, S0] (SPEC 7.9.3)."""
    angles = torch.linspace(-1, 1, side)[:, None] * torch.arange(1.0, width // 4 + 1)
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # [S0, C0 / 2]
    y, x = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([y, x], 2).permute(2, 0, 1)[None].contiguous()


class TokenPooling(nn.Module):
    """Tokens [B, N, C3] -> [B, C3]: their mean, or as SPEC 7.9.4 and 7.9.5 say."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kind, self.top = config.pooling, config.top_tokens
        if self.kind == "attention":
            self.att = nn.Linear(config.hidden_sizes[3], 1)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.kind == "attention":
            return (self.att(tokens).softmax(1) * tokens).sum(1)
        if self.kind == "top":
            chosen = tokens.norm(dim=-1).topk(self.top, 1).indices
            tokens = tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[-1]))
        return tokens.mean(1)


class Encoder(nn.Module):
    """All blocks and the downsampling layers between stages (SPEC 7.2)."""

    def __init__(self, config: Config, options: Options) -> None:
        super().__init__()
        self.depths = config.depths
        first, second, third, fourth = config.depths
        self.layerA = nn.ModuleList(GCBlock(config, s, options) for s in [0] * first + [1] * second)
        self.layerB = nn.ModuleList(ViTBlock(config, s, options) for s in [2] * third + [3] * fourth)
        blocks = [*self.layerA, *self.layerB]
        for number, block in enumerate(blocks):
            block.drop_path = options.drop_path * number / max(len(blocks) - 1, 1)
        down = BinaryDownsampling if config.downsampling == "binary" else FloatDownsampling
        self.patch_embed1, self.patch_embed2, self.patch_embed3 = (down(config, k) for k in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.layerA):
            x = block(self.patch_embed1(x) if i == self.depths[0] else x)
        x = self.patch_embed2(x)
        for i, block in enumerate(self.layerB):
            x = block(self.patch_embed3(x) if i == self.depths[2] else x)
        return x


class _Block(nn.Module):
    """What both kinds of block share: the second half, MLP(norm(x)) + SHIFT(norm(x))."""

    def __init__(self, config: Config, stage: int, options: Options) -> None:
        super().__init__()
        width, hidden = config.hidden_sizes[stage], config.intermediate_sizes[stage]
        self.layernorm_before = _norm(config, width)
        self.layernorm_after = _norm(config, width)
        self.intermediate = Expansion(config, width, hidden, options)
        self.output = Contraction(config, hidden, width, options)
        self.drop_path = 0.0
        self.reaches = [reach for reach, present in ((1, config.shift3), (2, config.shift5)) if present]
        for reach in self.reaches:
            for way in ("h", "w", "ch"):
                self.add_module(f"layerscale_{way}{2 * reach + 1}", LayerScale(width, SHIFT_SCALE))

    def dropped(self, x: Tensor, y: Tensor) -> Tensor:
        """Stochastic depth: y, or for some images x; what the branch y - x adds is enlarged to make up for them."""
        if not (self.training and self.drop_path):
            return y
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop_path
        return x + (y - x) * (kept / (1 - self.drop_path)).to(x.dtype)

    def second_half(self, x: Tensor) -> Tensor:
        normed, bits = operators.norm_sign(x, self.layernorm_after, self.intermediate.move)
        hidden, pooled = self.intermediate(normed, bits, self.output.move)
        y = self.output(hidden, pooled, x)
        return self.dropped(x, operators.shift(y, normed, *self.taps()) if self.reaches else y)

    def taps(self) -> tuple[Tensor, Tensor]:
        """The shift residuals as one stencil: taps [9, C] and a constant [C] (SPEC 7.6, 9.11)."""
        constant = torch.zeros_like(self.layernorm_after.weight)
        rows = [constant] * 9
        quarter = torch.arange(len(constant), device=constant.device) // math.ceil(len(constant) / 4)
        for reach in self.reaches:
            size = 2 * reach + 1
            h, w, ch = (self.get_submodule(f"layerscale_{way}{size}") for way in ("h", "w", "ch"))
            near = (1, 2) if reach == 1 else (1, 2, 3, 4)
            rows[0] = rows[0] + (h.alpha + w.alpha) / size
            for k in near:
                rows[k] = rows[k] + h.alpha / size
                rows[4 + k] = rows[4 + k] + w.alpha / size
            for k, own in zip(near[-2:], (0, 1), strict=True):
                rows[k] = rows[k] + ch.alpha * (quarter == own)
                rows[4 + k] = rows[4 + k] + ch.alpha * (quarter == own + 2)
            constant = constant + h.move + w.move + ch.move
        return torch.stack(rows), constant


class GCBlock(_Block):
    """Convolutional block of stages 0 and 1 (SPEC 7.3)."""

    def __init__(self, config: Config, stage: int, options: Options) -> None:
        super().__init__(config, stage, options)
        self.GC = TokenMixer(config, config.hidden_sizes[stage], options)

    def forward(self, x: Tensor) -> Tensor:
        _, bits = operators.norm_sign(x, self.layernorm_before, self.GC.move.bias.flatten(), wanted=False)
        return self.second_half(self.dropped(x, self.GC(bits, x)))


class ViTBlock(_Block):
    """Attention block of stages 2 and 3 (SPEC 7.4)."""

    def __init__(self, config: Config, stage: int, options: Options) -> None:
        super().__init__(config, stage, options)
        width = config.hidden_sizes[stage]
        self.attention = nn.Module()
        self.attention.attention = Attention(config, stage, options)
        self.attention.output = Contraction(config, width, width, options)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention.attention(self.layernorm_before(x))
        output = self.attention.output
        return self.second_half(self.dropped(x, output(operators.move_sign(attended, output.move), attended, x)))


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
        self.norm = _norm(config, width)

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
            self.add_module(f"norm{letter}", _norm(config, width))
            self.add_module(f"rprelu{letter}", RPReLU(width))
            self.register_parameter(f"move{letter}2", nn.Parameter(torch.zeros(width)))
        self.quantizer_steps(config, options)
        self.norm_context = _norm(config, width)
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
        self.norm = _norm(config, outputs)
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
        self.norm = _norm(config, outputs)
        self.rprelu = RPReLU(outputs)
        self.layerscale = LayerScale(outputs, 1.0) if config.layer_scale else None

    def forward(self, bits: Tensor, pooled: Tensor, x: Tensor) -> Tensor:
        return operators.contract(self.dense(bits), pooled, x, self.norm, self.rprelu, self.layerscale)


class FloatDownsampling(nn.Module):
    """2x2 convolution of stride 2 with real weights (SPEC 7.7, some_fp); stage is 1, 2 or 3."""

    def __init__(self, config: Config, stage: int) -> None:
        super().__init__()
        before, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
        self.norm0 = _norm(config, before)
        self.proj = nn.Conv2d(before, width, 2, stride=2, bias=False)
        self.norm = _norm(config, width)
        self.position_embeddings = nn.Parameter(0.02 * torch.randn(1, config.map_sides[stage] ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.proj(self.norm0(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return operators.place(y, self.position_embeddings.view(1, *y.shape[1:]))


class BinaryDownsampling(nn.Module):
    """2x2 binary convolution of stride 2 with an average as its shortcut (SPEC 7.7, binary)."""

    def __init__(self, config: Config, stage: int) -> None:
        super().__init__()
        before, width = config.hidden_sizes[stage - 1], config.hidden_sizes[stage]
        self.norm0 = _norm(config, before)
        self.move = nn.Parameter(torch.zeros(1, before, 1, 1))
        self.proj = nn.Conv2d(before, width, 2, stride=2, bias=False)
        self.norm = _norm(config, width)
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


def _norm(config: Config, width: int) -> nn.Module:
    return BatchNorm(width, EPS) if config.norm == "batch" else nn.LayerNorm(width, EPS)
