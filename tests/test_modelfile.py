"""The packed model file: round trips, equal bytes for equal inputs, and an error for every way to be damaged."""

import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import bitvit
from bitvit import bits
from bitvit.config import Config
from bitvit.errors import ModelFileError
from bitvit.model import BHViT
from bitvit.modelfile import (
    FORMAT_VERSION,
    METADATA_KEY,
    ModelFile,
    digest,
    load_model_file,
    read_model,
    save_model_file,
    seal,
)
from bitvit.schema import expected_tensors
from tests.support.golden_data import find, load_case
from tests.support.paths import TESTS

Packed = Callable[[str], Path]
Header = dict[str, Any]

COMMITTED = sorted(path.stem for path in (TESTS / "golden").glob("cases*/*.json"))
CONVERTIBLE = [name for name in COMMITTED if name != "edge_zeros"]  # refused by name, see test_pack.py
MICRO = "micro96_pth"

AGAIN = "convert the checkpoint again with bitvit convert"


def save_again(path: Path, model: ModelFile, **changes: Any) -> Path:
    """Write a model, perhaps with other tensors or metadata."""
    fields: dict[str, Any] = {
        "config": model.config, "preprocessing": model.preprocessing, "labels": model.labels,
        "source_sha256": model.source_sha256, **changes,
    }  # fmt: skip
    save_model_file(path, fields.pop("tensors", model.tensors), **fields)
    return path


# ------------------------------------------------------------------------------------------------ a file's own bytes


def split(path: Path) -> tuple[Header, bytes]:
    """The JSON header of a .safetensors, and what follows."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path: Path, header: Header, data: bytes) -> Path:
    """The file, with a checksum that fits if it carries one."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole = struct.pack("<Q", len(text)) + text + data
    path.write_bytes(seal(whole) if b"checksum" in text else whole)
    return path


def with_metadata(source: Path, target: Path, metadata: str | None) -> Path:
    """A copy with other text under the metadata key, or without the key."""
    header, data = split(source)
    header["__metadata__"] = {} if metadata is None else {METADATA_KEY: metadata}
    return join(target, header, data)


def with_fields(source: Path, target: Path, **fields: Any) -> Path:
    """A copy with some of the metadata's fields replaced."""
    header, _ = split(source)
    return with_metadata(source, target, json.dumps(json.loads(header["__metadata__"][METADATA_KEY]) | fields))


def assert_refused(path: Path, *parts: str) -> None:
    """Loading fails; the message begins with the path, and says all of `parts`."""
    with pytest.raises(ModelFileError) as caught:
        load_model_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    for part in parts:
        assert part in message


# ------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("name", ["micro96_pth", "micro96_ln", "micro96_gsb"])
def test_load_inverts_save(name: str, packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(name))
    again = load_model_file(save_again(tmp_path / "model.safetensors", model, labels=None))
    assert again.path == tmp_path / "model.safetensors"
    assert (again.config, again.preprocessing, again.labels) == (model.config, model.preprocessing, None)
    assert again.source_sha256 == model.source_sha256
    assert again.version == bitvit.__version__
    assert again.tensors.keys() == model.tensors.keys()
    for tensor_name, tensor in model.tensors.items():
        assert again.tensors[tensor_name].dtype == tensor.dtype
        np.testing.assert_array_equal(again.tensors[tensor_name], tensor)


