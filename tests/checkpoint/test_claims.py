"""What config.json and the training's options say: known fields, harmless ones, and those that stop a conversion."""

import argparse
import datetime
import shlex
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.claims import read_claims
from bitvit.checkpoint.harmless import is_harmless
from bitvit.errors import ConfigError
from tests.support.configs import MICRO, config_json, run_args
from tests.support.golden_data import find


def refused(message: str, **sources: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_claims(sources.pop("config_json", None), sources.pop("args", None), **sources)
    assert message in str(caught.value)


# Published config.json files, of the authors and of two forks, and what transformers writes into its own.
PUBLISHED = {
    "architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0, "drop_path": 0.1,
    "encoder_stride": 16, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "image_size": 224,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "model_type": "vit", "hidden_size": [64, 128, 256, 512],
    "depths": [2, 2, 6, 2], "num_attention_heads": [1, 1, 4, 8], "num_hidden_layersA": 4, "num_hidden_layersB": 8,
    "intermediate_size": [512, 1024, 1024, 2048], "num_channels": 3, "patch_size": 4, "qkv_bias": True,
    "transformers_version": "4.20.1", "token_num": [3136, 784, 196, 49],
}  # fmt: skip
OF_A_FORK = {
    **PUBLISHED, "stain_instance_norm": True, "coord_conv": True, "attn_window": 7, "use_sinusoidal_pe": False,
    "token_pool": "attn", "topk_ratio": 0.15, "pe_interpolate_mode": "bicubic",
}  # fmt: skip
SAVED = {
    **PUBLISHED, "_name_or_path": "configs/BHViT", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    "torch_dtype": "float32", "dtype": "float32", "return_dict": True, "chunk_size_feed_forward": 0,
    "pruned_heads": {}, "num_hidden_layers": 12, "tie_word_embeddings": True, "output_attentions": False,
    "problem_type": None, "shift3": True, "shift5": True, "gsb": False, "recu": False, "weight_bits": 1,
    "input_bits": 1, "some_fp": True, "disable_layerscale": False, "stages": [0, 0, 1, 1], "enable_cls_": False,
}  # fmt: skip


@pytest.mark.parametrize("fields", [PUBLISHED, OF_A_FORK, SAVED], ids=["published", "fork", "saved"])
def test_published_configs_are_understood(fields: dict[str, Any]) -> None:
    claims = read_claims(fields, None)
    assert claims.get("hidden_size") == (64, 128, 256, 512)
    assert claims.get("depths") == (2, 2, 6, 2)


def test_options_of_the_training_scripts_are_understood() -> None:
    args = read_checkpoint(find("pth/checkpoint.pth")).args
    assert args is not None
    of_forks = {"attn_viz": True, "viz_every": 5, "attn_max_images": 8, "init_from": "logs/x.pth", "val_fraction": 0.1,
                "eval_every": 5, "eval_only": True, "viz_samples": 4, "wandb_project": "bhvit"}  # fmt: skip
    assert read_claims(None, {**args, **of_forks}).get("input_size") == 96


@pytest.mark.parametrize("origin", ["config_json", "args"])
@pytest.mark.parametrize(
    ("name", "value"), [("use_rel_pos", True), ("token_mixing", "fft"), ("groups", 8), ("head_layers", [64, 10])]
)
def test_a_field_that_is_not_known_is_named(origin: str, name: str, value: Any) -> None:
    where = "config.json" if origin == "config_json" else "the checkpoint's args"
    sources: dict[str, Any] = {origin: {**config_json(MICRO), name: value}}
    refused(f"{where}: {name} ({value!r}): not known here", **sources)
    refused(f"--ignore {name}", **sources)
    assert read_claims(sources.get("config_json"), sources.get("args"), [name]).get("image_size") == 32


def test_the_remedy_ignores_all_that_is_not_known() -> None:
    """Of two sources and of more names than the message lists: one round is enough."""
    args = {f"gate_{number}": number for number in range(12)}
    config = {"my mixer": "fft", "bell\x07": 1}
    with pytest.raises(ConfigError) as caught:
        read_claims(config, args)
    message = str(caught.value)
    assert "config.json: my mixer ('fft'), 'bell\\x07' (1); the checkpoint's args: gate_0 (0), " in message
    assert "gate_7 (7) and 4 more: not known here" in message
    words = shlex.split(message.partition("say so: ")[2])
    assert words[::2] == ["--ignore"] * 14
    assert words[1::2] == ["my mixer", "'bell\\x07'", *args]
    assert read_claims(config, args, ["bell\x07", *words[1::2]]).values == {}


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_a_field_that_is_switched_off_is_not_asked_about(value: Any) -> None:
    assert read_claims({"use_rel_pos": value}, {"use_rel_pos": value}).values == {}


def test_a_field_that_is_false_is_remembered() -> None:
    """It may be an addition that is not there, or a part of the network that is."""
    told = {"use_shortcut": False, "model": {"rel_pos": False}, "optimizer": {"amsgrad": False}, "is_decoder": False}
    claims = read_claims(told, {"use_shortcut": False, "eval": False, "center_weights": False})
    assert claims.switched_off == ("use_shortcut", "model.rel_pos", "center_weights")
    assert read_claims(told, None, ["use_shortcut", "rel_pos"]).switched_off == ()


@pytest.mark.parametrize("name", ["eps", "scale", "ratio", "alpha", "temp"])
def test_words_of_an_optimiser_are_not_harmless_in_a_config_json(name: str) -> None:
    refused(f"config.json: {name} (0.5): not known here", config_json={**config_json(MICRO), name: 0.5})
    refused(f"config.json: model.{name} (0.5): not known here", config_json={"model": {name: 0.5}})
    assert read_claims({"optimizer": {name: 0.5}}, {name: 0.5, "model_args": {name: 0.5}}).values == {}


def test_families_of_options_that_scripts_invent_are_harmless() -> None:
    families = ("wandb", "neptune", "mlflow", "comet", "tensorboard", "tb", "slurm", "ddp", "fsdp", "deepspeed")
    assert [family for family in families if not is_harmless(f"{family}_of_their_own")] == []
    assert not is_harmless("own_wandb_")


def test_nothing_that_counts_is_harmless() -> None:
    known = {**OF_A_FORK, **run_args(MICRO)}
    counts = set(read_claims(known, None).values)
    assert counts >= {
        "attn_window", "token_pool", "topk_ratio", "coord_conv", "stain_instance_norm", "use_sinusoidal_pe", "shift3",
        "weight_bits",
    }  # fmt: skip
    assert not any(is_harmless(name) for name in counts)
    assert not is_harmless("global_pool")
    assert not is_harmless("bn_eps")


@pytest.mark.parametrize("name", ["weight_bits", "input_bits"])
@pytest.mark.parametrize("value", [32, 32.0, "32", 2, 8])
@pytest.mark.parametrize("origin", ["config_json", "args"])
def test_other_bit_widths_are_refused_by_name(name: str, value: Any, origin: str) -> None:
    refused(f"{name} is {int(value)} in", **{origin: {name: value}})


@pytest.mark.parametrize("value", [1, 1.0, "1"])
def test_numbers_as_scripts_store_them(value: Any) -> None:
    assert read_claims(None, {"weight_bits": value, "input_bits": value}).get("weight_bits") == 1


@pytest.mark.parametrize("value", [96, 96.0, "96", [3, 96, 96], (96, 96)])
def test_input_sizes_as_scripts_store_them(value: Any) -> None:
    assert read_claims(None, {"input_size": value}).get("input_size") == 96
    assert read_claims(None, {"img_size": value if not isinstance(value, list | tuple) else 96}).get("input_size") == 96


def test_input_sizes_that_are_not_square() -> None:
    refused("input_size is (3, 96, 128), expected an integer", args={"input_size": [3, 96, 128]})


def test_two_names_of_the_window() -> None:
    """One code reads window_size, another attn_window, and neither the other's."""
    both = {"window_size": 9, "attn_window": 7}
    refused("window_size is 9 in config.json but 7 in config.json (attn_window)", config_json=both)
    doubtful = read_claims({"window_size": 9, "token_pool": "attn"}, None).doubtful_window()
    assert doubtful == "'token_pool'"
    assert read_claims({"window_size": 9}, None).doubtful_window() is None
    assert read_claims({"window_size": 9, "attn_window": 9, "token_pool": "attn"}, None).doubtful_window() is None


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("topk_ratio", "much", "topk_ratio is 'much', expected a number"),
        ("topk_ratio", float("nan"), "topk_ratio is nan, expected a number"),
        ("topk_ratio", True, "topk_ratio is True, expected a number"),
        ("topk_ratio", 10**400, "topk_ratio is 1000"),
        ("token_pool", 3, "token_pool is 3, expected one of ['mean', 'attn', 'topk']"),
        ("coord_conv", "yes", "coord_conv is 'yes', expected true or false"),
        ("attn_window", 0, "attn_window is 0, expected an integer from 1"),
    ],
)
def test_values_of_wrong_types(field: str, value: Any, message: str) -> None:
    refused(f"config.json: {message}", config_json={field: value})


