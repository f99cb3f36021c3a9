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
from tools.fuzz.pickles import Raw, call, storage, tensor


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


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema"])
def test_ema_picks_the_averaged_weights(tmp_path: Path, key: str) -> None:
    value = {"model": {"w": tensor("0", (5,))}, key: {"module.w": tensor("1", (5,))}}
    path = write_zip(tmp_path / "t.pth", value, {"0": FIVE, "1": -FIVE})
    assert_same(read_checkpoint(path).state, {"w": FIVE})
    averaged = read_checkpoint(path, ema=True)
    assert_same(averaged.state, {"w": -FIVE})
    assert averaged.has_ema


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
    value = {"model": {"w": tensor("0", (5,))}, "args": {"shift3": True, 5: "dropped"}}
    assert read_zip(tmp_path, value, {"0": FIVE}).args == {"shift3": True}


def test_args_of_another_kind_are_none(tmp_path: Path) -> None:
    value = {"model": {"w": tensor("0", (5,))}, "args": ["--shift3"]}
    assert read_zip(tmp_path, value, {"0": FIVE}).args is None


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
    ],
)
def test_pickles_without_a_state_dict(tmp_path: Path, value: object, parts: list[str]) -> None:
    refuse(write_zip(tmp_path / "t.pth", value, {"0": FIVE}), *parts, "torch.save({'model': model.state_dict()}")


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
