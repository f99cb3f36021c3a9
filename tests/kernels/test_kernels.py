"""The kernels: integer results equal int64 NumPy exactly; whole layers agree with the oracle on random networks."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from numba import carray, cfunc, njit
from numpy.typing import NDArray

from bitvit.bits import pack
from bitvit.config import Config, valid_windows
from bitvit.errors import ConfigError
from bitvit.kernels.attention import attend_head
from bitvit.kernels.catalog import ATTEND, BORDER, DILATIONS, GROUPS, attend_levels
from bitvit.kernels.inline import OPTIONS
from bitvit.kernels.matmul import binary_matmul, float_matmul
from bitvit.kernels.rows import normalize_row, tile_channels
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.layers.common import (
    Affine,
    Attention,
    BinaryLinear,
    Convolution,
    GsbQuantizer,
    Head,
    LevelQuantizer,
    Projection,
    TokenMixer,
)
from bitvit.model import Network
from bitvit.program import binary_panels, float_panels, natural, padded
from bitvit.runtime import Runner, Workspace
from bitvit.runtime.trace import Trace
from bitvit.verify import reference
from tests.support.engine import SAMPLES, Alone, alone, ask, folded, parts, random_state
from tests.support.shapes import ODD_SHAPES, shape

Array = NDArray[Any]

# Random shapes are the same in every run. No deadline: the first example compiles kernels.
PROFILE = settings(derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

seeds = st.integers(0, 2**32 - 1)
EPS = 2.0**-24  # half an ulp of 1 in float32


def random_signs(seed: int, *shape: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < 0.5


def pm(positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """True -> +1, False -> -1."""
    return np.where(positive, 1, -1)


def pack_words(positive: NDArray[np.bool_], words: int) -> NDArray[np.uint32]:
    """bool [M, K] -> uint32 [M, words], bit i of word w is feature 32·w + i."""
    bits = np.zeros((len(positive), 32 * words), np.uint8)
    bits[:, : positive.shape[1]] = positive
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").astype(np.uint32)


def unpack_words(packed: NDArray[np.uint32], features: int) -> NDArray[np.bool_]:
    raw = np.ascontiguousarray(packed).view(np.uint8)
    return np.unpackbits(raw, axis=-1, count=features, bitorder="little").astype(bool)


def constant(size: int, value: float) -> NDArray[np.float32]:
    return np.full(size, value, np.float32)


def identity(channels: int) -> Affine:
    return Affine(constant(channels, 1), constant(channels, 0))


# -------------------------------------------------------------------------------------------------- matrix products


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def run_binary_matmul(
    bits: Array, rows: int, words: int, panels: Array, width: int, start: int, out: Array, out_rows: int
) -> None:
    binary_matmul(bits, rows, words, panels, width, start, out, out_rows)


def half_dots(bits: Array, rows: int, panels: Array, features: int) -> NDArray[np.float32]:
    """float32 [rows, outputs padded to LANES] from packed rows [tiles, words] and panels [n, words, LANES]."""
    out = np.full((len(panels), len(bits) + 1, LANES), -77, np.float32)
    flat = (bits.reshape(-1), rows, bits.shape[1], panels.reshape(-1), len(panels) * LANES, -(features // 2))
    run_binary_matmul(*flat, out.reshape(-1), out.shape[1])
    assert (out[:, rows + 1 :] == -77).all(), "more than one row in vain"
    found: NDArray[np.float32] = out[:, :rows].transpose(1, 0, 2).reshape(rows, -1)
    return found


@settings(PROFILE, max_examples=120)
@given(rows=st.integers(1, 30), features=st.integers(1, 200), outputs=st.integers(1, 70), seed=seeds)
def test_binary_products_are_exact(rows: int, features: int, outputs: int, seed: int) -> None:
    """dot = -2·half + (K mod 2), for any K, N and number of rows."""
    a, w = random_signs(seed, rows, features), random_signs(seed + 1, outputs, features)
    words, tiles = padded(features, 32) // 32, padded(rows, TILE_ROWS)
    bits = np.zeros((tiles, words), np.uint32)
    bits[:rows] = pack_words(a, words)
    panels = binary_panels(w, natural(outputs), natural(features, 32))
    out = half_dots(bits, rows, panels, features)[:, :outputs]
    half = out.astype(np.int64)
    np.testing.assert_array_equal(half, out)
    np.testing.assert_array_equal(-2 * half + features % 2, pm(a) @ pm(w).T)


@pytest.mark.parametrize("features", [1, 7, 16, 31, 32, 33, 63, 64, 65, 224, 225, 992, 993, 1984, 1985, 2048])
def test_binary_products_take_every_value(features: int) -> None:
    """A dot of length K takes K + 1 values; row i differs from the weights in i places.

    Counters of a byte would overflow behind 31 words, 992 features, all of which differ.
    """
    a = np.arange(features)[None, :] >= np.arange(features + 1)[:, None]
    words, tiles = padded(features, 32) // 32, padded(features + 1, TILE_ROWS)
    bits = np.zeros((tiles, words), np.uint32)
    bits[: features + 1] = pack_words(a, words)
    panels = binary_panels(np.ones((1, features), bool), natural(1), natural(features, 32))
    half = half_dots(bits, features + 1, panels, features)[:, 0]
    np.testing.assert_array_equal(-2 * half + features % 2, features - 2 * np.arange(features + 1))


def test_binary_panels_put_each_weight_at_its_place() -> None:
    features, outputs = 70, 40
    for n, k in ((0, 0), (15, 31), (16, 32), (39, 69), (7, 63)):
        positive = np.zeros((outputs, features), bool)
        positive[n, k] = True
        panels = binary_panels(positive, natural(outputs), natural(features, 32))
        assert panels.shape == (padded(outputs) // LANES, 3, LANES)
        assert np.argwhere(panels).tolist() == [[n // LANES, k // 32, n % LANES]]
        assert panels[n // LANES, k // 32, n % LANES] == 1 << k % 32


def test_binary_panels_follow_their_orders() -> None:
    positive = random_signs(0, 5, 9)
    rows, columns = np.array([3, -1, 0, 4] * (LANES // 4)), np.array([8, -1, 2] + [-1] * 29)
    panels = binary_panels(positive, rows, columns)
    bits = unpack_words(panels.transpose(0, 2, 1).reshape(LANES, 1), 32)
    for i, n in enumerate(rows):
        np.testing.assert_array_equal(
            np.flatnonzero(bits[i]), [p for p in (0, 2) if n >= 0 and positive[n, columns[p]]]
        )


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def run_float_matmul(
    a: Array, rows: int, depth: int, panels: Array, width: int, offsets: Array, stride: int, out: Array, out_stride: int
) -> None:
    float_matmul(a, rows, depth, panels, width, offsets, stride, out, out_stride)


@settings(PROFILE, max_examples=40)
@given(rows=st.integers(1, 20), depth=st.integers(1, 90), outputs=st.integers(1, 70), per_row=st.booleans(), seed=seeds)
def test_float_products_round_once_a_term(rows: int, depth: int, outputs: int, per_row: bool, seed: int) -> None:
    """A sum of K products and an offset in float32 is off by at most (K + 1) half ulps of the terms' sizes."""
    rng = np.random.default_rng(seed)
    width, tiles = padded(outputs), padded(rows, TILE_ROWS)
    a, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((tiles, depth), (outputs, depth)))
    offsets = rng.standard_normal((tiles if per_row else 1, width)).astype(np.float32)
    stride, out_stride = (width if per_row else 0), width + 3
    out = np.zeros((tiles, out_stride), np.float32)
    panels = float_panels(w, natural(depth, 1)).reshape(-1)
    flat = offsets.reshape(-1)
    run_float_matmul(a.reshape(-1), rows, depth, panels, width, flat, stride, out.reshape(-1), out_stride)
    got, wide = out[:rows, :outputs], a[:rows].astype(np.float64)
    added = offsets[:rows, :outputs]
    bound = 1.01 * (depth + 1) * EPS * (np.abs(wide) @ np.abs(w.T) + np.abs(added))
    assert (np.abs(got - (wide @ w.astype(np.float64).T + added)) <= bound).all()
    assert not out[:, width:].any()
    # one fixed order of summation: a row alone has the same bits
    single = np.zeros((TILE_ROWS, out_stride), np.float32)
    last = rows - 1
    shared = offsets[last if per_row else 0].copy()
    padding = np.zeros((TILE_ROWS, depth), np.float32)
    padding[0] = a[last]
    run_float_matmul(
        padding.reshape(-1), 1, depth, panels, width, np.tile(shared, TILE_ROWS), stride, single.reshape(-1), out_stride
    )
    assert single[0].tobytes() == out[last].tobytes()


