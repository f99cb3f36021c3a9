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

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.config import Config
from bitvit.train import operators
from bitvit.train.layers import (
    EPS,
    Attention,
    BinaryConvolution,
    BinaryDownsampling,
    BinaryLinear,
    Contraction,
    Expansion,
    FloatDownsampling,
    LayerScale,
    LevelQuantizer,
    Options,
    TokenMixer,
    norm_layer,
)

__all__ = ["BHViT", "binary_weights"]

SHIFT_SCALE = 0.1  # a shift residual's first weight


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
        self.vit.layernorm = norm_layer(config, config.hidden_sizes[3])
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
        self.patch_embeddings.norm = norm_layer(config, width)

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
        self.layernorm_before = norm_layer(config, width)
        self.layernorm_after = norm_layer(config, width)
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
