"""What a pickle may speak of: values and objects beside the weights, lazily signed and other kinds of tensors."""

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import http
import ipaddress
import pathlib
import pickle
import random
import re
import runpy
import time
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitvit.checkpoint import read_checkpoint
from bitvit.checkpoint.rebuild import is_class
from bitvit.errors import CheckpointError
from tests.support.checkpoints import FIVE, assert_same, read_zip, readable, refuse, write_legacy, write_zip
from tools.fuzz.pickles import Raw, build, call, glob, storage, tensor

Write = Callable[..., Path]


class Phase(enum.Enum):
    TRAIN = 1


class Flags(enum.Flag):
    A = 1
    B = 2


class Settings(dict):  # type: ignore[type-arg]
    """A dict with attributes, as scripts and libraries of settings have it."""


def plain_values() -> dict[str, object]:
    day = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
    generator = np.random.default_rng(0)
    return {
        "datetime": day,
        "date": day.date(),
        "time": day.time(),
        "delta": datetime.timedelta(1),
        "zone": zoneinfo.ZoneInfo("UTC"),
        "struct_time": time.gmtime(0),
        "decimal": decimal.Decimal("1.5"),
        "fraction": fractions.Fraction(1, 3),
        "uuid": uuid.UUID(int=1),
        "address": ipaddress.ip_address("127.0.0.1"),
        "pattern": re.compile("a", re.IGNORECASE),
        "path": pathlib.PurePosixPath("a/b"),
        "enum": Phase.TRAIN,
        "flag": Flags.A | Flags.B,
        "status": http.HTTPStatus.OK,
        "settings": Settings(a=1),
        "user dict": collections.UserDict(a=1),
        "chain": collections.ChainMap({"a": 1}),
        "deque": collections.deque([1], 3),
        "counter": collections.Counter("aab"),
        "simple": types.SimpleNamespace(a=1),
        "partial": functools.partial(Settings, a=1),
        "random": random.Random(0),
        "array": array.array("f", [1.0]),
        "range": range(3),
        "slice": slice(1, 2),
        "bytearray": bytearray(b"ab"),
        "bytes": b"ab",
        "complex": 1j,
        "ellipsis": ...,
        "object": object(),
        "error": ValueError("a"),
        "own error": CheckpointError("a"),
        "types": [int, str, float, bool, bytes, type(None), np.float32, Phase, type(np.dtype("f4"))],
        "generic types": [list[int], typing.Union[int, None], typing.Any],  # noqa: UP007
        "numpy scalar": np.float64(1),
        "numpy date": np.datetime64("2024"),
        "numpy array": np.zeros((2, 2)),
        "objects": np.array([None, "a"], dtype=object),
        "masked": np.ma.masked_array([1.0], [True]),
        "generator": generator,
        "old generator": np.random.RandomState(0),
        "keys": {(1, 2): 3, Phase.TRAIN: 1, np.int64(2): 1},
    }


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", plain_values())
def test_objects_of_plain_libraries_lie_beside_the_weights(
    name: str, protocol: int, write: Write, tmp_path: Path
) -> None:
    value = Raw(pickle.dumps(plain_values()[name], protocol)[:-1])
    path = write(tmp_path / "t.pth", {"x": value, "model": {"w": tensor("0", (5,))}}, {"0": FIVE})
    assert_same(read_checkpoint(path).state, {"w": FIVE})


def test_objects_show_what_they_stand_for(tmp_path: Path) -> None:
    args = {
        "when": call("datetime", "datetime", 2024, 2, 29),
        "phase": call("__main__", "Phase", 1),
        "member": call("__builtin__", "getattr", glob("__main__", "Phase"), "TRAIN"),
        "type": glob("__builtin__", "long"),
        "seeds": call("numpy.random._pickle", "__generator_ctor", "PCG64"),
        "text": glob("__builtin__", "unicode"),
        "range": call("__builtin__", "xrange", 0, 3, 1),
        "dtype": glob("torch", "float8_e4m3fn"),
        "long name": call("__main__", "A" * 200, 1),
        "odd name": call("__main__", "A\x1b[2J", 1),
    }
    found = readable(read_zip(tmp_path, {"model": {"w": tensor("0", (5,))}, "args": args}, {"0": FIVE}).args)
    assert found == {
        "when": "<datetime.datetime>",
        "phase": "<__main__.Phase>",
        "member": "<__main__.Phase.TRAIN>",
        "type": "builtins.int",
        "seeds": "<NumPy random generator>",
        "text": "builtins.str",
        "range": "<range>",
        "dtype": "torch.float8_e4m3fn",
        "long name": f"<'__main__.{'A' * 67}...>",
        "odd name": "<'__main__.A\\x1b[2J'>",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("__main__ Phase", True),
        ("omegaconf.dictconfig DictConfig", True),
        ("torch.optim.adamw AdamW", True),
        ("train Trainer.Phase", True),
        ("torch._dynamo.decorators _DimRange", True),
        ("__main__ run", False),
        ("train Trainer.run", False),
        ("subprocess Popen", False),
        ("os.path Path", False),
        ("torch load", False),
        ("torch Tensor", False),
        (" Phase", False),
        ("train ", False),
        ("Phase", False),
        ("train " + "P" * 300, False),
        ("train " + "P." * 13 + "P", False),
    ],
)
def test_classes_are_told_from_functions(name: str, expected: bool) -> None:
    assert is_class(name) == expected