# ---------------------------------------------------------------------------------------------- rows of channels


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def run_tile_channels(h: Array, at: int, channels: int, ratio: int, span: int, out: Array, to: int, copy: int) -> None:
    tile_channels(h, at, channels, ratio, span, out, to, copy)


@pytest.mark.parametrize("ratio", [*range(1, 10), 12, 16])
def test_tiled_channels_meet_their_hidden_features(ratio: int) -> None:
    """out[j·copy + q] = h[(ratio·q + j) mod C], q < span, for every width, by shuffles or one by one."""
    for channels in [*range(1, 41), 48, 63, 64, 65, 80, 100]:
        period = channels // math.gcd(channels, ratio)
        span = padded(max(c % period for c in range(0, padded(channels), LANES)) + LANES)
        h = np.full(5 + padded(channels) + 2 * LANES + 3, -7, np.float32)
        h[5 : 5 + channels] = np.arange(channels)
        copy = span + 5
        out = np.full(3 + ratio * copy + LANES, -1, np.float32)
        run_tile_channels(h, 5, channels, ratio, span, out, 3, copy)
        q, j = np.arange(span), np.arange(ratio)[:, None]
        copies = out[3 : 3 + ratio * copy].reshape(ratio, copy)
        np.testing.assert_array_equal(copies[:, :span], (ratio * q + j) % channels)
        assert (copies[:, span:] == -1).all()
        assert (out[:3] == -1).all()
        assert (out[3 + ratio * copy :] == -1).all()
        np.testing.assert_array_equal(h[5 : 5 + channels], np.arange(channels))
        assert (h[:5] == -7).all()
        assert (h[-3:] == -7).all()


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def run_normalize_row(x: Array, at: int, spread: int, width: int, features: int, valid: Array) -> None:
    normalize_row(x, at, spread, width, features, valid)