def test_a_stale_option_can_be_ignored() -> None:
    sources: dict[str, Any] = {"config_json": {"shift3": True}, "args": {"shift3": False}}
    refused("--ignore shift3", **sources)
    assert read_claims({}, {"shift3": False}, ["shift3"]).values == {}


def test_options_may_be_a_namespace_of_any_script(tmp_path: Path) -> None:
    """torch.save writes argparse.Namespace, and dicts in it; an unknown one in a dict is named by its path."""
    torch = pytest.importorskip("torch")
    options = argparse.Namespace(input_size=32, lr=1e-3, network={"mixer": "fft"})
    torch.save({"model": {"w": torch.zeros(1)}, "args": options}, tmp_path / "net.pth")
    args = read_checkpoint(tmp_path / "net.pth").args
    refused("network.mixer ('fft')", args=args)
    assert read_claims(None, args, ["network.mixer"]).values == {"input_size": 32}
    assert read_claims(None, args, ["network"]).values == {"input_size": 32}


@pytest.mark.parametrize("place", ["model", "config", "backbone", "data", "trainer"])
def test_fields_of_a_network_count_in_any_dict(place: str) -> None:
    """Whatever the dict is called: else a network of other bits would pass."""
    assert read_claims(None, {place: {"deeper": {"attn_window": 8}}}).values == {"attn_window": 8}
    refused("weight_bits is 32 in the checkpoint's args", args={place: {"weight_bits": 32}})
    refused(f"the checkpoint's args ({place}.shift3): shift3 is 'no'", args={place: {"shift3": "no"}})
    refused("shift3 is True in the checkpoint's args but False", args={"shift3": True, place: {"shift3": False}})


