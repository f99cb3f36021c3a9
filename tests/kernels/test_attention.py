"""Attention from signs to context, window by window and head by head."""

import ctypes
import math
from typing import Any

import numpy as np
import pytest
from numba import carray, cfunc
from numpy.typing import NDArray

from bitvit.bits import pack
from bitvit.kernels.attention import attend_head
from bitvit.kernels.catalog import ATTEND, attend_levels
from bitvit.kernels.inline import OPTIONS
from bitvit.layers import attention
from bitvit.layers.attention import Attention
from bitvit.schema import Activation, BinaryLinear, Projection
from bitvit.verify import reference
from tests.support.engine import Alone, alone, constant, identity
from tests.support.signs import EPS, pack_words, pm, unpack_words

Array = NDArray[Any]


def neutral(channels: int) -> Activation:
    return Activation(constant(channels, 1), constant(channels, 0), constant(channels, 1))


def attention_of(channels: int, heads: int, window: int, quantizer: Array) -> Attention:
    """An attention of which only the middle, from signs to context, is looked at."""
    zero, half = constant(channels, 0), constant(channels, 0.5)
    planes = pack(np.ones((channels, channels), bool))
    projection = Projection(zero, planes, neutral(channels), out_threshold=zero)
    return Attention(
        norm=identity(channels),
        max_share=half,
        token_norm=identity(channels),
        query=projection,
        key=projection,
        value=projection,
        quantizer=quantizer,
        context=neutral(channels),
        fine_share=half,
        output=BinaryLinear(zero, planes, neutral(channels)),
        out=identity(channels),
        name="attention",
        num_heads=heads,
        window=window,
        padding=window // 2,
    )


@cfunc(attend_levels.signature, **OPTIONS)
def score_head(piece: int, arguments: Any, const: Any, state: Any, scratch: Any) -> None:  # noqa: ARG001
    """The first part of every attend kernel alone: its scores are overwritten by what follows."""
    attend_head(piece, carray(arguments, 1, ATTEND)[0], state, scratch)


SCORE_HEAD = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4)(score_head.address)


class Attend:
    """The attend step of one layer on given signs, window by window and head by head."""

    def __init__(self, heads: int, dim: int, side: int, window: int, quantizer: Array) -> None:
        self.heads, self.dim, self.window = heads, dim, window
        self.channels = heads * dim
        self.windows = (side // window) ** 2
        self.tokens = window**2 + self.windows  # of one window
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "FEW", self.windows)  # so windows of one pixel are no case of their own
            self.layer: Alone = alone(attention_of(self.channels, heads, window, quantizer), side, self.channels)
        self.index = self.layer.step("attend_gsb" if quantizer.ndim == 1 else "attend_levels")
        self.step = self.layer.program.steps[self.index]

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


def levels(heads: int, alpha: float, zero: float) -> Array:
    return np.stack([constant(heads, alpha), constant(heads, zero)])


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
    attend = Attend(3, 20, 6, 3, np.stack([alpha, zero]))
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
        attend = Attend(2, dim, side, window, np.array(clip, np.float32))
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
