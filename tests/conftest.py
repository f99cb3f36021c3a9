"""Fixtures: golden cases converted once a session."""

from collections.abc import Callable
from pathlib import Path

import pytest
from golden_data import load_case
from safetensors.numpy import save_file

import bitvit


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
