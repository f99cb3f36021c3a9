"""Conversion: equal networks give equal files, whatever they are stored in; every refusal, which writes nothing."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitvit import bits
from bitvit.checkpoint import names
from bitvit.checkpoint.read import read_checkpoint
from bitvit.conversion import ConversionReport, convert
from bitvit.errors import BitvitError, CheckpointError, ConfigError, ModelFileError
from bitvit.model import load
from bitvit.modelfile import load_model_file, seal
from bitvit.pack import MAX_ZERO_SHARE
from bitvit.pack import Packed as PackedNetwork
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from bitvit.schema import expected_tensors
from bitvit.verify import reference
from tests.support.golden_data import Case, find, load_case
from tests.support.paths import TESTS

State = dict[str, NDArray[Any]]
Packed = Callable[[str], Path]

SAMPLES = ["checkpoint.pth", "bare.pth", "bare_legacy.pth", "bare_module_prefix.pth"]
COMMITTED = sorted(path.stem for path in (TESTS / "golden").glob("cases*/*.json"))
MICRO = "micro96_pth"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def altered(name: str, **changes: Callable[[NDArray[Any]], None]) -> tuple[Case, State]:
    """A case and its state with some tensors changed in place; a key matches the end of the first such name."""
    case = load_case(name)
    state = {key: array.copy() for key, array in case.state.items()}
    for end, change in changes.items():
        change(state[next(key for key in state if key.endswith(end.replace("__", ".")))])
    return case, state


def write(folder: Path, state: Mapping[str, NDArray[Any]]) -> Path:
    path = folder / "checkpoint.safetensors"
    save_file(dict(state), path)
    return path


def refused(kind: type[BitvitError], match: str, checkpoint: Path, out: Path, **options: Any) -> str:
    """Convert in vain: an error of that kind, and the folder of the output is as it was."""
    before = {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
    with pytest.raises(kind, match=match) as caught:
        convert(checkpoint, out, **options)
    assert {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()} == before
    return str(caught.value)


def from_source(model: bytes, source: Path, other: Path) -> bytes:
    """A packed model's bytes as if it had been converted from another checkpoint."""
    return seal(model.replace(sha256(source).encode(), sha256(other).encode()))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An output in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.safetensors"


# ------------------------------------------------------------------------------------------------------ what is written


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_container_gives_the_same_file(sample: str, packed: Packed, target: Path) -> None:
    """Byte for byte, except the digest of the source, and the checksum over all."""
    source = find(f"pth/{sample}")
    convert(source, target, config=dict(load_case(MICRO).config))
    from_safetensors = packed(MICRO)
    checkpoint = from_safetensors.with_suffix(".checkpoint.safetensors")
    expected = from_source(from_safetensors.read_bytes(), checkpoint, source)
    assert expected != from_safetensors.read_bytes()
    assert target.read_bytes() == expected
    assert load_model_file(target).source_sha256 == sha256(source)


def test_config_as_a_path_or_as_a_dict(packed: Packed, target: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(load_case(MICRO).config)))
    checkpoint = packed(MICRO).with_suffix(".checkpoint.safetensors")
    for config in (tmp_path / "config.json", str(tmp_path / "config.json")):
        convert(checkpoint, target, config=config)
        assert target.read_bytes() == packed(MICRO).read_bytes()


@pytest.mark.parametrize("name", [name for name in COMMITTED if name != "edge_zeros"])
def test_report(name: str, tmp_path: Path, target: Path) -> None:
    case, begin = load_case(name), time.perf_counter()
    report = convert(write(tmp_path, case.state), str(target), config=dict(case.config))
    assert 0 < report.seconds < time.perf_counter() - begin
    model = load_model_file(target)
    specs = expected_tensors(model.config)
    assert isinstance(report, ConversionReport)
    assert report.path == target
    assert report.config == model.config
    assert report.bytes == target.stat().st_size
    assert report.binary_weights == sum(spec.shape[0] * spec.features for spec in specs.values())
    assert report.float_parameters == sum(int(np.prod(spec.shape)) for spec in specs.values() if not spec.features)
    assert (report.zero_weights, report.warnings) == (0, [])