@pytest.mark.parametrize("features", [1, 3, 16, 20, 64, 100])
@pytest.mark.parametrize("spread", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_a_row_is_normalised_around_its_mean(features: int, spread: int, offset: float) -> None:
    """Relative to the row's own spread, an offset of 300 of them costs its rounding, 300 half ulps, not its square."""
    width = padded(features)
    blocks = np.full((1 + width // LANES, spread, LANES), 9, np.float32)  # spread rows, panel by panel
    x = np.full(width, 9, np.float32)
    x[:features] = np.random.default_rng(features).standard_normal(features) + offset
    row = x[:features].astype(np.float64)
    blocks[1:, 0] = x.reshape(-1, LANES)
    valid = (np.arange(width) < features).astype(np.float32)
    run_normalize_row(blocks.reshape(-1), spread * LANES, spread, width, features, valid)
    expected = (row - row.mean()) / np.sqrt(row.var() + reference.EPS)
    assert np.abs(blocks[1:, 0].reshape(-1)[:features] - expected).max() <= 8 * EPS * (4 + offset)
    assert (blocks[0] == 9).all()
    assert (blocks[:, 1:] == 9).all()


# ------------------------------------------------------------------------------------------------- token mixer


def neutral_mixer(positive: Array, scales: Sequence[float] = (1, 1, 1)) -> TokenMixer:
    """X + Σ_d scale_d·dot_d(sgn(X)); positive: bool [3, C, 9·C/4]."""
    channels = positive.shape[1]
    zero, one = constant(channels, 0), constant(channels, 1)
    first, second, third = (
        Convolution(planes=pack(p), features=p.shape[1], scale=s * one, bias=zero, slope=one)
        for p, s in zip(positive, scales, strict=True)
    )
    return TokenMixer("mixer", identity(channels), (first, second, third), None, identity(channels))


def convolution(signs: Array, weight: Array, dilation: int) -> NDArray[np.int64]:
    """int64: signs ±1 [S, S, C] by weights ±1 [C, 9, C/4], four groups, zeros outside the map."""
    side, channels = signs.shape[0], signs.shape[2]
    group = channels // GROUPS
    wide = np.pad(signs, ((dilation, dilation), (dilation, dilation), (0, 0)))
    total = np.zeros((side, side, channels), np.int64)
    for tap in range(9):
        y, x = tap // 3 * dilation, tap % 3 * dilation
        seen = wide[y : y + side, x : x + side].reshape(side, side, GROUPS, group)
        taps = weight[:, tap].reshape(GROUPS, group, group)
        total += np.einsum("yxgc,goc->yxgo", seen, taps, optimize=True).reshape(side, side, channels)
    return total


@settings(PROFILE, max_examples=60)
@given(side=st.integers(1, 30), group=st.integers(1, 40), only=st.sampled_from([None, 0, 1, 2]), seed=seeds)
def test_convolutions_are_exact(side: int, group: int, only: int | None, seed: int) -> None:
    """All three dilations summed, or one alone, on maps down to one pixel, where most taps are off the map."""
    check_convolutions(side, group, only, seed)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 6, 7, 10, 11, 16, 17])
@pytest.mark.parametrize("group", [1, 7, 16, 32])
def test_convolutions_are_exact_at_the_borders(side: int, group: int) -> None:
    for only in range(3):
        check_convolutions(side, group, only, side)


def check_convolutions(side: int, group: int, only: int | None, seed: int) -> None:
    channels = GROUPS * group
    x = pm(random_signs(seed, side, side, channels)).astype(np.float32)
    positive = random_signs(seed + 1, 3, channels, 9 * group)
    scales = [float(only is None or only == d) for d in range(3)]
    got = alone(neutral_mixer(positive, scales), side, channels)(x)
    expected = sum(
        int(scale) * convolution(x.astype(np.int64), pm(p).reshape(channels, 9, group), d)
        for scale, p, d in zip(scales, positive, DILATIONS, strict=True)
    )
    np.testing.assert_array_equal(got, x + expected)


@pytest.mark.parametrize("group", [110, 111, 128, 224])
def test_convolutions_of_long_dots_are_exact(group: int) -> None:
    """Beyond 31 and 62 words, where counters of a byte would overflow; also where every sign differs."""
    check_convolutions(6, group, None, group)
    one, tap = np.ones((6, 6, GROUPS), np.int64), np.ones((GROUPS, 9, 1), np.int64)
    taps = np.sum([convolution(one, tap, d)[..., :1] for d in DILATIONS], axis=0)  # on the map, of each pixel
    for positive in (False, True):
        layer = alone(neutral_mixer(np.full((3, GROUPS * group, 9 * group), positive)), 6, GROUPS * group)
        got = layer(np.ones((6, 6, GROUPS * group), np.float32))
        np.testing.assert_array_equal(got, np.broadcast_to(1 + (2 * positive - 1) * group * taps, got.shape))


@pytest.mark.parametrize("group", [1, 5, 16, 20, 32, 33, 40])
def test_each_sign_of_a_map_has_its_bit(group: int) -> None:
    """One positive value sets one bit of the planes; the border stays 0."""
    side, channels = 6, GROUPS * group
    layer = alone(neutral_mixer(random_signs(0, 3, channels, 9 * group)), side, channels)
    step = layer.program.steps[layer.step("mixer_signs")]
    words, row = -(-group // 32), side + 2 * BORDER
    for c in {0, group - 1, group, 2 * group + group // 2, channels - 1}:
        y, x = c % side, (3 * c + 1) % side
        values = constant(side * side * channels, -1).reshape(side, side, channels)
        values[y, x, c] = 1e-30
        layer(values)
        planes = layer.words(step.regions["planes"], GROUPS * words * row * row).reshape(GROUPS, words, row, row)
        assert np.argwhere(planes).tolist() == [[c // group, c % group // 32, y + BORDER, x + BORDER]]
        assert planes.max() == 1 << c % group % 32


def test_a_sign_of_exactly_zero_is_minus_one() -> None:
    channels, side = 8, 3
    layer = alone(neutral_mixer(np.ones((3, channels, 18), bool)), side, channels)
    zeros = np.zeros((side, side, channels), np.float32)
    np.testing.assert_array_equal(layer(zeros), layer(zeros - 1) + 1)


# --------------------------------------------------------------------------------------------------- attention


def neutral_linear(channels: int) -> BinaryLinear:
    zero, one = constant(channels, 0), constant(channels, 1)
    planes = pack(np.ones((channels, channels), bool))
    return BinaryLinear(
        threshold=zero, planes=planes, in_features=channels, scale=one, bias=zero, slope=one, row_scale=None
    )


def attention_of(channels: int, heads: int, window: int, quantizer: LevelQuantizer | GsbQuantizer) -> Attention:
    """An attention of which only the middle, from signs to context, is looked at."""
    projection = Projection(neutral_linear(channels), constant(channels, 0))
    return Attention(
        name="attention", num_heads=heads, window=window, norm=identity(channels), max_share=constant(channels, 0.5),
        token_norm=identity(channels), projections=(projection, projection, projection), quantizer=quantizer,
        context=identity(channels), context_slope=constant(channels, 1), fine_share=constant(channels, 0.5),
        output=neutral_linear(channels), out=identity(channels),
    )  # fmt: skip


@cfunc(attend_levels.signature, **OPTIONS)  # type: ignore[untyped-decorator]
def score_head(piece: int, arguments: Any, const: Any, state: Any, scratch: Any) -> None:  # noqa: ARG001
    """The first part of every attend kernel alone: its scores are overwritten by what follows."""
    attend_head(piece, carray(arguments, 1, ATTEND)[0], state, scratch)


SCORE_HEAD = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4)(score_head.address)


class Attend:
    """The attend step of one layer on given signs, window by window and head by head."""

    def __init__(self, heads: int, dim: int, side: int, window: int, quantizer: LevelQuantizer | GsbQuantizer) -> None:
        self.heads, self.dim, self.window = heads, dim, window
        self.channels = heads * dim
        self.windows = (side // window) ** 2
        self.tokens = window**2 + self.windows  # of one window
        self.layer: Alone = alone(attention_of(self.channels, heads, window, quantizer), side, self.channels)
        self.index = self.layer.step(quantizer.kernel.name)
        self.step = self.layer.program.steps[self.index]
        self.quantizer = quantizer

    def set_signs(self, seed: int, flip: float = 0.5) -> dict[str, NDArray[np.int64]]:
        """Random signs of q, k, v as ±1 [windows, heads, tokens, dim].

        flip: share of the bits of queries and keys that are not those of one pattern, so that some scores are high.
        """
        rng = np.random.default_rng(seed)
        fine = self.windows * self.window**2
        found = {}
        words, plane = int(self.step.arguments["row_words"]), int(self.step.arguments["plane"])
        at = self.step.regions["signs"].offset
        for name in ("query", "key", "value"):
            shape = (fine + self.windows, self.channels)
            pattern = rng.random(self.channels) < 0.5
            positive = pattern ^ (rng.random(shape) < (0.5 if name == "value" else flip))
            planes = self.layer.workspace.state[at : at + words * plane].reshape(words, plane)
            planes[:, : len(positive)] = pack_words(positive, words).T
            at += words * plane
            own = positive[:fine].reshape(self.windows, -1, self.channels)
            merged = np.broadcast_to(positive[fine:], (self.windows, self.windows, self.channels))
            tokens = np.concatenate([own, merged], axis=1)
            found[name] = pm(tokens.reshape(self.windows, self.tokens, self.heads, self.dim).transpose(0, 2, 1, 3))
        return found

    def scratch(self, name: str, *shape: int) -> NDArray[np.uint32]:
        size = int(np.prod(shape))
        return self.layer.words(self.step.regions[name], size, "scratch").reshape(shape)

    def scores(self, window: int, head: int) -> NDArray[np.int64]:
        """popcount(q xor k) [tokens, keys_padded]."""
        program, workspace = self.layer.program, self.layer.workspace
        record = np.array([self.step.arguments])
        arrays = (record, program.const, workspace.state, workspace.scratch)
        SCORE_HEAD(window * self.heads + head, *(array.ctypes.data for array in arrays))
        keys = int(self.step.arguments["keys_padded"])
        return self.scratch("scores", self.tokens, keys).astype(np.int64)

    def run(self, window: int, head: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Numerators [tokens, tokens] and bit planes [planes, tokens, tokens]; the context stays in the state."""
        self.layer.runner.run_piece(self.layer.workspace, self.index, window * self.heads + head)
        self.layer.assert_nothing_else_was_written()
        a = self.step.arguments
        keys, words, rows = int(a["keys_padded"]), int(a["token_words"]), int(a["rows_padded"])
        numerators = self.scratch("scores", self.tokens, keys).view(np.float32)
        planes = unpack_words(self.scratch("plane_words", int(a["planes"]), rows, words), 32 * words)
        assert not numerators[:, self.tokens :].any(), "padding keys have no weight"
        assert not planes[:, : self.tokens, self.tokens :].any(), "padding keys have no level"
        return numerators[:, : self.tokens], planes[:, : self.tokens, : self.tokens]

    def context(self, window: int, head: int) -> NDArray[np.float32]:
        """[tokens, dim]."""
        a = self.step.arguments
        rows, stride = int(a["rows_padded"]), int(a["stride"])
        all_rows = self.layer.floats(self.step.regions["context"], self.windows * rows * stride)
        own = all_rows.reshape(self.windows, rows, stride)[window, : self.tokens]
        return own[:, head * self.dim : (head + 1) * self.dim]


# 2 to 130 tokens: w² of a window and the map's merged ones
GEOMETRIES = [(1, 1), (2, 1), (3, 3), (4, 1), (6, 3), (7, 7), (14, 7), (9, 3), (10, 5), (11, 1), (11, 11), (33, 11)]
HEAD_DIMS = [4, 5, 16, 20, 32, 40, 64, 80, 96]


def levels(heads: int, alpha: float, zero: float) -> LevelQuantizer:
    return LevelQuantizer(constant(heads, alpha), constant(heads, zero))


def probabilities(q: Array, k: Array) -> NDArray[np.float64]:
    scores = (q @ k.T) / math.sqrt(q.shape[1])
    result: NDArray[np.float64] = reference.softmax(scores)
    return result


@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_scores_are_exact(dim: int) -> None:
    for side, window in GEOMETRIES:
        attend = Attend(3, dim, side, window, levels(3, 0.25, 0))
        signs = attend.set_signs(side)
        for w, e in {(0, 0), (attend.windows - 1, 2), (attend.windows // 2, 1)}:
            q, k = signs["query"][w, e], signs["key"][w, e]
            np.testing.assert_array_equal(dim - 2 * attend.scores(w, e)[:, : attend.tokens], q @ k.T)


@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("flip", [0.5, 0.1])
def test_softmax_levels_and_weighted_values(dim: int, flip: float) -> None:
    """Numerators to 4e-7; levels equal away from ties; then the sum over values exactly: alpha is a power of two."""
    undecided = 0
    for i, (side, window) in enumerate(GEOMETRIES):
        tokens = window**2 + (side // window) ** 2
        alpha = 2.0 ** round(math.log2(3.6 / tokens))
        zero = (0.0, 0.3, -0.4, 1.2)[i % 4]
        attend = Attend(2, dim, side, window, levels(2, alpha, zero))
        signs = attend.set_signs(side, flip)
        for w, e in {(0, 0), (attend.windows - 1, 1)}:
            q, k, v = (signs[name][w, e] for name in ("query", "key", "value"))
            numerators, planes = attend.run(w, e)
            distance = ((q @ k.T).max(axis=1, keepdims=True) - q @ k.T) / 2
            np.testing.assert_allclose(numerators, np.exp(-2 * distance / math.sqrt(dim)), rtol=4e-7)
            assert (numerators[distance == 0] == 1).all()
            level = planes[0] + 2 * planes[1].astype(np.int64)
            r = 3 * probabilities(q, k) / alpha + zero
            tie = np.abs(r - np.floor(r) - 0.5) < 1e-6 * (1 + np.abs(r))
            undecided += int(tie.sum())
            expected = reference.quantised_levels(probabilities(q, k), np.float64(alpha), np.float64(zero))
            np.testing.assert_array_equal(level[~tie], expected[~tie])
            np.testing.assert_array_equal(attend.context(w, e).astype(np.float64) / alpha, level @ v)
    assert undecided < 10  # besides equal probabilities of a power of two, which the next test is about


@pytest.mark.parametrize(
    ("alpha", "zero", "level"),
    [
        (1.0, 0.0, 2),  # 1.5 -> 2
        (3.0, 0.0, 0),  # 0.5 -> 0
        (0.5, 0.0, 3),  # 3
        (0.25, 0.0, 3),  # 6, clamped
        (1.5, 1.5, 2),  # 2.5 -> 2
        (1.5, 0.5, 2),  # 1.5 -> 2
        (1.5, -0.5, 0),  # 0.5 -> 0
        (1.5, 0.0, 1),  # 1
        (0.75, 0.5, 2),  # 2.5 -> 2
        (0.75, 0.500001, 3),  # just above
        (-1.0, 3.0, 2),  # -1.5 + 3: a negative step works through the formula
        (-1.0, 0.0, 0),  # clamped
    ],
)
def test_exact_ties_round_half_to_even(alpha: float, zero: float, level: int) -> None:
    """Two tokens with equal keys: every probability is exactly 1/2."""
    attend = Attend(2, 16, 1, 1, levels(2, alpha, zero))
    attend.set_signs(0)
    signs, plane = attend.step.regions["signs"].offset, int(attend.step.arguments["plane"])
    attend.layer.workspace.state[signs : signs + 2 * plane] = 0x0F0FF0F0  # queries and keys, one word each
    numerators, planes = attend.run(0, 1)
    np.testing.assert_array_equal(numerators, np.ones((2, 2)))
    np.testing.assert_array_equal(planes[0] + 2 * planes[1].astype(int), np.full((2, 2), level))
    assert (
        float(reference.quantised_levels(np.float64(0.5), np.float32(alpha).astype(float), np.float32(zero))) == level
    )


def test_heads_have_their_own_steps() -> None:
    alpha, zero = np.array([0.125, 0.5, -0.25], np.float32), np.array([0.0, 1.0, 2.0], np.float32)
    attend = Attend(3, 20, 6, 3, LevelQuantizer(alpha, zero))
    signs = attend.set_signs(5)
    for e in range(3):
        q, k, v = (signs[name][1, e] for name in ("query", "key", "value"))
        attend.run(1, e)
        expected = reference.quantised_levels(probabilities(q, k), alpha[e], zero[e])
        np.testing.assert_array_equal(attend.context(1, e), alpha[e] * (expected @ v))


@pytest.mark.parametrize(
    "clip", [(0.05, 1.5, 2.5), (0.3, 1.75, 2.25), (0.9, 1.5, -1.0), (-0.5, 1.5, 2.5), (1e-6, 2.0, 3.0)]
)
@pytest.mark.parametrize("dim", [5, 16, 32, 80])
def test_gsb_planes_and_weights(clip: tuple[float, float, float], dim: int) -> None:
    """Three masks and the sum they weigh, against the formula; also where base - t1 is -1 and for a step below 0."""
    a, a2, a3 = (float(np.float32(c)) for c in clip)
    for side, window in ((1, 1), (6, 3), (7, 7), (11, 1)):
        attend = Attend(2, dim, side, window, GsbQuantizer(np.array(clip, np.float32)))
        signs = attend.set_signs(side, 0.2)
        for w, e in {(0, 0), (attend.windows - 1, 1)}:
            q, k, v = (signs[name][w, e] for name in ("query", "key", "value"))
            p = probabilities(q, k)
            ratio = p / a
            largest = ratio.max(axis=1, keepdims=True)
            _, planes = attend.run(w, e)
            np.testing.assert_array_equal(planes[0], np.clip(np.rint(ratio), 0, 1))
            np.testing.assert_array_equal(planes[1], ratio > 0.7 * largest)
            np.testing.assert_array_equal(planes[2], ratio > 0.9 * largest)
            probs = reference.gsb(p, np.float64(a), np.float64(a2), np.float64(a3))
            # three products and two sums in float32
            bound = 8 * EPS * max(a, 1e-5) * (2 + abs(a2) + abs(a3)) * 2 * attend.tokens
            assert np.abs(attend.context(w, e) - probs @ v).max() <= bound


# ---------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("classes", [0, 1, 10, 63, 64, 65, 200])
@pytest.mark.parametrize(("side", "channels"), [(1, 5), (3, 36), (7, 64), (2, 100)])
def test_head_pools_and_classifies(classes: int, side: int, channels: int) -> None:
    """float32 sums of S² tokens, then of C products: at most that many half ulps of the terms' sizes."""
    rng = np.random.default_rng(classes)
    scale, bias, offsets = (rng.standard_normal(n).astype(np.float32) for n in (channels, channels, classes))
    weight = rng.standard_normal((classes, channels)).astype(np.float32)
    x = rng.standard_normal((side, side, channels)).astype(np.float32)
    head = Head(Affine(scale, bias), False, weight if classes else None, offsets if classes else None)
    got = alone(head, side, channels)(x)
    pooled = x.reshape(-1, channels).astype(np.float64).mean(axis=0) * scale + bias
    pooled_bound = EPS * (side**2 + 4) * (np.abs(x).max(axis=(0, 1)) * np.abs(scale) + np.abs(bias))
    if not classes:
        assert (np.abs(got - pooled) <= pooled_bound).all()
        return
    bound = np.abs(weight) @ (pooled_bound + (channels + 1) * EPS * np.abs(pooled)) + channels * EPS * np.abs(offsets)
    assert (np.abs(got - (weight.astype(np.float64) @ pooled + offsets)) <= bound).all()


# ------------------------------------------------------------------------------------- layers of random networks


@pytest.mark.parametrize("name", ODD_SHAPES)
def test_every_layer_of_an_odd_network(name: str) -> None:
    undecided, tokens, _ = check_layers(ODD_SHAPES[name], seed=1)
    assert undecided <= 0.05 * tokens


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any valid shape of small size."""
    image = draw(st.sampled_from([32, 35, 48, 50, 64, 96, 97]))
    window = draw(st.sampled_from(valid_windows(image)))
    binary = draw(st.booleans())
    widths = [4 * draw(st.integers(1, 13)), 0, 0, 0]
    for s in (1, 2, 3):
        free = 4 * draw(st.integers(1, 16)) if s == 1 else draw(st.integers(3, 80))
        widths[s] = widths[s - 1] * draw(st.integers(1, 3)) if binary else free
    assume(max(widths) <= 160)
    hidden = [width * draw(st.integers(1, max(1, min(8, 300 // width)))) for width in widths]
    heads = [1, 1, *(draw(st.sampled_from([h for h in range(1, 17) if width % h == 0])) for width in widths[2:])]
    fields: dict[str, Any] = {"hidden_sizes": widths, "intermediate_sizes": hidden, "num_heads": heads}
    fields["depths"] = [draw(st.integers(1, 2)), 1, draw(st.integers(1, 2)), 1]
    try:
        return Config(
            image_size=image, window_size=window, num_classes=draw(st.integers(0, 70)),
            norm=draw(st.sampled_from(["batch", "layer"])), downsampling="binary" if binary else "float",
            quantizer=draw(st.sampled_from(["levels", "gsb"])), layer_scale=draw(st.booleans()),
            shift3=draw(st.booleans()), shift5=draw(st.booleans()),
            **{name: tuple(values) for name, values in fields.items()},
        )  # fmt: skip
    except ConfigError:  # shifts want four chunks of channels
        assume(False)
        raise


def test_every_layer_of_random_networks() -> None:
    """And the whole networks: their logits agree too, unless a sign hung on the last bits somewhere."""
    undecided, tokens, agreeing, networks = [0], [0], [0], [0]

    @settings(PROFILE, max_examples=30)
    @given(configs(), st.integers(0, 1000))
    def check(config: Config, seed: int) -> None:
        found, seen, agrees = check_layers(config, seed)
        event(f"{config.norm} norm, {config.downsampling}, {config.quantizer}")
        assert agrees or found, "no sign is in doubt, but the logits differ"
        undecided[0] += found
        tokens[0] += seen
        agreeing[0] += agrees
        networks[0] += 1

    check()
    assert networks[0] >= 30
    assert undecided[0] <= 0.01 * tokens[0]  # otherwise the comparison would be an empty one
    assert agreeing[0] >= 0.75 * networks[0]


def check_layers(config: Config, seed: int) -> tuple[int, int, bool]:
    """Compare each layer with the oracle, alone and, bit for bit, as a part of the whole program.

    Returns how many tokens of how many hang on the last bits of a value, and whether the logits of the whole network
    agree with the oracle's.
    """
    state = random_state(config, seed)
    network = Network.read(config, folded(config, state))
    runner = Runner(network.program(), 1)
    trace = Trace(runner)
    pixels = np.random.default_rng(seed).standard_normal((3, config.image_size, config.image_size)).astype(np.float32)
    trace.workspace.set_image(pixels)
    x: NDArray[np.float32] = pixels
    undecided = tokens = 0
    for part in parts(config, state, network):
        answer = ask(part.oracle, x)
        got = alone(part.layer, x.shape[0], x.shape[-1])(x)
        answer.assert_close(got, f"{part.name} of {config}, seed {seed}")
        undecided += int(answer.undecided.sum())
        tokens += answer.undecided.size
        if part.name != "head":
            source = None if part.name == "stem" else x
            inside, _ = trace.run_layer(part.name, source, got.shape[0], got.shape[-1])
            assert inside.tobytes() == got.tobytes(), f"{part.name} of {config} differs inside its network"
        x = answer.value.astype(np.float32)
    geometry: dict[str, Any] = {
        "depths": config.depths, "num_heads": config.num_heads, "window_size": config.window_size
    }  # fmt: skip
    whole = ask(lambda image: reference.forward(state, image, **geometry), pixels)
    undecided += int(whole.undecided.sum())
    try:
        whole.assert_close(runner(pixels[None])[0], "logits")
    except AssertionError:
        return undecided, tokens, False
    return undecided, tokens, True


@pytest.mark.parametrize("name", ["window 3", "window 5, layer norm, gsb", "binary, layer norm", "even ratios"])
def test_pieces_may_run_in_any_order_by_any_thread(name: str) -> None:
    """Backwards, by two threads with their own scratch in turn: the same bits."""
    config = ODD_SHAPES[name]
    network = Network.read(config, folded(config, random_state(config, 2)))
    runner = Runner(network.program(), 1)
    rng = np.random.default_rng(2)
    workspaces = [Workspace(runner.program), Workspace(runner.program)]
    workspaces[1].state = workspaces[0].state
    for _ in range(2):  # the second image finds what the first left behind
        pixels = rng.standard_normal((3, config.image_size, config.image_size)).astype(np.float32)
        workspaces[0].set_image(pixels)
        turn = 0
        for i, step in enumerate(runner.program.steps):
            for piece in reversed(range(step.pieces)):
                runner.run_piece(workspaces[turn % 2], i, piece)
                turn += 1
        start = runner.program.output.offset
        got = workspaces[0].state[start : start + runner.program.outputs].view(np.float32)
        assert got.tobytes() == runner(pixels[None]).tobytes()


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("widths", [(20, 36, 20, 36), (4, 52, 36, 20), (16, 32, 48, 64)])
def test_nothing_is_left_behind_by_earlier_images(norm: str, widths: tuple[int, ...]) -> None:
    """400 times the same image: the same bits. What no step rewrites, such as pad lanes, must not grow."""
    config = shape(32, 1, widths, (1, 2, 3, 1), num_heads=(1, 1, 2, 2), norm=norm)
    state = random_state(config, 2)
    for name in state:
        if name.endswith("quantizer.alpha"):  # small contexts, which layer norm scales up
            state[name] = state[name] * np.float32(0.1)
    runner = Runner(Network.read(config, folded(config, state)).program(), 1)
    pixels = np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype(np.float32)
    logits = runner(np.repeat(pixels, 400, axis=0))
    assert np.isfinite(logits[0]).all()
    different = (logits != logits[0]).any(axis=1)
    assert not different.any(), f"{different.sum()} images differ, the first is number {different.argmax()}"


def test_the_oracle_does_hang_on_last_bits() -> None:
    """The measure of doubt works: an input that is exactly on a threshold is recognised, one beside it is not."""

    def sign(x: Array) -> Array:
        return np.where(x > 1, 1.0, -1.0)

    x = np.linspace(-3, 3, 60).astype(np.float32).reshape(1, 60, 1)
    x[0, 7] = 1 + 1e-7
    x[0, 9] = 1.01
    assert SAMPLES >= 8  # a sign exactly on its threshold escapes all nudges once in 2^8
    assert np.flatnonzero(ask(sign, x).undecided).tolist() == [7]
