"""The network's element-wise work for training on a CPU: whole chains of operators in one or two passes over memory.

Between its products a binary network norms, adds, clips and takes signs: a dozen PyTorch operators, each of which
reads and writes every large array, and their gradients as many again. That, not the products, is most of a step. Each
function here does such a chain, with batch statistics and straight-through gradients, by the loops of passes.py and
attention_passes.py. They compute what layers.py says in PyTorch's operators, which is what runs in evaluation, on other
devices, in float64 and for other shapes; tests compare the two, gradients included.

Arrays may be float32 or, under autocast, bfloat16: signs are exact in both, sums are float32 or wider.
"""

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from bitvit.kernels.target import LANES
from bitvit.train import attention_passes, passes
from bitvit.train.vectors import PIECE

__all__ = ["LANES", "attend", "contract", "expand", "fits", "fits_heads", "mix", "move_sign", "norm_sign", "stencil"]

_TYPES = (torch.float32, torch.bfloat16)


def fits(norm: nn.Module | None, *arrays: Tensor) -> bool:
    """Whether this file can be used for such arrays and a norm, which must be a batch norm in training."""
    return (norm is None or (isinstance(norm, nn.BatchNorm1d) and norm.training)) and all(
        _is_plain(x) and x.shape[-1] % LANES == 0 for x in arrays
    )


def fits_heads(x: Tensor, heads: int) -> bool:
    """Whether `attend` can be used for tokens of so many heads."""
    return _is_plain(x) and x.shape[-1] % (heads * LANES) == 0


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _TYPES


# ----------------------------------------------------------------------------------------------------------- calling

_pool = ThreadPoolExecutor(os.cpu_count(), "fused")


