"""From what was pickled to a state dict of arrays."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from safetensors.numpy import save_file

from bitvit.checkpoint import read_checkpoint, state_dict
from bitvit.checkpoint.file import Extent, read_extent
from tests.support.checkpoints import FIVE, assert_same, read_zip, refuse, write_legacy, write_zip
from tools.fuzz.pickles import Raw, build, call, glob, namespace, storage, tensor


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_finds_the_state_dict(tmp_path: Path, key: str | None, write: Callable[..., Path]) -> None:
    state = {"w": tensor("0", (5,))}
    path = write(tmp_path / "t.pth", {key: state, "epoch": 3} if key else state, {"0": FIVE})
    assert_same(read_checkpoint(path).state, {"w": FIVE})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_strips_wrappers_from_names(tmp_path: Path, prefix: str) -> None:
    assert list(read_zip(tmp_path, {f"{prefix}a.module.w": tensor("0", (5,))}, {"0": FIVE}).state) == ["a.module.w"]


def test_refuses_names_that_clash_once_stripped(tmp_path: Path) -> None:
    value = {"module.w": tensor("0", (5,)), "w": tensor("0", (5,))}
    refuse(write_zip(tmp_path / "t.pth", value, {"0": FIVE}), "'w' occurs with and without a prefix")


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema", "swa_state_dict"])
def test_ema_picks_the_averaged_weights(tmp_path: Path, key: str) -> None:
    value = {"model": {"w": tensor("0", (5,))}, key: {"module.w": tensor("1", (5,))}}
    path = write_zip(tmp_path / "t.pth", value, {"0": FIVE, "1": -FIVE})
    assert_same(read_checkpoint(path).state, {"w": FIVE})
    averaged = read_checkpoint(path, ema=True)
    assert_same(averaged.state, {"w": -FIVE})
    assert averaged.has_ema
    note = f"averaged (EMA) weights are there too ({key!r}): --ema (ema=True) takes them"
    assert (read_checkpoint(path).notes, averaged.notes) == ((note,), ())


def test_averaged_weights_alone_are_asked_for_by_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.pth", {"model_ema": {"w": tensor("0", (5,))}, "epoch": 1}, {"0": FIVE})
    refuse(path, "holds averaged (EMA) weights and no others; convert it with --ema (ema=True)")
    assert_same(read_checkpoint(path, ema=True).state, {"w": FIVE})


def test_averaged_weights_inside_a_helper_s_own_state(tmp_path: Path) -> None:
    ema = {"decay": 0.99, "shadow": {"w": tensor("1", (5,))}}
    path = write_zip(tmp_path / "t.pth", {"model": {"w": tensor("0", (5,))}, "ema": ema}, {"0": FIVE, "1": -FIVE})
    assert_same(read_checkpoint(path, ema=True).state, {"w": -FIVE})
    plain = write_zip(tmp_path / "u.pth", {"model": {"w": tensor("0", (5,))}, "ema": {"decay": 0.9}}, {"0": FIVE})
    assert not read_checkpoint(plain).has_ema


def test_ema_is_refused_where_there_is_none(tmp_path: Path) -> None:
    value = {"model": {"w": tensor("0", (5,))}, "model_ema": None}
    refuse(write_zip(tmp_path / "t.pth", value, {"0": FIVE}), "no averaged (EMA) weights", "'model_ema'", ema=True)
    save_file({"w": FIVE}, tmp_path / "m.safetensors")
    refuse(tmp_path / "m.safetensors", "no averaged (EMA) weights", ema=True)


def test_only_the_chosen_tensors_are_read(tmp_path: Path) -> None:
    """The optimizer's storages may even be missing."""
    value = {"model": {"w": tensor("0", (5,))}, "optimizer": {"state": {0: {"exp_avg": tensor("9", (5,))}}}}
    assert_same(read_zip(tmp_path, value, {"0": FIVE}).state, {"w": FIVE})


def test_args_may_be_a_dict(tmp_path: Path) -> None:
    value = {"model": {"w": tensor("0", (5,))}, "args": {"shift3": True, 5: "kept"}}
    assert read_zip(tmp_path, value, {"0": FIVE}).args == {"shift3": True, "5": "kept"}


