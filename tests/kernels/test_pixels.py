"""Attention over windows of one pixel: the same bits as window by window, and what its steps leave to be seen."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit.layers import attention
from bitvit.runtime.signs import TracedStep, attends, run_traced
from bitvit.schema import AttentionBlock, read_layer
from tests.support.engine import Alone, Floats, alone, folded, random_state
from tests.support.shapes import shape

WINDOW_BY_WINDOW, AT_ONCE = 10**6, 0  # for attention.FEW


def attention_of(heads: int, dim: int, norm: str, quantizer: str) -> attention.Attention:
    """The attention of a random network; it fits maps of any side."""
    channels = heads * dim
    config = shape(
        64,
        1,
        (4, 4, channels, 4),
        (1, 1, 1, 1),
        num_heads=(1, 1, heads, 1),
        norm=norm,
        quantizer=quantizer,
        shift3=False,
        shift5=False,
    )
    (place,) = (p for p in config.places() if p.name == "stages.2.blocks.0")
    block = read_layer(config, place, folded(config, random_state(config, 1)))
    assert isinstance(block, AttentionBlock)
    return attention.Attention(**vars(block.attention), num_heads=heads, window=1, padding=0, name="attention")


def emitted(layer: attention.Attention, side: int, few: int) -> Alone:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "FEW", few)
        return alone(layer, side, len(layer.max_share))


def kernels(layer: Alone) -> list[str]:
    return [step.kernel.base for step in layer.program.steps]


@settings(max_examples=12, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 3]),
    dim=st.sampled_from([4, 5, 8, 20, 32, 36, 72]),
    side=st.integers(1, 7),
    norm=st.sampled_from(["batch", "layer"]),
    quantizer=st.sampled_from(["levels", "gsb"]),
    spread=st.sampled_from([0.0, 0.01, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_same_bits_as_window_by_window(
    heads: int, dim: int, side: int, norm: str, quantizer: str, spread: float, seed: int
) -> None:
    """For equal tokens, such as differ in few signs, and random ones; nothing beside its memory is written."""
    layer = attention_of(heads, dim, norm, quantizer)
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(heads * dim) + spread * rng.standard_normal((side, side, heads * dim))).astype(np.float32)
    at_once, by_window = emitted(layer, side, AT_ONCE), emitted(layer, side, WINDOW_BY_WINDOW)
    assert f"attend_pixels_{quantizer}" in kernels(at_once)
    assert f"attend_{quantizer}" in kernels(by_window)
    for _ in range(2):  # in memory that another image has used, too
        np.testing.assert_array_equal(bits(at_once(x)), bits(by_window(x)))
        x = x[::-1].copy()


def bits(x: Floats) -> NDArray[np.uint32]:
    return np.ascontiguousarray(x).view(np.uint32)


@pytest.mark.parametrize("quantizer", ["levels", "gsb"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_what_it_quantises_can_be_seen(norm: str, quantizer: str) -> None:
    layer, side = attention_of(3, 20, norm, quantizer), 4
    x = np.random.default_rng(1).standard_normal((side, side, 60)).astype(np.float32)
    seen = []
    for few in (AT_ONCE, WINDOW_BY_WINDOW):
        made = emitted(layer, side, few)
        made(x)
        (index,) = (i for i, step in enumerate(made.program.steps) if attends(step.kernel))
        seen.append(run_traced(TracedStep(made.runner, made.workspace, index)))
    assert seen[0].keys() == seen[1].keys()
    for name, found in seen[0].items():
        assert found.shape == (16, 3, 17, 17), name
        np.testing.assert_array_equal(found, seen[1][name], name)


def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head's tokens are split into pieces, of which the last may have fewer."""
    layer, side = attention_of(2, 16, "batch", "levels"), 5
    x = np.random.default_rng(2).standard_normal((side, side, 32)).astype(np.float32)
    results: list[Any] = []
    for rows in (1, 2, 7, 14, 100):
        monkeypatch.setattr(attention, "PIXEL_ROWS", rows)
        results.append(bits(emitted(layer, side, AT_ONCE)(x)))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
