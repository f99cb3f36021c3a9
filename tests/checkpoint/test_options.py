"""What a file says of its network beside the weights: wherever it lies, and whatever holds it."""

import argparse
import enum
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.claims import read_claims
from bitvit.errors import ConfigError

torch = pytest.importorskip("torch")

FIELDS: dict[str, Any] = {"token_pool": "topk", "topk_ratio": 0.5}


class Wrapper:
    """An object with the fields in one of its attributes, as mmcv's and ml_collections' have them."""

    def __init__(self) -> None:
        self._locked = True
        self._fields = dict(FIELDS)


class Validated:
    """Stores its attributes as pydantic's models do."""

    def __getstate__(self) -> dict[str, Any]:
        return {"__dict__": dict(FIELDS), "__pydantic_fields_set__": set(), "__pydantic_extra__": None}


class Settings(NamedTuple):
    token_pool: str = "topk"
    topk_ratio: float = 0.5


@dataclass(frozen=True)
class Frozen:
    """Stores its values without their names, as a frozen dataclass with slots does."""

    token_pool: str = "topk"
    topk_ratio: float = 0.5

    def __getstate__(self) -> list[Any]:
        return [self.token_pool, self.topk_ratio]


def args_of(folder: Path, **beside: Any) -> dict[str, Any] | None:
    torch.save({"model": {"w": torch.zeros(1)}, **beside}, folder / "net.pth")
    return read_checkpoint(folder / "net.pth").args


@pytest.mark.parametrize(
    "beside",
    [
        {"meta": {"epoch": 3, "args": FIELDS}},
        {"train_args": argparse.Namespace(**FIELDS)},
        {"model_kwargs": FIELDS},
        {"params": {"network": [FIELDS]}},
        {"datamodule_hyper_parameters": FIELDS},
        {"args": [FIELDS]},
        {"args": json.dumps(FIELDS)},
        {"config": json.dumps({"model": FIELDS})},
        {"args": {"config": json.dumps(FIELDS)}},
        {"args": {"model": Wrapper()}},
        {"args": {"model": Validated()}},
        {"config": Validated()},
        {"args": {"model": functools.partial(dict, **FIELDS)}},
    ],
    ids=range(13),
)
def test_fields_are_found(tmp_path: Path, beside: dict[str, Any]) -> None:
    """Each of these was passed over, and the network converted as another."""
    assert read_claims(None, args_of(tmp_path, **beside)).values == FIELDS


def test_fields_are_found_at_any_sane_depth(tmp_path: Path) -> None:
    fields: Any = FIELDS
    for _ in range(39):
        fields = [fields]
    assert read_claims(None, args_of(tmp_path, args={"model": fields})).values == FIELDS


@pytest.mark.parametrize("value", [Settings(), Frozen()], ids=["named tuple", "frozen"])
@pytest.mark.parametrize("key", ["config", "args", "model_args"])
def test_values_without_names_are_refused(tmp_path: Path, key: str, value: object) -> None:
    for beside in ({key: value}, {"hparams": {key: value}}):
        with pytest.raises(ConfigError, match=rf"{key} \(<.*>\): not known here"):
            read_claims(None, args_of(tmp_path, **beside))


def test_what_says_nothing_of_a_network_is_left_out(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    assert args_of(tmp_path, optimizer=optimizer, meta={"mixer": "fft"}, epoch=3) is None


def test_a_cycle_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"inner": [dict(FIELDS)]}
    loop["inner"].append(loop)
    assert read_claims(None, args_of(tmp_path, meta=loop)).values == FIELDS


def test_metadata_of_a_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = {"w": torch.zeros(1).numpy()}
    for metadata in ({"token_pool": "topk", "topk_ratio": "0.5"}, {"format": "pt", "args": json.dumps(FIELDS)}):
        safetensors.save_file(weights, tmp_path / "net.safetensors", metadata=metadata)
        assert read_claims(None, read_checkpoint(tmp_path / "net.safetensors").args).values == FIELDS


class Pool(str, enum.Enum):
    TOP = "topk"


class Ratio(enum.Enum):
    HALF = 0.5


class Guarded:
    """Keeps what its properties give under names with an underscore."""

    def __init__(self) -> None:
        self._token_pool = "topk"
        self._topk_ratio = 0.5


@pytest.mark.parametrize(
    "beside",
    [
        {"args": {0: FIELDS}},
        {"args": {"lr": 0.1, (0, 1): [{"net": FIELDS}]}},
        {"args": {b"token_pool": "topk", b"topk_ratio": 0.5}},
        {"meta": {b"net": {b"token_pool": "topk", b"topk_ratio": 0.5}}},
        {"args": {"token_pool": Pool.TOP, "topk_ratio": Ratio.HALF}},
        {"meta": {"net": {"token_pool": Pool.TOP, "topk_ratio": Ratio.HALF}}},
        {"args": {"model": Guarded()}},
        {"meta": Guarded()},
    ],
    ids=range(8),
)
def test_fields_under_odd_names_and_as_odd_values(tmp_path: Path, beside: dict[str, Any]) -> None:
    assert read_claims(None, args_of(tmp_path, **beside)).values == FIELDS


@pytest.mark.parametrize("name", ["token_pool", "topk_ratio"])
@pytest.mark.parametrize("value", [np.str_("topk"), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5])[0]])
@pytest.mark.parametrize("place", ["args", "meta"])
def test_a_field_that_is_an_object_asks_for_config_json(tmp_path: Path, name: str, value: object, place: str) -> None:
    args = args_of(tmp_path, **{place: {name: value}})
    with pytest.raises(ConfigError, match=rf"{name} is an object, which is not read.*give a config.json"):
        read_claims(None, args)
    assert read_claims({name: FIELDS[name]}, args).values == {name: FIELDS[name]}
    assert read_claims(None, args, [name]).values == {}
