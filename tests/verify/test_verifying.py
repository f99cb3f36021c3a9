"""`verify` passes an honest model and fails a wrong one."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

import bitvit
from bitvit.errors import CheckpointError
from bitvit.modelfile import load_model_file, save_model_file
from bitvit.runtime.trace import Trace
from bitvit.verify import reference
from bitvit.verify.verifying import MAX_ERROR, block, response, verify
from tests.support.golden_data import load_case


@dataclass(frozen=True)
class Edge:
    """A model, its checkpoint and config.json's content."""

    model: Path
    checkpoint: Path
    config: dict[str, Any]


@pytest.fixture
def edge(packed: Callable[[str], Path], tmp_path: Path) -> Edge:
    """A network whose first signs are coin tosses for verify's first random input.

    The offset of a channel is the negative of one of its values, but for float32's rounding; at nine places apart.
    """
    case = load_case("micro96_somefp")
    state = load_file(checkpoint_of(packed(case.name)))
    prefix = "vit.encoder.layerA.0"
    pixels = np.random.default_rng(0).standard_normal((3, 96, 96)).astype(np.float32)
    trace = Trace(bitvit.load(packed(case.name), threads=1).runner)
    trace.workspace.set_image(pixels)
    stem, _ = trace.run_layer("stem", None, 24, 16)
    normed = reference.norm(state, f"{prefix}.layernorm_before", stem.astype(np.float64))
    for channel, (y, x) in enumerate(itertools.product((3, 11, 19), repeat=2)):
        state[f"{prefix}.GC.move.bias"][0, channel, 0, 0] = -normed[y, x, channel]
    save_file(state, tmp_path / "edge.checkpoint.safetensors")
    config = dict(case.config)
    bitvit.convert(tmp_path / "edge.checkpoint.safetensors", tmp_path / "edge.safetensors", config=config)
    return Edge(tmp_path / "edge.safetensors", tmp_path / "edge.checkpoint.safetensors", config)


def checkpoint_of(model: Path) -> Path:
    return model.with_name(f"{model.stem}.checkpoint.safetensors")


def edited(model: Path, tensor: str, edit: Callable[[NDArray[Any]], None], out: Path) -> Path:
    """The model with one tensor changed by `edit`, written to `out`."""
    file = load_model_file(model)
    tensors = {key: value.copy() for key, value in file.tensors.items()}
    edit(tensors[tensor])
    save_model_file(
        out,
        tensors,
        config=file.config,
        preprocessing=file.preprocessing,
        labels=None,
        source_sha256=file.source_sha256,
    )
    return out


@pytest.mark.parametrize("name", ["micro96_somefp", "micro96_binary", "micro96_gsb", "micro96_ln", "micro160_odd"])
def test_a_converted_model_passes(name: str, packed: Callable[[str], Path]) -> None:
    case = load_case(name)
    report = verify(packed(name), checkpoint_of(packed(name)), config=dict(case.config), count=2)
    assert report.passed
    assert report.inputs == 2
    assert report.top1_agreement == 1
    places = load_model_file(packed(name)).config.places()
    assert [row.name for row in report.rows] == [place.name for place in places]
    assert report.apart == 0  # the golden cases keep away from thresholds, and noise hardly meets those of so few
    blocks = [row for row in report.rows if ".blocks." in row.name]
    assert all(row.signs > 0 and row.passed and row.max_error > 0 for row in blocks)
    assert max(row.relative_error for row in report.rows) < 1e-6


def test_errors_have_their_places_on_the_map(packed: Callable[[str], Path]) -> None:
    name = "micro96_somefp"
    report = verify(packed(name), checkpoint_of(packed(name)), config=dict(load_case(name).config), count=2)
    sides = [row.errors.shape for row in report.rows if row.errors is not None]
    assert sides == [(24, 24)] * 2 + [(12, 12)] * 2 + [(6, 6)] * 3 + [(3, 3)] * 2
    assert report.rows[-1].errors is None  # the head has no map
    maps = [(row.errors.max(), row.max_error) for row in report.rows if row.errors is not None]
    assert [largest for largest, _ in maps] == pytest.approx([error for _, error in maps])


