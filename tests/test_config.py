"""Config: the rules of SPEC section 10, the table of section 3, and what can be told from a state dict (section 4)."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.checkpoint.read import read_checkpoint
from bitvit.config import Config, check_state, expected_shapes, infer_config, map_sides, valid_windows
from bitvit.errors import CheckpointError, ConfigError
from tests.support.golden_data import case_names, find, load_case

State = dict[str, NDArray[Any]]

TINY = Config(
    image_size=224,
    window_size=7,
    depths=(2, 2, 6, 2),
    hidden_sizes=(64, 128, 256, 512),
    intermediate_sizes=(512, 1024, 1024, 2048),
    num_heads=(1, 1, 4, 8),
    num_classes=1000,
    norm="batch",
    downsampling="float",
    quantizer="levels",
    layer_scale=True,
    shift3=True,
    shift5=True,
)
# Small enough to make a state dict of it for every test; its stages can all be told apart.
MICRO = replace(
    TINY,
    image_size=32,
    window_size=1,
    depths=(1, 2, 2, 1),
    hidden_sizes=(4, 8, 16, 32),
    intermediate_sizes=(8, 8, 32, 32),
    num_heads=(1, 1, 2, 4),
    num_classes=5,
)
PAIRWISE_ALIKE = replace(
    MICRO, depths=(1, 2, 2, 1), hidden_sizes=(8, 8, 16, 16), intermediate_sizes=(8, 8, 32, 32), num_heads=(1, 1, 2, 2)
)


def zeros(config: Config) -> State:
    """A state dict of the right names and shapes."""
    return {
        name: np.zeros(shape, np.int64 if name.endswith("num_batches_tracked") else np.float32)
        for name, shape in expected_shapes(config).items()
    }


def config_json(config: Config) -> dict[str, Any]:
    """The config.json of a network."""
    return {
        "image_size": config.image_size,
        "window_size": config.window_size,
        "depths": list(config.depths),
        "hidden_size": list(config.hidden_sizes),
        "intermediate_size": list(config.intermediate_sizes),
        "num_attention_heads": list(config.num_heads),
        "num_hidden_layersA": sum(config.depths[:2]),
        "num_hidden_layersB": sum(config.depths[2:]),
        "patch_size": 4,
        "hidden_act": "gelu",
    }


def run_args(config: Config) -> dict[str, Any]:
    """The training script's options for a network."""
    return {
        "input_size": config.image_size,
        "nb_classes": config.num_classes,
        "shift3": config.shift3,
        "shift5": config.shift5,
        "replace_ln_bn": config.norm == "batch",
        "disable_layerscale": not config.layer_scale,
        "gsb": config.quantizer == "gsb",
        "some_fp": config.downsampling == "float",
        "weight_bits": 1,
        "input_bits": 1,
        "model": "configs/net/config.json",
        "lr": 5e-4,
    }


def refuse_config(message: str, **changes: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(TINY, **changes)


def refuse_state(
    state: Mapping[str, NDArray[Any]], *parts: str, error: type[Exception] = CheckpointError, **more: Any
) -> None:
    """infer_config refuses the state dict, with `where` and these parts in the message."""
    with pytest.raises(error) as caught:
        infer_config(state, where="net.pth", **more)
    for part in ("net.pth: ", *parts):
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


# ----------------------------------------------------------------------------------------------- rules of section 10


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
        (1 << 40, ()),
    ],
)
def test_windows_are_those_of_the_spec(image: int, windows: tuple[int, ...]) -> None:
    assert valid_windows(image) == windows
    for window in windows:
        assert replace(TINY, image_size=image, window_size=window).window_size == window


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
    assert replace(TINY, intermediate_sizes=(64, 128, 256, 512)).expansion_ratios == (1, 1, 1, 1)


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
        ("depths", (2, 2, 6, 2000), "four integers from 1 to 1024"),
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


# -------------------------------------------------------------------------------------------- properties, dictionaries


