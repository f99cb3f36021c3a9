"""Networks with what forks have added, from checkpoint to logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import bitvit
from bitvit.checkpoint import read_network
from bitvit.checkpoint.infer import infer_config
from bitvit.config import Config
from bitvit.errors import BitvitError, CheckpointError, ConfigError
from bitvit.model import load
from bitvit.verify.verifying import verify
from tests.support.configs import MICRO, config_json, zeros
from tests.support.engine import random_state
from tests.support.golden_data import fork_names, load_fork

TOLERANCE = 2e-5  # of the logits' spread, as for the golden cases

# Each addition alone, then together; with the fields of config.json that say so.
ADDITIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image norm": ({"image_norm": True}, {"stain_instance_norm": True}),
    "coordinates": ({"coordinates": True}, {"coord_conv": True}),
    "sinusoidal": ({"positions": "sinusoidal"}, {"use_sinusoidal_pe": True}),
    "attention": ({"pooling": "attention"}, {"token_pool": "attn"}),
    "top": ({"pooling": "top", "top_tokens": 2}, {"token_pool": "topk", "topk_ratio": 0.5}),
    "all": (
        {"image_norm": True, "coordinates": True, "positions": "sinusoidal", "pooling": "attention"},
        {"stain_instance_norm": True, "coord_conv": True, "use_sinusoidal_pe": True, "token_pool": "attn"},
    ),
}
TWO = replace(MICRO, image_size=64)  # four tokens in the last map


def network(name: str) -> tuple[Config, dict[str, Any]]:
    changes, fields = ADDITIONS[name]
    config = replace(TWO, **changes)
    return config, {**config_json(config), **fields}


@pytest.mark.parametrize("name", fork_names())
def test_networks_of_a_fork(name: str, tmp_path: Path) -> None:
    case = load_fork(name)
    bitvit.convert(case.file, tmp_path / "net.safetensors", config=case.config)
    logits = load(tmp_path / "net.safetensors", threads=2)(case.input)
    spread = case.logits_f64.std()
    errors = np.abs(logits - case.logits_f64).max(axis=1) / spread
    # An input on which float32 itself flips a sign shows nothing (forks/README.md).
    honest = np.abs(case.logits_f32 - case.logits_f64).max(axis=1) / spread <= TOLERANCE
    assert honest.sum() >= 3
    assert (errors[honest] <= TOLERANCE).all(), errors
    one = load(tmp_path / "net.safetensors", threads=1)
    alone = np.concatenate([one(pixels[None]) for pixels in case.input])
    assert alone.tobytes() == logits.tobytes()


@pytest.mark.parametrize("name", ADDITIONS)
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_additions_are_inferred_converted_and_verified(name: str, norm: Any, tmp_path: Path) -> None:
    config, fields = network(name)
    config = replace(config, norm=norm)
    save_file(random_state(config, 3), tmp_path / "net.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    found = read_network(tmp_path / "net.safetensors", config=tmp_path / "config.json")
    assert found.config == config
    bitvit.convert(tmp_path / "net.safetensors", tmp_path / "packed.safetensors", config=tmp_path / "config.json")
    assert load(tmp_path / "packed.safetensors").config == config, "the file says what it is"
    report = verify(
        tmp_path / "packed.safetensors", tmp_path / "net.safetensors", config=tmp_path / "config.json", count=2
    )
    assert report.passed, report.rows


@pytest.mark.parametrize("name", ["image norm", "coordinates", "attention"])
def test_tensors_tell_without_config_json(name: str) -> None:
    config, _ = network(name)
    assert infer_config(zeros(config)) == config


@pytest.mark.parametrize(
    ("name", "told", "message"),
    [
        ("image norm", {"stain_instance_norm": False}, "stain_instance_norm is False in config.json but True"),
        ("coordinates", {"coord_conv": False}, "coord_conv is False in config.json but True in the tensors"),
        ("attention", {"token_pool": "mean"}, "token_pool is mean in config.json but attention pooling in the tensors"),
        ("attention", {"token_pool": "topk"}, "token_pool is topk in config.json but attention pooling in the tensors"),
        ("top", {"token_pool": "attn"}, "token_pool is attn in config.json but no attention pooling in the tensors"),
        ("image norm", {"coord_conv": True}, "coord_conv is True in config.json but False in the tensors"),
        ("coordinates", {"stain_instance_norm": True}, "stain_instance_norm is True in config.json but False"),
        ("coordinates", {"use_sinusoidal_pe": True}, "use_sinusoidal_pe is True in config.json but False"),
    ],
)
def test_config_json_that_contradicts_the_tensors(name: str, told: dict[str, Any], message: str) -> None:
    config, fields = network(name)
    with pytest.raises(ConfigError) as caught:
        infer_config(zeros(config), config_json={**fields, **told})
    assert message in str(caught.value)


def test_missing_positions_are_sinusoidal_only_if_config_json_says_so() -> None:
    config, fields = network("sinusoidal")
    assert infer_config(zeros(config), config_json=fields) == config
    with pytest.raises(CheckpointError, match=r"position_embeddings' is missing.*use_sinusoidal_pe"):
        infer_config(zeros(config), config_json=config_json(config))


@pytest.mark.parametrize(
    ("pool", "ratio", "top"),
    [("topk", 0.15, 1), ("topk", 0.5, 2), ("topk", None, 4), ("topk", 0.76, 3), ("topk", 0.0, 1), ("topk", 1, 4)],
)
def test_how_many_tokens_top_pooling_takes(pool: str, ratio: float | None, top: int) -> None:
    """max(1, int(N·ratio))."""
    told = {**config_json(TWO), "token_pool": pool, "topk_ratio": ratio}
    assert infer_config(zeros(TWO), config_json=told) == replace(TWO, pooling="top", top_tokens=top)
    with pytest.raises(ConfigError, match="top_tokens is 5, expected 1 to 4"):
        infer_config(zeros(TWO), config_json={**told, "topk_ratio": 1.3})


@pytest.mark.parametrize(
    ("image", "window", "padding"), [(256, 8, "three"), (224, 7, "half"), (448, 14, "three"), (288, 9, "three")]
)
def test_attn_window_pads_by_three(image: int, window: int, padding: Any) -> None:
    config = replace(MICRO, image_size=image, window_size=window, merge_padding=padding)
    told = {**config_json(config), "attn_window": window}
    del told["window_size"]
    assert infer_config(zeros(config), config_json=told) == config
    assert config.padding == 3


@pytest.mark.parametrize(("image", "window"), [(256, 4), (224, 1), (96, 3), (256, 16), (256, 7)])
def test_attn_windows_that_the_fork_cannot_run(image: int, window: int) -> None:
    told = {**config_json(MICRO), "image_size": image, "attn_window": window}
    del told["window_size"]
    with pytest.raises(ConfigError, match=f"window_size is {window}, expected"):
        infer_config(zeros(replace(MICRO, image_size=image)), config_json=told)


def test_old_model_files_know_nothing_of_additions() -> None:
    """Their fields are what they were, so files of plain networks stay the same bytes."""
    fields = TWO.to_dict()
    assert len(fields) == 13
    assert Config.from_dict(fields) == TWO
    for changes, _ in ADDITIONS.values():
        config = replace(TWO, **changes)
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert config.to_dict().keys() - fields.keys() == changes.keys()


def test_a_topk_ratio_without_topk_means_nothing() -> None:
    assert infer_config(zeros(TWO), config_json={"token_pool": "mean", "topk_ratio": 0.15}) == TWO


def test_parameters_without_buffers_are_refused() -> None:
    """dict(model.named_parameters()): a batch-norm network would pass for one with layer norm."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "init_state")
    state = {name: array for name, array in zeros(MICRO).items() if not name.endswith(buffers)}
    for told in (None, {"replace_ln_bn": True}):
        with pytest.raises(CheckpointError, match=r"save model.state_dict\(\), not named_parameters\(\)"):
            infer_config(state, config_json=told)
    assert infer_config(state, config_json={"replace_ln_bn": False}).norm == "layer"


