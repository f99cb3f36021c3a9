"""`bitvit warmup`, and the messages of a first run."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bitvit
from bitvit import runtime
from bitvit.cli import app
from bitvit.model import Network
from bitvit.modelfile import load_model_file


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has compiled nothing, and an empty cache."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "_compiled", {})
    return tmp_path / "cache"


def test_all_kernels_are_found(packed: Callable[[str], Path]) -> None:
    names = {kernel.name for kernel in runtime.all_kernels()}
    for case in ("micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln"):
        file = load_model_file(packed(case))
        used = {step.kernel.name for step in Network.read(file.config, file.tensors).program().steps}
        assert used <= names
    assert len(names) == len(runtime.all_kernels())


def test_warmup_compiles_what_a_model_needs_once(
    cold: Path, packed: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = str(packed("micro96_pth"))
    first = CliRunner().invoke(app, ["warmup", path])
    assert first.exit_code == 0
    assert str(cold) in first.stdout
    again = CliRunner().invoke(app, ["warmup", path])
    assert again.stdout.startswith("0 kernels compiled")
    runtime._compiled.clear()
    with caplog.at_level(logging.INFO, logger="bitvit"):
        bitvit.load(path)
    assert caplog.messages == []


def test_a_first_load_says_what_it_compiles(
    cold: Path, packed: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="bitvit"):
        bitvit.load(packed("micro96_pth"))
    assert "compiling kernel mlp" in caplog.messages
    assert list(cold.rglob("*.mlp-*.nbi"))


def test_warmup_names_a_file_that_is_no_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["warmup", str(tmp_path / "missing.safetensors")])
    assert result.exit_code == 1
    assert "does not exist" in result.stderr
