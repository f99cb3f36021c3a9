"""The schema: each tensor has one name, and layers and named tensors are each other's inverse."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitvit import schema
from bitvit.config import Config, Place
from bitvit.schema import TAPS, Activation, Affine, TensorSpec, expected_tensors, layer_specs, named_tensors, read_layer

PLAIN: dict[str, Any] = {
    "image_size": 96,
    "window_size": 3,
    "depths": (1, 2, 1, 1),
    "hidden_sizes": (8, 16, 32, 64),
    "intermediate_sizes": (16, 64, 32, 64),
    "num_heads": (1, 1, 2, 4),
    "num_classes": 5,
}


@st.composite
def configs(draw: st.DrawFn) -> Config:
    return Config(
        **PLAIN,
        norm=draw(st.sampled_from(["batch", "layer"])),
        downsampling=draw(st.sampled_from(["float", "binary"])),
        quantizer=draw(st.sampled_from(["levels", "gsb"])),
        layer_scale=draw(st.booleans()),
        shift3=draw(st.booleans()),
        shift5=draw(st.booleans()),
    )


def filled(specs: dict[str, TensorSpec]) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors that differ in every element."""
    made, start = {}, 0
    for name, spec in specs.items():
        count = int(np.prod(spec.shape))
        made[name] = (start + np.arange(count)).reshape(spec.shape).astype(spec.dtype)
        start += count
    return made


def assert_same(read: Any, specs: Any) -> None:
    """Classes, and which fields are None, are those of the specification."""
    if isinstance(specs, TensorSpec):
        assert isinstance(read, specs.record or np.ndarray)
    elif isinstance(specs, tuple):
        for one, other in zip(read, specs, strict=True):
            assert_same(one, other)
    elif specs is None:
        assert read is None
    else:
        assert type(read) is type(specs)
        for field in dataclasses.fields(specs):
            assert_same(getattr(read, field.name), getattr(specs, field.name))


@given(configs())
def test_reading_is_the_inverse_of_naming(config: Config) -> None:
    tensors = filled(expected_tensors(config))
    for place in config.places():
        layer = read_layer(config, place, tensors)
        assert_same(layer, layer_specs(config, place))
        again = dict(named_tensors(layer, place.name))
        assert again.keys() == {name for name in tensors if name.startswith(f"{place.name}.")}
        assert all(np.array_equal(tensors[name], tensor) for name, tensor in again.items())


@given(configs())
def test_no_two_tensors_share_a_name(config: Config) -> None:
    names = [name for place in config.places() for name, _ in named_tensors(layer_specs(config, place), place.name)]
    assert len(set(names)) == len(names) == len(expected_tensors(config))


def test_places_are_the_network_in_order() -> None:
    config = Config(
        **PLAIN, norm="batch", downsampling="float", quantizer="levels", layer_scale=True, shift3=True, shift5=True
    )
    places = list(config.places())
    assert [place.name for place in places] == [
        "stem",
        "stages.0.blocks.0",
        "stages.1.downsample",
        "stages.1.blocks.0",
        "stages.1.blocks.1",
        "stages.2.downsample",
        "stages.2.blocks.0",
        "stages.3.downsample",
        "stages.3.blocks.0",
        "head",
    ]
    assert [place.kind for place in places if "blocks" in place.name] == ["conv_block"] * 3 + ["attention_block"] * 2


def test_fields_are_the_rows_of_one_tensor() -> None:
    one, two, three, four = np.arange(12.0).reshape(4, 3)
    assert np.array_equal(Affine(one, two).stacked(), [one, two])
    assert np.array_equal(Activation(one, two, three).stacked(), [one, two, three])
    assert np.array_equal(Activation(one, two, three, four).stacked(), [one, two, three, four])
    assert dict(named_tensors(Affine(one, two), "norm")).keys() == {"norm"}


def test_an_affine_map_of_a_scaled_and_moved_value() -> None:
    affine, scale = Affine(np.array([2.0]), np.array([3.0])), np.array([5.0])
    moved = affine.after(scale).plus(np.array([7.0]))
    assert (float(moved.scale[0]), float(moved.bias[0])) == (10.0, 10.0)


@pytest.mark.parametrize(("shift3", "shift5", "rows"), [(False, False, 0), (True, False, 5), (False, True, 9)])
def test_the_stencil_has_as_many_taps_as_its_reach_needs(shift3: bool, shift5: bool, rows: int) -> None:
    config = Config(
        **PLAIN, norm="batch", downsampling="float", quantizer="gsb", layer_scale=False, shift3=shift3, shift5=shift5
    )
    block = layer_specs(config, Place("conv_block", 0))
    assert isinstance(block, schema.ConvBlock)
    found: Any = block.mlp.taps
    assert found == (TensorSpec((rows, 8)) if rows else None)
    assert {max(map(abs, tap)) for tap in TAPS[:5]} <= {0, 1}
