"""From what was pickled to a state dict of arrays: which of its dicts it is, and the tensors of that one alone."""

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint.dtypes import native, stored_dtype
from bitvit.checkpoint.file import Extent, read_extent, size
from bitvit.checkpoint.inert import Global, Namespace, Storage, Tensor, described, kind_of
from bitvit.checkpoint.remedies import RESAVE
from bitvit.errors import CheckpointError
from bitvit.messages import listing, shown

__all__ = ["MAX_GROWTH", "Content", "Source", "check_finite", "no_ema", "select", "strip_prefixes"]

MAX_GROWTH = 4  # a state dict of more than this many times its file's size can only be overlapping views


class Content(NamedTuple):
    """What the readers of the three formats return."""

    state: dict[str, NDArray[Any]]
    args: dict[str, Any] | None
    has_ema: bool


class Source(NamedTuple):
    """A .pth file whose pickle is interpreted and whose storages are not read yet."""

    content: object
    locate: Callable[[Storage], Extent]
    order: str  # '<' or '>'


_STATE_KEYS = ("model", "state_dict", "model_state_dict")
_EMA_KEYS = ("model_ema", "state_dict_ema")


def select(file: io.BufferedReader, source: Source, ema: bool) -> Content:
    """Find the wanted state dict and the options in what was pickled, and read that state dict's tensors.

    Raises CheckpointError.
    """
    top = source.content
    if not isinstance(top, dict):
        raise CheckpointError(f"holds {described(top)}, expected a state dict; {RESAVE}")
    averaged = next((top[key] for key in _EMA_KEYS if isinstance(top.get(key), dict)), None)
    if ema and averaged is None:
        raise no_ema(f"found {listing(top)}, expected {_EMA_KEYS[0]!r}")
    chosen = averaged if ema and averaged is not None else _trained(top)
    tensors = _tensors(chosen)
    return Content(strip_prefixes(_decode(file, source, tensors)), _plain_args(top), averaged is not None)


def no_ema(found: str) -> CheckpointError:
    """The error of a file without averaged weights. found: what it has in their place."""
    return CheckpointError(f"has no averaged (EMA) weights: {found}; read it without ema")


def _trained(top: dict[Any, Any]) -> dict[Any, Any]:
    """The state dict inside a training script's dict, or that dict itself."""
    for key in _STATE_KEYS:
        if isinstance(top.get(key), dict):
            return top[key]
    if any(isinstance(value, Tensor) for value in top.values()):
        return top
    raise CheckpointError(
        f"no state dict inside: found {listing(top) or 'nothing'}, "
        f"expected one of {', '.join(map(repr, _STATE_KEYS))} or tensors; {RESAVE}"
    )


def _tensors(state: dict[Any, Any]) -> dict[str, Tensor]:
    """The state dict, once all its names are text and all its values tensors."""
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"entry {described(name)} of the state dict is {described(value)}, expected a tensor; {RESAVE}"
            )
    if not state:
        raise CheckpointError(f"the state dict is empty; {RESAVE}")
    return state


def _plain_args(top: dict[Any, Any]) -> dict[str, Any] | None:
    """The training script's options, without anything nested: a few bytes of pickle can nest without end."""
    args = top.get("args")
    fields = args.fields if isinstance(args, Namespace) else args
    if not isinstance(fields, dict):
        return None
    return {name: _plain(value) for name, value in fields.items() if isinstance(name, str)}


def _plain(value: object) -> object:
    scalar = str | bytes | int | float | None
    if isinstance(value, scalar):
        return value
    if isinstance(value, list | tuple) and len(value) <= 1000 and all(isinstance(item, scalar) for item in value):
        return value
    return value.name.replace(" ", ".") if isinstance(value, Global) else f"<{kind_of(value)}>"


def strip_prefixes(state: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Take off what DistributedDataParallel ('module.') and torch.compile ('_orig_mod.') put before the names.

    CheckpointError if two names become one.
    """
    stripped: dict[str, NDArray[Any]] = {}
    for full, array in state.items():
        name = full
        while name.startswith(("module.", "_orig_mod.")):
            name = name.partition(".")[2]
        if name in stripped:
            raise CheckpointError(f"{shown(name)} occurs with and without a prefix such as 'module.'; {RESAVE}")
        stripped[name] = array
    return stripped


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
    return native(picked, tensor.code)


def check_finite(state: Mapping[str, NDArray[Any]]) -> None:
    """CheckpointError if a tensor holds NaN or infinities."""
    faulty = {name: array for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()}
    for name, array in faulty.items():
        raise CheckpointError(
            f"{shown(name)} has {np.isnan(array).sum()} NaN and {np.isinf(array).sum()} infinite of "
            f"{array.size} values ({len(faulty)} such tensors in all), expected finite ones; "
            "the training diverged or the file is damaged: take an earlier checkpoint"
        )