def test_args_of_another_kind_are_none(tmp_path: Path) -> None:
    found = read_zip(tmp_path, {"model": {"w": tensor("0", (5,))}, "args": ["--shift3"]}, {"0": FIVE})
    assert found.args is None
    assert found.notes == ("'args' is <list>, which tells nothing of the network and of the images",)


def _object(name: str, **fields: object) -> Raw:
    return build(Raw(glob("settings", name).code + b")\x81"), fields)


def _node(value: object) -> Raw:
    return _object("AnyNode", _val=value)


@pytest.mark.parametrize(
    ("rest", "args"),
    [
        ({"hyper_parameters": {"shift3": True}}, {"shift3": True}),  # Lightning
        ({"hyper_parameters": {"args": namespace(shift3=True), "lr": 0.1}}, {"shift3": True, "lr": 0.1}),
        ({"args": {"shift3": True}, "hyper_parameters": {"shift3": False}},
         {"shift3": True, "hyper_parameters": {"shift3": False}}),
        ({"config": {"model": {"shift3": True}}}, {"model": {"shift3": True}}),
        ({"image_size": 64, "epoch": 3}, {"image_size": 64}),  # beside the state dict
        ({"args": {"lr": 0.1}, "weight_bits": 32}, {"lr": 0.1, "weight_bits": 32}),
        ({"args": {"model": _object("Model", depths=[1, 1, 2, 1], buckets=7)}},
         {"model": {"depths": [1, 1, 2, 1], "buckets": 7}}),
        ({"args": None, "opt": namespace(shift3=True)}, {"shift3": True}),
        ({"args": _object("Args", shift3=True, __version__=1)}, {"shift3": True}),  # a dataclass
        ({"args": _object("DictConfig", _content={"a": _node(1), "b": _object("ListConfig", _content=[_node(1), 2])},
                          _parent=None)}, {"a": 1, "b": [1, 2]}),  # OmegaConf
    ],
)  # fmt: skip
def test_args_have_several_names_and_kinds(rest: dict[str, object], args: dict[str, object], tmp_path: Path) -> None:
    found = read_zip(tmp_path, {"state_dict": {"w": tensor("0", (5,))}, **rest}, {"0": FIVE})
    assert found.args == args
    assert found.notes == ()


NETWORK = {"vit.encoder.layerA.0.w": tensor("0", (5,))}


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ({"net": NETWORK, "epoch": 1, "losses": {"x": tensor("0", (5,))}}, "the state dict is that of 'net'"),
        ({"model": {"state_dict": NETWORK, "step": 1}}, None),
        ({"module": NETWORK, "model": None}, "the state dict is that of 'module'"),
    ],
)
def test_a_network_under_another_key(value: dict[str, object], note: str | None, tmp_path: Path) -> None:
    found = read_zip(tmp_path, value, {"0": FIVE})
    assert_same(found.state, {"vit.encoder.layerA.0.w": FIVE})
    assert found.notes == ((note,) if note else ())


def test_other_networks_beside_the_chosen_one_are_mentioned(tmp_path: Path) -> None:
    checkpoint = read_zip(tmp_path, {"model": NETWORK, "best_model": NETWORK, "optimizer": {}}, {"0": FIVE})
    assert checkpoint.notes == ("the weights of 'model' were taken; others are there too: 'best_model'",)