@pytest.mark.parametrize("name", ["micro96_binary", "micro96_ln", "micro160_odd", "edge_gsb"])
def test_planes_are_the_signs_of_the_centred_weights(name: str, packed: Packed) -> None:
    """Every plane against the reference's binarised weights, channels last."""
    state, tensors = load_case(name).state, load_model_file(packed(name)).tensors
    config = load_model_file(packed(name)).config
    pairs: dict[str, str] = {}
    for place in config.places():
        if "block" not in place.kind:
            continue
        ours, prefix = place.name, names.module(config, place)
        pairs |= {f"{ours}.mlp.fc1": f"{prefix}.intermediate.dense", f"{ours}.mlp.fc2": f"{prefix}.output.dense"}
        if place.kind == "conv_block":
            pairs |= {f"{ours}.mixer.convs.{k}": f"{prefix}.GC.cov{k + 1}" for k in range(3)}
        else:
            inner = f"{prefix}.attention.attention"
            pairs |= {f"{ours}.attention.{z}": f"{inner}.{z}" for z in ("query", "key", "value")}
            pairs[f"{ours}.attention.output"] = f"{prefix}.attention.output.dense"
    if config.downsampling == "binary":
        pairs |= {f"stages.{s}.downsample": f"vit.encoder.patch_embed{s}.proj" for s in (1, 2, 3)}
    assert {f"{ours}.bits" for ours in pairs} == {key for key in tensors if key.endswith(".bits")}
    for ours, theirs in pairs.items():
        _, signs = reference.binary_weight(state[f"{theirs}.weight"], np.float64)
        rows = np.moveaxis(signs, 1, -1).reshape(len(signs), -1)
        assert np.abs(rows).min() == 1
        np.testing.assert_array_equal(bits.unpack(tensors[f"{ours}.bits"], rows.shape[1]), rows > 0, err_msg=ours)


