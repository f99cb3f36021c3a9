"""What a conversion is asked for, and what it takes by itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitvit.checkpoint import read_checkpoint
from bitvit.conversion import check_target, convert
from bitvit.errors import CheckpointError, ConfigError, ModelFileError
from bitvit.model import load
from bitvit.modelfile import load_model_file
from tests.support.checkpoints import write_legacy, write_zip
from tests.support.golden_data import find, load_case
from tools.fuzz.pickles import Raw, call, namespace, storage, tensor

MICRO = "micro96_pth"
CERVICAL = (0.6776, 0.4484, 0.4917)
NAMES = [f"name {letter}" for letter in "abcdefghij"]


def config(**changes: Any) -> dict[str, Any]:
    return dict(load_case(MICRO).config) | changes


def notes(path: Path, out: Path, **options: Any) -> str:
    return "\n".join(convert(path, out, **{"config": config(), **options}).notes)


def write_pth(folder: Path, prefix: str = "", negated: str = "", legacy: bool = False, **beside: object) -> Path:
    """The micro network as a .pth; one of its tensors may be stored with the other sign, to be turned when read."""
    state = load_case(MICRO).state
    values: dict[str, Raw] = {}
    storages: dict[str, NDArray[Any]] = {}
    kinds = {"f": "FloatStorage", "i": "LongStorage"}
    for key, (name, array) in enumerate(state.items()):
        kind, steps = kinds[array.dtype.kind], [step // array.itemsize for step in array.strides]
        lazy: object = {"neg": True} if name == negated else {}
        parts: tuple[object, ...] = (storage(str(key), array.size, kind), 0, array.shape, tuple(steps), False, {}, lazy)
        values[prefix + name] = call("torch._utils", "_rebuild_tensor_v2", *parts)
        storages[str(key)] = -array if name == negated else array
    write = write_legacy if legacy else write_zip
    return write(folder / "net.pth", {"state_dict": values, **beside}, storages)


@pytest.fixture
def expected(packed: Callable[[str], Path]) -> dict[str, Any]:
    return load_model_file(packed(MICRO)).tensors


def assert_tensors(path: Path, expected: dict[str, Any]) -> None:
    found = load_model_file(path).tensors
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


# ------------------------------------------------------------------------------------------------ checkpoints of others


@pytest.mark.parametrize("legacy", [False, True])
def test_a_lazily_negated_weight_keeps_its_sign(legacy: bool, expected: dict[str, Any], tmp_path: Path) -> None:
    path = write_pth(tmp_path, negated="classifier.weight", legacy=legacy)
    convert(path, tmp_path / "out.safetensors", config=config())
    assert_tensors(tmp_path / "out.safetensors", expected)


def test_a_lightning_checkpoint(expected: dict[str, Any], tmp_path: Path) -> None:
    rest: dict[str, Any] = {
        "pytorch-lightning_version": "2.2.0",
        "hyper_parameters": {"data_set": "CERVICAL", "lr": 0.1, "when": call("datetime", "date", 2024, 2, 29)},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": tensor("0", (1,)), "dirpath": "x"}},
        "optimizer_states": [{"state": {}}],
    }
    said = notes(write_pth(tmp_path, prefix="model.", **rest), tmp_path / "out.safetensors")
    assert_tensors(tmp_path / "out.safetensors", expected)
    assert "the names begin with 'model.', which was taken off" in said
    assert load_model_file(tmp_path / "out.safetensors").preprocessing.mean == CERVICAL


def test_averaged_weights_beside_are_mentioned(tmp_path: Path) -> None:
    path = write_pth(tmp_path, state_dict_ema={"w": tensor("0", (1,))})
    assert "averaged (EMA) weights are there too ('state_dict_ema'): --ema" in notes(path, tmp_path / "o.safetensors")


@pytest.mark.parametrize("given", [None, {}, {"id2label": {str(n): name.upper() for n, name in enumerate(NAMES)}}])
def test_a_hugging_face_folder(given: dict[str, Any] | None, expected: dict[str, Any], tmp_path: Path) -> None:
    """Its config.json is taken, unless another is given."""
    labels = {str(number): name for number, name in enumerate(NAMES)}
    (tmp_path / "config.json").write_text(json.dumps(config(id2label=labels)))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    save_file(dict(load_case(MICRO).state), tmp_path / "model.safetensors")
    given = given if given is None else config(**given)
    said = notes(tmp_path, tmp_path / "out.safetensors", config=given)
    model = load_model_file(tmp_path / "out.safetensors")
    assert_tensors(tmp_path / "out.safetensors", expected)
    names = {0: None, 1: tuple(name.upper() for name in NAMES)}[len(given) - len(config())] if given else tuple(NAMES)
    assert model.labels == names
    assert ("class names: id2label of config.json" in said) == (names is not None)
    assert model.preprocessing.mean == (0.5, 0.5, 0.5)
    assert "of preprocessor_config.json" in said


def test_the_output_may_not_be_in_place_of_the_folder_s_weights(tmp_path: Path) -> None:
    save_file(dict(load_case(MICRO).state), tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="is the checkpoint itself"):
        convert(tmp_path, tmp_path / "model.safetensors", config=config())
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_config_may_be_a_folder(tmp_path: Path, expected: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    convert(find("pth/bare.pth"), tmp_path / "out.safetensors", config=tmp_path)
    assert_tensors(tmp_path / "out.safetensors", expected)


# ----------------------------------------------------------------------------------------------------- what was assumed


@pytest.mark.parametrize(
    ("args", "options", "said"),
    [
        (None, {}, "mean 0.485,0.456,0.406, std 0.229,0.224,0.225 (ImageNet's, an assumption: the checkpoint"),
        ({"data_set": "CIFAR"}, {}, "0.225 (ImageNet's, with which the training code normalises data_set 'CIFAR')"),
        ({"data_set": "CERVICAL"}, {}, "mean 0.6776,0.4484,0.4917, std 0.1164,0.1472,0.1421 (its own"),
        ({"data_set": "MINE"}, {}, "an assumption: data_set 'MINE'"),
        ({"data_set": "CERVICAL"}, {"mean": [0.5], "std": [0.2, 0.3, 0.4]}, "0.5,0.5,0.5, std 0.2,0.3,0.4 (as given)"),
        ({"data_set": "CERVICAL"}, {"mean": [0.5]}, "mean 0.5,0.5,0.5 (as given), std 0.1164,0.1472,0.1421 (its own"),
        (None, {"resize": None}, "preprocessing: images of 96 x 96 pixels; mean"),
        (None, {"resize": 100}, "preprocessing: shorter edge to 100 pixels, centre crop of 96 x 96 pixels; mean"),
        (None, {"pad": 2}, "shorter edge to 92 pixels, centre crop of 92 x 92 pixels, 2 black ones around; mean"),
    ],
)  # fmt: skip
def test_the_preprocessing_is_said(
    args: dict[str, Any] | None, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    beside: dict[str, Any] = {} if args is None else {"args": namespace(**args)}
    found = notes(write_pth(tmp_path, **beside), tmp_path / "out.safetensors", **options)
    assert said in found
    written = load_model_file(tmp_path / "out.safetensors").preprocessing
    assert f"mean {','.join(f'{value:g}' for value in written.mean)}" in found
    assert f"std {','.join(f'{value:g}' for value in written.std)}" in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [123, 117, 104]}, "preprocessing: mean is 123,117,104, expected .*0 to 255.* 0.4824,0.4588,0.4078$"),
        ({"std": [58, 57, 57]}, "preprocessing: std is 58,57,57, expected .* then give 0.2275,0.2235,0.2235$"),
        ({"mean": [-0.5]}, "preprocessing: mean is -0.5,-0.5,-0.5, expected numbers from 0 to 1, the range of pixels$"),
        ({"mean": [255]}, "preprocessing: mean is 255,255,255, .* then give 1,1,1$"),
        ({"mean": [256]}, "preprocessing: mean is 256,256,256, .* the range of pixels$"),
        ({"mean": [-1, 0, 1]}, "preprocessing: mean is -1,0,1, .* the range of pixels$"),
    ],
)
def test_numbers_of_another_scale_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(find("pth/bare.pth"), tmp_path / "out.safetensors", config=config(), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_scale_for_pixels_up_to_255_is_no_mistake(tmp_path: Path) -> None:
    convert(find("pth/bare.pth"), tmp_path / "out.safetensors", config=config(), mean=[0], std=[1 / 255])
    assert load_model_file(tmp_path / "out.safetensors").preprocessing.std[0] == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    ("fields", "labels", "written", "said"),
    [
        ({"id2label": {str(n): x for n, x in enumerate(NAMES)}}, None, tuple(NAMES), "class names: id2label of config"),
        ({"id2label": {str(n): x for n, x in enumerate(NAMES)}}, list("abcdefghij"), tuple("abcdefghij"), "as given"),
        ({"id2label": {str(n): f"LABEL_{n}" for n in range(10)}}, None, None, "only placeholders ('LABEL_0'"),
        ({"id2label": {str(n): str(n) for n in range(1000)}}, None, None, "has 1000 names, not 10: not used"),
        ({}, None, None, "no class names (none were given): classes are called by their numbers; give names with"),
        ({}, [f"LABEL_{n}" for n in range(10)], tuple(f"LABEL_{n}" for n in range(10)), "which are only numbers"),
    ],
)  # fmt: skip
def test_class_names_and_where_they_are_from(
    fields: dict[str, Any], labels: list[str] | None, written: tuple[str, ...] | None, said: str, tmp_path: Path
) -> None:
    found = notes(find("pth/bare.pth"), tmp_path / "out.safetensors", config=config(**fields), labels=labels)
    assert said in found
    assert load_model_file(tmp_path / "out.safetensors").labels == written


def test_a_name_of_two_classes_is_warned_of(tmp_path: Path) -> None:
    """ImageNet has such names, so it is no error."""
    labels = ["crane", *NAMES[1:9], "crane"]
    with pytest.warns(UserWarning, match=r"one name stands for several classes, .*: 'crane' \(classes 0, 9\)"):
        report = convert(find("pth/bare.pth"), tmp_path / "out.safetensors", config=config(), labels=labels)
    assert len(report.warnings) == 1
    assert load_model_file(tmp_path / "out.safetensors").labels == tuple(labels)


@pytest.mark.parametrize("name", ["model.onnx", "model.ONNX", "model.pth", "model.pt", "model.bin", "model.tflite"])
def test_names_of_other_formats_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"would be written, which is no \.\w+ file; name it model\.safetensors"):
        convert(find("pth/bare.pth"), tmp_path / name, config=config())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "suffix",
    [
        *("ort", "pb", "h5", "hdf5", "keras", "gguf", "ggml", "engine", "trt", "mlmodel", "ckpt", "pkl", "jit", "npz"),
        *("npy", "msgpack", "xml", "mlpackage", "json", "txt", "csv", "yaml", "zip", "tar", "gz", "png", "jpg", "jpeg"),
    ],
)
def test_names_of_yet_other_formats_are_refused(suffix: str) -> None:
    with pytest.raises(CheckpointError, match=f"which is no .{suffix} file"):
        check_target(Path(f"model.{suffix}"))


@pytest.mark.parametrize("name", ["model", "bhvit-0.5", "model.bitvit", "model.safetensors"])
def test_other_names_are_the_user_s(name: str, tmp_path: Path) -> None:
    convert(find("pth/bare.pth"), tmp_path / name, config=config())
    assert load_model_file(tmp_path / name).config.num_classes == 10


@pytest.mark.parametrize(("checkpoint", "out"), [("", "net.safetensors"), ("net.pth", "")])
def test_an_empty_path_is_called_empty(checkpoint: str, out: str) -> None:
    """Not the working folder, which Path("") is."""
    with pytest.raises(CheckpointError, match=r"(checkpoint|out): the path is empty"):
        convert(checkpoint, out)
    with pytest.raises(CheckpointError, match="the checkpoint's path is empty"):
        read_checkpoint("")
    with pytest.raises(ModelFileError, match="the model's path is empty"):
        load("")


def test_mean_and_deviation_of_config_json(tmp_path: Path) -> None:
    """They were neither followed nor mentioned."""
    path, out = write_pth(tmp_path), tmp_path / "out.safetensors"
    fields = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": True}
    assert "mean 0.5,0.5,0.5, std 0.25,0.25,0.25 (of config.json)" in notes(path, out, config=config(**fields))
    assert load_model_file(out).preprocessing.std == (0.25,) * 3
    (tmp_path / "config.json").write_text(json.dumps(config(mean=[0.5] * 3, std=[0.25] * 3)))
    assert "(of config.json)" in notes(path, out, config=tmp_path)
    given = notes(path, out, config=config(**fields), mean=[0.1])
    assert "mean 0.1,0.1,0.1 (as given), std 0.25,0.25,0.25 (of config.json)" in given
