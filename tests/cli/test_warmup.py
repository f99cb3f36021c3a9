"""`bitvit warmup`, and the messages of a first run."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bitvit
from bitvit.cli import app
from bitvit.jit import loader
from bitvit.kernels import catalog
from bitvit.model import Network
from bitvit.modelfile import load_model_file


def test_all_kernels_are_found(packed: Callable[[str], Path]) -> None:
    names = {kernel.name for kernel in catalog.KERNELS}
    for case in ("micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln"):
        file = load_model_file(packed(case))
        used = {step.kernel.name for step in Network.read(file.config, file.tensors).program().steps}
        assert used <= names


def test_warmup_compiles_what_a_model_needs_once(
    cold: Callable[[], Path], packed: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = str(packed("micro96_pth"))
    folder = cold()
    first = CliRunner().invoke(app, ["warmup", path])
    assert first.exit_code == 0
    assert str(folder) in first.stdout
    cold()
    again = CliRunner().invoke(app, ["warmup", path])
    assert again.stdout.startswith("0 functions compiled")
    with caplog.at_level(logging.INFO, logger="bitvit"):
        bitvit.load(path)
    assert caplog.messages == []


def test_a_first_load_says_what_it_compiles(cold: Callable[[], Path], caplog: pytest.LogCaptureFixture) -> None:
    cold()
    with caplog.at_level(logging.INFO, logger="bitvit"):
        loader.addresses([catalog.pool, catalog.classify])
    first, *others = caplog.messages
    assert first == "compiling 2 functions"
    assert [message.split(", ")[1] for message in others] == ["1 of 2", "2 of 2"]
    assert {message.split(", ")[0] for message in others} == {"compiled pool", "compiled classify"}


def test_warmup_names_a_file_that_is_no_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["warmup", str(tmp_path / "missing.safetensors")])
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