def _flat(x: Tensor) -> Any:
    """The memory of a contiguous array, bfloat16 as uint16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).reshape(-1).numpy()


def _run(loop: Callable[..., None], pieces: int, *arguments: Any) -> None:
    """Run a loop over all pieces, by as many threads as PyTorch uses."""
    passed = [_flat(a) if isinstance(a, Tensor) else a for a in arguments]
    threads = min(torch.get_num_threads(), pieces)
    if threads == 1:
        loop(0, pieces, *passed)
        return
    edges = [pieces * k // threads for k in range(threads + 1)]
    jobs = [_pool.submit(loop, a, b, *passed) for a, b in itertools.pairwise(edges)]
    for job in jobs:
        job.result()


def _rows(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


def _pieces(rows: int) -> int:
    return -(-rows // PIECE)


def _sums(pieces: int, count: int, width: int) -> Tensor:
    return torch.empty(pieces, count, width)


def _total(sums: Tensor) -> Tensor:
    """[count, C], added up in float64."""
    return sums.sum(0, dtype=torch.float64).float()


class _Statistics:
    """A batch norm's mean and 1/std of a batch, as it normalises with; updates its running statistics."""

    def __init__(self, sums: Tensor, rows: int, norm: nn.BatchNorm1d) -> None:
        first, second = sums.sum(0, dtype=torch.float64) / rows
        variance = (second - first * first).clamp(min=0)
        self.rows = rows
        self.mean, self.rstd = first.float(), (variance + norm.eps).rsqrt().float()
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(first.float(), norm.momentum)
        norm.running_var.lerp_((variance * (rows / max(rows - 1, 1))).float(), norm.momentum)
        self.shift = -self.mean * self.rstd

    @classmethod
    def of(cls, y: Tensor, norm: nn.BatchNorm1d) -> "_Statistics":
        rows, width = _rows(y)
        sums = _sums(_pieces(rows), 2, width)
        _run(passes.moments, len(sums), y, rows, width, sums)
        return cls(sums, rows, norm)

    def line(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of y as scale·y + offset."""
        scale = weight * self.rstd
        return scale, bias - self.mean * scale

    def back(self, weight: Tensor, of_bias: Tensor, of_weight: Tensor) -> Tensor:
        """a, b, c with dy = a·g + b·y + c, for a gradient g of the norm's result and its sums Σg and Σg·ŷ.

        dy = weight·rstd·(g - mean(g) - ŷ·mean(g·ŷ)), ŷ = y·rstd + shift.
        """
        a = weight * self.rstd
        slope = -a * of_weight / self.rows
        return torch.stack([a, slope * self.rstd, slope * self.shift - a * of_bias / self.rows])


# ------------------------------------------------------------------------------------------------------------- signs


class _NormSign(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, move: Tensor, norm: nn.BatchNorm1d, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        rows, width = _rows(x)
        ctx.statistics = _Statistics.of(x, norm)
        p = torch.stack([*ctx.statistics.line(weight, bias), move])
        normed, bits = torch.empty_like(x) if wanted else None, torch.empty_like(x)
        _run(passes.norm_sign, _pieces(rows), x, rows, width, p, normed, bits)
        ctx.save_for_backward(x, weight, p)
        return normed, bits

    @staticmethod
    def backward(ctx: Any, g_normed: Tensor | None, g_bits: Tensor) -> Any:
        x, weight, p = ctx.saved_tensors
        rows, width = _rows(x)
        statistics = ctx.statistics
        out, sums = torch.empty_like(x), _sums(_pieces(rows), 3, width)
        p = torch.cat([p, torch.stack([statistics.rstd, statistics.shift])])
        g_normed = None if g_normed is None else g_normed.contiguous()
        _run(passes.norm_sign_back, len(sums), x, g_normed, g_bits.contiguous(), rows, width, p, out, sums)
        of_move, of_bias, of_weight = _total(sums)
        line = statistics.back(weight, of_bias, of_weight)
        _run(passes.combine, len(sums), out, x, rows, width, line, out)
        return out, of_weight, of_bias, of_move, None, None


def norm_sign(x: Tensor, norm: nn.Module, move: Tensor, *, wanted: bool) -> tuple[Tensor, Tensor]:
    """norm(x) and sign(norm(x) + move); the former is None if it is not wanted."""
    return _NormSign.apply(x.contiguous(), norm.weight, norm.bias, move, norm, wanted)


class _MoveSign(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, move: Tensor) -> Tensor:
        rows, width = _rows(x)
        bits = torch.empty_like(x)
        _run(passes.move_sign, _pieces(rows), x, rows, width, move, bits)
        ctx.save_for_backward(x, move)
        return bits

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, move = ctx.saved_tensors
        rows, width = _rows(x)
        out, sums = torch.empty_like(x), _sums(_pieces(rows), 1, width)
        _run(passes.move_sign_back, len(sums), x, g.contiguous(), rows, width, move, out, sums)
        return out, _total(sums)[0]


def move_sign(x: Tensor, move: Tensor) -> Tensor:
    """sign(x + move)."""
    return _MoveSign.apply(x.contiguous(), move)


# ------------------------------------------------------------------------------------------------ ends of a product


class _Expand(Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        shortcut: Tensor,
        weight: Tensor,
        bias: Tensor,
        move1: Tensor,
        slope: Tensor,
        move2: Tensor,
        move: Tensor | None,
        norm: nn.BatchNorm1d,
        copies: int,
    ) -> tuple[Tensor | None, Tensor]:
        rows, width = _rows(y)
        ctx.statistics, ctx.copies = _Statistics.of(y, norm), copies
        scale, offset = ctx.statistics.line(weight, bias)
        p = torch.stack([scale, offset - move1, slope - 1, move2, move2 if move is None else move])
        bits = None if move is None else torch.empty_like(y)
        pooled = y.new_empty((*y.shape[:-1], width // copies))
        _run(passes.expand, _pieces(rows), y, shortcut, rows, width, shortcut.shape[-1], copies, p, bits, pooled)
        ctx.save_for_backward(y, shortcut, weight, bias, move1, slope, move2, move)
        return bits, pooled

    @staticmethod
    def backward(ctx: Any, g_bits: Tensor | None, g_pooled: Tensor) -> Any:
        y, shortcut, weight, bias, move1, slope, move2, move = ctx.saved_tensors
        rows, width = _rows(y)
        inputs, statistics = shortcut.shape[-1], ctx.statistics
        last = move2 if move is None else move
        p = torch.stack([weight, bias - move1, slope, move2, last, statistics.rstd, statistics.shift])
        out, d_short = torch.empty_like(y), torch.empty_like(shortcut)
        sums = _sums(_pieces(rows), 5, width)
        g_bits = None if move is None or g_bits is None else g_bits.contiguous()
        arrays = y, shortcut, g_bits, g_pooled.contiguous()
        _run(passes.expand_back, len(sums), *arrays, rows, width, inputs, ctx.copies, p, out, d_short, sums)
        of_move, of_move2, of_slope, of_bias, of_weight = _total(sums)
        line = statistics.back(weight, of_bias, of_weight)
        _run(passes.combine, len(sums), out, y, rows, width, line, out)
        of_move = None if move is None else of_move
        return out, d_short, of_weight, of_bias, -of_bias, of_slope, of_move2, of_move, None, None


def expand(
    y: Tensor, shortcut: Tensor, norm: nn.Module, rprelu: nn.Module, move: Tensor | None, copies: int = 1
) -> tuple[Tensor, Tensor]:
    """v = rprelu(norm(y) + tile(shortcut)) -> sign(v + move), or None without a move, and the means of every `copies`
    neighbouring channels of v; copies is 1, 2 or 4."""
    parameters = norm.weight, norm.bias, rprelu.move1, rprelu.prelu.weight, rprelu.move2, move
    return _Expand.apply(y.contiguous(), shortcut.contiguous(), *parameters, norm, copies)


class _Contract(Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        shortcut: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        move1: Tensor,
        slope: Tensor,
        move2: Tensor,
        alpha: Tensor | None,
        move: Tensor | None,
        norm: nn.BatchNorm1d,
    ) -> Tensor:
        rows, width = _rows(y)
        ctx.statistics = _Statistics.of(y, norm)
        scale, offset = ctx.statistics.line(weight, bias)
        factor = torch.ones_like(move2) if alpha is None else alpha
        end = factor * move2 if move is None else factor * move2 + move
        p = torch.stack([scale, offset - move1, slope - 1, factor, end])
        out = torch.empty_like(y)
        _run(passes.contract, _pieces(rows), y, shortcut, x, rows, width, p, out)
        ctx.save_for_backward(y, shortcut, weight, bias, move1, slope, move2, alpha)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        y, shortcut, weight, bias, move1, slope, move2, alpha = ctx.saved_tensors
        rows, width = _rows(y)
        statistics, g = ctx.statistics, g.contiguous()
        factor = torch.ones_like(move2) if alpha is None else alpha
        p = torch.stack([weight, bias - move1, slope, factor, statistics.rstd, statistics.shift])
        d_short, out = torch.empty_like(shortcut), torch.empty_like(y)
        sums = _sums(_pieces(rows), 5, width)
        _run(passes.contract_back, len(sums), y, shortcut, g, rows, width, p, d_short, sums)
        total, of_value, of_slope, of_bias, of_weight = _total(sums)
        line = statistics.back(weight, of_bias, of_weight)
        _run(passes.combine, len(sums), d_short, y, rows, width, line, out)
        of_alpha = None if alpha is None else of_value + move2 * total
        of_move = None if alpha is None else total
        return out, d_short, g, of_weight, of_bias, -of_bias, of_slope, factor * total, of_alpha, of_move, None


def contract(
    y: Tensor, shortcut: Tensor, x: Tensor, norm: nn.Module, rprelu: nn.Module, scale: nn.Module | None
) -> Tensor:
    """x + scale(rprelu(norm(y) + shortcut))."""
    ends = (None, None) if scale is None else (scale.alpha, scale.move)
    parameters = norm.weight, norm.bias, rprelu.move1, rprelu.prelu.weight, rprelu.move2, *ends
    return _Contract.apply(y.contiguous(), shortcut.contiguous(), x.contiguous(), *parameters, norm)


# ------------------------------------------------------------------------------------------------------- token mixer


class _Mix(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y1: Tensor,
        y2: Tensor,
        y3: Tensor,
        offsets: Tensor,
        slopes: Tensor,
        move2: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm: nn.BatchNorm1d,
    ) -> Tensor:
        rows, width = _rows(x)
        mixed, sums = torch.empty_like(y1), _sums(_pieces(rows), 2, width)
        p = torch.cat([offsets, slopes - 1, move2[None]])
        _run(passes.mix, len(sums), y1, y2, y3, rows, width, p, mixed, sums)
        ctx.statistics = _Statistics(sums, rows, norm)
        out = torch.empty_like(x)
        line = torch.stack(ctx.statistics.line(weight, bias))
        _run(passes.affine, len(sums), mixed, x, rows, width, line, out)
        ctx.save_for_backward(mixed, y1, y2, y3, offsets, slopes, weight)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        mixed, y1, y2, y3, offsets, slopes, weight = ctx.saved_tensors
        rows, width = _rows(g)
        g, pieces = g.contiguous(), _pieces(rows)
        sums = _sums(pieces, 2, width)
        ends = torch.stack([ctx.statistics.rstd, ctx.statistics.shift])
        _run(passes.norm_sums, pieces, g, mixed, rows, width, ends, sums)
        of_bias, of_weight = _total(sums)
        p = torch.cat([ctx.statistics.back(weight, of_bias, of_weight), offsets, slopes])
        gradients, sums = [torch.empty_like(y1) for _ in range(3)], _sums(pieces, 7, width)
        _run(passes.mix_back, pieces, g, mixed, y1, y2, y3, rows, width, p, *gradients, sums)
        totals = _total(sums)
        return g, *gradients, totals[1:4], totals[4:7], totals[0], of_weight, of_bias, None


def mix(x: Tensor, ys: list[Tensor], biases: list[Tensor], rprelus: list[nn.Module], norm: nn.Module) -> Tensor:
    """x + norm(Σ rprelu_i(y_i + bias_i))."""
    offsets = torch.stack([bias - rprelu.move1 for bias, rprelu in zip(biases, rprelus, strict=True)])
    slopes = torch.stack([rprelu.prelu.weight for rprelu in rprelus])
    move2 = rprelus[0].move2 + rprelus[1].move2 + rprelus[2].move2
    arrays = x.contiguous(), *(y.contiguous() for y in ys)
    return _Mix.apply(*arrays, offsets, slopes, move2, norm.weight, norm.bias, norm)


# ----------------------------------------------------------------------------------------------------------- stencil


class _Stencil(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, n: Tensor, taps: Tensor, constant: Tensor) -> Tensor:
        images, side, _, width = n.shape
        out, places = torch.empty_like(x), np.empty((images, 9), np.int64)
        taps, constant = taps.detach().contiguous(), constant.detach().contiguous()
        _run(passes.stencil, images, n, x, side, width, taps, constant, places, out)
        ctx.save_for_backward(n, taps)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        n, taps = ctx.saved_tensors
        images, side, _, width = n.shape
        g, out, places = g.contiguous(), torch.empty_like(n), np.empty((images, 9), np.int64)
        sums = _sums(images, 10, width)
        _run(passes.stencil_back, images, n, g, side, width, taps, places, out, sums)
        totals = _total(sums)
        return g, out, totals[:9], totals[9]


def stencil(x: Tensor, n: Tensor, taps: Tensor, constant: Tensor) -> Tensor:
    """x + Σ taps_k · (n read at tap k) + constant, on maps [B, S, S, C] whose edges meet (SPEC 9.11).

    taps [9, C]: the pixel; one above, one below, two above, two below; one left, one right, two left, two right.
    """
    return _Stencil.apply(x.contiguous(), n.contiguous(), taps, constant)


# --------------------------------------------------------------------------------------------------------- attention


class _Attend(Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        step: Tensor,
        zero_point: Tensor,
        square: int,
        coarse: int,
        highest: int,
    ) -> Tensor:
        batch, tokens, width = query.shape
        heads, fine = len(step), tokens - coarse
        size = width // heads
        table = np.exp(np.arange(2 * size + 1) / -math.sqrt(size)).astype(np.float32)
        ctx.sizes = heads, size, square, fine, coarse, table
        ctx.highest = np.float32(highest)
        out = query.new_empty(batch, fine // square, square + coarse, width)
        _run(attention_passes.attend, batch, query, key, value, *ctx.sizes, step, zero_point, ctx.highest, out)
        ctx.save_for_backward(query, key, value, step, zero_point)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        query, key, value, step, zero_point = ctx.saved_tensors
        batch, heads = len(query), len(step)
        out, sums = [torch.empty_like(query) for _ in range(3)], np.empty((batch, heads, 2), np.float32)
        arrays = g.contiguous(), query, key, value
        _run(attention_passes.attend_back, batch, *arrays, *ctx.sizes, step, zero_point, ctx.highest, *out, sums)
        probabilities = g.numel() // query.shape[-1] * heads * g.shape[-2]
        factor = heads / math.sqrt(probabilities * float(ctx.highest))
        of_step, of_zero = torch.from_numpy(sums.sum(0, dtype=np.float64) * factor).float().T
        return *out, of_step, of_zero, None, None, None


def attend(
    query: Tensor, key: Tensor, value: Tensor, step: Tensor, zero_point: Tensor, square: int, coarse: int, highest: int
) -> Tensor:
    """Contexts [B, windows, w² + M, C] of signs [B, S² + M, C]; square is w², coarse M (SPEC 7.4.5 to 7.4.7)."""
    arrays = query.contiguous(), key.contiguous(), value.contiguous()
    return _Attend.apply(*arrays, step, zero_point, square, coarse, highest)
