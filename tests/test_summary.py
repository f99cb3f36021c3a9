"""summarize: counts against the reference's own shapes, and totals against the file on disk."""

import json
import math
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bitvit.config import Config
from bitvit.conversion import convert
from bitvit.errors import CheckpointError, ConfigError, ModelFileError
from bitvit.modelfile import seal
from bitvit.summary import Summary, layers, summarize
from bitvit.verify import reference
from tests.support import golden_data
from tests.support.paths import TESTS

CASES = [f"micro96_{name}" for name in ("somefp", "binary", "gsb", "ln", "nols", "noshift")] + ["micro160_odd"]
PUBLISHED: dict[str, Any] = {
    "image_size": 224,
    "window_size": 7,
    "hidden_sizes": (64, 128, 256, 512),
    "intermediate_sizes": (512, 1024, 1024, 2048),
    "num_heads": (1, 1, 4, 8),
    "num_classes": 1000,
    "norm": "batch",
    "quantizer": "levels",
    "layer_scale": True,
    "shift3": True,
    "shift5": True,
}


Packed: TypeAlias = Callable[[str], Path]  # the fixture: name of a golden case -> its packed model


def checkpoint_of(model: Path) -> Path:
    """The checkpoint that the fixture leaves beside a packed model."""
    return model.with_suffix(".checkpoint.safetensors")


def shared(summary: Summary) -> list[tuple[Any, ...]]:
    """What a checkpoint and its packed model share, without the row for the rest of the file."""
    return [
        (row.name, row.type, row.shape, row.binary_weights, row.binary_macs, row.float_macs)
        for row in summary.rows[:-1]
    ]


@pytest.mark.parametrize("name", CASES)
def test_checkpoint_and_packed_model_agree(name: str, packed: Packed) -> None:
    model = packed(name)
    one, other = summarize(checkpoint_of(model), golden_data.load_case(name).config), summarize(model)
    assert (one.packed, other.packed) == (False, True)
    assert one.config == other.config
    assert one.sha256 == other.sha256
    assert shared(one) == shared(other)


@pytest.mark.parametrize("kind", ["checkpoint", "packed"])
@pytest.mark.parametrize("name", ["micro96_binary", "micro96_gsb", "micro96_ln"])
def test_rows_are_those_on_record(name: str, kind: str, packed: Packed) -> None:
    """As bitvit 784e640 gave them, which told a checkpoint's layers by the authors' names; without the last row."""
    model = packed(name)
    path, config = (model, None) if kind == "packed" else (checkpoint_of(model), golden_data.load_case(name).config)
    expected = json.loads((TESTS / "summary_rows.json").read_text())[f"{name} {kind}"]
    assert [
        [*astuple(row)[:2], list(row.shape), *astuple(row)[3:]] for row in summarize(path, config).rows[:-1]
    ] == expected


@pytest.mark.parametrize("name", CASES)
def test_totals_of_a_packed_model_are_those_of_the_file(name: str, packed: Packed) -> None:
    model = packed(name)
    summary, tensors = summarize(model), load_file(model)
    assert sum(row.bytes for row in summary.rows) == summary.bytes == model.stat().st_size
    assert all(row.bytes > 0 for row in summary.rows if not row.name.endswith(".scores"))
    assert summary.float_parameters == sum(value.size for value in tensors.values() if value.dtype == np.float32)
    assert summary.binary_weights <= 64 * sum(value.size for value in tensors.values() if value.dtype == np.uint64)
    assert summary.labels is None
    assert summary.preprocessing is not None


@pytest.mark.parametrize("name", CASES)
def test_totals_of_a_checkpoint_are_those_of_its_tensors(name: str, packed: Packed) -> None:
    case = golden_data.load_case(name)
    checkpoint = checkpoint_of(packed(name))
    summary = summarize(checkpoint, case.config)
    unused = (".num_batches_tracked", ".init_state")
    parameters = sum(value.size for key, value in case.state.items() if not key.endswith(unused))
    assert summary.binary_weights + summary.float_parameters == parameters
    assert sum(row.bytes for row in summary.rows) == summary.bytes == checkpoint.stat().st_size


