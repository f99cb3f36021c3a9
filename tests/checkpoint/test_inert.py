"""What pickles of checkpoints hold, rebuilt as inert values."""

from pathlib import Path

import pytest

from tests.support.checkpoints import FIVE, assert_same, read_zip, readable, refuse, write_zip
from tools.fuzz.pickles import Raw, build, call, emit, glob, namespace, storage, tensor, text


def test_rebuilds_what_checkpoints_hold_beside_tensors(tmp_path: Path) -> None:
    array = build(call("numpy.core.multiarray", "_reconstruct", glob("numpy", "ndarray"), (0,), Raw(b"C\x01b")), (1, 2))
    dtype = build(call("numpy", "dtype", "f8", False, True), (3, "<", None))
    args = {
        "path": call("pathlib", "PosixPath", "/", "data", "set"),
        "path3.13": call("pathlib._local", "PosixPath", "a", "b"),
        "dtype": glob("torch", "bfloat16"),
        "device": call("torch", "device", "cuda", 0),
        "cpu": call("torch", "device", "cpu"),
        "size": call("torch", "Size", (2, 3)),
        "layout": call("torch.serialization", "_get_layout", "torch.strided"),
        "scalar": call("numpy._core.multiarray", "scalar", dtype, call("_codecs", "encode", "\xff\x00", "latin1")),
        "array": array,
        "numbers": [1, 2.5, None],
        "nested": [[1]],
        "dict": {"a": 1},
        "set": call("builtins", "set", [1, 2]),
        "empty set": Raw(b"\x8f(K\x01\x90"),
        "frozen": Raw(b"(K\x01\x91"),
        "default": call("collections", "defaultdict", glob("builtins", "list")),
        "counter": call("collections", "Counter", {"a": 2}),
        "pairs": call("collections", "OrderedDict", [("a", 1)]),
        "queue": Raw(call("collections", "deque", (), 3).code + b"K\x07a"),
        "bytes": Raw(b"C\x02\x00\xff"),
        "bytes of protocol 2": call("_codecs", "encode", "\xff\x00", "latin1"),
        "its other spelling": call("_codecs", "encode", "\xff\x00", "latin-1"),
        "tensor": tensor("0", (5,)),
        "namespace": namespace(a=1),
        "complex": call("builtins", "complex", 1.0, 2.0),
        "popped": Raw(b"K\x01K\x020"),
        "pop mark": Raw(b"K\x01(K\x021"),
        "tuple": Raw(b"K\x01K\x02K\x03\x87"),
        "memoized": Raw(b"K\x08\x94"),
        "tuple key": {(1, 2): 3},
        "long": Raw(b"\x8a\x09" + bytes(8) + b"\x01"),
    }
    found = read_zip(
        tmp_path, {"model": {"w": tensor("0", (5,))}, "args": namespace(**args), 7: None}, {"0": FIVE}
    ).args
    assert readable(found) == {
        "path": "/data/set",
        "path3.13": "a/b",
        "dtype": "torch.bfloat16",
        "device": "<torch.device 'cuda':0>",
        "cpu": "<torch.device>",
        "size": [2, 3],
        "layout": "<torch.layout>",
        "scalar": "<NumPy scalar>",
        "array": "<NumPy array>",
        "numbers": [1, 2.5, None],
        "nested": "<list>",
        "dict": {"a": 1},
        "set": "<set>",
        "empty set": "<set>",
        "frozen": "<set>",
        "default": {},
        "counter": {"a": 2},
        "pairs": {"a": 1},
        "queue": [7],
        "bytes": b"\x00\xff",
        "bytes of protocol 2": b"\xff\x00",
        "its other spelling": b"\xff\x00",
        "tensor": "<tensor>",
        "namespace": {"a": 1},
        "complex": "<complex>",
        "popped": 1,
        "pop mark": 1,
        "tuple": (1, 2, 3),
        "memoized": 8,
        "tuple key": {"<key>": 3},
        "long": 1 << 64,
    }