def test_an_error_is_where_the_change_is(packed: Callable[[str], Path], tmp_path: Path) -> None:
    def move_lower_half(position: NDArray[Any]) -> None:
        position[position.shape[0] // 2 :] += 1  # rows come first

    name = "micro96_somefp"
    changed = edited(packed(name), "stages.2.downsample.position", move_lower_half, tmp_path / "changed.safetensors")
    report = verify(changed, checkpoint_of(packed(name)), config=dict(load_case(name).config))
    errors = next(row.errors for row in report.rows if row.name == "stages.2.downsample")
    assert errors is not None
    assert errors[3:].min() > 0.01
    assert errors[:3].max() < 1e-4


def test_images_go_through_the_models_preprocessing(packed: Callable[[str], Path], tmp_path: Path) -> None:
    name = "micro96_pth"
    pixels = np.random.default_rng(1).integers(0, 256, (120, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    config = dict(load_case(name).config)
    report = verify(packed(name), checkpoint_of(packed(name)), config=config, images=[tmp_path / "image.png"])
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
    def edit(values: NDArray[Any]) -> None:
        if tensor.endswith("bits"):
            values[:, 0] ^= np.uint64(0xFF)
        else:
            values *= np.float32(1.01)

    name = "micro96_somefp"
    changed = edited(packed(name), tensor, edit, tmp_path / "changed.safetensors")
    report = verify(changed, checkpoint_of(packed(name)), config=dict(load_case(name).config))
    assert not report.passed
    assert [row.name for row in report.rows if not row.passed] == [layer]


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("stages.0.blocks.0.mixer.convs.2.bits", "stages.0.blocks.0"),
        ("stages.1.blocks.0.mlp.fc1.bits", "stages.1.blocks.0"),
        ("stages.2.blocks.0.attention.value.bits", "stages.2.blocks.0"),
        ("stages.3.blocks.0.mlp.fc2.bits", "stages.3.blocks.0"),
    ],
)
def test_one_wrong_bit_is_found(tensor: str, layer: str, packed: Callable[[str], Path], tmp_path: Path) -> None:
    def flip(words: NDArray[Any]) -> None:
        words[3, 0] ^= np.uint64(1)

    name = "micro96_somefp"
    changed = edited(packed(name), tensor, flip, tmp_path / "changed.safetensors")
    report = verify(changed, checkpoint_of(packed(name)), config=dict(load_case(name).config), count=2)
    assert [row.name for row in report.rows if row.wrong] == [layer]
    assert not report.passed


def test_a_changed_classifier_fails(packed: Callable[[str], Path], tmp_path: Path) -> None:
    name = "micro96_somefp"
    state = load_file(checkpoint_of(packed(name)))
    state["classifier.bias"] = state["classifier.bias"] + np.float32(0.1)
    save_file(state, tmp_path / "checkpoint.safetensors")
    report = verify(packed(name), tmp_path / "checkpoint.safetensors", config=dict(load_case(name).config))
    assert [row.name for row in report.rows if not row.passed] == ["head"]
    assert not report.passed
    assert report.apart == 1


def test_signs_on_the_edge_of_float32_are_no_fault(edge: Edge) -> None:
    """Nine channels of the first block have a value so near its threshold that float32 and float64 part at some."""
    report = verify(edge.model, edge.checkpoint, config=edge.config)
    first = next(row for row in report.rows if row.name == "stages.0.blocks.0")
    assert first.sign_disagreements > 0
    assert first.undecided > 0
    assert first.max_error > MAX_ERROR
    assert first.wrong == 0
    assert report.apart == 1
    assert report.max_relative_logit_error > MAX_ERROR
    assert report.passed


def test_a_level_on_the_edge_of_float32_is_no_fault(packed: Callable[[str], Path], tmp_path: Path) -> None:
    """Levels of attention come of integers, which a nudged input leaves as they are: parameters must be nudged too."""
    name, module = "micro96_somefp", "vit.encoder.layerB.0"
    config, state = load_model_file(packed(name)).config, load_file(checkpoint_of(packed(name)))
    found: dict[str, NDArray[Any]] = {}
    pixels = np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)  # as verify's
    sizes: dict[str, Any] = {key: getattr(config, key) for key in ("depths", "num_heads", "window_size")}
    reference.forward(state, pixels, **sizes, trace=found.__setitem__)
    scores = found[f"{module}.attention.attention.scores"][0]  # [heads, N, N] of the first window
    probabilities = reference.softmax(scores / np.sqrt(config.hidden_sizes[2] // len(scores)))
    quantizer = f"{module}.attention.attention.att_prob_quantizer"
    alpha, zero = state[f"{quantizer}.alpha"].astype(np.float64), state[f"{quantizer}.zero_point"]
    for head, own in enumerate(probabilities):  # the probability nearest to the edge of levels 0 and 1 is put on it
        edges = 3 * own / (0.5 - zero[head])
        alpha[head] = edges.flat[np.abs(edges - alpha[head]).argmin()]
    state[f"{quantizer}.alpha"] = alpha.astype(np.float32)
    save_file(state, tmp_path / "checkpoint.safetensors")
    fields = dict(load_case(name).config)
    bitvit.convert(tmp_path / "checkpoint.safetensors", tmp_path / "model.safetensors", config=fields)
    x = found["vit.encoder.patch_embed2"][0].astype(np.float32)
    part = functools.partial(block, module, config.num_heads[2], (config.window_size, config.padding))
    expected = part(state, x, None)
    assert response(part, state, module, x, expected)[:3, :3].max() > 1e-4 * expected.std()
    assert verify(tmp_path / "model.safetensors", tmp_path / "checkpoint.safetensors", config=fields).passed


def test_a_checkpoint_of_another_shape_is_refused(packed: Callable[[str], Path]) -> None:
    other = checkpoint_of(packed("micro96_binary"))
    with pytest.raises(CheckpointError, match=r"shape: downsampling binary \(the model: float\); verify"):
        verify(packed("micro96_somefp"), other, config=dict(load_case("micro96_binary").config))