def test_labels_come_back_with_all_their_letters(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    labels = ("cat", "", "Ærø", "犬", '"quoted"', "a\nb", "🦆", " ", "cat", "\\")
    assert load_model_file(save_again(tmp_path / "m", model, labels=labels)).labels == labels


def test_strided_tensors_are_stored_in_c_order(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    strided = {name: np.asfortranarray(tensor) for name, tensor in model.tensors.items()}
    strided |= {
        name: np.repeat(t, 2, axis=-1)[..., ::2] for name, t in model.tensors.items() if name.startswith("stem")
    }
    assert save_again(tmp_path / "m", model, tensors=strided).read_bytes() == packed(MICRO).read_bytes()


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_the_schema_is_what_conversion_writes(name: str, packed: Packed) -> None:
    with safe_open(packed(name), framework="numpy") as file:
        written = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = load_model_file(packed(name)).config
    expected = expected_tensors(config)
    assert written.keys() == expected.keys()
    for key, spec in expected.items():
        assert written[key].shape == spec.shape, key
        assert written[key].dtype == spec.dtype == (np.uint64 if key.endswith(".bits") else np.float32), key
        if spec.features:
            assert spec.shape[1] == bits.words(spec.features), key
            assert not bits.has_tail_bits(written[key], spec.features), key


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_file_is_its_tensors_and_a_small_header(name: str, packed: Packed) -> None:
    """One bit a binary weight, rows rounded up to 64 bits; at most 130 bytes of header a tensor and 1.5 KB more."""
    expected = expected_tensors(load_model_file(packed(name)).config)
    content = sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in expected.values())
    size = packed(name).stat().st_size
    assert content < size <= content + 130 * len(expected) + 1500
    for spec in expected.values():
        if spec.features:
            assert (
                spec.shape[0] * spec.features / 8 <= np.prod(spec.shape) * 8 < spec.shape[0] * (spec.features / 8 + 8)
            )


# ---------------------------------------------------------------------------------------- equal inputs, equal bytes


def test_two_saves_are_equal_whatever_the_order_of_tensors(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    backwards = dict(reversed(model.tensors.items()))
    first, second = save_again(tmp_path / "1", model), save_again(tmp_path / "2", model, tensors=backwards)
    assert first.read_bytes() == second.read_bytes() == packed(MICRO).read_bytes()


@pytest.mark.parametrize("seed", ["1", "4242"])
def test_another_process_writes_the_same_bytes(seed: str, packed: Packed, tmp_path: Path) -> None:
    checkpoint, config = packed(MICRO).with_suffix(".checkpoint.safetensors"), dict(load_case(MICRO).config)
    code = "import json, sys, bitvit; bitvit.convert(sys.argv[1], sys.argv[2], config=json.loads(sys.argv[3]))"
    target = tmp_path / "model.safetensors"
    subprocess.run(
        [sys.executable, "-c", code, checkpoint, target, json.dumps(config)],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS.parent)},
        check=True,
    )
    assert target.read_bytes() == packed(MICRO).read_bytes()


def test_metadata_is_one_readable_json_object(packed: Packed) -> None:
    header, _ = split(packed(MICRO))
    assert header["__metadata__"].keys() == {METADATA_KEY}
    text = header["__metadata__"][METADATA_KEY]
    fields = json.loads(text)
    assert fields.keys() == {"checksum", "format", "config", "preprocessing", "labels", "source_sha256", "version"}
    assert fields["format"] == FORMAT_VERSION
    assert Config.from_dict(fields["config"]) == load_model_file(packed(MICRO)).config
    assert text == json.dumps(fields, sort_keys=True, ensure_ascii=False)
    assert str(TESTS.parent) not in text  # nothing about the machine


# -------------------------------------------------------------------------------------------------- errors of loading