def test_parameters_are_tensors(tmp_path: Path) -> None:
    plain = tensor("0", (5,))
    hooks = call("collections", "OrderedDict")
    rebuild = glob("torch._utils", "_rebuild_tensor_v2")
    parts = (storage("0", 5), 0, (5,), (1,), False, hooks)
    value = {
        "parameter": call("torch._utils", "_rebuild_parameter", plain, True, hooks),
        "with state": call("torch._utils", "_rebuild_parameter_with_state", plain, True, hooks, {"tag": 1}),
        "tagged": call("torch._tensor", "_rebuild_from_type_v2", rebuild, glob("torch", "Tensor"), parts, {"tag": 1}),
        "old": call("torch._utils", "_rebuild_tensor", storage("0", 5), 0, (5,), (1,)),
        "ordered": plain,
    }
    assert_same(read_zip(tmp_path, value, {"0": FIVE}).state, dict.fromkeys(value, FIVE))


def test_state_dict_with_metadata(tmp_path: Path) -> None:
    """model.state_dict() is an OrderedDict with an attribute: a BUILD opcode on a dict."""
    ordered = call("collections", "OrderedDict")
    filled = Raw(ordered.code + b"(" + text("w") + tensor("0", (5,)).code + b"u")
    value = build(filled, {"_metadata": {"": {"version": 1}}, "__setstate__": 3, "__class__": 4})
    assert_same(read_zip(tmp_path, value, {"0": FIVE}).state, {"w": FIVE})


@pytest.mark.parametrize(
    ("size", "stride", "offset", "problem"),
    [
        ((5,), (1, 1), 0, "not lists of one length"),
        ((-1,), (1,), 0, "is not a count"),
        ((2,), (-1,), 4, "is not a count"),
        ((5,), (1,), -1, "is not a count"),
        ((5,), (1,), 1, "last element is number 5 of a storage of 5"),
        ((2, 2), (2**30, 1), 0, "last element is number"),
        ((2**30, 2**30), (2**30, 1), 0, "last element is number"),
        ((0, 2**30, 2**30), (1, 1, 1), 0, "absurd dimensions"),
        ((1,) * 33, (1,) * 33, 0, "33 dimensions"),
        ((True,), (1,), 0, "is not a count"),
        ((False,), (1,), 0, "is not a count"),
        ((2,), (True,), 0, "is not a count"),
        ((2,), (1,), False, "is not a count"),
        ((2,), (1 << 62,), 0, "last element is number"),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int, problem: str
) -> None:
    value = {"w": tensor("0", size, stride, offset, count=5)}
    refuse(write_zip(tmp_path / "t.pth", value, {"0": FIVE}), "data.pkl", "at byte", problem)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (call("torch._utils", "_rebuild_tensor_v2", "x", 0, (5,), (1,)), "over 'x', which is not a storage"),
        (call("torch._utils", "_rebuild_tensor_v2", storage("0", 5), 0, 5, 1), "not lists of one length"),
        (call("torch._utils", "_rebuild_tensor_v2", storage("0", 5)), "argument"),
        (call("torch._utils", "_rebuild_tensor_v3", storage("0", 5), 0, (5,), (1,), 0, 0, "x"), "of dtype 'x'"),
        (storage("0", -5), "a storage of -5 elements"),
        (storage("0", True), "a storage of True elements"),
        (storage("0", 5, "FloatStorage", ("view", 0, 5)), "or a view of one"),
        (Raw(emit(("storage", "torch.FloatStorage", "0", "cpu", 5)) + b"Q"), "describes no storage"),
        (Raw(emit(5) + b"Q"), "describes no storage"),
    ],
)
def test_malformed_tensors_are_refused(tmp_path: Path, value: Raw, problem: str) -> None:
    refuse(write_zip(tmp_path / "t.pth", {"w": value}, {"0": FIVE}), "malformed or truncated pickle", problem)
