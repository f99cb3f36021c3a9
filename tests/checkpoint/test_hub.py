"""Checkpoints in several files and in folders, and where a config.json is found."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.hub import parts_of, read_config
from bitvit.errors import CheckpointError, ConfigError
from tests.support.checkpoints import FIVE, assert_same, refuse, write_zip
from tools.fuzz.pickles import tensor

State = Mapping[str, NDArray[Any]]

STATE: State = {"w": FIVE, "v": np.ones((2, 3), np.float32), "u": np.full(1, 1.5, np.float32)}
SAFETENSORS, BIN = "model{}.safetensors", "pytorch_model{}.bin"


def write_shards(folder: Path, form: str, **changes: object) -> Path:
    """STATE in two files with an index, in which the changes are made; returns the index."""
    folder.mkdir(exist_ok=True)
    names = list(STATE)
    places: dict[str, str] = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        path = folder / form.format(f"-0000{number}-of-00002")
        if form == SAFETENSORS:
            save_file({name: STATE[name] for name in part}, path)
        else:
            keys = {name: str(key) for key, name in enumerate(part)}
            value = {name: tensor(keys[name], STATE[name].shape) for name in part}
            write_zip(path, value, {keys[name]: STATE[name] for name in part})
        places |= dict.fromkeys(part, path.name)
    index = folder / f"{form.format('')}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": places | changes}))
    return index


@pytest.mark.parametrize("form", [SAFETENSORS, BIN])
def test_shards_by_their_index_or_folder(form: str, tmp_path: Path) -> None:
    index = write_shards(tmp_path / "net", form)
    for path in (index, index.parent, str(index.parent)):
        found = read_checkpoint(path)
        assert_same(found.state, STATE)
        assert found.path == Path(path)
        assert [file.name for file in found.files] == [form.format(f"-0000{n}-of-00002") for n in (1, 2)]
        assert found.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in found.files)).hexdigest()
        assert (found.args, found.has_ema, found.config) == (None, False, None)


def test_a_prefix_in_front_of_the_names_of_all_shards(tmp_path: Path) -> None:
    names = {"model.vit.encoder.layerA.0.w": "a.safetensors", "model.classifier.bias": "b.safetensors"}
    for name, file in names.items():
        save_file({name: FIVE}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert_same(read_checkpoint(index).state, {"vit.encoder.layerA.0.w": FIVE, "classifier.bias": FIVE})


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file(name: str, tmp_path: Path) -> None:
    if name.endswith(".bin"):
        write_zip(tmp_path / name, {"w": tensor("0", (5,))}, {"0": FIVE})
    else:
        save_file({"w": FIVE}, tmp_path / name)
    (tmp_path / "config.json").write_text('{"depths": [1]}')
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": true}')
    found = read_checkpoint(tmp_path)
    assert_same(found.state, {"w": FIVE})
    assert found.files == (tmp_path / name,)
    assert found.config == {"depths": [1]}
    assert found.preprocessor == {"do_normalize": True}
    assert read_checkpoint(tmp_path / name).config is None
    assert found.sha256 == read_checkpoint(tmp_path / name).sha256


def test_safetensors_come_before_pickles_and_files_before_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, BIN)
    assert parts_of(tmp_path).files[0].name == "pytorch_model-00001-of-00002.bin"
    write_shards(tmp_path, SAFETENSORS)
    assert parts_of(tmp_path).files[0].name == "model-00001-of-00002.safetensors"
    save_file({"w": FIVE}, tmp_path / "model.safetensors")
    assert parts_of(tmp_path).files == (tmp_path / "model.safetensors",)


def test_one_of_several_files_is_no_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path, SAFETENSORS)
    refuse(
        tmp_path / "model-00002-of-00002.safetensors",
        *("is one of 2 files of a checkpoint", "'model.safetensors.index.json'"),
    )
    save_file({"w": FIVE}, tmp_path / "model-00001-of-00001.safetensors")
    assert_same(read_checkpoint(tmp_path / "model-00001-of-00001.safetensors").state, {"w": FIVE})


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path, SAFETENSORS)
    lost = tmp_path / "model-00002-of-00002.safetensors"
    lost.unlink()
    with pytest.raises(CheckpointError, match="no such file") as caught:
        read_checkpoint(index)
    assert str(lost) in str(caught.value)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, BIN)
    bad = tmp_path / "pytorch_model-00002-of-00002.bin"
    bad.write_bytes(bad.read_bytes().replace(STATE["u"].tobytes(), b"abcd", 1))
    refuse(tmp_path, "pytorch_model-00002-of-00002.bin", "check sum")


@pytest.mark.parametrize("form", [SAFETENSORS, BIN])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"w": 2}, "'w' not where the index says"),
        ({"more": 1}, "'more' not where the index says"),
        ({"v": None}, "other tensors than in the index"),
    ],
)
def test_an_index_that_does_not_fit(form: str, changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    index = write_shards(tmp_path, form)
    content = json.loads(index.read_text())
    for name, number in changes.items():
        content["weight_map"][name] = form.format(f"-0000{number}-of-00002")
        if number is None:
            del content["weight_map"][name]
    index.write_text(json.dumps(content))
    refuse(index, problem, "do not fit the index")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is not the index of a checkpoint's shards: broken JSON"),
        ("[1]", "no weight_map from names to files"),
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"w": 5}}', "no weight_map"),
        ('{"weight_map": {"w": "a", "w": "b"}}', "the key 'w' occurs twice"),
        ('{"weight_map": {"w": "../a.safetensors"}}', "names '../a.safetensors', which is not in its folder"),
        ('{"weight_map": {"w": "/etc/passwd"}}', "names '/etc/passwd', which is not in its folder"),
        ('{"weight_map": {"w": "a\\\\b"}}', "which is not in its folder"),
        ('{"weight_map": {"w": "a\\u0000b"}}', "which is not in its folder"),
        ('{"weight_map": {"w": ".."}}', "which is not in its folder"),
        ('{"weight_map": {"w": ""}}', "which is not in its folder"),
        (json.dumps({"weight_map": {f"w{n}": f"{n}.bin" for n in range(1001)}}), "names 1001 files"),
        (" " * (5 << 20), "has 5242880 bytes, expected at most 4194304"),
    ],
)
def test_indices_that_are_none(content: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    refuse(tmp_path / "model.safetensors.index.json", problem)


def test_a_missing_index(tmp_path: Path) -> None:
    refuse(tmp_path / "model.safetensors.index.json", "no such file; check the path")


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ([], ["is a folder without model.safetensors or pytorch_model.bin", "it holds no such file"]),
        (["best.pth", "readme.txt"], ["give the .pth or .safetensors inside it", "(it holds 'best.pth')"]),
        (
            ["bundle.json", "weights.bin"],
            ["is a bundle, as bitvit bundle writes it", "give the model that it was made from"],
        ),
        ([".metadata", "__0_0.distcp"], ["a checkpoint of torch.distributed", "dcp_to_torch_save("]),
    ],
)
def test_folders_that_hold_no_model(files: list[str], parts: list[str], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    refuse(tmp_path, *parts)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    refuse(tmp_path, "cannot be read")


def test_config_by_file_folder_or_fields(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"depths": [1]}')
    for source in (tmp_path, str(tmp_path), tmp_path / "config.json", {"depths": [1]}):
        assert read_config(source) == {"depths": [1]}
    assert read_config(None) is None
    with pytest.raises(ConfigError, match="is a folder, expected a file with the"):
        read_config(tmp_path.parent)


def test_a_broken_config_in_the_folder_is_named(tmp_path: Path) -> None:
    save_file({"w": FIVE}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds a JSON list, expected an object") as caught:
        read_checkpoint(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