@pytest.mark.parametrize("name", CASES)
def test_macs_are_what_the_reference_multiplies(name: str, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    case, summary = golden_data.load_case(name), summarize(packed(name))
    counted = {"binary": 0, "float": 0}

    def count(function: str, kind: str, macs: Any) -> None:
        original = getattr(reference, function)

        def wrapper(*args: Any) -> Any:
            counted[kind] += macs(*args)
            return original(*args)

        monkeypatch.setattr(reference, function, wrapper)

    def linear(state: Any, prefix: str, bits: NDArray[Any]) -> Any:
        return math.prod(bits.shape) * len(state[f"{prefix}.weight"])

    def convolution(state: Any, prefix: str, bits: NDArray[Any], _dilation: int) -> Any:
        return bits.shape[1] * bits.shape[2] * math.prod(state[f"{prefix}.weight"].shape)

    def attention(_state: Any, _prefix: str, query: NDArray[Any], *_: Any) -> Any:
        return 2 * math.prod(query.shape) * query.shape[1]

    def patches(x: NDArray[Any], weight: NDArray[Any]) -> Any:
        return (x.shape[1] // 2) * (x.shape[2] // 2) * math.prod(weight.shape)

    count("binary_linear", "binary", linear)
    count("binary_convolution", "binary", convolution)
    count("binary_attention", "binary", attention)
    count("convolve_patches", summary.config.downsampling, patches)
    reference.forward(case.state, case.input[:1], **case.geometry)
    config = summary.config
    counted["float"] += config.map_sides[0] ** 2 * 48 * config.hidden_sizes[0]
    counted["float"] += config.num_classes * config.hidden_sizes[3]
    assert (summary.binary_macs, summary.float_macs) == (counted["binary"], counted["float"])


@pytest.mark.parametrize(
    ("depths", "downsampling", "weights", "binary", "floats"),
    [
        ((3, 4, 8, 4), "float", 20_644_864, 3_979_837_440, 87_216_128),
        ((3, 4, 8, 4), "binary", 21_332_992, 4_056_907_776, 10_145_792),
        ((2, 2, 6, 2), "float", 11_941_888, 2_462_109_696, 87_216_128),
        ((2, 2, 6, 2), "binary", 12_630_016, 2_539_180_032, 10_145_792),
    ],
)
def test_published_models(depths: Any, downsampling: Any, weights: int, binary: int, floats: int) -> None:
    rows = list(layers(Config(depths=depths, downsampling=downsampling, **PUBLISHED)))
    assert sum(math.prod(row.shape) for row in rows if row.binary and row.shape) == weights
    assert sum(row.macs for row in rows if row.binary) == binary
    assert sum(row.macs for row in rows if not row.binary) == floats


def test_ops_count_64_binary_macs_as_one(packed: Packed) -> None:
    summary = summarize(packed("micro96_somefp"))
    assert summary.ops == summary.float_macs + summary.binary_macs / 64


def test_model_without_a_classifier(tmp_path: Path) -> None:
    case = golden_data.load_case("micro96_somefp")
    state = {key: np.asarray(value, order="C") for key, value in case.state.items() if "classifier" not in key}
    save_file(state, tmp_path / "checkpoint.safetensors")
    convert(tmp_path / "checkpoint.safetensors", tmp_path / "packed.safetensors", config=case.config)
    summary = summarize(tmp_path / "packed.safetensors")
    head = summary.rows[-2]
    assert (head.name, head.type, head.shape, head.float_macs) == ("head", "norm", (), 0)
    assert sum(row.bytes for row in summary.rows) == summary.bytes


def test_config_may_be_a_path(packed: Packed, tmp_path: Path) -> None:
    config = golden_data.load_case("micro96_somefp").config
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = checkpoint_of(packed("micro96_somefp"))
    assert summarize(checkpoint, tmp_path / "config.json").rows == summarize(checkpoint, config).rows


def test_missing_file() -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.pth: no such file"):
        summarize("nothing.pth")


def test_foreign_file(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors: "):
        summarize(tmp_path / "foreign.safetensors")


def test_config_of_another_training(packed: Packed) -> None:
    config = {**golden_data.load_case("micro96_somefp").config, "depths": [1, 1, 1, 1]}
    with pytest.raises(ConfigError, match=r"checkpoint\.safetensors: "):
        summarize(checkpoint_of(packed("micro96_somefp")), config)


def test_damaged_packed_model(packed: Packed, tmp_path: Path) -> None:
    data = packed("micro96_somefp").read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(seal(data.replace(b"image_size", b"image_side", 1)))
    with pytest.raises(ModelFileError, match=r"damaged\.safetensors: broken metadata"):
        summarize(damaged)
