"""What BHViT does between its products: here in PyTorch's operators, by fused.py on a CPU where that fits.

Maps and tokens are [..., C]. norm is a batch or layer norm; rprelu, scale and move are of SPEC section 1.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitvit.train.estimators import levels, sign

__all__ = [
    "attend",
    "by_window",
    "contract",
    "expand",
    "grouped_convolution",
    "mix",
    "move_sign",
    "norm_sign",
    "place",
    "plain",
    "shift",
    "softmax_scores",
    "tile",
    "weighted",
]


_fused_wanted = True


@contextmanager
def plain() -> Iterator[None]:
    """PyTorch's operators alone, also on a CPU."""
    global _fused_wanted
    before, _fused_wanted = _fused_wanted, False
    try:
        yield
    finally:
        _fused_wanted = before


def _fused(norm: nn.Module | None, *arrays: Tensor) -> ModuleType | None:
    """fused.py if it fits. It is imported on a CPU only: elsewhere Numba, which it needs, has no work to do."""
    if not _fused_wanted or arrays[0].device.type != "cpu":
        return None
    from bitvit.train import fused

    return fused if fused.fits(norm, *arrays) else None


def tile(x: Tensor, width: int) -> Tensor:
    """Channel i of the result is channel i mod C of x (SPEC 7.5)."""
    return torch.cat([x] * (width // x.shape[-1]), -1)


def place(x: Tensor, positions: Tensor) -> Tensor:
    """x + positions, where a stage's stream of residuals begins.

    By fused.py a stream has one type from end to end; by PyTorch's operators its blocks make it float32 under autocast,
    so it begins as that, and blocks of a shape are alike.
    """
    return x + (positions if _fused(None, x) is None else positions.to(x.dtype))


def move_sign(x: Tensor, move: Tensor) -> Tensor:
    """sign(x + move)."""
    fused = _fused(None, x)
    return sign(x + move) if fused is None else fused.move_sign(x, move)


def norm_sign(x: Tensor, norm: nn.Module, move: Tensor, *, wanted: bool = True) -> tuple[Tensor, Tensor]:
    """norm(x), which is None or anything if it is not wanted, and sign(norm(x) + move)."""
    fused = _fused(norm, x)
    if fused is not None:
        return fused.norm_sign(x, norm, move, wanted=wanted)
    normed = norm(x)
    return normed, sign(normed + move)


def expand(
    y: Tensor, shortcut: Tensor, norm: nn.Module, rprelu: nn.Module, move: Tensor | None, copies: int = 1
) -> tuple[Tensor, Tensor]:
    """v = rprelu(norm(y) + tile(shortcut)) -> sign(v + move) and pool(v), the means of `copies` adjacent channels.

    Without a move the former is None.
    """
    fused = _fused(norm, y, shortcut)
    if fused is not None and copies in (1, 2, 4) and y.shape[-1] % (fused.LANES * copies) == 0:
        return fused.expand(y, shortcut, norm, rprelu, move, copies)
    v = rprelu(norm(y) + tile(shortcut, y.shape[-1]))
    pooled = v if copies == 1 else v.unflatten(-1, (-1, copies)).mean(-1)
    return v if move is None else sign(v + move), pooled


def contract(
    y: Tensor, shortcut: Tensor, x: Tensor, norm: nn.Module, rprelu: nn.Module, scale: nn.Module | None
) -> Tensor:
    """x + scale(rprelu(norm(y) + shortcut))."""
    fused = _fused(norm, y, shortcut, x)
    if fused is not None:
        return fused.contract(y, shortcut, x, norm, rprelu, scale)
    v = rprelu(norm(y) + shortcut)
    return x + (v if scale is None else scale(v))


def grouped_convolution(bits: Tensor, weight: Tensor, dilation: int, groups: int, *, dense: bool) -> Tensor:
    """3x3 convolution of maps [B, S, S, C] by weights [C, C / groups, 3, 3], zeros beyond the edges.

    dense: as one of all channels with zeros between the groups. It multiplies more, and yet is the faster one on GPUs
    whose libraries have no good kernels for groups.
    """
    if dense:
        own = torch.eye(groups, dtype=weight.dtype, device=weight.device)[:, None, :, None, None, None]
        apart = weight.unflatten(0, (groups, -1))[:, :, None] * own  # [groups, C / groups, groups, C / groups, 3, 3]
        weight, groups = apart.flatten(2, 3).flatten(0, 1), 1
    y = functional.conv2d(bits.permute(0, 3, 1, 2), weight, None, 1, dilation, dilation, groups)
    return y.permute(0, 2, 3, 1)


def mix(x: Tensor, ys: list[Tensor], biases: list[Tensor], rprelus: list[nn.Module], norm: nn.Module) -> Tensor:
    """x + norm(Σ rprelu_i(y_i + bias_i))."""
    fused = _fused(norm, x, *ys)
    if fused is not None:
        return fused.mix(x, ys, biases, rprelus, norm)
    terms = [rprelu(y + bias) for y, bias, rprelu in zip(ys, biases, rprelus, strict=True)]
    return x + norm(terms[0] + terms[1] + terms[2])


def shift(x: Tensor, n: Tensor, taps: Tensor, constant: Tensor) -> Tensor:
    """x + Σ taps_k · (n read at tap k) + constant, on maps [B, S, S, C] whose edges meet (SPEC 9.11).

    taps [9, C]: the pixel; one above, one below, two above, two below; one left, one right, two left, two right.
    """
    fused = _fused(None, x, n)
    if fused is not None:
        return fused.stencil(x, n, taps, constant)
    reads = [(0, 1), (1, 1), (-1, 1), (2, 1), (-2, 1), (1, 2), (-1, 2), (2, 2), (-2, 2)]
    for tap, (reach, axis) in zip(taps, reads, strict=True):
        x = x + tap * n.roll(reach, axis)
    return x + constant


def attend(
    query: Tensor, key: Tensor, value: Tensor, step: Tensor, zero_point: Tensor, square: int, coarse: int, highest: int
) -> Tensor:
    """Contexts [B, windows, w² + M, C] of signs [B, S² + M, C], by the default quantizer (SPEC 7.4.5 to 7.4.7).

    square is w², coarse is M; step and zero_point are [heads].
    """
    fused = _fused(None, query)
    if fused is not None and fused.fits_heads(query, len(step)):
        return fused.attend(query, key, value, step, zero_point, square, coarse, highest)
    shares = softmax_scores(query, key, len(step), square, coarse)
    return weighted(levels(3 * shares, step, zero_point, highest), value, square, coarse)


def softmax_scores(query: Tensor, key: Tensor, heads: int, square: int, coarse: int) -> Tensor:
    """Probabilities [B, windows, heads, N, N] of signs [B, S² + M, C]."""
    query, key = (_by_head(by_window(x, square, coarse), heads) for x in (query, key))
    return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)


def weighted(shares: Tensor, value: Tensor, square: int, coarse: int) -> Tensor:
    """Contexts [B, windows, N, C] of quantised probabilities and signs [B, S² + M, C]."""
    values = _by_head(by_window(value, square, coarse), shares.shape[2])
    return (shares @ values).transpose(2, 3).flatten(-2)


def by_window(tokens: Tensor, square: int, coarse: int) -> Tensor:
    """[B, S² + M, C] -> [B, windows, w² + M, C]: each window's tokens, then the image's merged ones."""
    fine, merged = tokens.split([tokens.shape[1] - coarse, coarse], 1)
    windows = fine.unflatten(1, (-1, square))
    return torch.cat([windows, merged[:, None].expand(-1, windows.shape[1], -1, -1)], 2)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[B, windows, N, C] -> [B, windows, heads, N, C / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(2, 3)