def test_a_classifier_in_a_sequence(tmp_path: Path) -> None:
    """nn.Sequential(Dropout, Linear) calls it classifier.1; what was assumed is said."""
    state = random_state(MICRO, 1)
    plain = {name.replace("classifier.", "classifier.1."): array for name, array in state.items()}
    save_file(plain, tmp_path / "net.safetensors")
    found = read_network(tmp_path / "net.safetensors")
    assert found.config == MICRO
    assert any("Sequential" in text for text in found.assumed)
    two = {**plain, "classifier.3.weight": plain["classifier.1.weight"]}
    save_file(two, tmp_path / "two.safetensors")
    with pytest.raises(BitvitError, match="'classifier'"):
        read_network(tmp_path / "two.safetensors")


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    save_file(random_state(MICRO, 1), tmp_path / "net.safetensors")
    bare = read_network(tmp_path / "net.safetensors").assumed
    assert bare == ("window 1", "mean over all tokens in the head", "training with weights of one bit")
    told = {**config_json(MICRO), "token_pool": "mean", "weight_bits": 1}
    (doubtful,) = read_network(tmp_path / "net.safetensors", config=told).assumed
    assert "window 1 as window_size says, though code that knows 'token_pool' reads attn_window" in doubtful
    assert read_network(tmp_path / "net.safetensors", config={**told, "token_pool": None}).assumed == bare[1:2]
    _, off = read_network(tmp_path / "net.safetensors", config={**told, "token_pool": None, "shortcut": False}).assumed
    assert off == "nothing is changed by 'shortcut', which is not known here and false"


@pytest.mark.parametrize(("norm", "assumed"), [("batch", ()), ("layer", ("layer norm",))])
def test_with_gsb_the_heads_are_assumed(norm: Any, assumed: tuple[str, ...], tmp_path: Path) -> None:
    """And layer norm: there are no buffers by whose lack parameters alone could be told."""
    config = replace(MICRO, quantizer="gsb", norm=norm, num_heads=(1, 1, 4, 8))
    save_file(random_state(config, 1), tmp_path / "net.safetensors")
    assert read_network(tmp_path / "net.safetensors").assumed[2:-1] == ("4 and 8 heads", *assumed)
    assert read_network(tmp_path / "net.safetensors", config=config_json(config)).config == config


def test_a_window_under_the_forks_name_is_not_assumed(tmp_path: Path) -> None:
    config = replace(MICRO, image_size=224, window_size=7)
    save_file(random_state(config, 1), tmp_path / "net.safetensors")
    told = {**config_json(config), "attn_window": 7}
    del told["window_size"]
    assert not any("window" in text for text in read_network(tmp_path / "net.safetensors", config=told).assumed)
