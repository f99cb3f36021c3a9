"""read_network: from a file to a network with our names, and the file's name in every message."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import bitvit.checkpoint
from bitvit.checkpoint import TrainedNetwork, read_checkpoint, read_network
from bitvit.checkpoint.network import trained_network
from bitvit.checkpoint.shapes import parameter_shapes
from bitvit.errors import BitvitError, CheckpointError, ConfigError
from tests.support.checkpoints import write_zip
from tests.support.configs import MICRO, PAIRWISE_ALIKE, config_json, zeros
from tests.support.crosscompiled import run_python
from tests.support.golden_data import find, load_case
from tools.fuzz.pickles import tensor


@pytest.fixture
def micro(tmp_path: Path) -> Path:
    save_file(zeros(MICRO), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_golden_checkpoint_with_options() -> None:
    network = read_network(find("pth/checkpoint.pth"), config={"window_size": 3})
    case = load_case("micro96_pth")
    assert network.config.depths == tuple(case.config["depths"])
    assert {name: array.shape for name, array in network.parameters.items()} == parameter_shapes(network.config)
    for name, array in network.parameters.items():
        np.testing.assert_array_equal(array, case.state[network.authors_name(name)], err_msg=name)


def test_parameters_are_the_checkpoints_arrays_in_its_order(micro: Path) -> None:
    network = read_network(micro)
    assert network.config == MICRO
    state = network.checkpoint.state
    assert [network.authors_name(name) for name in network.parameters] == list(state)
    assert all(a is b for a, b in zip(network.parameters.values(), state.values(), strict=True))


def test_optional_tensors_may_be_absent() -> None:
    state = {name: array for name, array in zeros(MICRO).items() if not name.endswith(("_tracked", "init_state"))}
    assert len(TrainedNetwork.from_state(state, MICRO).parameters) == len(state)


def test_a_config_json_beside_the_file_is_mentioned(micro: Path) -> None:
    """It may say what the tensors do not tell, or be another network's."""
    assert read_network(micro).checkpoint.notes == ()
    beside = micro.parent / "config.json"
    beside.write_text(json.dumps({**config_json(MICRO), "token_pool": "topk"}))
    (note,) = read_network(micro).checkpoint.notes
    assert note == f"{beside} lies beside it and was not read; to use it: --config {beside}"
    named = read_network(micro, config=beside)
    assert named.checkpoint.notes == ()
    assert named.config.pooling == "top"


def test_config_may_be_a_path_or_a_dict(tmp_path: Path) -> None:
    save_file(zeros(PAIRWISE_ALIKE), tmp_path / "net.safetensors")
    fields = config_json(PAIRWISE_ALIKE)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert read_network(tmp_path / "net.safetensors", config=fields).config == PAIRWISE_ALIKE
    assert read_network(tmp_path / "net.safetensors", config=tmp_path / "config.json").config == PAIRWISE_ALIKE
    assert read_network(str(tmp_path / "net.safetensors"), config=str(tmp_path / "config.json")).config.depths[1] == 2


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda _: None, "no such file; check the path"),
        (lambda path: path.mkdir(), "is a folder, expected a file with the config.json of the model"),
        (lambda path: path.write_text("{"), "is not JSON ("),
        (lambda path: path.write_bytes(b"\xff"), "byte 0 is not UTF-8 text; expected the config.json"),
        (lambda path: path.write_text("[" * 100_000), "is not JSON ("),
        (lambda path: path.write_text("[1]"), "holds a JSON list, expected an object with fields such as depths"),
    ],
)
def test_config_files_that_are_none(micro: Path, tmp_path: Path, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "config.json")
    with pytest.raises(ConfigError) as caught:
        read_network(micro, config=tmp_path / "config.json")
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {message}")


def test_averaged_weights(tmp_path: Path) -> None:
    state = {name: tensor(str(k), array.shape) for k, (name, array) in enumerate(zeros(MICRO).items())}
    storages: dict[str, NDArray[Any] | bytes] = {
        str(k): np.zeros(array.shape, np.float32) for k, array in enumerate(zeros(MICRO).values())
    }
    offset = tensor("bias", (MICRO.num_classes,))
    averaged = {**state, "classifier.bias": offset}
    storages["bias"] = np.ones(MICRO.num_classes, np.float32)
    path = write_zip(tmp_path / "t.pth", {"model": state, "model_ema": averaged}, storages)
    assert read_network(path).parameters["head.bias"].max() == 0
    assert read_network(path, ema=True).parameters["head.bias"].max() == 1
    assert read_network(path).checkpoint.has_ema


@pytest.mark.parametrize(
    ("change", "config", "error", "message"),
    [
        ({"extra.weight": np.zeros(1, np.float32)}, None, CheckpointError, "not a BHViT as published: 1 extra module"),
        ({"vit.embeddings.position_embeddings": np.zeros((1, 4, 14, 14), np.float32)}, None, ConfigError, "image_size"),
        ({}, {"window_size": 7}, ConfigError, "window_size is 7"),
        ({}, {"depths": "2262"}, ConfigError, "config.json: depths is '2262'"),
        ({"classifier.bias": np.full(5, np.nan, np.float32)}, None, CheckpointError, "'classifier.bias' has 5 NaN"),
    ],
)
def test_messages_begin_with_the_files_name(
    tmp_path: Path, change: dict[str, Any], config: dict[str, Any] | None, error: type[BitvitError], message: str
) -> None:
    save_file(zeros(MICRO) | change, tmp_path / "net.safetensors")
    with pytest.raises(error) as caught:
        read_network(tmp_path / "net.safetensors", config=config)
    assert str(caught.value).startswith(f"{tmp_path / 'net.safetensors'}: {message}")


def test_a_checkpoint_that_was_read_before(micro: Path) -> None:
    checkpoint = read_checkpoint(micro)
    network = trained_network(checkpoint, config_json(MICRO))
    assert network.checkpoint is checkpoint
    assert network.config == MICRO


def test_a_state_dict_in_memory() -> None:
    state = zeros(MICRO)
    network = TrainedNetwork.from_state(state, MICRO)
    assert network.parameters["head.bias"] is state["classifier.bias"]
    assert network.config is MICRO
    assert network.checkpoint.format == "memory"
    with pytest.raises(CheckpointError, match=r"^a test: not a BHViT as published: "):
        TrainedNetwork.from_state(state, replace(MICRO, num_classes=4), "a test")


def test_only_what_reads_files_imports_what_takes_them_apart() -> None:
    script = "import sys, bitvit.checkpoint.network; print({'pickletools', 'zipfile'} & sys.modules.keys())"
    assert run_python(script) == "set()\n"


def test_what_the_package_offers() -> None:
    assert sorted(bitvit.checkpoint.__all__) == bitvit.checkpoint.__all__
    for name in bitvit.checkpoint.__all__:
        assert getattr(bitvit.checkpoint, name).__module__.startswith("bitvit.checkpoint.")
    with pytest.raises(AttributeError, match="has no attribute 'pickle'"):
        _ = bitvit.checkpoint.pickle