def test_several_networks_are_told_apart_by_the_user(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "t.pth", {"student": NETWORK, "teacher": NETWORK}, {"0": FIVE})
    refuse(path, "holds 2 networks: 'student', 'teacher'", "for k, v in c['student'].items()}")


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (tensor("0", (5,)), ["holds <tensor>, expected a state dict"]),
        ([1, 2], ["holds <list>, expected a state dict"]),
        (5, ["holds 5, expected a state dict"]),
        ({}, ["no state dict inside", "found nothing"]),
        ({"net": {}, "epoch": 1}, ["no state dict inside", "'net', 'epoch'", "'model', 'state_dict'"]),
        ({"model": {}}, ["the state dict is empty"]),
        ({"model": {"w": tensor("0", (5,)), "k": 3}}, ["entry 'k' of the state dict is 3, expected a tensor"]),
        ({"w": tensor("0", (5,)), "k": {"a": 1}}, ["entry 'k' of the state dict is <dict>"]),
        ({"model": {7: tensor("0", (5,))}}, ["entry 7 of the state dict is <tensor>"]),
        ({"model": {"w": call("datetime", "date", 1)}}, ["entry 'w' of the state dict is <datetime.date>"]),
    ],
)
def test_pickles_without_a_state_dict(tmp_path: Path, value: object, parts: list[str]) -> None:
    refuse(write_zip(tmp_path / "t.pth", value, {"0": FIVE}), *parts, "torch.save({'model': model.state_dict(), ")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Elements in the storage, offset, size, strides; the last element may lie outside."""
    ndim = draw(st.integers(0, 4))
    size = tuple(draw(st.integers(0, 4)) for _ in range(ndim))
    stride = tuple(draw(st.one_of(st.integers(0, 6), st.just(2**40))) for _ in range(ndim))
    return draw(st.integers(0, 40)), draw(st.integers(0, 5)), size, stride


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts())
def test_strides_are_numpy_s(tmp_path: Path, layout: tuple[int, int, tuple[int, ...], tuple[int, ...]]) -> None:
    count, offset, size, stride = layout
    data = np.arange(count, dtype=np.float32)
    big_steps = Raw(b"(" + b"".join(b"\x8a\x06" + step.to_bytes(6, "little") for step in stride) + b"t")
    hooks = call("collections", "OrderedDict")
    view = call("torch._utils", "_rebuild_tensor_v2", storage("0", count), offset, size, big_steps, False, hooks)
    path = write_zip(tmp_path / "t.pth", {"w": view}, {"0": data})
    steps = [step if length > 1 else 0 for length, step in zip(size, stride, strict=True)]
    inside = 0 in size or offset + sum((length - 1) * step for length, step in zip(size, steps, strict=True)) < count
    if inside:
        expected = np.zeros(size, np.float32) if 0 in size else as_strided(data[offset:], size, [4 * s for s in steps])
        assert_same(read_checkpoint(path).state, {"w": expected})
    else:
        refuse(path, "whose last element is number")


def test_numpy_arrays_are_no_tensors(tmp_path: Path) -> None:
    array = call("numpy._core.multiarray", "_reconstruct", glob("numpy", "ndarray"), (0,), "b")
    path = write_zip(tmp_path / "t.pth", {"model": {"w": array}}, {})
    refuse(
        path,
        "entry 'w' of the state dict is <NumPy array>",
        "{**c, 'model': {k: torch.as_tensor(v) for k, v in c['model']",
    )


def test_shared_storage_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.arange(12, dtype=np.float32)
    value = {
        "whole": tensor("0", (3, 4)),
        "transposed": tensor("0", (4, 3), (1, 4), count=12),
        "row": tensor("0", (4,), (1,), 4, count=12),
        "tied": tensor("0", (3, 4)),
    }
    path = write_zip(tmp_path / "t.pth", value, {"0": data})
    reads: list[int] = []

    def counted(file: io.BufferedReader, extent: Extent) -> NDArray[np.uint8]:
        reads.append(extent.nbytes)
        return read_extent(file, extent)

    monkeypatch.setattr(state_dict, "read_extent", counted)
    grid = data.reshape(3, 4)
    found = read_checkpoint(path).state
    assert_same(found, {"whole": grid, "transposed": grid.T.copy(), "row": grid[1], "tied": grid})
    assert reads.count(48) == 1
    assert found["row"].base is None, "a slice keeps its whole storage alive"


def test_tensors_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    """Strides of 0 make a gigabyte out of one element."""
    value = {"w": tensor("0", (2**20, 2**20), (0, 0), count=1)}
    refuse(write_zip(tmp_path / "t.pth", value, {"0": FIVE[:1]}), "do not fit a file", "overlap")