def test_labels_and_preprocessing_are_stored(packed: Packed, target: Path) -> None:
    checkpoint, config = packed(MICRO).with_suffix(".checkpoint.safetensors"), dict(load_case(MICRO).config)
    names = [f"class {i}" for i in range(10)]
    convert(checkpoint, target, config=config, labels=names, mean=[0.5], std=(0.25, 0.5, 1), resize=100, pad=4)
    model = load_model_file(target)
    assert model.labels == tuple(names)
    expected = Preprocessing(image_size=96, resize=100, crop=88, pad=4, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    assert model.preprocessing == expected
    default = load_model_file(packed(MICRO)).preprocessing
    assert default == Preprocessing(96, 109, 96, 0, IMAGENET_MEAN, IMAGENET_STD)
    assert load_model_file(packed(MICRO)).labels is None


def test_an_existing_model_is_replaced(packed: Packed, target: Path) -> None:
    target.write_text("older")
    checkpoint = packed(MICRO).with_suffix(".checkpoint.safetensors")
    convert(checkpoint, target, config=dict(load_case(MICRO).config))
    assert target.read_bytes() == packed(MICRO).read_bytes()


def test_parameters_without_influence_change_nothing(packed: Packed, tmp_path: Path, target: Path) -> None:
    case, state = altered(MICRO)
    for key in state:
        if key.endswith(".num_batches_tracked"):
            state[key] = np.array(state[key] + 7)
        if key.endswith(".init_state"):
            state[key] = np.zeros_like(state[key])
    checkpoint = write(tmp_path, state)
    convert(checkpoint, target, config=dict(case.config))
    theirs = packed(MICRO).with_suffix(".checkpoint.safetensors")
    assert target.read_bytes() == from_source(packed(MICRO).read_bytes(), theirs, checkpoint)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_checkpoint_of_another_float_type(dtype: Any, tmp_path: Path, target: Path) -> None:
    """Weights rounded to float16 convert to what those same values in float32 do."""
    case = load_case(MICRO)
    rounded = {
        key: a.astype(np.float16).astype(a.dtype) if a.dtype == np.float32 else a for key, a in case.state.items()
    }
    stored = {key: a.astype(dtype) if a.dtype == np.float32 else a for key, a in rounded.items()}
    wide, narrow = tmp_path / "wide.safetensors", tmp_path / "narrow.safetensors"
    save_file(rounded, wide)
    save_file(stored, narrow)
    assert convert(wide, target, config=dict(case.config)).warnings == []
    expected = from_source(target.read_bytes(), wide, narrow)
    convert(narrow, target, config=dict(case.config))
    assert target.read_bytes() == expected


def test_a_constant_row_of_weights_is_held(tmp_path: Path, target: Path) -> None:
    """Such a row gives 0 whatever its input; a scale of 0 says so. No weight is lost, nothing is warned of."""

    def flatten(weight: NDArray[Any]) -> None:
        weight[3] = 0.25
        weight[5] = 0

    case, state = altered("micro96_ln", layerA__0__output__dense__weight=flatten, layerA__0__GC__cov2__weight=flatten)
    report = convert(write(tmp_path, state), target, config=dict(case.config))
    assert (report.zero_weights, report.warnings) == (0, [])
    tensors = load_model_file(target).tensors
    assert not tensors["stages.0.blocks.0.mlp.fc2.affine"][3, [3, 5]].any()  # row scales
    assert not tensors["stages.0.blocks.0.mixer.convs.1.affine"][0, [3, 5]].any()
    # each flat row changes the stream of every token, so signs without a margin may differ: only the first block counts
    x = reference.stem(state, case.input[:1])
    expected = reference.block(state, "vit.encoder.layerA.0", x, num_heads=1, window_size=3)
    from bitvit.runtime.trace import Trace

    trace = Trace(load(target, threads=1).runner)
    got, _ = trace.run_layer("stages.0.blocks.0", x[0], *expected.shape[2:])
    error = np.abs(got - expected[0]).max(axis=-1)
    assert np.mean(error <= 2e-5 * expected.std()) >= 0.99  # of the spread, as for whole networks


# --------------------------------------------------------------------------------------------------- outputs refused


def test_output_onto_the_checkpoint(packed: Packed, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(packed(MICRO).with_suffix(".checkpoint.safetensors").read_bytes())
    config = dict(load_case(MICRO).config)
    message = "is the checkpoint itself; choose another output file"
    refused(CheckpointError, message, checkpoint, checkpoint, config=config)
    (tmp_path / "sub").mkdir()
    refused(CheckpointError, message, checkpoint, tmp_path / "sub" / ".." / "checkpoint.safetensors", config=config)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
def test_output_onto_a_link_to_the_checkpoint(kind: str, packed: Packed, target: Path) -> None:
    checkpoint = packed(MICRO).with_suffix(".checkpoint.safetensors")
    getattr(target, kind)(checkpoint)
    refused(CheckpointError, "is the checkpoint itself", checkpoint, target, config=dict(load_case(MICRO).config))


def test_output_onto_a_folder(tmp_path: Path) -> None:
    message = refused(CheckpointError, "is a folder; name the model file to write", find("pth/bare.pth"), tmp_path)
    assert str(tmp_path / "model.safetensors") in message


def test_output_into_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    config = dict(load_case(MICRO).config)
    with pytest.raises(ModelFileError, match="cannot be written: No such file or directory"):
        convert(find("pth/bare.pth"), tmp_path / "missing" / "m.safetensors", config=config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "nul\0"], ids=["long", "nul"])
def test_an_output_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(BitvitError):
        convert(find("pth/bare.pth"), tmp_path / name, config=dict(load_case(MICRO).config))


# ---------------------------------------------------------------------------------------------------- inputs refused


def test_a_missing_checkpoint(target: Path, tmp_path: Path) -> None:
    refused(CheckpointError, "no such file", tmp_path / "nope.pth", target)


def test_a_packed_model_is_no_checkpoint(packed: Packed, target: Path) -> None:
    refused(CheckpointError, "is a packed bitvit model, already converted", packed(MICRO), target)


def test_no_averaged_weights(target: Path) -> None:
    refused(
        CheckpointError, "has no averaged", find("pth/bare.pth"), target, config=dict(load_case(MICRO).config), ema=True
    )


def test_a_config_is_needed_for_what_shapes_cannot_tell(target: Path) -> None:
    refused(ConfigError, "do not tell the attention window.*window_size", find("pth/bare.pth"), target)


def test_a_config_of_another_network(target: Path) -> None:
    config = {**load_case(MICRO).config, "hidden_size": [16, 32, 64, 128]}
    refused(ConfigError, "hidden_size", find("pth/bare.pth"), target, config=config)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "no such file; check the path"),
        (b"", "is not JSON"),
        (b"{", "is not JSON .*expected the config.json of the model"),
        (b"\xff\xfe", "is not UTF-8 text; expected the config.json of the model"),
        (b"[" * 200_000, "is not JSON"),
        (b"9" * 5000, "JSON"),
        (b"[1, 2]", "holds a JSON list, expected an object with fields such as depths"),
        (b"null", "holds a JSON NoneType, expected an object"),
        (b'"text"', "holds a JSON str, expected an object"),
    ],
    ids=["missing", "empty", "cut", "no text", "deep", "long number", "list", "null", "string"],
)
def test_config_files_that_hold_no_config(content: bytes | None, match: str, tmp_path: Path, target: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    message = refused(ConfigError, match, find("pth/bare.pth"), target, config=path)
    assert message.startswith(f"{path}: ")


def test_a_config_that_is_a_folder(tmp_path: Path, target: Path) -> None:
    refused(
        ConfigError, "is a folder, expected a file with the config.json", find("pth/bare.pth"), target, config=tmp_path
    )


def test_a_label_that_no_file_can_hold(target: Path) -> None:
    refused(
        ConfigError, r"labels: '\\ud800' is half of a surrogate pair", find("pth/bare.pth"), target,
        config=dict(load_case(MICRO).config), labels=["x"] * 9 + ["a\ud800"],
    )  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 9, 11])
