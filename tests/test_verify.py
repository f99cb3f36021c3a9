"""`verify` passes an honest model and fails a wrong one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from golden_data import load_case
from PIL import Image
from safetensors.numpy import load_file, save_file

from bitvit.errors import BitvitError, CheckpointError
from bitvit.modelfile import load_model_file, save_model_file
from bitvit.verify import layer_names, verify


def checkpoint_of(model: Path) -> Path:
    return model.with_name(f"{model.stem}.checkpoint.safetensors")


@pytest.mark.parametrize("name", ["micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln", "micro160_odd"])
def test_a_converted_model_passes(name: str, packed: Callable[[str], Path]) -> None:
    case = load_case(name)
    report = verify(packed(name), checkpoint_of(packed(name)), config=dict(case.config), count=2)
    assert report.passed
    assert report.inputs == 2
    assert report.top1_agreement == 1
    assert [row.name for row in report.rows][1:] == layer_names(load_model_file(packed(name)).config)
    blocks = [row for row in report.rows if ".blocks." in row.name]
    assert all(row.signs > 0 and row.passed and row.max_error > 0 for row in blocks)
    assert max(row.relative_error for row in report.rows) < 1e-6


def test_places_of_errors_and_the_drawing_of_them(packed: Callable[[str], Path], tmp_path: Path) -> None:
    name = "micro96_somefp"
    report = verify(packed(name), checkpoint_of(packed(name)), config=dict(load_case(name).config), count=2)
    sides = [row.errors.shape for row in report.rows if row.errors is not None]
    assert sides == [(24, 24)] * 2 + [(12, 12)] * 2 + [(6, 6)] * 3 + [(3, 3)] * 2
    assert all(row.errors is not None and row.errors.max() == pytest.approx(row.max_error) for row in report.rows)
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'bitvit[evaluate]'")
    report.draw(tmp_path / "verify.png")
    with Image.open(tmp_path / "verify.png") as drawn:
        assert drawn.width > 1000
    with pytest.raises(BitvitError, match="cannot be written"):
        report.draw(tmp_path / "no" / "verify.png")


def test_an_error_is_drawn_where_it_is(packed: Callable[[str], Path], tmp_path: Path) -> None:
    name = "micro96_somefp"
    file = load_model_file(packed(name))
    tensors = {key: value.copy() for key, value in file.tensors.items()}
    position = tensors["stages.2.downsample.position"]
    position[position.shape[0] // 2 :] += 1  # the lower half of the map, rows first
    save_model_file(
        tmp_path / "changed.safetensors",
        tensors,
        config=file.config,
        preprocessing=file.preprocessing,
        labels=None,
        source_sha256=file.source_sha256,
    )
    config = dict(load_case(name).config)
    report = verify(tmp_path / "changed.safetensors", checkpoint_of(packed(name)), config=config)
    errors = next(row.errors for row in report.rows if row.name == "stages.2.downsample")
    assert errors is not None
    assert errors[3:].min() > 0.01
    assert errors[:3].max() < 1e-4


def test_pictures_go_through_the_models_preprocessing(packed: Callable[[str], Path], tmp_path: Path) -> None:
    name = "micro96_pth"
    pixels = np.random.default_rng(1).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    config = dict(load_case(name).config)
    report = verify(packed(name), checkpoint_of(packed(name)), config=config, images=[tmp_path / "picture.png"])
    assert report.inputs == 1
    assert report.passed


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("stages.0.blocks.0.mixer.convs.1.bits", "stages.0.blocks.0"),
        ("stages.2.blocks.1.attention.key.bits", "stages.2.blocks.1"),
        ("stages.3.blocks.0.mlp.fc1.affine", "stages.3.blocks.0"),
        ("stages.2.downsample.position", "stages.2.downsample"),
        ("stem.bias", "stem"),
    ],
)
def test_a_changed_tensor_fails_in_its_own_block(
    tensor: str, layer: str, packed: Callable[[str], Path], tmp_path: Path
) -> None:
    name = "micro96_somefp"
    file = load_model_file(packed(name))
    tensors = {key: value.copy() for key, value in file.tensors.items()}
    if tensor.endswith("bits"):
        tensors[tensor][:, 0] ^= np.uint64(0xFF)
    else:
        tensors[tensor] *= np.float32(1.01)
    changed = tmp_path / "changed.safetensors"
    save_model_file(
        changed,
        tensors,
        config=file.config,
        preprocessing=file.preprocessing,
        labels=None,
        source_sha256=file.source_sha256,
    )
    report = verify(changed, checkpoint_of(packed(name)), config=dict(load_case(name).config))
    assert not report.passed
    assert [row.name for row in report.rows if not row.passed] == [layer]


def test_a_changed_classifier_fails(packed: Callable[[str], Path], tmp_path: Path) -> None:
    name = "micro96_somefp"
    state = load_file(checkpoint_of(packed(name)))
    state["classifier.bias"] = state["classifier.bias"] + np.float32(0.1)
    save_file(state, tmp_path / "checkpoint.safetensors")
    report = verify(packed(name), tmp_path / "checkpoint.safetensors", config=dict(load_case(name).config))
    assert all(row.passed for row in report.rows)
    assert not report.passed


def test_a_checkpoint_of_another_shape_is_refused(packed: Callable[[str], Path]) -> None:
    other = checkpoint_of(packed("micro96_binary"))
    with pytest.raises(CheckpointError, match="not that of the packed model"):
        verify(packed("micro96_somefp"), other, config=dict(load_case("micro96_binary").config))
