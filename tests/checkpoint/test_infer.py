"""Which network a state dict is of (SPEC section 4)."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.check import check_state
from bitvit.checkpoint.infer import infer_config
from bitvit.checkpoint.shapes import expected_shapes
from bitvit.errors import CheckpointError, ConfigError
from tests.support.configs import MICRO, PAIRWISE_ALIKE, VARIANTS, config_json, run_args, zeros
from tests.support.golden_data import case_names, find, load_case


def refuse_state(
    state: Mapping[str, NDArray[Any]], *parts: str, error: type[Exception] = CheckpointError, **more: Any
) -> None:
    """infer_config refuses the state dict, with these parts in the message."""
    with pytest.raises(error) as caught:
        infer_config(state, **more)
    for part in parts:
        assert part in str(caught.value), f"{part!r} not in {caught.value}"


@pytest.mark.parametrize("name", case_names())
def test_golden_case_is_inferred(name: str) -> None:
    case = load_case(name)
    options = {**case.options, "nb_classes": case.options["num_labels"]}
    config = infer_config(case.state, args=options, config_json=case.config)
    assert expected_shapes(config) == {key: array.shape for key, array in case.state.items()}
    assert config_json(config) == {
        **config_json(config),
        **{k: v for k, v in case.config.items() if k in config_json(config)},
    }
    assert run_args(config) == {**run_args(config), **{k: v for k, v in options.items() if k in run_args(config)}}
    check_state(case.state, config)
    if config.quantizer == "levels":
        minimal = {"window_size": case.config["window_size"]}
        assert infer_config(case.state, config_json=minimal) == config, "the tensors tell all but the window"


def test_training_script_checkpoint_is_inferred() -> None:
    found = read_checkpoint(find("pth/checkpoint.pth"))
    config = infer_config(found.state, args=found.args, config_json={"window_size": 3})
    assert (config.image_size, config.window_size, config.num_classes) == (96, 3, 10)
    check_state(found.state, config)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_tensors_tell_the_config(changes: dict[str, Any]) -> None:
    config = replace(MICRO, **changes)
    assert infer_config(zeros(config)) == config
    assert infer_config(zeros(config), args=run_args(config), config_json=config_json(config)) == config


def test_pairs_of_one_block_each_need_no_config_json() -> None:
    config = replace(PAIRWISE_ALIKE, depths=(1, 1, 1, 1))
    assert infer_config(zeros(config)) == config


def test_pairs_that_look_alike_need_config_json() -> None:
    state = zeros(PAIRWISE_ALIKE)
    refuse_state(state, "the 3 blocks of vit.encoder.layerA are all alike", "config.json", "depths", error=ConfigError)
    told = {"depths": [1, 2, 2, 1]}
    assert infer_config(state, config_json=told) == PAIRWISE_ALIKE
    for depths in ([2, 2, 2, 1], [1, 2, 2, 2]):
        parts = (f"depths is {tuple(depths)} in config.json but 3 blocks of vit.encoder.layer", "in the tensors")
        refuse_state(state, *parts, config_json={"depths": depths}, error=ConfigError)


def test_window_defaults() -> None:
    large = replace(MICRO, image_size=224, window_size=7)
    assert infer_config(zeros(large)).window_size == 7
    assert infer_config(zeros(large), config_json={"window_size": 1}).window_size == 1
    assert infer_config(zeros(MICRO), config_json={}).window_size == 1, "the only one for 32 pixels"
    ambiguous = zeros(replace(MICRO, image_size=288, window_size=9))
    parts = ("image size 288 allows [1, 3, 9]", "config.json", "window_size")
    refuse_state(ambiguous, *parts, error=ConfigError)
    assert infer_config(ambiguous, config_json={"window_size": 3}).window_size == 3


def test_window_that_does_not_fit() -> None:
    refuse_state(
        zeros(MICRO), "window_size is 7", "only 1 is possible", config_json={"window_size": 7}, error=ConfigError
    )


def test_heads_with_gsb() -> None:
    usual = replace(MICRO, quantizer="gsb", num_heads=(1, 1, 4, 8))
    assert infer_config(zeros(usual)) == usual, "4 and 8 are the published ones"
    other = {"num_attention_heads": [3, 0, 2, 16]}
    assert infer_config(zeros(usual), config_json=other).num_heads == (1, 1, 2, 16)
    narrow = replace(usual, hidden_sizes=(4, 8, 12, 12), intermediate_sizes=(4, 8, 12, 12), num_heads=(1, 1, 1, 1))
    parts = ("with gsb", "(4, 8)", "widths 12 and 12", "num_attention_heads")
    refuse_state(zeros(narrow), *parts, config_json={"depths": [1, 2, 2, 1]}, error=ConfigError)


@pytest.mark.parametrize("origin", ["config_json", "args"])
def test_spare_pixels_come_from_a_second_source(origin: str) -> None:
    name = "image_size" if origin == "config_json" else "input_size"
    more: dict[str, Any] = {origin: {name: 35}}
    assert infer_config(zeros(MICRO), **more).image_size == 35


def test_image_size_beyond_all_bounds() -> None:
    state = zeros(MICRO)
    state["vit.embeddings.position_embeddings"] = np.zeros((1, 4, 1 << 30, 0), np.float32)
    refuse_state(state, "image_size is 4294967296, expected an integer from 1 to 65536", error=ConfigError)


def test_rules_are_those_of_a_config() -> None:
    state = zeros(MICRO)
    state["vit.embeddings.position_embeddings"] = np.zeros((1, 4, 14, 14), np.float32)
    refuse_state(state, "image_size is 56, 14 patches a side", error=ConfigError)


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
    parts = (f"{field} is {shown} in config.json but {found} in the tensors", "of the checkpoint's own training")
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
    parts = (
        f"{field} is {shown} in the checkpoint's args but {found} in the tensors; take the checkpoint and config.json",
        f"of one training, or, if the option is left over from another, ignore it: --ignore {field}",
    )
    refuse_state(zeros(MICRO), *parts, args={**run_args(MICRO), field: value}, error=ConfigError)
    assert infer_config(zeros(MICRO), args={**run_args(MICRO), field: None}) == MICRO


def test_config_json_and_args_that_disagree() -> None:
    part = "shift3 is True in config.json but False in the checkpoint's args"
    refuse_state(zeros(MICRO), part, config_json={"shift3": True}, args={"shift3": False}, error=ConfigError)


def test_the_option_input_size_replaces_the_image_size_of_config_json() -> None:
    told = {"config_json": {**config_json(MICRO), "image_size": 256}, "args": {"input_size": 34}}
    assert infer_config(zeros(MICRO), **told) == replace(MICRO, image_size=34)


@pytest.mark.parametrize("field", ["weight_bits", "input_bits"])
def test_other_bit_widths_are_refused(field: str) -> None:
    parts = (f"{field} is 32 in the checkpoint's args, expected 1", "only binary networks")
    refuse_state(zeros(MICRO), *parts, args={field: 32}, error=ConfigError)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"config_json": {"image_size": [32, 64]}}, "config.json: image_size is (32, 64), expected an integer"),
        ({"config_json": {"image_size": [3, 3, 64]}}, "config.json: image_size is (3, 3, 64), expected an integer"),
        ({"config_json": {"hidden_size": 64}}, "config.json: hidden_size is 64, expected four integers"),
        ({"config_json": {"depths": [2, 2, 6]}}, "config.json: depths is (2, 2, 6), expected four integers"),
        ({"config_json": {"num_attention_heads": [1, 1, 4, "eight"]}}, "config.json: num_attention_heads is"),
        ({"args": {"shift3": "yes"}}, "the checkpoint's args: shift3 is 'yes', expected true or false"),
        ({"args": {"nb_classes": 10.5}}, "the checkpoint's args: nb_classes is 10.5, expected an integer from 0"),
    ],
)
def test_sources_of_wrong_types(sources: dict[str, Any], message: str) -> None:
    refuse_state(zeros(MICRO), message, error=ConfigError, **sources)


def test_activations_that_are_not_binary() -> None:
    state = {name: array for name, array in zeros(MICRO).items() if "att_prob_quantizer" not in name}
    refuse_state(state, "att_prob_clip' nor ", "att_prob_quantizer.alpha' is there", "input_bits is not 1")


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
