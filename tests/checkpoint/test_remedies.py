"""The lines of Python in messages, run: what they write is the same network with the same options."""

import argparse
import json
import runpy
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvit.checkpoint import read_network
from bitvit.checkpoint.remedies import RESAVE, rewritten
from bitvit.checkpoint.training import normalization
from bitvit.conversion import convert
from bitvit.errors import CheckpointError
from bitvit.modelfile import load_model_file
from tests.support.configs import MICRO, zeros
from tests.support.golden_data import load_case

torch = pytest.importorskip("torch")

OPTIONS = {"token_pool": "topk", "topk_ratio": 0.15, "mean": [0.5] * 3, "std": [0.25] * 3}


def weights(prefix: str = "") -> dict[str, Any]:
    return {prefix + name: torch.as_tensor(array) for name, array in zeros(MICRO).items()}


def float8() -> dict[str, Any]:
    return weights() | {"classifier.bias": torch.zeros(MICRO.num_classes, dtype=torch.float8_e5m2)}


class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As a Hugging Face model: it has its configuration with it."""

    def __init__(self) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(token_pool="topk", topk_ratio=0.15)

    def state_dict(self, *_args: Any, **_named: Any) -> dict[str, Any]:
        return weights()


def mended(path: Path, monkeypatch: pytest.MonkeyPatch, *, ema: bool = False) -> Path:
    """What the line in the message makes of a file that is refused."""
    with pytest.raises(CheckpointError) as caught:
        read_network(path, ema=ema)
    (path.parent / "mend.py").write_text(str(caught.value).partition("write it anew: ")[2])
    monkeypatch.chdir(path.parent)
    runpy.run_path("mend.py")
    return path.parent / f"weights{'.safetensors' if path.suffix == '.safetensors' else '.pth'}"


CASES: Mapping[str, Mapping[str, Any]] = {
    "prefix": {"state_dict": {**weights("model."), "crit.w": torch.ones(3)}, "hyper_parameters": OPTIONS},
    "prefix inside": {"model": {"state_dict": {**weights("net."), "crit.w": torch.ones(3)}, "args": OPTIONS}},
    "several": {"student": weights(), "teacher": weights(), "args": argparse.Namespace(**OPTIONS)},
    "numpy": {"model": zeros(MICRO), "config": OPTIONS},
    "float8": {"state_dict": float8(), "model_kwargs": {"args": OPTIONS}},
    "float8 alone": {"module": float8(), "args": OPTIONS},
    "module": {"model": Network(), "args": OPTIONS, "optimizer": torch.optim.SGD([torch.zeros(1)])},
    "module elsewhere": {"net": Network(), "opt": OPTIONS, "ema": None},
}


@pytest.mark.parametrize("name", CASES)
def test_what_lies_beside_is_carried_along(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(CASES[name], tmp_path / "net.pth")
    network = read_network(mended(tmp_path / "net.pth", monkeypatch))
    assert network.config.pooling == "top"
    assert normalization(network.checkpoint)[:2] == ((0.5,) * 3, (0.25,) * 3)


def test_the_converted_network_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case("micro96_pth")
    state = {f"model.{name}": torch.as_tensor(array.copy()) for name, array in case.state.items()}
    content = {"state_dict": {**state, "crit.w": torch.ones(3)}, "hyper_parameters": {**case.config, **OPTIONS}}
    torch.save(content, tmp_path / "net.pth")
    convert(mended(tmp_path / "net.pth", monkeypatch), tmp_path / "out.safetensors")
    found = load_model_file(tmp_path / "out.safetensors")
    assert (found.config.pooling, found.preprocessing.std) == ("top", (0.25,) * 3)


def test_averaged_weights_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"model": weights(), "model_ema": float8(), "args": OPTIONS}, tmp_path / "net.pth")
    path = mended(tmp_path / "net.pth", monkeypatch, ema=True)
    assert read_network(path, ema=True).config.pooling == read_network(path).config.pooling == "top"


def test_a_module_alone_has_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Network(), tmp_path / "net.pth")
    assert read_network(mended(tmp_path / "net.pth", monkeypatch)).config.pooling == "top"


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "args": json.dumps(OPTIONS)}])
def test_metadata_of_a_safetensors(
    metadata: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {f"model.{name}": array for name, array in zeros(MICRO).items()} | {"crit.w": np.ones(3)}
    safetensors.save_file(tensors, tmp_path / "net.safetensors", metadata)
    network = read_network(mended(tmp_path / "net.safetensors", monkeypatch))
    assert network.config.pooling == ("top" if metadata else "mean")


def test_one_file_of_several_is_not_written_alone() -> None:
    for keys, name in ((None, "model-00001-of-00002.safetensors"), ((), "pytorch_model-00002-of-00003.bin")):
        assert rewritten(f"folder/{name}", keys) == RESAVE


def test_the_files_of_a_folder_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "net.pth")
    assert rewritten(path, ()).startswith("if you trust the file, write it anew: import torch; ")
    (tmp_path / "config.json").write_text("{}")
    assert rewritten(path, ()).startswith(
        f"what this makes is to be given with --config {tmp_path / 'config.json'}; if"
    )
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert "config.json and the --mean and --std of its preprocessor_config.json; if" in rewritten(path, ())
