"""What a kernel looks like to the program: one C function a kernel, all of one signature.

    step(piece, arguments, const, state, scratch)

`arguments` points at a record of int64 (offsets into the arenas, sizes) whose field names the kernel declares;
`const` (weights, tables), `state` (activations of one image) and `scratch` (one thread's working memory) point at
arenas of 4-byte units. A kernel is compiled when a program first needs it, apart from all others, so a process
compiles or loads only the kernels of its own model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, types

_ARENA = types.CPointer(types.uint32)
SIGNATURE = types.void(types.int64, types.voidptr, _ARENA, _ARENA, _ARENA)

# 'contract' lets LLVM fuse a multiply and an add; anything stronger could reorder a sum and flip a later sign.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}

inline = njit(forceinline=True, **OPTIONS)


@dataclass(frozen=True)
class Kernel:
    """A step function in Python, to be compiled by `runtime.compiled`."""

    function: Callable[..., None]
    arguments: "np.dtype[np.void]"

    @property
    def name(self) -> str:
        return self.function.__name__


def fields(names: str) -> "np.dtype[np.void]":
    """A record of int64 fields."""
    return np.dtype([(name, np.int64) for name in names.split()])


def kernel(arguments: "np.dtype[np.void]") -> Callable[[Callable[..., None]], Kernel]:
    """Declare a step function with its argument record."""
    return lambda function: Kernel(function, arguments)
