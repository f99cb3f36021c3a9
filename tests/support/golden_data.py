"""The golden cases: synthetic checkpoints with the inputs, logits and intermediate results of the PyTorch model.

They come from two folders of the same layout: `golden` beside this file, a small selection that every clone has, and
`shared/golden` beside the repository, the full set, where it exists. `golden/README.md` says what the files are.
"""

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.support.paths import ROOT, TESTS

FOLDERS = [folder for folder in (TESTS / "golden", ROOT.parent / "shared" / "golden") if folder.is_dir()]
MAKER = FOLDERS[0] / "make_checkpoint.py"


@dataclass(frozen=True)
class Case:
    """One golden case; the arrays are shared between tests and read-only."""

    name: str
    config: Mapping[str, Any]  # the fields of config.json
    options: Mapping[str, Any]  # the run options, SPEC 2.2; num_labels is nb_classes
    state: Mapping[str, NDArray[Any]]  # the checkpoint, names and shapes of SPEC 3
    input: NDArray[np.float32]  # [2, 3, S, S], normalised pixels
    logits_f64: NDArray[np.float64]  # [2, L], what to compare with
    logits_f32: NDArray[np.float32]  # [2, L], PyTorch's own single precision, for reference only
    file: Path  # the case's JSON, which `maker` turns into a checkpoint file
    maker: Path  # make_checkpoint.py CASE.json OUT.safetensors

    @property
    def geometry(self) -> dict[str, Any]:
        """What the state dict cannot tell: depths, num_heads, window_size, as keyword arguments."""
        return {
            "depths": self.config["depths"],
            "num_heads": self.config["num_attention_heads"],
            "window_size": self.config.get("window_size", 7),
        }


def case_names() -> list[str]:
    """All cases that this machine has, edge cases included, sorted."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("cases*/*.json")})


def trace_names() -> list[str]:
    """The cases with recorded intermediate results, sorted."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("traces/*.safetensors")})


def find(*choices: str) -> Path:
    """The first of these paths, relative to a golden folder, that exists."""
    for folder in FOLDERS:
        for choice in choices:
            if (folder / choice).exists():
                return folder / choice
    raise FileNotFoundError(f"none of {choices} in {[str(folder) for folder in FOLDERS]}")


@functools.cache
def make_checkpoint() -> ModuleType:
    """The module golden/make_checkpoint.py."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.lru_cache(maxsize=4)  # a large case holds 90 MB, and is made again within a second
def load_case(name: str) -> Case:
    """One case; its checkpoint is generated and proved by the digest stored with the expected results."""
    file = find(f"cases/{name}.json", f"cases_edge/{name}.json")
    description = json.loads(file.read_text())
    state: dict[str, NDArray[Any]] = make_checkpoint().make_state_dict(description, str(file.parent))
    expected_file = file.parent.parent / file.parent.name.replace("cases", "expected") / f"{name}.safetensors"
    with safe_open(expected_file, framework="numpy") as handle:
        digest = handle.metadata()["digest"]
    assert make_checkpoint().digest(state) == digest, f"{name}: this machine generates another checkpoint"
    expected = load_file(expected_file)
    for array in (*state.values(), *expected.values()):
        array.flags.writeable = False
    pixels = expected["input"].astype(np.float32)
    pixels.flags.writeable = False
    return Case(
        name=name,
        config=description["config"],
        options=description["options"],
        state=state,
        input=pixels,
        logits_f64=expected["logits_f64"],
        logits_f32=expected["logits_f32"],
        file=file,
        maker=MAKER,
    )


@functools.lru_cache(maxsize=4)
def trace(name: str) -> dict[str, NDArray[Any]]:
    """Intermediate results of image 0 of a case, by module path: float32, int8 or int16, channels last, read-only."""
    arrays: dict[str, NDArray[Any]] = load_file(find(f"traces/{name}.safetensors"))
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


@dataclass(frozen=True)
class ForkCase:
    """A network that a fork's own code has trained (SPEC 7.9), with what it answers."""

    file: Path  # the checkpoint
    config: Mapping[str, Any]
    state: Mapping[str, NDArray[Any]]
    input: NDArray[np.float32]  # [4, 3, S, S]
    logits_f64: NDArray[np.float64]
    logits_f32: NDArray[np.float32]

    @property
    def geometry(self) -> dict[str, Any]:
        """What the state dict cannot tell, as the reference's keyword arguments."""
        tokens = (self.input.shape[-1] // 32) ** 2
        top = self.config["token_pool"] == "topk"
        return {
            "depths": self.config["depths"],
            "num_heads": self.config["num_attention_heads"],
            "window_size": self.config["attn_window"],
            "padding": 3,
            "top_tokens": max(1, int(tokens * self.config["topk_ratio"])) if top else 0,
        }


def fork_names() -> list[str]:
    """The networks of a fork that this machine has, sorted: each clone has none, the full set has some."""
    return sorted({path.name.split(".")[0] for folder in FOLDERS for path in folder.glob("forks/*.config.json")})


@functools.cache
def load_fork(name: str) -> ForkCase:
    """One network of a fork, by name."""
    file = find(f"forks/{name}.safetensors")
    state = {key: np.asarray(value, np.float32) for key, value in load_file(file).items()}
    config = json.loads(file.with_suffix("").with_suffix(".config.json").read_text())
    return ForkCase(file, config, state, **load_file(file.with_suffix("").with_suffix(".expected.safetensors")))