@pytest.mark.parametrize("place", ["model", "config", "backbone"])
def test_unknown_fields_are_refused_in_a_dict_of_the_network(place: str) -> None:
    refused(f"{place}.mixer ('fft')", args={place: {"mixer": "fft", "lr": 0.1}})
    assert read_claims(None, {place: {"mixer": "fft"}}, ["mixer"]).values == {}


@pytest.mark.parametrize("place", ["data", "optimizer", "logger"])
def test_dicts_of_other_things_hold_what_they_like(place: str) -> None:
    assert read_claims(None, {place: {"mixer": "fft", "more": {"lookahead": True}}}).values == {}


@pytest.mark.parametrize("place", ["id2label", "label2id", "class_to_idx"])
def test_names_of_classes_are_no_fields(place: str) -> None:
    assert read_claims({place: {"mixer": 0, "shift3": 1}}, None).values == {}


def test_objects_are_no_settings(tmp_path: Path) -> None:
    """Those of classes that no network is made of."""
    torch = pytest.importorskip("torch")
    options = {
        "started": datetime.date(2026, 1, 2), "lasts": datetime.timedelta(3), "place": torch.device("cuda:1"),
        "run": uuid.uuid4(), "numbers": np.random.default_rng(1), "weigher": torch.nn.CrossEntropyLoss(),
        "stopper": torch.optim.SGD([torch.zeros(3)], lr=0.1),
    }  # fmt: skip
    torch.save({"model": {"w": torch.zeros(1)}, "args": options}, tmp_path / "net.pth")
    assert read_claims(None, read_checkpoint(tmp_path / "net.pth").args).values == {}


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [("attn_window", "8", 8), ("topk_ratio", "0.15", 0.15), ("coord_conv", "True", True), ("shift3", "false", False)],
)
def test_values_may_be_written_out(field: str, text: str, value: object) -> None:
    """As in the metadata of a .safetensors, which are text."""
    assert read_claims(None, {field: text}).values == {field: value}