def test_a_missing_file(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nope.safetensors", "does not exist", "expected a packed model written by bitvit convert")


def test_a_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is a folder", "expected a packed model written by bitvit convert")
    (tmp_path / "bundle.json").touch()
    assert_refused(tmp_path, "is a bundle", "expected a packed model; give the model that it was made from; classify")


def test_a_name_too_long_for_the_file_system(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("x" * 300))


@pytest.mark.parametrize("content", [b"x", bytes(8), b"\xff" * 64, bytes(8) + b"{}"])
def test_what_is_no_safetensors(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert_refused(tmp_path / "file", "not a packed model, or damaged", "run bitvit convert")


@pytest.mark.parametrize(
    ("content", "what", "remedy"),
    [
        (b"", "is empty", "copy or download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file itself", "git lfs pull"),
        (
            b"\xff\xd8\xff\xe0\0\x10JFIF",
            "is a JPEG image",
            "name the model first; images, where they are wanted, come after it",
        ),
        (
            b"\x89PNG\r\n\x1a\n\0\0\0\r",
            "is a PNG image",
            "name the model first; images, where they are wanted, come after it",
        ),
        (
            b"RIFF\x24\0\0\0WEBPVP8 ",
            "is a WEBP image",
            "name the model first; images, where they are wanted, come after it",
        ),
        (b"PK\x03\x04" + bytes(100), "is a zip archive", "unpack it first"),
        (b"\x1f\x8b\x08\0", "is a gzip archive", "convert the training checkpoint to one"),
        (b"%PDF-1.7\n", "is a PDF document", "convert the training checkpoint to one"),
        (b"<!DOCTYPE html>\n<html>", "is a web page saved in place of the file", "download the file itself"),
        (b'{"image_size": 224}', "is JSON text", "convert the training checkpoint to one"),
        (b"\x80\x04\x95", "is a pickle that torch.save did not write", "torch.save({'model'"),
    ],
)
def test_another_file_is_called_by_its_name(content: bytes, what: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert_refused(tmp_path / "file", f"{what}, expected a packed model written by bitvit convert; ", remedy)


@pytest.mark.parametrize("sample", ["checkpoint.pth", "bare_legacy.pth"])
def test_a_pth_checkpoint_is_told_to_be_converted(sample: str, tmp_path: Path) -> None:
    (tmp_path / sample).write_bytes(find(f"pth/{sample}").read_bytes())
    assert_refused(tmp_path / sample, "is a training checkpoint, expected", f"run bitvit convert {tmp_path / sample}")


def test_a_safetensors_checkpoint_is_told_to_be_converted(packed: Packed, tmp_path: Path) -> None:
    checkpoint = packed(MICRO).with_suffix(".checkpoint.safetensors")
    assert_refused(checkpoint, "a .safetensors file, but not a packed model", f"bitvit convert {checkpoint} -o")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, foreign, metadata={"format": "pt"})
    assert_refused(foreign, "a .safetensors file, but not a packed model")


def test_the_bytes_of_a_file_are_read_as_the_file(packed: Packed) -> None:
    data = packed(MICRO).read_bytes()
    model = read_model(data, Path("elsewhere"))
    assert model.path == Path("elsewhere")
    assert model.digest == digest(data) == model.checksum
    assert model.tensors.keys() == load_model_file(packed(MICRO)).tensors.keys()
    with pytest.raises(ModelFileError, match=r"^elsewhere: not a packed model, or damaged"):
        read_model(data[:-1], Path("elsewhere"))


@pytest.mark.parametrize("cut", [1, 8, 1000, 100_000])
def test_a_truncated_file(cut: int, packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(packed(MICRO).read_bytes()[:-cut])
    assert_refused(tmp_path / "m", "not a packed model, or damaged")


def test_a_file_with_more_behind_it(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(packed(MICRO).read_bytes() + bytes(8))
    assert_refused(tmp_path / "m", "not a packed model, or damaged")


@pytest.mark.parametrize("version", [0, 2, 99, "1", None])
def test_another_format_version(version: object, packed: Packed, tmp_path: Path) -> None:
    path = with_fields(packed(MICRO), tmp_path / "m", format=version)
    assert_refused(path, f"packed format {version!r}, this bitvit ({bitvit.__version__}) reads format 1", AGAIN)


@pytest.mark.parametrize("text", ["", "{", "[1", "nonsense", "[" * 100_000, '{"a": 1', "1" * 5000])
def test_metadata_that_is_no_json(text: str, packed: Packed, tmp_path: Path) -> None:
    assert_refused(with_metadata(packed(MICRO), tmp_path / "m", text), "broken metadata", AGAIN)


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null", "true"])
def test_metadata_that_is_no_object(text: str, packed: Packed, tmp_path: Path) -> None:
    assert_refused(with_metadata(packed(MICRO), tmp_path / "m", text), "broken metadata (not an object)", AGAIN)


@pytest.mark.parametrize("name", ["config", "preprocessing", "labels", "source_sha256", "version"])
def test_a_missing_metadata_field(name: str, packed: Packed, tmp_path: Path) -> None:
    header, _ = split(packed(MICRO))
    fields = json.loads(header["__metadata__"][METADATA_KEY])
    del fields[name]
    path = with_metadata(packed(MICRO), tmp_path / "m", json.dumps(fields))
    assert_refused(path, f"broken metadata (missing ['{name}'], unknown [])", AGAIN)


@pytest.mark.parametrize("name", ["config", "preprocessing"])
@pytest.mark.parametrize("value", [None, 3, "text", [], ["image_size"], {}, True], ids=repr)
def test_a_part_of_the_metadata_of_another_kind(name: str, value: object, packed: Packed, tmp_path: Path) -> None:
    assert_refused(with_fields(packed(MICRO), tmp_path / "m", **{name: value}), "broken metadata", AGAIN)


@pytest.mark.parametrize("name", ["config", "preprocessing"])
def test_a_list_of_the_field_names_in_place_of_the_fields(name: str, packed: Packed, tmp_path: Path) -> None:
    header, _ = split(packed(MICRO))
    names = list(json.loads(header["__metadata__"][METADATA_KEY])[name])
    assert_refused(with_fields(packed(MICRO), tmp_path / "m", **{name: names}), "broken metadata", AGAIN)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("config", "image_size", 97.0),
        ("config", "image_size", 10**30),
        ("config", "depths", [1, 1, 1]),
        ("config", "depths", [[1], [1], [1], [1]]),
        ("config", "window_size", 2),
        ("config", "norm", "instance"),
        ("config", "norm", ["batch"]),
        ("config", "surplus", 1),
        ("preprocessing", "mean", [0.5, 0.5]),
        ("preprocessing", "std", [0, 0, 0]),
        ("preprocessing", "crop", 95),
        ("preprocessing", "surplus", 1),
    ],
)
def test_metadata_that_breaks_a_rule(part: str, field: str, value: object, packed: Packed, tmp_path: Path) -> None:
    header, _ = split(packed(MICRO))
    fields = json.loads(header["__metadata__"][METADATA_KEY])[part]
    path = with_fields(packed(MICRO), tmp_path / "m", **{part: fields | {field: value}})
    assert_refused(path, "broken metadata", field, AGAIN)


@pytest.mark.parametrize("labels", [[], ["one"], ["x"] * 11, [1] * 10, "0123456789", {"0": "x"}, [["x"]] * 10])
def test_wrong_labels(labels: object, packed: Packed, tmp_path: Path) -> None:
    path = with_fields(packed(MICRO), tmp_path / "m", labels=labels)
    assert_refused(path, "the labels are not a list of 10 strings", AGAIN)


def test_missing_and_unexpected_tensors(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    tensors = dict(model.tensors)
    del tensors["stem.bias"], tensors["stages.2.blocks.0.attention.quantizer"]
    path = save_again(tmp_path / "1", model, tensors=tensors)
    assert_refused(
        path, "2 tensors missing ['stages.2.blocks.0.attention.quantizer', 'stem.bias'], 0 unexpected", AGAIN
    )
    path = save_again(tmp_path / "2", model, tensors={**model.tensors, "stem.spare": np.zeros(1, np.float32)})
    assert_refused(path, "0 tensors missing [], 1 unexpected ['stem.spare']", AGAIN)


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float64, "F64"), (np.float16, "F16"), (np.int32, "I32"), (np.uint64, "U64")]
)
def test_a_tensor_of_another_dtype(dtype: Any, name: str, packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    path = save_again(tmp_path / "m", model, tensors={**model.tensors, "stem.bias": np.zeros(8, dtype)})
    assert_refused(path, f"'stem.bias' is {name} (8,), expected F32 (8,)", AGAIN)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_a_tensor_of_a_dtype_that_numpy_does_not_know(dtype: str, packed: Packed, tmp_path: Path) -> None:
    header, data = split(packed(MICRO))
    entry = header["stem.bias"]
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    header["stem.bias"] = {**entry, "dtype": dtype, "shape": [size // 2 if dtype == "BF16" else size]}
    assert_refused(join(tmp_path / "m", header, data), f"'stem.bias' is {dtype}", AGAIN)


def test_planes_of_another_dtype(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    name = "stages.0.blocks.0.mlp.fc1.bits"
    planes = model.tensors[name]
    path = save_again(tmp_path / "m", model, tensors={**model.tensors, name: planes.view(np.uint8)})
    assert_refused(path, f"'{name}' is U8 (32, 8), expected U64 (32, 1)", AGAIN)


@pytest.mark.parametrize("shape", [(7,), (9,), (8, 1), (1, 8), (0,)])
def test_a_tensor_of_another_shape(shape: tuple[int, ...], packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    path = save_again(tmp_path / "m", model, tensors={**model.tensors, "stem.bias": np.zeros(shape, np.float32)})
    assert_refused(path, f"'stem.bias' is F32 {shape}, expected F32 (8,)", AGAIN)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(value: float, packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    for name in ("stem.weight", "stages.3.blocks.0.mlp.fc2.affine", "head.bias"):
        tensor = model.tensors[name].copy()
        tensor.reshape(-1)[-1] = value
        path = save_again(tmp_path / "m", model, tensors={**model.tensors, name: tensor})
        assert_refused(path, f"'{name}' holds NaN or infinity", AGAIN)


@pytest.mark.parametrize("value", [1.1e12, -3e38])
def test_numbers_far_out_of_range(value: float, packed: Packed, tmp_path: Path) -> None:
    """Kernels multiply them: what is finite here would be none there."""
    model = load_model_file(packed(MICRO))
    tensor = model.tensors["head.bias"].copy()
    tensor[1] = value
    path = save_again(tmp_path / "m", model, tensors={**model.tensors, "head.bias": tensor})
    assert_refused(path, "'head.bias' holds numbers beyond 1e+12", AGAIN)


def test_a_pipe(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "is not a regular file")


def test_a_file_larger_than_any_model(packed: Packed, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(packed(MICRO).read_bytes())
    os.truncate(path, 1 << 33)
    assert_refused(path, f"{1 << 33} bytes, expected a packed model of at most {1 << 30}")


# ----------------------------------------------------------------------------------------------------------- checksum


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(packed: Packed) -> None:
    """As the README says it, worked out without bitvit."""
    data = packed(MICRO).read_bytes()
    checksum = load_model_file(packed(MICRO)).checksum
    assert checksum is not None
    assert data.count(checksum.encode()) == 1
    assert hashlib.sha256(data.replace(checksum.encode(), b"0" * 64)).hexdigest() == checksum


def test_any_flipped_bit_is_named(tiny: Path, tmp_path: Path) -> None:
    """One bit in seven of the metadata, and one in many of all else. (Once all of them were tried.)"""
    data = tiny.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    metadata = data.index(b"__metadata__")
    end = data.index(b"}", data.index(b"version", metadata)) + 150
    places = [*range(8 * metadata, 8 * end, 7), *range(64), *range(8 * (8 + size), 8 * len(data), 1997)]
    assert len(places) > 1_100
    path = tmp_path / "m"
    for place in places:
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ModelFileError) as caught:
            load_model_file(path)
        assert str(caught.value).startswith(f"{path}: "), place


def test_a_changed_file_is_told_from_a_damaged_one(packed: Packed, tmp_path: Path) -> None:
    """A label, a mean and a weight: all would load."""
    data = packed(MICRO).read_bytes()
    for old, new in ((b"0.485", b"0.486"), (data[-40:], data[-40:-1] + bytes([data[-1] ^ 1]))):
        assert old in data
        (tmp_path / "m").write_bytes(data.replace(old, new))
        assert_refused(tmp_path / "m", "changed since it was written", "copy or download it again", AGAIN)
        (tmp_path / "m").write_bytes(seal(data.replace(old, new)))
        assert load_model_file(tmp_path / "m").checksum != load_model_file(packed(MICRO)).checksum


def test_a_file_without_a_checksum_is_read(packed: Packed, tmp_path: Path) -> None:
    """As bitvit wrote them before it had one."""
    header, _ = split(packed(MICRO))
    fields = json.loads(header["__metadata__"][METADATA_KEY])
    del fields["checksum"]
    path = with_metadata(packed(MICRO), tmp_path / "m", json.dumps(fields))
    assert load_model_file(path).checksum is None
    assert load_model_file(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("checksum", [None, "", "0" * 63, 5, "G" * 64, "\\u0030" * 64])
def test_a_checksum_that_is_none(checksum: object, packed: Packed, tmp_path: Path) -> None:
    header, data = split(packed(MICRO))
    fields = json.loads(header["__metadata__"][METADATA_KEY]) | {"checksum": checksum}
    header["__metadata__"] = {METADATA_KEY: json.dumps(fields)}
    text = json.dumps(header).encode()
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert_refused(tmp_path / "m", "broken metadata (the checksum is not as bitvit writes it)", AGAIN)


def test_a_label_may_look_like_a_checksum(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    decoys = tuple(f'"checksum": "{k:064d}"' for k in range(10))
    path = save_again(tmp_path / "m", model, labels=decoys)
    assert load_model_file(path).labels == decoys


def test_unknown_metadata_is_refused(packed: Packed, tmp_path: Path) -> None:
    """Else a flipped bit in its name would take the checksum away unnoticed."""
    path = with_fields(packed(MICRO), tmp_path / "m", checksun="x")
    assert_refused(path, "broken metadata (missing [], unknown ['checksun'])", AGAIN)


# ------------------------------------------------------------------------------------------------------- flipped bits


def planes_of(model: ModelFile) -> Mapping[str, NDArray[np.uint64]]:
    return {name: tensor for name, tensor in model.tensors.items() if name.endswith(".bits")}


def flipped(source: Path, target: Path, name: str, row: int, bit: int) -> Path:
    """A copy of a file in which one bit of a row of planes is flipped."""
    header, data = split(source)
    entry = header[name]
    changed = bytearray(data)
    changed[entry["data_offsets"][0] + row * entry["shape"][1] * 8 + bit // 8] ^= 1 << bit % 8
    return join(target, header, bytes(changed))


@pytest.mark.parametrize("name", ["micro96_binary", "micro160_odd"])
def test_any_flipped_tail_bit_is_refused(name: str, packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(name))
    specs = expected_tensors(model.config)
    tails = {key: specs[key].features for key in planes_of(model) if specs[key].features % 64}
    assert tails
    for key, features in tails.items():
        rows, words = specs[key].shape
        for row, bit in ((0, features), (rows - 1, 64 * words - 1)):
            path = flipped(packed(name), tmp_path / "m", key, row, bit)
            assert_refused(path, f"'{key}' has bits set beyond its {features} features", AGAIN)


def test_any_flipped_weight_changes_the_answer(packed: Packed, tmp_path: Path) -> None:
    """One bit in each of the planes, and a checksum to go with it: the file loads, but gives other logits."""
    case = load_case("micro96_binary")
    model = load_model_file(packed("micro96_binary"))
    specs = expected_tensors(model.config)
    expected = BHViT(model, threads=1)(case.input)
    assert len(planes_of(model)) >= 20
    for i, key in enumerate(planes_of(model)):
        rows, bit = specs[key].shape[0], 7 * i % specs[key].features
        changed = load_model_file(flipped(packed("micro96_binary"), tmp_path / "m", key, 5 * i % rows, bit))
        assert not np.array_equal(BHViT(changed, threads=1)(case.input), expected), key


# --------------------------------------------------------------------------------------------------- errors of saving


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saving_into_a_folder_that_does_not_exist(packed: Packed, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "m.safetensors"
    with pytest.raises(
        ModelFileError, match=r"cannot be written: No such file .*choose an existing folder that you may write to"
    ):
        save_again(path, load_model_file(packed(MICRO)))
    assert listing(tmp_path) == []


def test_saving_below_a_file(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ModelFileError, match="cannot be written: "):
        save_again(tmp_path / "file" / "m.safetensors", load_model_file(packed(MICRO)))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_saving_into_a_folder_without_permission(packed: Packed, tmp_path: Path) -> None:
    model = load_model_file(packed(MICRO))
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ModelFileError, match="cannot be written: "):
            save_again(tmp_path / "m.safetensors", model)
    finally:
        tmp_path.chmod(0o700)


def test_saving_onto_a_folder(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(ModelFileError, match="is not an ordinary file"):
        save_again(tmp_path / "m", load_model_file(packed(MICRO)))
    assert listing(tmp_path) == ["m"]
    assert listing(tmp_path / "m") == []


def test_a_name_too_long_to_save(packed: Packed, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        save_again(tmp_path / ("x" * 300), load_model_file(packed(MICRO)))


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(
    step: str, packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = load_model_file(packed(MICRO)), tmp_path / "m.safetensors"
    target.write_text("old")

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(ModelFileError, match="cannot be written: No space left on device"):
        save_again(target, model)
    monkeypatch.undo()
    assert listing(tmp_path) == ["m.safetensors"]
    assert target.read_text() == "old"


def test_an_interrupt_while_writing_leaves_the_old_file(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = load_model_file(packed(MICRO)), tmp_path / "m.safetensors"
    target.write_text("old")

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_again(target, model)
    assert listing(tmp_path) == ["m.safetensors"]
    assert target.read_text() == "old"


def test_an_older_file_is_replaced(packed: Packed, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    target.write_text("old")
    save_again(target, load_model_file(packed(MICRO)))
    assert target.read_bytes() == packed(MICRO).read_bytes()
    assert listing(tmp_path) == ["m.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_a_link_keeps_pointing_where_it_did(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, real = tmp_path / "m.safetensors", tmp_path / "elsewhere" / "real.safetensors"
    link.symlink_to(real)
    save_again(link, load_model_file(packed(MICRO)))
    assert link.is_symlink()
    assert real.read_bytes() == packed(MICRO).read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_is_that_of_any_new_file(umask: int, mode: int, packed: Packed, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_again(tmp_path / "m", load_model_file(packed(MICRO)))
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == mode
