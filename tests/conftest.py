"""Fixtures: golden cases converted once a session."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import bitvit
from tests.support.golden_data import load_case
from tests.support.runtime import compile_quietly, forget_functions
from tools.fuzz.seeds import CONFIGS, write_packed

# A shell's background job ignores Ctrl-C, and its children would too; a handler of one's own is not passed on to them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Which test compiles the first kernel depends on the machine's cache; `cold` has it said again."""
    compile_quietly()


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """packed(name): the packed model of a golden case; the checkpoint and config.json lie beside it."""
    folder = tmp_path_factory.mktemp("packed")
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            case = load_case(name)
            checkpoint = folder / f"{name}.checkpoint.safetensors"
            save_file(dict(case.state), checkpoint)
            made[name] = folder / f"{name}.safetensors"
            bitvit.convert(checkpoint, made[name], config=dict(case.config))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest of packed models, with labels; its weights are random."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    write_packed(path, CONFIGS[0])
    return path


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """cold(): from now on this is a process that has loaded no functions; returns its cache, empty the first time."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return forget_functions(monkeypatch)