def test_properties() -> None:
    assert TINY.map_sides == (56, 28, 14, 7)
    assert TINY.head_dims == (0, 0, 64, 64)
    assert TINY.expansion_ratios == (8, 8, 4, 4)
    assert list(MICRO.blocks()) == [
        ("vit.encoder.layerA.0", 0),
        ("vit.encoder.layerA.1", 1),
        ("vit.encoder.layerA.2", 1),
        ("vit.encoder.layerB.0", 2),
        ("vit.encoder.layerB.1", 2),
        ("vit.encoder.layerB.2", 3),
    ]


def test_dictionary_survives_json() -> None:
    config = replace(MICRO, quantizer="gsb", norm="layer", num_classes=0)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_dictionary_with_missing_or_unknown_fields_is_refused() -> None:
    fields = TINY.to_dict()
    del fields["norm"]
    with pytest.raises(ConfigError, match=r"missing fields \['norm'\] and unknown fields \['bits', 'x'\]"):
        Config.from_dict({**fields, "x": 1, "bits": 2})


@pytest.mark.parametrize(
    "change", [{"depths": [2, 2, 6, [2]]}, {"norm": ["batch"]}, {"image_size": "224"}, {"shift3": 0}]
)
def test_dictionary_with_wrong_types_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is "):
        Config.from_dict({**TINY.to_dict(), **change})


# ------------------------------------------------------------------------------------------- the golden checkpoints


@pytest.mark.parametrize("name", case_names())
def test_golden_case_is_inferred(name: str) -> None:
    case = load_case(name)
    options = {**case.options, "nb_classes": case.options["num_labels"]}
    config = infer_config(case.state, args=options, config_json=case.config, where=name)
    assert expected_shapes(config) == {key: array.shape for key, array in case.state.items()}
    assert config_json(config) == {
        **config_json(config),
        **{k: v for k, v in case.config.items() if k in config_json(config)},
    }
    assert run_args(config) == {**run_args(config), **{k: v for k, v in options.items() if k in run_args(config)}}
    check_state(case.state, config, name)
    if config.quantizer == "levels":
        minimal = {"window_size": case.config["window_size"]}
        assert infer_config(case.state, config_json=minimal, where=name) == config, (
            "the tensors tell all but the window"
        )


def test_training_script_checkpoint_is_inferred() -> None:
    found = read_checkpoint(find("pth/checkpoint.pth"))
    config = infer_config(found.state, args=found.args, config_json={"window_size": 3}, where="checkpoint.pth")
    assert (config.image_size, config.window_size, config.num_classes) == (96, 3, 10)
    check_state(found.state, config, "checkpoint.pth")


# ------------------------------------------------------------------------------------------------ inference by parts


VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm": "layer"},
    {"downsampling": "binary"},
    {"layer_scale": False},
    {"shift3": False},
    {"shift5": False},
    {"num_classes": 0},
    {"depths": (3, 1, 1, 4)},
    {"intermediate_sizes": (4, 8, 16, 32)},
    {"image_size": 48},
    {"image_size": 224, "window_size": 7},
    {"hidden_sizes": (8, 8, 16, 16), "intermediate_sizes": (8, 16, 32, 16), "num_heads": (1, 1, 2, 2)},
    {"hidden_sizes": (8, 8, 16, 16), "intermediate_sizes": (8, 16, 32, 32), "num_heads": (1, 1, 2, 4)},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_tensors_tell_the_config(changes: dict[str, Any]) -> None:
    config = replace(MICRO, **changes)
    assert infer_config(zeros(config), where="net.pth") == config
    assert (
        infer_config(zeros(config), args=run_args(config), config_json=config_json(config), where="net.pth") == config
    )


def test_optional_tensors_may_be_absent() -> None:
    state = {
        name: array for name, array in zeros(MICRO).items() if not name.endswith(("num_batches_tracked", "init_state"))
    }
    check_state(state, infer_config(state, where="net.pth"), "net.pth")


def test_pairs_of_one_block_each_need_no_config_json() -> None:
    config = replace(PAIRWISE_ALIKE, depths=(1, 1, 1, 1))
    assert infer_config(zeros(config), where="net.pth") == config


