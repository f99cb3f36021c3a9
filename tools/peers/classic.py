"""The networks that a user could choose instead: DeiT-Tiny and MobileNetV2, 224 pixels, 1000 classes, random weights.

Their architectures are those of facebook/deit_tiny_patch16_224 and torchvision's mobilenet_v2 in evaluation mode, to
the parameter. Speed does not depend on the weights; they are scaled so that activations neither die nor explode, since
the calibration of the INT8 models looks at them. Any batch size: the models' first dimension is called "batch".
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.peers.graph import INPUT, Graph

SIZE, CLASSES = 224, 1000
PIXELS, LOGITS = ("batch", 3, SIZE, SIZE), ("batch", CLASSES)


@dataclass(frozen=True)
class Classic:
    """An ONNX model, and how many parameters its training code would count."""

    model: Any
    parameters: int


@dataclass
class _Weights:
    """Random parameters, counted as they are drawn."""

    seed: int
    count: int = 0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def draw(self, *shape: int, std: float, mean: float = 0.0) -> NDArray[np.float32]:
        """Normally distributed parameters."""
        self.count += math.prod(shape)
        return (mean + std * self.random.standard_normal(shape)).astype(np.float32)


# -------------------------------------------------------------------------------------------------------- DeiT-Tiny
DEPTH, WIDTH, HEADS, HIDDEN, PATCH = 12, 192, 3, 768, 16
HEAD_DIM, PATCHES = WIDTH // HEADS, (SIZE // PATCH) ** 2


def deit_tiny(seed: int = 0) -> Classic:
    """Touvron et al. 2021: class token, positions, 12 pre-norm blocks, norm, classifier on the class token."""
    g, weights = Graph(), _Weights(seed)
    x = _deit_tokens(g, weights)
    for _ in range(DEPTH):
        x = g.op("Add", x, _deit_attention(g, weights, _deit_norm(g, weights, x)))
        x = g.op("Add", x, _deit_mlp(g, weights, _deit_norm(g, weights, x)))
    first = g.op("Gather", _deit_norm(g, weights, x), g.scalar(0), axis=1)
    logits = _linear(g, weights, first, WIDTH, CLASSES)
    return Classic(g.model(logits, "DeiT-Tiny", PIXELS, LOGITS), weights.count)


def _deit_tokens(g: Graph, weights: _Weights) -> str:
    """Pixels -> tokens [B, 197, 192]: the class token, then 14 x 14 patches; positions added."""
    fan_in = 3 * PATCH * PATCH
    kernel = g.float32(weights.draw(WIDTH, 3, PATCH, PATCH, std=fan_in**-0.5))
    bias = g.float32(weights.draw(WIDTH, std=0.02))
    x = g.op("Conv", INPUT, kernel, bias, kernel_shape=(PATCH, PATCH), strides=(PATCH, PATCH))
    patches = g.transpose(g.reshape(x, 0, WIDTH, PATCHES), 0, 2, 1)
    batch = g.slice(g.op("Shape", INPUT), 0, 1, 0)
    shape = g.op("Concat", batch, g.int64(1, WIDTH), axis=0)
    token = g.op("Expand", g.float32(weights.draw(1, 1, WIDTH, std=0.02)), shape)
    positions = g.float32(weights.draw(1, PATCHES + 1, WIDTH, std=0.02))
    return g.op("Add", g.op("Concat", token, patches, axis=1), positions)


def _deit_norm(g: Graph, weights: _Weights, x: str) -> str:
    scale, bias = weights.draw(WIDTH, std=0.1, mean=1.0), weights.draw(WIDTH, std=0.1)
    return g.op("LayerNormalization", x, g.float32(scale), g.float32(bias), epsilon=1e-6)


def _deit_attention(g: Graph, weights: _Weights, x: str) -> str:
    """Three heads of 64 channels, [B, 197, 192] -> [B, 197, 192]."""
    qkv = g.reshape(_linear(g, weights, x, WIDTH, 3 * WIDTH), 0, PATCHES + 1, 3, HEADS, HEAD_DIM)
    qkv = g.transpose(qkv, 2, 0, 3, 1, 4)
    q, k, v = (g.op("Gather", qkv, g.scalar(i), axis=0) for i in range(3))
    scores = g.op("MatMul", g.op("Mul", q, g.float32(HEAD_DIM**-0.5)), g.transpose(k, 0, 1, 3, 2))
    context = g.op("MatMul", g.op("Softmax", scores, axis=3), v)
    joined = g.reshape(g.transpose(context, 0, 2, 1, 3), 0, PATCHES + 1, WIDTH)
    return _linear(g, weights, joined, WIDTH, WIDTH)


def _deit_mlp(g: Graph, weights: _Weights, x: str) -> str:
    hidden = g.gelu(_linear(g, weights, x, WIDTH, HIDDEN))
    return _linear(g, weights, hidden, HIDDEN, WIDTH)


def _linear(g: Graph, weights: _Weights, x: str, inputs: int, outputs: int) -> str:
    """[..., inputs] -> [..., outputs], with bias."""
    matrix = g.float32(weights.draw(inputs, outputs, std=inputs**-0.5))
    return g.op("Add", g.op("MatMul", x, matrix), g.float32(weights.draw(outputs, std=0.02)))


# ------------------------------------------------------------------------------------------------------ MobileNetV2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280


def mobilenet_v2(seed: int = 0) -> Classic:
    """Sandler et al. 2018, width 1.0: inverted residuals, batch norms folded into the convolutions."""
    g, weights = Graph(), _Weights(seed)
    x, width = _convolution(g, weights, INPUT, 3, STEM, kernel=3, stride=2), STEM
    for expansion, outputs, repeats, stride in STAGES:
        for i in range(repeats):
            x = _inverted_residual(g, weights, x, (width, outputs), expansion, stride if i == 0 else 1)
            width = outputs
    x = g.op("GlobalAveragePool", _convolution(g, weights, x, width, LAST))
    logits = _linear(g, weights, g.op("Flatten", x), LAST, CLASSES)
    return Classic(g.model(logits, "MobileNetV2", PIXELS, LOGITS), weights.count)


def _inverted_residual(
    g: Graph, weights: _Weights, x: str, widths: tuple[int, int], expansion: int, stride: int
) -> str:
    """Expand, depthwise 3x3, project; a shortcut where the shape stays."""
    inputs, outputs = widths
    hidden = inputs * expansion
    y = x if expansion == 1 else _convolution(g, weights, x, inputs, hidden)
    y = _convolution(g, weights, y, hidden, hidden, kernel=3, stride=stride, depthwise=True)
    y = _convolution(g, weights, y, hidden, outputs, relu6=False)
    return g.op("Add", x, y) if stride == 1 and inputs == outputs else y


def _convolution(
    g: Graph,
    weights: _Weights,
    x: str,
    inputs: int,
    outputs: int,
    *,
    kernel: int = 1,
    stride: int = 1,
    depthwise: bool = False,
    relu6: bool = True,
) -> str:
    """Convolution without bias, batch norm (folded: scale into the weights, the rest a bias), perhaps ReLU6."""
    per_group = 1 if depthwise else inputs
    fan_in = per_group * kernel * kernel
    weight = weights.draw(outputs, per_group, kernel, kernel, std=math.sqrt((2 if relu6 else 1) / fan_in))
    scale, bias = weights.draw(outputs, std=0.1, mean=1.0), weights.draw(outputs, std=0.1)
    y = g.op(
        "Conv",
        x,
        g.float32(weight * scale.reshape(-1, 1, 1, 1)),
        g.float32(bias),
        kernel_shape=(kernel, kernel),
        strides=(stride, stride),
        pads=(kernel // 2,) * 4,
        group=inputs if depthwise else 1,
    )
    return g.op("Clip", y, g.float32(0), g.float32(6)) if relu6 else y