def test_a_wrong_number_of_labels(count: int, target: Path) -> None:
    refused(
        ConfigError, f"labels: {count} names for 10 classes; give one name a class", find("pth/bare.pth"), target,
        config=dict(load_case(MICRO).config), labels=["x"] * count,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["mean", "std"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_channels(name: str, count: int, target: Path) -> None:
    refused(
        ConfigError, f"{name}: {count} values, expected one, or three for R, G, B", find("pth/bare.pth"), target,
        config=dict(load_case(MICRO).config), **{name: [0.5] * count},
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{"std": [0.0]}, {"mean": [float("nan")]}, {"resize": "big"}, {"resize": 10}, {"pad": 48}, {"pad": -1}],
    ids=str,
)
def test_preprocessing_that_cannot_work(options: dict[str, Any], target: Path) -> None:
    config = dict(load_case(MICRO).config)
    refused(ConfigError, "^preprocessing: ", find("pth/bare.pth"), target, config=config, **options)


def test_a_refusal_leaves_an_existing_model_alone(packed: Packed, target: Path) -> None:
    target.write_bytes(packed(MICRO).read_bytes())
    refused(ConfigError, "labels", find("pth/bare.pth"), target, config=dict(load_case(MICRO).config), labels=["one"])


# -------------------------------------------------------------------------------------------------------------- zeros


def put_zeros(count: int) -> Callable[[NDArray[Any]], None]:
    """Make `count` rows (of even length) sum to exactly zero, with one zero weight in each."""

    def change(weight: NDArray[Any]) -> None:
        rows = weight.reshape(len(weight), -1)
        rows[:count, ::2], rows[:count, 1::2] = -0.25, 0.25
        rows[:count, 0], rows[:count, 2] = 0, -0.5

    return change


def test_few_zero_weights_are_warned_of(tmp_path: Path, target: Path) -> None:
    case, state = altered("micro96_somefp", layerB__1__intermediate__dense__weight=put_zeros(2))
    signs = reference.binary_weight(state["vit.encoder.layerB.1.intermediate.dense.weight"], np.float64)[1]
    zeros = np.argwhere(signs == 0)
    assert len(zeros) == 2
    checkpoint = write(tmp_path, state)
    with pytest.warns(UserWarning, match="centred weights are exactly 0") as caught:
        report = convert(checkpoint, target, config=dict(case.config))
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points at the caller
    assert report.zero_weights == 2 <= MAX_ZERO_SHARE * report.binary_weights
    assert report.warnings == [str(caught[0].message)]
    note = report.warnings[0]
    assert note.startswith(f"{checkpoint}: 2 of {report.binary_weights} centred weights are exactly 0:")
    assert "vit.encoder.layerB.1.intermediate.dense.weight (2)" in note
    assert "they became -1" in note
    planes = load_model_file(target).tensors["stages.2.blocks.1.mlp.fc1.bits"]
    for row, column in zeros:
        assert not bits.unpack(planes, signs.shape[1])[row, column]


def test_many_zero_weights_are_refused(tmp_path: Path, target: Path) -> None:
    case, state = altered("micro96_somefp", layerB__1__intermediate__dense__weight=put_zeros(20))
    message = refused(
        CheckpointError,
        "exactly 0.*too many to be an accident",
        write(tmp_path, state),
        target,
        config=dict(case.config),
    )
    assert "20 of " in message
    assert "vit.encoder.layerB.1.intermediate.dense.weight (20)" in message


def test_how_many_zero_weights_are_too_many() -> None:
    """One of a hundred thousand is still taken for an accident; four tensors are named."""
    zeros = dict.fromkeys("abcde", 1)
    assert PackedNetwork({}, 1_000_000, {}).notes() == []
    (note,) = PackedNetwork({}, 500_000, zeros).notes()
    assert note.startswith("5 of 500000 centred weights are exactly 0: a (1), b (1), c (1), d (1); they became -1")
    with pytest.raises(CheckpointError, match=r"^5 of 499999 .* d \(1\)\. Such weights ignore their input"):
        PackedNetwork({}, 499_999, zeros).notes()


def test_structural_zeros_are_refused(tmp_path: Path, target: Path) -> None:
    case = load_case("edge_zeros")
    message = refused(
        CheckpointError,
        "are 0 with no offset behind them",
        write(tmp_path, case.state),
        target,
        config=dict(case.config),
    )
    assert "'vit.encoder.layerA.0.intermediate.rprelu.prelu.weight'" in message


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_structural_zeros_of_projections_are_refused(name: str, tmp_path: Path, target: Path) -> None:
    z = name[0]
    case, state = altered(MICRO)
    inner = "vit.encoder.layerB.1.attention.attention"
    state[f"{inner}.rprelu{z}.prelu.weight"][2] = 0
    convert(write(tmp_path, state), target, config=dict(case.config))  # a slope of 0 alone does no harm
    state[f"{inner}.move{z}2"][2] = -state[f"{inner}.rprelu{z}.move2"][2]
    message = refused(CheckpointError, "^.*: 1 channels of", write(tmp_path, state), target, config=dict(case.config))
    assert f"'{inner}.rprelu{z}.prelu.weight'" in message


# ------------------------------------------------------------------------------------------------ numbers out of range


def test_a_gsb_step_of_zero_is_refused(tmp_path: Path, target: Path) -> None:
    def zero(clip: NDArray[Any]) -> None:
        clip[...] = 0

    case, state = altered("micro96_gsb", layerB__1__attention__attention__att_prob_clip=zero)
    checkpoint = write(tmp_path, state)
    message = refused(CheckpointError, "att_prob_clip' is exactly 0", checkpoint, target, config=dict(case.config))
    assert message.startswith(f"{checkpoint}: ")


@pytest.mark.parametrize("value", [-1.0, -1e-5])
def test_a_negative_variance_is_refused(value: float, tmp_path: Path, target: Path) -> None:
    """-1e-5 and eps cancel in float64 but for the last bits; less than that is the root of a negative number."""

    def spoil(variance: NDArray[Any]) -> None:
        variance[3] = np.float32(value) * np.float32(1.01)

    case, state = altered(MICRO, layerA__0__output__norm__running_var=spoil)
    message = refused(
        CheckpointError, r"gives NaN, infinity or numbers beyond 1e\+12; a norm's running_var is negative",
        write(tmp_path, state), target, config=dict(case.config),
    )  # fmt: skip
    assert "folding 'stages.0.blocks.0.mlp.fc2.affine'" in message


def test_an_overflow_of_float32_is_refused(tmp_path: Path, target: Path) -> None:
    def large(weight: NDArray[Any]) -> None:
        weight[0] = 3e38

    def small(variance: NDArray[Any]) -> None:
        variance[0] = 0

    case, state = altered(MICRO, GC__norm__weight=large, GC__norm__running_var=small)
    refused(
        CheckpointError, "folding 'stages.0.blocks.0.mixer.out' gives NaN, infinity or", write(tmp_path, state), target,
        config=dict(case.config),
    )  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_checkpoint_with_nan_is_refused(value: float, tmp_path: Path, target: Path) -> None:
    def spoil(weight: NDArray[Any]) -> None:
        weight[0] = value

    case, state = altered(MICRO, classifier__bias=spoil)
    refused(CheckpointError, "classifier.bias", write(tmp_path, state), target, config=dict(case.config))


def test_a_checkpoint_with_a_missing_tensor_is_refused(tmp_path: Path, target: Path) -> None:
    case, state = altered(MICRO)
    del state["vit.encoder.layerB.0.attention.attention.moveq2"]
    refused(
        CheckpointError,
        r"layerB\.0\.attention\.attention\.moveq2",
        write(tmp_path, state),
        target,
        config=dict(case.config),
    )


def test_source_and_state_are_left_alone(packed: Packed, target: Path) -> None:
    checkpoint = packed(MICRO).with_suffix(".checkpoint.safetensors")
    before = checkpoint.read_bytes()
    convert(checkpoint, target, config=dict(load_case(MICRO).config))
    assert checkpoint.read_bytes() == before
    assert read_checkpoint(checkpoint).sha256 == load_model_file(target).source_sha256
