"""Quantizers with straight-through gradients: exact SPEC values forwards, the paper's surrogates backwards.

Forward values are exact (sgn gives -1, 0, +1; a level is an integer times its step): a surrogate is never added to a
value and taken away again, which would cost the last bit.

    sign            activations        d/dx = max(0, 2 - 2|x|)
    binary_weight   latent weights     d/d(centred) = 1 where |centred| <= bound; the scale is a constant
    levels          attention          rounding passes the gradient, the clamp stops it; step gradients are scaled
    gsb             attention          three masks with a step each
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["binary_weight", "gsb", "levels", "sign"]

GSB_FLOOR = 1e-5  # of the steps where they multiply (SPEC 7.4.6)
RECU_QUANTILE = 0.92
RECU_BOUND = -math.log(2 - 2 * RECU_QUANTILE)  # times the mean magnitude: a Laplace distribution's quantile


# ------------------------------------------------------------------------------------------------------ activations


class _Sign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x.abs().mul_(-2).add_(2).clamp_(min=0).mul_(grad)


def sign(x: Tensor) -> Tensor:
    """sgn(x) in {-1, 0, +1} (SPEC 8.2); gradient 2 + 2x for -1 <= x <= 0, 2 - 2x for 0 < x <= 1, else 0."""
    return _Sign.apply(x)


# ---------------------------------------------------------------------------------------------------------- weights


class _ScaledSign(Function):
    @staticmethod
    def forward(ctx: Any, centred: Tensor, scale: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(centred, bound)
        return scale * torch.sign(centred)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        centred, bound = ctx.saved_tensors
        return grad * (centred.abs() <= bound), None, None


def binary_weight(weight: Tensor, *, recu: bool = False) -> Tensor:
    """Latent weight [O, ...] -> scale_o * sgn(w - mean_o), scale_o = mean |w| of the row (SPEC 8.1).

    The gradient reaches centred weights of magnitude up to 1, and through the centring the weights. recu: centred
    weights are first divided by their row's sqrt(var + 1e-5) / (2 sqrt 2), and the bound is a quantile of the result;
    the value is the same.
    """
    rows = weight.flatten(1)
    scale = rows.detach().abs().mean(1, keepdim=True)
    centred = rows - rows.mean(1, keepdim=True)
    if recu:
        centred = centred * (2 * math.sqrt(2)) / (centred.var(1, keepdim=True) + 1e-5).sqrt()
        bound = RECU_BOUND * centred.detach().abs().mean()
    else:
        bound = torch.ones((), dtype=weight.dtype, device=weight.device)
    result: Tensor = _ScaledSign.apply(centred, scale, bound)
    return result.view_as(weight)


# ----------------------------------------------------------------------------------------------- attention: levels


class _Round(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - the signature is PyTorch's
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        return grad


class _ScaleGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def levels(x: Tensor, step: Tensor, zero_point: Tensor, highest: int = 3) -> Tensor:
    """step * clamp(rint(x / step + zero_point), 0, highest), the default quantizer (SPEC 7.4.6).

    x [..., heads, N, N] is 3 P; step and zero_point are [heads]. Gradients of these two are scaled by
    heads / sqrt(numel(x) * highest).
    """
    factor = len(step) / math.sqrt(x.numel() * highest)
    step = _ScaleGradient.apply(step, factor)[:, None, None]
    zero_point = _ScaleGradient.apply(zero_point, factor)[:, None, None]
    return _Round.apply(x / step + zero_point).clamp(0, highest) * step


# -------------------------------------------------------------------------------------------------- attention: gsb


class _Gsb(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, a2: Tensor, a3: Tensor) -> Tensor:
        ratio = x / a
        top = ratio.amax(-1, keepdim=True)
        above = (ratio > 0.7 * top).to(x.dtype)
        third = (ratio > 0.9 * top).to(x.dtype)
        first, second = torch.round(ratio).clamp(0, 1) - above, above - third
        floored = a.clamp(min=GSB_FLOOR), a2.clamp(min=GSB_FLOOR), a3.clamp(min=GSB_FLOOR)
        ctx.save_for_backward(ratio, first, second, third, *floored)
        return (first + second * floored[1] + third * floored[2]) * floored[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ratio, first, second, third, a, a2, a3 = ctx.saved_tensors
        weighted = first + a2 * second + a3 * third
        slope = torch.where((ratio >= 0) & (ratio <= 1), 1 - ratio, torch.ones_like(ratio))
        grad_a = (grad * weighted * slope).sum()
        return grad * a * weighted, grad_a, (grad * a * second).sum(), (grad * a * third).sum()


def gsb(x: Tensor, a: Tensor, a2: Tensor, a3: Tensor) -> Tensor:
    """The gsb quantizer of probabilities x [..., N] by three scalar steps (SPEC 7.4.6).

    With masks T0 = base - t1, T1 = t1 - t2, T2 = t2 and W = T0 + a2 T1 + a3 T2: the gradient to x is a W, to a2 it is
    a T1, to a3 a T2, and to a it is W (1 - x/a) where 0 <= x/a <= 1, else W.
    """
    return _Gsb.apply(x, a, a2, a3)