def test_pairs_that_look_alike_need_config_json() -> None:
    state = zeros(PAIRWISE_ALIKE)
    refuse_state(state, "the 3 blocks of vit.encoder.layerA are all alike", "config.json", "depths", error=ConfigError)
    told = {"depths": [1, 2, 2, 1]}
    assert infer_config(state, config_json=told, where="net.pth") == PAIRWISE_ALIKE
    for depths in ([2, 2, 2, 1], [1, 2, 2, 2]):
        parts = (f"depths is {tuple(depths)} in config.json but 3 blocks of layer", "in the tensors")
        refuse_state(state, *parts, config_json={"depths": depths}, error=ConfigError)


def test_window_defaults() -> None:
    large = replace(MICRO, image_size=224, window_size=7)
    assert infer_config(zeros(large), where="net.pth").window_size == 7
    assert infer_config(zeros(large), config_json={"window_size": 1}, where="net.pth").window_size == 1
    assert infer_config(zeros(MICRO), config_json={}, where="net.pth").window_size == 1, "the only one for 32 pixels"
    ambiguous = zeros(replace(MICRO, image_size=288, window_size=9))
    parts = ("image size 288 allows [1, 3, 9]", "config.json", "window_size")
    refuse_state(ambiguous, *parts, error=ConfigError)
    assert infer_config(ambiguous, config_json={"window_size": 3}, where="net.pth").window_size == 3


def test_window_that_does_not_fit() -> None:
    refuse_state(
        zeros(MICRO), "window_size is 7", "only 1 is possible", config_json={"window_size": 7}, error=ConfigError
    )


def test_heads_with_gsb() -> None:
    usual = replace(MICRO, quantizer="gsb", num_heads=(1, 1, 4, 8))
    assert infer_config(zeros(usual), where="net.pth") == usual, "4 and 8 are the published ones"
    other = {"num_attention_heads": [3, 0, 2, 16]}
    assert infer_config(zeros(usual), config_json=other, where="net.pth").num_heads == (1, 1, 2, 16)
    narrow = replace(usual, hidden_sizes=(4, 8, 12, 12), intermediate_sizes=(4, 8, 12, 12), num_heads=(1, 1, 1, 1))
    parts = ("with gsb", "(4, 8)", "widths 12 and 12", "num_attention_heads")
    refuse_state(zeros(narrow), *parts, config_json={"depths": [1, 2, 2, 1]}, error=ConfigError)


@pytest.mark.parametrize("origin", ["config_json", "args"])
def test_spare_pixels_come_from_a_second_source(origin: str) -> None:
    name = "image_size" if origin == "config_json" else "input_size"
    more: dict[str, Any] = {origin: {name: 35}}
    assert infer_config(zeros(MICRO), where="net.pth", **more).image_size == 35


def test_image_size_beyond_all_bounds() -> None:
    state = zeros(MICRO)
    state["vit.embeddings.position_embeddings"] = np.zeros((1, 4, 1 << 30, 0), np.float32)
    refuse_state(state, "image_size is 4294967296, expected an integer from 1 to 65536", error=ConfigError)


def test_rules_name_the_checkpoint() -> None:
    state = zeros(MICRO)
    state["vit.embeddings.position_embeddings"] = np.zeros((1, 4, 14, 14), np.float32)
    refuse_state(state, "image_size is 56, 14 patches a side", error=ConfigError)


