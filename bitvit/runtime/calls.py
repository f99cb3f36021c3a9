"""Calling compiled functions of the catalog through ctypes, which lets go of Python's lock for the time of a call."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from numpy.typing import NDArray

from bitvit.jit import loader
from bitvit.kernels.catalog import Scheduling

__all__ = ["CFunction", "Call", "c_function", "kernel_at"]

CFunction: TypeAlias = Callable[..., int | None]
"""A function of ctypes: takes integers, returns one or nothing."""

_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 4)


@functools.cache  # ctypes builds one in about 10 µs, and code that is loaded stays where it is
def c_function(function: Scheduling) -> CFunction:
    """A scheduling or measuring function, to be called with addresses and counts; compiles or loads it if need be."""
    arguments = [ctypes.c_int64] * function.arguments
    return ctypes.CFUNCTYPE(ctypes.c_int64 if function.returns else None, *arguments)(*loader.addresses([function]))


def kernel_at(address: int) -> CFunction:
    """The loaded kernel at an address, to be called with a piece's number and the addresses of record and arenas."""
    return _KERNEL(address)


class Call:
    """A call of a C function. Arrays are passed by address, and live as long as the call may be made.

    keeps: what else the function reads, by addresses that stand in the arrays.
    """

    def __init__(self, function: CFunction, *arguments: int | NDArray[Any], keeps: object = None) -> None:
        self._function, self._arrays, self._keeps = function, arguments, keeps
        self._arguments = [a if isinstance(a, int) else a.ctypes.data for a in arguments]

    def __call__(self) -> int | None:
        return self._function(*self._arguments)