def test_names_of_classes_have_bounds() -> None:
    assert is_class("m " + "A" * 298)
    assert not is_class("m " + "A" * 299)
    assert is_class("m " + ".".join("A" * 13))
    assert not is_class("m " + ".".join("A" * 14))


def test_tensors_have_as_many_dimensions_as_numpy_allows(tmp_path: Path) -> None:
    """NumPy 1: 32; then 64, which no network needs."""
    found = read_zip(tmp_path, {"model": {"w": tensor("0", (1,) * 31 + (5,))}}, {"0": FIVE})
    assert found.state["w"].ndim == 32
    path = write_zip(tmp_path / "more.pth", {"model": {"w": tensor("0", (1,) * 32 + (5,))}}, {"0": FIVE})
    refuse(path, "a tensor of 33 dimensions")


def test_deep_objects_cost_no_recursion(tmp_path: Path) -> None:
    """An object in an attribute of an object, and so on: neither building nor freeing it."""
    depth = 20_000
    deep = Raw((glob("__main__", "Node").code + b")\x81}X\x01\0\0\0a") * depth + b"N" + b"sb" * depth)
    value = {"model": {"w": tensor("0", (5,))}, "x": deep}
    assert_same(read_zip(tmp_path, value, {"0": FIVE}).state, {"w": FIVE})


# ------------------------------------------------------------------------------------------------ lazily signed tensors


def signed(kind: str, metadata: object, version: int = 2, dtype: str = "float32") -> Raw:
    """A tensor over the five numbers of storage 0, with metadata."""
    name = "UntypedStorage" if version == 3 else kind
    base = storage("0", 20 if version == 3 else 5, name)
    more = (glob("torch", dtype),) if version == 3 else ()
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", f"_rebuild_tensor_v{version}", base, 0, (5,), (1,), False, hooks, *more, metadata)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_lazily_negated_tensors_are_negative(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "t.pth", {"w": signed("FloatStorage", {"neg": True})}, {"0": FIVE})
    assert_same(read_checkpoint(path).state, {"w": -FIVE})
    wrapped = call("torch._utils", "_rebuild_parameter", signed("FloatStorage", {"neg": True}), True, 0)
    path = write(tmp_path / "p.pth", {"w": wrapped, "v": signed("FloatStorage", {})}, {"0": FIVE})
    assert_same(read_checkpoint(path).state, {"w": -FIVE, "v": FIVE})


@pytest.mark.parametrize(
    ("kind", "dtype"), [("LongStorage", np.int64), ("HalfStorage", np.float16), ("ByteStorage", np.uint8)]
)
def test_numbers_of_other_types_are_negated(kind: str, dtype: Any, tmp_path: Path) -> None:
    """Those without a sign wrap around, as in torch."""
    data = np.arange(5).astype(dtype)
    found = read_zip(tmp_path, {"w": signed(kind, {"neg": True})}, {"0": data}).state["w"]
    np.testing.assert_array_equal(found, -data)


def test_lazily_negated_tensors_over_untyped_storages(tmp_path: Path) -> None:
    value = {"w": signed("", {"neg": True}, 3), "v": signed("", {}, 3), "u": signed("", None, 3)}
    assert_same(read_zip(tmp_path, value, {"0": FIVE}).state, {"w": -FIVE, "v": FIVE, "u": FIVE})


@pytest.mark.parametrize(
    "metadata", [{"conj": True}, {"neg": False}, {"neg": 1}, {"neg": True, "conj": True}, {"new": True}, [1], "neg", 5]
)
@pytest.mark.parametrize("version", [2, 3])
def test_other_metadata_is_refused_by_name(metadata: object, version: int, tmp_path: Path) -> None:
    value = signed("FloatStorage", metadata, version)
    path = write_zip(tmp_path / "t.pth", {"model": {"w": value}}, {"0": FIVE})
    refuse(
        path, "entry 'w' of the state dict is <oddly marked (", "v.resolve_conj().resolve_neg()", "['model'].items()"
    )
    beside = write_zip(tmp_path / "u.pth", {"model": {"w": tensor("0", (5,))}, "x": value}, {"0": FIVE})
    assert_same(read_checkpoint(beside).state, {"w": FIVE})


def test_there_is_no_minus_of_a_bool(tmp_path: Path) -> None:
    flags = np.array([True, False, True, True, False])
    path = write_zip(tmp_path / "t.pth", {"w": signed("BoolStorage", {"neg": True})}, {"0": flags})
    refuse(path, "entry 'w' of the state dict is <oddly marked ('neg') tensor>")