# ---------------------------------------------------------------------------------------------------- disagreements


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("image_size", 64, "32"),
        ("image_size", 36, "32"),
        ("hidden_size", [4, 8, 16, 64], "(4, 8, 16, 32)"),
        ("depths", [2, 1, 2, 1], "(1, 2, 2, 1)"),
        ("num_attention_heads", [1, 1, 4, 4], "(1, 1, 2, 4)"),
        ("intermediate_size", [8, 8, 32, 64], "(8, 8, 32, 32)"),
        ("num_hidden_layersA", 4, "3"),
        ("num_hidden_layersB", 4, "3"),
        ("patch_size", 16, "4"),
    ],
)
def test_config_json_that_disagrees(field: str, value: Any, found: str) -> None:
    told = {**config_json(MICRO), field: value}
    shown = tuple(value) if isinstance(value, list) else value
    parts = (f"{field} is {shown} in config.json but {found} in the tensors", "one and the same training")
    refuse_state(zeros(MICRO), *parts, config_json=told, error=ConfigError)


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("shift3", False, "True"),
        ("shift5", 0, "True"),
        ("replace_ln_bn", False, "True"),
        ("disable_layerscale", True, "False"),
        ("gsb", True, "False"),
        ("some_fp", False, "True"),
        ("nb_classes", 1000, "5"),
        ("input_size", 224, "32"),
    ],
)
def test_args_that_disagree(field: str, value: object, found: str) -> None:
    shown = bool(value) if value == 0 else value
    part = f"{field} is {shown} in the checkpoint's args but {found} in the tensors"
    refuse_state(zeros(MICRO), part, args={**run_args(MICRO), field: value}, error=ConfigError)
    assert infer_config(zeros(MICRO), args={**run_args(MICRO), field: None}, where="net.pth") == MICRO


def test_config_json_and_args_that_disagree() -> None:
    part = "image_size is 33 in config.json but 34 in the checkpoint's args (input_size)"
    refuse_state(zeros(MICRO), part, config_json={"image_size": 33}, args={"input_size": 34}, error=ConfigError)


@pytest.mark.parametrize("field", ["weight_bits", "input_bits"])
def test_other_bit_widths_are_refused(field: str) -> None:
    parts = (f"{field} is 32 in the checkpoint's args, expected 1", "only binary networks")
    refuse_state(zeros(MICRO), *parts, args={field: 32}, error=ConfigError)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"config_json": {"image_size": [32, 32]}}, "config.json: image_size is (32, 32), expected an integer"),
        ({"config_json": {"hidden_size": 64}}, "config.json: hidden_size is 64, expected four integers"),
        ({"config_json": {"depths": [2, 2, 6]}}, "config.json: depths is (2, 2, 6), expected four integers"),
        ({"config_json": {"num_attention_heads": [1, 1, 4, "8"]}}, "config.json: num_attention_heads is"),
        ({"args": {"shift3": "yes"}}, "the checkpoint's args: shift3 is 'yes', expected true or false"),
        ({"args": {"nb_classes": 10.0}}, "the checkpoint's args: nb_classes is 10.0, expected an integer from 0"),
    ],
)
def test_sources_of_wrong_types(sources: dict[str, Any], message: str) -> None:
    refuse_state(zeros(MICRO), message, error=ConfigError, **sources)


# -------------------------------------------------------------------------------------- state dicts of something else


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["conv1.weight", "layer1.0.conv1.weight"], "this is a ResNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "this is a DeiT or timm ViT"),
        (["vit.encoder.layer.0.attention.attention.query.weight"], "this is a plain Hugging Face ViT"),
        (["layers.0.blocks.0.attn.qkv.weight"], "this is a Swin transformer"),
        (["a.weight"], "this is not a BHViT state dict: none of 'vit.encoder.layerA"),
        (["student.vit.encoder.layerA.0.GC.move.bias"], "names begin with 'student.', expected 'vit.'"),
    ],
)
def test_other_architectures_are_named(names: list[str], what: str) -> None:
    refuse_state(dict.fromkeys(names, np.zeros(1)), what, f"the first names are '{names[0]}'")


def test_first_names_are_a_sample() -> None:
    refuse_state({f"fc{k}.weight": np.zeros(1) for k in range(11)}, "'fc7.weight' and 3 more")


def test_activations_that_are_not_binary() -> None:
    state = {name: array for name, array in zeros(MICRO).items() if "att_prob_quantizer" not in name}
    refuse_state(state, "has neither 'att_prob_clip' nor 'att_prob_quantizer.alpha'", "input_bits is not 1")


