"""The bytes of an RGB image as Pillow keeps them, four a pixel, without a copy where Pillow lends them.

It does so through the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html): a list of four
bytes for each pixel, whose one child array is the bytes of all.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["rgbx"]


class _ArrowArray(ctypes.Structure):
    """struct ArrowArray, as far as its children."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_pointer = ctypes.PYFUNCTYPE(ctypes.POINTER(_ArrowArray), ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Lent:
    """Bytes that belong to an Arrow array for as long as this lives; NumPy takes them by `__array_interface__`."""

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: object, shape: tuple[int, int, int]) -> None:
        self.array = array  # releases the image when it goes
        address = _pointer(array, b"arrow_array").contents.children[0].contents.buffers[1]
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": shape, "data": (address, True)}


def rgbx(image: Image.Image, *, own: bool) -> NDArray[np.uint8]:
    """uint8 [H, W, 4], read-only: R, G, B and a byte without a meaning. The image must be of mode RGB.

    own: whether nobody else may change the image, as drawing on it or going to another frame would. Then Pillow 11.2.1
    or later lends the bytes, unless the image is in several blocks (beyond 16 MB) or its rows are padded
    (PILLOW_ALIGNMENT; up to Pillow 12.3 what is lent is wrong then). Otherwise it is a copy.
    """
    shape = (image.height, image.width, 4)
    lend: Any = getattr(image, "__arrow_c_array__", None)
    if own and lend is not None and Image.core.get_alignment() == 1:  # type: ignore[attr-defined]
        try:
            _, array = lend()
        except ValueError:  # several blocks
            pass
        else:
            return np.asarray(_Lent(array, shape))
    return np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(shape)
