"""Config: the rules of SPEC section 10, the order of the parts, and its dictionary."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from bitvit.config import Config, Place, map_sides, valid_windows
from bitvit.errors import ConfigError
from tests.support.configs import MICRO, TINY


def refuse_config(message: str, **changes: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("image", "windows"),
    [
        (32, (1,)),
        (48, (1,)),
        (64, (1,)),
        (128, (1,)),
        (256, (1,)),
        (96, (1, 3)),
        (160, (1, 5)),
        (192, (1, 3)),
        (384, (1, 3)),
        (224, (1, 7)),
        (288, (1, 3, 9)),
        (320, (1, 5)),
        (448, (1, 7)),
        (56, ()),
        (112, ()),
        (40, ()),
        (28, ()),
        (0, ()),
        (-32, ()),
        (1 << 16, (1,)),
        ((1 << 16) + 32, ()),
        (1 << 40, ()),
    ],
)
def test_windows_are_those_of_the_spec(image: int, windows: tuple[int, ...]) -> None:
    assert valid_windows(image) == windows
    for window in windows:
        assert replace(TINY, image_size=image, window_size=window).window_size == window


@pytest.mark.parametrize(
    ("image", "windows"), [(96, ()), (224, (7,)), (256, (8,)), (288, (9,)), (448, (7, 14)), (40, ())]
)
def test_windows_of_a_fork_that_pads_by_three(image: int, windows: tuple[int, ...]) -> None:
    assert valid_windows(image, "three") == windows


@pytest.mark.parametrize("spare", [0, 1, 2, 3])
def test_trailing_pixels_are_allowed(spare: int) -> None:
    assert replace(TINY, image_size=224 + spare).map_sides == (56, 28, 14, 7)


def test_map_sides_of_48_pixels_drop_a_row() -> None:
    assert map_sides(48) == (12, 6, 3, 1)


@pytest.mark.parametrize("image", [28, 56, 112, 230, 8])
def test_image_sizes_that_break_the_maps_are_refused(image: int) -> None:
    refuse_config(
        f"image_size is {image}, {image // 4} patches a side, expected a multiple of 8 patches, or 12", image_size=image
    )


def test_windows_that_do_not_fit_are_refused_with_those_that_do() -> None:
    refuse_config(
        "window_size is 7, expected an odd divisor of the map sides (16, 8) of image size 256: only 1 is possible",
        image_size=256,
    )
    refuse_config(
        "window_size is 2, expected an odd divisor of the map sides (14, 7) of image size 224: one of [1, 7]",
        window_size=2,
    )


def test_odd_windows_only() -> None:
    refuse_config("window_size is 2", image_size=64, window_size=2)


def test_wide_windows_only_where_three_pixels_are_padded() -> None:
    found = "expected a divisor above 6 of the map sides"
    refuse_config(
        f"{found} (6, 3) of image size 96: there is none", image_size=96, window_size=3, merge_padding="three"
    )
    refuse_config(f"{found} (16, 8) of image size 256: only 8", image_size=256, window_size=4, merge_padding="three")


def test_tokens_that_the_head_takes() -> None:
    for count in (1, 49):
        assert replace(TINY, pooling="top", top_tokens=count).top_tokens == count
    for count in (0, 50):
        message = f"top_tokens is {count}, expected 1 to 49 for pooling 'top'"
        refuse_config(message, pooling="top", top_tokens=count)
    refuse_config("top_tokens is 1, expected 0 to 0 for pooling 'mean'", top_tokens=1)


def test_groups_of_the_convolutions() -> None:
    message = "stage 1: width 126, expected a multiple of 4: its convolutions have 4 groups"
    refuse_config(message, hidden_sizes=(64, 126, 256, 512), intermediate_sizes=(64, 126, 256, 512))


def test_heads_divide_the_width() -> None:
    refuse_config("stage 3: 7 heads, expected a divisor of the width 512: [1, 2, 4, 8, 16,", num_heads=(1, 1, 4, 7))
    assert replace(TINY, num_heads=(7, 7, 4, 8)).num_heads[0] == 7, "the first two stages have no attention"


def test_mlp_width_is_a_multiple() -> None:
    refuse_config(
        "stage 2: intermediate size 1000, expected a multiple of the stage's width 256",
        intermediate_sizes=(512, 1024, 1000, 2048),
    )
    assert replace(TINY, intermediate_sizes=(64, 128, 256, 512)).intermediate_sizes == TINY.hidden_sizes


def test_binary_downsampling_repeats_channels() -> None:
    sizes: dict[str, Any] = {"hidden_sizes": (64, 96, 256, 512), "intermediate_sizes": (64, 96, 256, 512)}
    refuse_config(
        "stage 1: width 96, expected a multiple of the width 64 before: binary downsampling",
        downsampling="binary",
        **sizes,
    )
    assert replace(TINY, **sizes).hidden_sizes[1] == 96


@pytest.mark.parametrize(("width", "chunks"), [(1, 1), (2, 2), (3, 3), (5, 3), (6, 3), (9, 3)])
def test_shifts_need_four_chunks(width: int, chunks: int) -> None:
    sizes: dict[str, Any] = {"hidden_sizes": (64, 128, width, 512), "intermediate_sizes": (64, 128, width, 512)}
    sizes["num_heads"] = (1, 1, 1, 1)
    refuse_config(f"stage 2: width {width} splits into {chunks} chunks", **sizes)
    refuse_config(f"stage 2: width {width} splits into {chunks} chunks", shift3=False, **sizes)
    assert replace(TINY, shift3=False, shift5=False, **sizes).hidden_sizes[2] == width


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("image_size", 224.0, "an integer from 1 to 65536"),
        ("image_size", True, "an integer from 1 to 65536"),
        ("window_size", 0, "an integer from 1 to 65536"),
        ("window_size", "7", "an integer from 1 to 65536"),
        ("depths", (2, 2, 6, 0), "four integers from 1 to 1024"),
        ("depths", (2, 2, 6, 1025), "four integers from 1 to 1024"),
        ("depths", (2, 2, 6), "four integers"),
        ("depths", [2, 2, 6, 2], "four integers"),
        ("hidden_sizes", (64, 128, 256, 1 << 20), "four integers from 1 to 65536"),
        ("num_heads", (1, 1, 0, 8), "four integers from 1"),
        ("num_classes", -1, "an integer from 0 to 65536"),
        ("norm", "group", "one of ['batch', 'layer']"),
        ("norm", [], "one of ['batch', 'layer']"),
        ("downsampling", "somefp", "one of ['float', 'binary']"),
        ("quantizer", "x" * 200, "one of ['levels', 'gsb']"),
        ("layer_scale", 1, "true or false"),
        ("shift3", None, "true or false"),
    ],
)
def test_types_and_sizes_of_fields(field: str, value: object, expected: str) -> None:
    change: dict[str, Any] = {field: value}
    with pytest.raises(ConfigError, match=re.escape(f"expected {expected}")) as caught:
        replace(TINY, **change)
    assert str(caught.value).startswith(f"{field} is ")
    assert len(str(caught.value)) < 200


def test_places_are_walked_in_order() -> None:
    assert [(place.name, place.kind) for place in MICRO.places()] == [
        ("stem", "stem"),
        ("stages.0.blocks.0", "conv_block"),
        ("stages.1.downsample", "downsample"),
        ("stages.1.blocks.0", "conv_block"),
        ("stages.1.blocks.1", "conv_block"),
        ("stages.2.downsample", "downsample"),
        ("stages.2.blocks.0", "attention_block"),
        ("stages.2.blocks.1", "attention_block"),
        ("stages.3.downsample", "downsample"),
        ("stages.3.blocks.0", "attention_block"),
        ("head", "head"),
    ]
    assert Place("attention_block", 2, 1) in list(MICRO.places())
    assert [place.stage for place in MICRO.places()] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_dictionary_survives_json() -> None:
    config = replace(MICRO, quantizer="gsb", norm="layer", num_classes=0)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_dictionary_with_missing_or_unknown_fields_is_refused() -> None:
    fields = TINY.to_dict()
    del fields["norm"]
    with pytest.raises(ConfigError, match=r"missing fields \['norm'\] and unknown fields \['bits', 'x'\]"):
        Config.from_dict({**fields, "x": 1, "bits": 2})


@pytest.mark.parametrize("change", [{"x": 1}, {"norm": None}])
def test_a_dictionary_with_one_field_too_many_or_too_few_is_refused(change: dict[str, Any]) -> None:
    fields = {name: value for name, value in {**TINY.to_dict(), **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=r"config with missing fields .* and unknown fields "):
        Config.from_dict(fields)


def test_a_dictionary_is_one() -> None:
    with pytest.raises(ConfigError, match=r"config is \[1\], expected an object with the fields \['image_size', "):
        Config.from_dict([1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"depths": [2, 2, 6, [2]]}, {"norm": ["batch"]}, {"image_size": "224"}, {"shift3": 0}]
)
def test_dictionary_with_wrong_types_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is "):
        Config.from_dict({**TINY.to_dict(), **change})
