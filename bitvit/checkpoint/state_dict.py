"""From what was pickled to a state dict of arrays: which of its dicts it is, and the tensors of that one alone."""

import io
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint.dtypes import native, stored_dtype
from bitvit.checkpoint.file import Extent, read_extent, size
from bitvit.checkpoint.inert import Instance, Storage, Tensor, UnreadTensor, described, kind_of
from bitvit.checkpoint.options import options
from bitvit.checkpoint.prefixes import has_network
from bitvit.checkpoint.remedies import RESAVE, rewritten, without_module
from bitvit.errors import CheckpointError
from bitvit.messages import listing, shown

__all__ = ["MAX_GROWTH", "Source", "Stored", "check_finite", "no_ema", "select"]

MAX_GROWTH = 4  # a state dict of more than this many times its file's size can only be overlapping views


class Stored(NamedTuple):
    """What the readers of the three formats return: a state dict whose tensors are not read yet."""

    names: Collection[str]
    read: Callable[[Mapping[str, str]], dict[str, NDArray[Any]]]
    """The tensors of some of the names, under the names that they are given. Raises CheckpointError."""
    keys: tuple[object, ...] | None
    """Where in a .pth the state dict is; None: the file is a .safetensors."""
    args: dict[str, Any] | None = None
    averages: str | None = None
    """The key of averaged weights."""
    is_averaged: bool = False
    """Whether the state dict is that of the averaged weights."""
    instead: str = "a .safetensors file holds one state dict"
    """What the file has where it has no averaged weights."""
    notes: tuple[str, ...] = ()


class Source(NamedTuple):
    """A .pth file whose pickle is interpreted and whose storages are not read yet."""

    content: object
    locate: Callable[[Storage], Extent]
    order: str  # '<' or '>'


