"""The norm in front of a layer, and whose time its step is."""

import numpy as np
import pytest

from bitvit.kernels import catalog
from bitvit.layers.norm import normalized
from bitvit.program import Builder
from bitvit.schema import Affine


def test_only_layer_norm_takes_a_step_and_a_buffer_of_its_own() -> None:
    b = Builder()
    x = b.map(4, 20)
    norm = Affine(np.full(20, 2, np.float32), np.full(20, 3, np.float32))
    source = normalized(b, x, norm, "stages.0.blocks.0.mlp", "MLP", layer_norm=False)
    assert (source.region, source.norm) == (x.region, norm)
    source = normalized(b, x, norm, "stages.0.blocks.0.mlp", "MLP", layer_norm=True)
    assert source.region is not x.region
    assert np.array_equal(source.norm.scale, np.ones(20))
    assert np.array_equal(source.norm.bias, np.zeros(20))
    (step,) = b.build(x.region, 1).steps
    assert (step.kernel, step.kind, step.layer) == (catalog.layer_norm, "MLP", "stages.0.blocks.0.mlp")
    assert step.moved == 2 * 16 * 20


def test_a_step_must_belong_somewhere() -> None:
    b = Builder()
    with pytest.raises(ValueError, match="a step of layer_norm needs a kind"):
        b.step(catalog.layer_norm, "stem", 1, moved=0)