@pytest.mark.parametrize("legacy", [False, True])
def test_lazy_signs_are_torch_s(legacy: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    plain = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    negated = torch.complex(plain, plain + 1).conj().imag
    lazy = {
        "negated": negated,
        "turned": negated.T,
        "part": negated[1, 1:],
        "real": torch.complex(plain, plain + 1).conj().real,
        "double": torch.complex(plain.double(), plain.double()).conj().imag,
        "parameter": torch.nn.Parameter(negated),
        "plain": plain,
    }
    assert [name for name, tensor in lazy.items() if not tensor.is_neg()] == ["real", "plain"]
    torch.save(lazy, tmp_path / "t.pth", _use_new_zipfile_serialization=not legacy)
    loaded = torch.load(tmp_path / "t.pth")
    found = read_checkpoint(tmp_path / "t.pth").state
    assert found.keys() == lazy.keys()
    for name, expected in loaded.items():
        np.testing.assert_array_equal(found[name], expected.detach().resolve_neg().numpy(), err_msg=name, strict=True)


# ----------------------------------------------------------------------------------------------- other kinds of tensors


def other_tensors() -> dict[str, Any]:
    """By how they are called in messages."""
    torch = pytest.importorskip("torch")
    plain = torch.eye(3)
    return {
        "float8_e4m3fn": plain.to(torch.float8_e4m3fn),
        "float8_e5m2": plain.to(torch.float8_e5m2),
        "complex64": plain.to(torch.complex64).conj(),
        "complex128": plain.to(torch.complex128),
        "complex32": plain.to(torch.complex32),
        "sparse": plain.to_sparse(),
        "quantized": torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([plain, plain[:2]]),
        "valueless meta": torch.empty(3, device="meta"),
    }


OTHER_TENSORS = (
    *("float8_e4m3fn", "float8_e5m2", "complex64", "complex128", "complex32", "sparse", "quantized", "nested"),
    "valueless meta",
)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_other_tensors_lie_beside_the_weights(legacy: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights = torch.arange(5, dtype=torch.float32)
    beside = {
        **other_tensors(),
        "csr": torch.eye(3).to_sparse_csr(),
        "by channel": torch.quantize_per_channel(
            torch.eye(2), torch.tensor([0.1, 0.2]), torch.tensor([0, 0]), 0, torch.quint8
        ),
        "jagged": torch.nested.nested_tensor([weights, weights], layout=torch.jagged),
        "buffer": torch.nn.Buffer(weights),
        "storage": torch.ones(2).storage(),
        "dtypes": [torch.float8_e5m2, torch.complex32, torch.quint4x2, torch.uint4, torch.bits8, torch.bool],
        "others": [torch.strided, torch.per_tensor_affine, torch.Size([1]), torch.device("cpu"), torch.FloatTensor],
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(weights)]),
        "loss": torch.nn.CrossEntropyLoss(),
    }
    for value in beside.values():
        torch.save({"x": value, "model": {"w": weights}}, tmp_path / "t.pth", _use_new_zipfile_serialization=not legacy)
        assert_same(read_checkpoint(tmp_path / "t.pth").state, {"w": FIVE})


@pytest.mark.parametrize("name", OTHER_TENSORS)
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_other_tensors_are_no_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused by name, and the line of Python in the message mends the file where it can be mended."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "t.pth"
    torch.save({"model": {"v": torch.ones(2), "w": other_tensors()[name]}}, path)
    with pytest.raises(CheckpointError, match=f"entry 'w' of the state dict is <{name} tensor>, expected a") as caught:
        read_checkpoint(path)
    line = str(caught.value).partition("write it anew: ")[2]
    assert bool(line) == (name.startswith("float8") or name in ("sparse", "quantized"))
    if line:
        (tmp_path / "mend.py").write_text(line)
        monkeypatch.chdir(tmp_path)
        runpy.run_path("mend.py")
        mended = read_checkpoint(tmp_path / "weights.pth").state
        np.testing.assert_allclose(mended["w"], np.eye(3), atol=0.06)


def test_unread_storages_have_a_size(tmp_path: Path) -> None:
    """In the legacy format storages follow each other, and the ones behind a skipped one must still be found."""
    lost = call("torch._utils", "_rebuild_tensor_v2", storage("0", 3, "ComplexFloatStorage"), 0, (3,), (1,), False, {})
    value = {"x": lost, "model": {"w": tensor("1", (5,))}}
    path = write_legacy(tmp_path / "t.pth", value, {"0": np.zeros(3, np.complex64), "1": FIVE})
    assert_same(read_checkpoint(path).state, {"w": FIVE})


def test_attributes_of_all_shapes(tmp_path: Path) -> None:
    """Slots come as a pair of dicts; a state of another kind tells nothing."""
    blank = Raw(glob("__main__", "Args").code + b")\x81")
    for state, expected in (
        ({"a": 1}, {"a": 1}),
        (({"a": 1}, {"b": 2}), {"a": 1, "b": 2}),
        ((None, {"b": 2}), {"b": 2}),
        (5, {}),
        ([1], {}),
    ):
        value = {"model": {"w": tensor("0", (5,))}, "args": build(blank, state)}
        assert read_zip(tmp_path, value, {"0": FIVE}).args == expected