@pytest.mark.parametrize(
    "name",
    [
        "vit.embeddings.position_embeddings",
        "vit.encoder.patch_embed2.position_embeddings",
        "vit.encoder.layerA.1.GC.move.bias",
        "vit.encoder.layerB.1.attention.attention.moveq",
        "vit.encoder.layerB.1.attention.attention.att_prob_quantizer.alpha",
        "vit.encoder.layerB.1.intermediate.dense.weight",
        "classifier.weight",
    ],
)
def test_tensors_that_inference_needs(name: str) -> None:
    state = zeros(MICRO)
    del state[name]
    refuse_state(state, f"tensor '{name}' is missing")
    state[name] = np.zeros((1,) * 5, np.float32)
    refuse_state(state, f"'{name}' has shape (1, 1, 1, 1, 1), expected")


def test_blocks_with_a_gap() -> None:
    state = {name: array for name, array in zeros(MICRO).items() if not name.startswith("vit.encoder.layerA.1.")}
    refuse_state(state, "the blocks of vit.encoder.layerA are numbered '0', '2'", "without a gap")


def test_too_few_blocks() -> None:
    state = {name: array for name, array in zeros(MICRO).items() if not re.match(r"vit.encoder.layerB.[12]\.", name)}
    refuse_state(state, "the blocks of vit.encoder.layerB are numbered '0'", "at least two")


def test_blocks_that_change_too_often() -> None:
    state = zeros(replace(MICRO, depths=(1, 3, 2, 1)))
    state["vit.encoder.layerA.2.intermediate.dense.weight"] = np.zeros((16, 8), np.float32)
    refuse_state(state, "the blocks of vit.encoder.layerA change their sizes 3 times")


# ------------------------------------------------------------------------------------------------------- check_state


def refuse_check(state: Mapping[str, NDArray[Any]], *parts: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_state(state, MICRO, "net.pth")
    for part in ("net.pth: not a BHViT as published: ", *parts):
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_complete_state_passes(changes: dict[str, Any]) -> None:
    config = replace(MICRO, **changes)
    check_state(zeros(config), config, "net.pth")


def test_missing_tensors_are_listed() -> None:
    """Three blocks with 3 + 2 RPReLUs, three with 4 + 3."""
    state = zeros(MICRO)
    for name in [name for name in state if ".move1" in name]:
        del state[name]
    refuse_check(state, "36 tensors are missing: 'vit.encoder.layerA.0.GC.act1.move1', ", " and 28 more")


def test_wrong_shapes_and_kinds_are_listed() -> None:
    state = zeros(MICRO)
    state["classifier.bias"] = np.zeros(6, np.float32)
    state["vit.layernorm.weight"] = np.zeros(32, np.int64)
    refuse_check(
        state,
        "'vit.layernorm.weight' is int64[32], expected float[32]",
        "'classifier.bias' is float32[6], expected float[5]",
    )
    refuse_check({name: array.astype(np.int8) for name, array in state.items()}, "more")


def test_double_precision_passes() -> None:
    check_state({name: array.astype(np.float64) for name, array in zeros(MICRO).items()}, MICRO, "net.pth")


def test_extra_modules_are_told_from_extra_tensors() -> None:
    state = zeros(MICRO)
    for name in (
        "coord_conv.weight",
        "coord_conv.bias",
        "vit.stain_norm.mean",
        "vit.encoder.layerB.0.pool.q.weight",
    ):
        state[name] = np.zeros(1, np.float32)
    state["vit.layernorm.extra"] = np.zeros(1, np.float32)
    refuse_check(
        state,
        "3 extra modules of a fork, not part of BHViT: 'coord_conv', 'vit.stain_norm', 'vit.encoder.layerB.0.pool'",
        "1 unexpected tensor: 'vit.layernorm.extra'",
    )
    check = {**zeros(MICRO), "coord_conv.weight": np.zeros(1)}
    refuse_check(check, "1 extra module of a fork, not part of BHViT: 'coord_conv';")