_STATE_KEYS = ("model", "state_dict", "model_state_dict")
_EMA_KEYS = (
    *("model_ema", "state_dict_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "model_ema_v2"),
    *("swa_model", "swa_state_dict", "averaged_model"),
)
_INNER_KEYS = (*_STATE_KEYS, "module", "shadow")

State = dict[Any, Any]
Place = tuple[object, ...]  # the keys that lead to a state dict


def select(file: io.BufferedReader, source: Source, ema: bool) -> Stored:
    """Find the wanted state dict and the options in what was pickled. Raises CheckpointError."""
    top, path = source.content, os.fsdecode(file.name)
    if not isinstance(top, dict):
        raise _no_state_dict(path, top)
    averaged = next(filter(None, (_averaged(top, key) for key in _EMA_KEYS)), None)
    chosen, place = averaged if ema and averaged else _trained(top, path, averaged)
    tensors = _tensors(chosen, path, place)
    args, notes = options(top)
    if place and place[0] not in (*_STATE_KEYS, *_EMA_KEYS):
        notes.append(f"the state dict is that of {shown(place[0])}")
    others = [key for key in top if key not in (*place[:1], *_EMA_KEYS) and _holds_network(top[key])] if place else []
    if others:
        notes.append(f"the weights of {shown(place[0])} were taken; others are there too: {listing(others)}")

    def read(names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        return _decode(file, source, {new: tensors[name] for name, new in names.items()})

    return Stored(
        names=tensors,
        read=read,
        keys=place,
        args=args,
        averages=str(averaged[1][0]) if averaged else None,
        is_averaged=bool(ema and averaged),
        instead=f"found {listing(top)}, expected {_EMA_KEYS[0]!r}",
        notes=tuple(notes),
    )


def no_ema(found: str) -> CheckpointError:
    """The error of a file without averaged weights. found: what it has in their place."""
    return CheckpointError(f"has no averaged (EMA) weights: {found}; read it without ema")


def _averaged(top: State, key: str) -> tuple[State, Place] | None:
    """The averaged weights under a key."""
    if not isinstance(top.get(key), dict):
        return None
    state, place = _within(top[key], (key,))
    return (state, place) if key in _EMA_KEYS[:2] or _has_tensors(state) else None


def _trained(top: State, path: str, averaged: object) -> tuple[State, Place]:
    """The state dict inside a training script's dict, or that dict itself."""
    for key in _STATE_KEYS:
        if isinstance(top.get(key), dict):
            return _within(top[key], (key,))
    if _has_tensors(top):
        return top, ()
    networks = [key for key, value in top.items() if isinstance(value, dict) and has_network(value)]
    networks = [key for key in networks if key not in _EMA_KEYS]
    if len(networks) == 1:
        return top[networks[0]], (networks[0],)
    if networks:
        remedy = rewritten(path, networks[:1], target=_STATE_KEYS[:1])
        raise CheckpointError(f"holds {len(networks)} networks: {listing(networks)}; save one of them alone; {remedy}")
    if averaged:
        raise CheckpointError("holds averaged (EMA) weights and no others; convert it with --ema (ema=True)")
    raise _no_state_dict(path, top)


def _within(state: State, place: Place) -> tuple[State, Place]:
    """A state dict, or the one that is inside it under a usual name."""
    for key in () if _has_tensors(state) else _INNER_KEYS:
        inner = state.get(key)
        if isinstance(inner, dict) and _has_tensors(inner):
            return inner, (*place, key)
    return state, place


def _has_tensors(state: State) -> bool:
    return any(isinstance(value, Tensor | UnreadTensor) for value in state.values())


def _holds_network(value: object) -> bool:
    return isinstance(value, dict) and has_network(_within(value, ())[0])


def _no_state_dict(path: str, top: object) -> CheckpointError:
    """The error of a file without a state dict: says whether it holds a whole network."""
    members = top.items() if isinstance(top, dict) else [(None, top)]
    for key, value in members:
        if isinstance(value, Instance) and value.is_module:
            return CheckpointError(
                f"holds <{kind_of(value)}>, a whole pickled nn.Module, expected a state dict; "
                f"{without_module(path, key, inside=isinstance(top, dict))}"
            )
    if not isinstance(top, dict):
        return CheckpointError(f"holds {described(top)}, expected a state dict; {RESAVE}")
    return CheckpointError(
        f"no state dict inside: found {listing(top) or 'nothing'}, "
        f"expected one of {', '.join(map(repr, _STATE_KEYS))} or tensors; {RESAVE}"
    )


def _tensors(state: State, path: str, place: Place) -> dict[str, Tensor]:
    """The state dict, once all its names are text and all its values tensors."""
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            mend = value.mend if isinstance(value, UnreadTensor) else _MENDS.get(kind_of(value))
            raise CheckpointError(
                f"entry {described(name)} of the state dict is {described(value)}, expected a tensor of an ordinary "
                f"dtype; {rewritten(path, place, value=mend) if mend else RESAVE}"
            )
    if not state:
        raise CheckpointError(f"the state dict is empty; {RESAVE}")
    return state


_MENDS = {"NumPy array": "torch.as_tensor(v)", "NumPy scalar": "torch.as_tensor(v)"}

# ---------------------------------------------------------------------------------------------- from storage to array


def _decode(file: io.BufferedReader, source: Source, tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Read the tensors, one storage at a time: each byte once, however many tensors share it."""
    by_storage: dict[str, list[str]] = {}
    extents: dict[str, Extent] = {}
    for name, tensor in tensors.items():
        by_storage.setdefault(tensor.storage.key, []).append(name)
        extents[tensor.storage.key] = source.locate(tensor.storage)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    stored = sum(extent.nbytes for extent in extents.values())
    if stored > size(file) or needed > MAX_GROWTH * size(file):
        raise CheckpointError(
            f"{needed} bytes of tensors over {stored} bytes of storages do not fit a file of "
            f"{size(file)} bytes: they overlap; {RESAVE}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for key, names in by_storage.items():
        raw = read_extent(file, extents[key])
        arrays.update((name, _tensor_array(raw, tensors[name], source.order)) for name in names)
    return {name: arrays[name] for name in tensors}


def _tensor_array(raw: NDArray[np.uint8], tensor: Tensor, order: str) -> NDArray[Any]:
    """A tensor out of its storage's bytes: without a copy where it is all of them, else only its own elements."""
    dtype = stored_dtype(tensor.code, order)
    elements = raw[: raw.nbytes // dtype.itemsize * dtype.itemsize].view(dtype)[tensor.offset :]
    picked = np.lib.stride_tricks.as_strided(elements, tensor.size, [step * dtype.itemsize for step in tensor.stride])
    if picked.nbytes != raw.nbytes or not picked.flags.c_contiguous:
        picked = picked.copy(order="C")
    array = native(picked, tensor.code)
    return np.negative(array) if tensor.negative else array


def check_finite(state: Mapping[str, NDArray[Any]]) -> None:
    """CheckpointError if a tensor holds NaN or infinities."""
    faulty = {name: array for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()}
    for name, array in faulty.items():
        raise CheckpointError(
            f"{shown(name)} has {np.isnan(array).sum()} NaN and {np.isinf(array).sum()} infinite of "
            f"{array.size} values ({len(faulty)} such tensors in all), expected finite ones; "
            "the training diverged or the file is damaged: take an earlier checkpoint"
        )