@pytest.mark.parametrize("text", ["Namespace(token_pool='topk')", ["main.py", "--token-pool", "topk"]])
@pytest.mark.parametrize("place", ["config", "command", "name"])
def test_text_that_speaks_of_a_field(place: str, text: object) -> None:
    """It is not read, so it must not decide in silence; where the field itself is there, the text is of no use."""
    refused(f"{place} speaks of token_pool", args={place: text})
    refused(f"job.{place} speaks of token_pool", args={"job": {place: text}})
    assert read_claims({"token_pool": "mean"}, {place: text}).values == {"token_pool": "mean"}
    assert read_claims(None, {place: text}, [place]).values == {}
    assert read_claims(None, {"name": "my_token_pooling"}).values == {}


def test_fields_in_a_list_of_dicts() -> None:
    assert read_claims({"model": [{"attn_window": 8}]}, None).values == {"attn_window": 8}


def test_options_of_trainers_are_understood() -> None:
    """timm's, transformers' and Lightning's defaults, where they are not None or switched off."""
    args = {
        "local_rank": -1, "dist_bn": "reduce", "bf16": True, "per_device_train_batch_size": 8, "accelerator": "gpu",
        "num_train_epochs": 3.0, "eval_strategy": "epoch", "model": {"_target_": "net.BHViT", "_convert_": "all"},
    }  # fmt: skip
    assert read_claims(None, args).values == {}


def test_a_contradiction_inside_one_source_names_the_place() -> None:
    refused(
        "token_pool is topk in config.json but mean in config.json (head.token_pool)",
        config_json={"token_pool": "topk", "head": {"token_pool": "mean"}},
    )
    refused("--ignore attn_window", args={"attn_window": 8, "data": {"attn_window": 7}})


def test_a_text_in_many_places_is_searched_once() -> None:
    """Searching it anew in each takes far longer."""
    options = dict.fromkeys((f"wandb_{number}" for number in range(9000)), "token_poo " * 2000)
    start = time.process_time()
    assert read_claims(None, options).values == {}
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["TopK", "Mean", "cls", "max", "energy", ""])
def test_kinds_of_pooling_that_are_not_known(name: str) -> None:
    """Any of them was taken for top-k."""
    refused(f"token_pool is {name!r}, expected one of ['mean', 'attn', 'topk']", args={"token_pool": name})


@pytest.mark.parametrize(
    "value",
    [[1.0, 1.0, 2.0, 1.0], ["1", "1", "2", "1"], "1 1 2 1", "[1, 1, 2, 1]", " (1,1,2,1) ", (1, "1", 2.0, 1)],
)
@pytest.mark.parametrize("name", ["depths", "hidden_size"])
def test_four_numbers_as_scripts_store_them(name: str, value: Any) -> None:
    assert read_claims(None, {name: value}).get(name) == (1, 1, 2, 1)


@pytest.mark.parametrize("value", ["1 1 2", "[1, 1, 2.5, 1]", "1-1-2-1", [1, 1, 2.5, 1], [1, 1, "two", 1]])
def test_four_numbers_that_are_not_clear(value: Any) -> None:
    refused("expected four integers", args={"depths": value})


@pytest.mark.parametrize("name", ["window_size", "attn_window"])
def test_windows_may_have_two_sides(name: str) -> None:
    assert read_claims(None, {name: [7, 7]}).get(name) == 7
    assert read_claims(None, {name: [7.0, "7"]}).get(name) == 7
    refused(f"{name} is (7, 8), expected an integer", args={name: [7, 8]})


@pytest.mark.parametrize("place", ["model", "backbone", "data"])
def test_what_is_ignored_is_ignored_with_all_that_is_in_it(place: str) -> None:
    teacher = {"token_pool": "topk", "weight_bits": 32, "head": [{"mixer": "fft"}]}
    for fields in ({place: {"teacher": teacher}}, {place: [{"teacher": teacher}]}, {"teacher": [teacher]}):
        refused("weight_bits is 32", args=fields)
        assert read_claims(fields, fields, ["teacher"]).values == {}


@pytest.mark.parametrize(("name", "field"), [("in_chans", "num_channels"), ("img_size", "input_size")])
def test_names_of_timm(name: str, field: str) -> None:
    assert read_claims(None, {name: 3}).values[field] == 3
