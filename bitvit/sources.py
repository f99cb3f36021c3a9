"""What people hold an image in: told from a collection of images, and brought to what bitvit.images decodes.

    path                    str, os.PathLike
    bytes of a file         bytes, bytearray, memoryview, any other buffer of bytes
    open file               whatever has a read() that gives bytes: BytesIO, uploads of Flask and Django, members of
                            archives, HTTP responses; or keeps such a file as its attribute `file`, as Starlette's does
    PIL image
    array                   of two dimensions or more: NumPy's, or what NumPy can make one of, such as a tensor

A file that can be sought is read from its beginning, as Pillow does it, and left where it was: an upload may be saved
before it is classified, or after. What can only be read once is read from where it is.
"""

import contextlib
import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitvit.errors import BitvitError, ImageError
from bitvit.messages import plural, shown
from bitvit.nopaths import path_text

__all__ = ["ImageSource", "NamedBytes", "Plain", "collected", "is_file", "is_one_image", "name_of", "plain"]


class NamedBytes(bytes):
    """The bytes of a file, and what messages call it; or, in place of an image that is not there, why."""

    name: str
    problem: str
    """Empty if there is an image."""

    def __new__(cls, data: bytes, name: str, problem: str = "") -> "NamedBytes":
        made = super().__new__(cls, data)
        made.name, made.problem = name, problem
        return made


class Readable(Protocol):
    """A file opened in binary mode."""

    def read(self) -> bytes: ...


class Upload(Protocol):
    """What keeps a file in its attribute `file`."""

    @property
    def file(self) -> Any: ...


class Arrayable(Protocol):
    """What NumPy can make an array of."""

    def __array__(self) -> Any: ...


Plain: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""What bitvit.images decodes."""
ImageSource: TypeAlias = Plain | bytearray | memoryview | Readable | Upload | Arrayable

_PLAIN = (str, os.PathLike, bytes, Image.Image)
_EXPECTED = "a path, the bytes of a file, an open file or upload, a PIL image, a uint8 array"


def is_one_image(source: object) -> bool:
    """Whether it stands for one image, even if Python can iterate over it."""
    return isinstance(source, _PLAIN) or _is_array(source) or is_file(source) or _is_buffer(source)


def collected(source: Any) -> Iterable[ImageSource]:
    """The images that something stands for: itself alone, or those of a list, an iterator or another iterable.

    Raises ImageError, now, for what is neither one image nor a collection of them, such as a mapping.
    """
    if is_one_image(source):
        return [source]
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return source
    raise ImageError(f"images: {_refused(source, f'{_EXPECTED}, or a list or iterator of them')}")


def is_file(source: object) -> bool:
    """Whether its bytes are to be read, which moves it."""
    return _response_body(source) is not None or _open_file(source) is not None


def plain(source: object) -> tuple[Plain, str]:
    """What bitvit.images decodes, and its name for messages. Raises ImageError for what is not one image."""
    if isinstance(source, Image.Image):
        return source, "PIL image"
    if isinstance(source, str | os.PathLike):
        return source, path_text(source)
    if isinstance(source, NamedBytes) and source.problem:
        raise ImageError(source.problem)
    if isinstance(source, bytes):
        return source, _amount(source)
    if _is_array(source):
        return _array(source), "image"
    body = _response_body(source)
    if body is not None:
        return body, _amount(body)
    file = _open_file(source)
    if file is not None:
        name = _file_name(source)
        return _read(file, name), name
    if _is_buffer(source):
        try:
            array = np.asarray(memoryview(source))  # type: ignore[arg-type]
        except ValueError as problem:
            raise ImageError(f"image: a {type(source).__name__} that cannot be read: {problem}") from None
        if array.ndim == 1 and array.itemsize == 1:
            data = array.tobytes()
            return data, _amount(data)
        return array, "image"
    raise ImageError(f"image: {_refused(source, f'{_EXPECTED}')}")


def _amount(data: bytes) -> str:
    return f"{plural(len(data), 'byte')} of data"


def name_of(source: object, number: int) -> str:
    """What a message calls an image: its path, its name, or its number."""
    if isinstance(source, NamedBytes):
        return source.name
    return path_text(source) if isinstance(source, str | os.PathLike) else f"image {number}"


def _refused(source: object, expected: str) -> str:
    kind = type(source).__name__
    if inspect.isawaitable(source):
        return f"is of type {kind}, which is to be awaited first; expected {expected}"
    if inspect.iscoroutinefunction(getattr(source, "read", None)):
        return f"is of type {kind}, whose read() is to be awaited; give what that returns"
    return f"is of type {kind}, expected {expected}"


# ------------------------------------------------------------------------------------------------------------- arrays
def _is_array(source: object) -> bool:
    """An array, a tensor or a table; not a row of texts or objects, such as a Series of paths: it is a collection."""
    if isinstance(source, np.generic | Mapping) or not hasattr(type(source), "__array__"):
        return False
    shape = _attribute(source, "shape")
    if shape is None or len(shape) != 1:
        return shape is not None
    with contextlib.suppress(ImageError):
        return _array(source).dtype.kind not in "OUT"
    return True


def _array(source: object) -> NDArray[Any]:
    try:
        return np.asarray(source)
    except Exception as problem:  # a tensor on a GPU, for example, which says what to do
        raise ImageError(f"image: a {type(source).__name__} that gives no NumPy array ({problem})") from None


def _is_buffer(source: object) -> bool:
    if isinstance(source, np.generic | np.ndarray):
        return False
    try:
        memoryview(source).release()  # type: ignore[arg-type]
    except (TypeError, BufferError):
        return False
    except ValueError:  # it has been released
        return isinstance(source, memoryview)
    return True


# -------------------------------------------------------------------------------------------------------------- files
def _open_file(source: object) -> Any | None:
    """What read() can be called on now: the source itself, or its attribute `file`; None if there is no such thing."""
    if isinstance(source, type | list | Mapping):
        return None
    if _has_read(source):
        return source
    file = _attribute(source, "file")
    return file if file is not None and _has_read(file) else None


def _has_read(source: Any) -> bool:
    try:
        read = source.read
    except AttributeError:
        return hasattr(type(source), "read")
    except Exception:  # it has one, which will say why it does not work
        return True
    return callable(read) and not inspect.iscoroutinefunction(read)


def _response_body(source: object) -> bytes | None:
    """The body of a response of an HTTP client; iterating over one gives pieces of it."""
    if not hasattr(type(source), "iter_content") and not hasattr(type(source), "iter_bytes"):
        return None
    body = _attribute(source, "content")
    return body if isinstance(body, bytes) else None


def _attribute(source: object, name: str) -> Any | None:
    try:
        return getattr(source, name, None)
    except Exception:  # a property that does not work now
        return None


def _file_name(source: object) -> str:
    """For messages. Names of uploads come from strangers, so they are quoted."""
    for attribute in ("filename", "name"):
        name = _attribute(source, attribute)
        if isinstance(name, str) and name:
            return shown(name)
    return f"file of type {type(source).__name__}"


def _read(file: Any, where: str) -> bytes:
    """All bytes of an open file."""
    place = _rewind(file)
    try:
        data = file.read()
    except ImageError:
        raise
    except MemoryError:
        raise BitvitError(f"{where}: too little memory to read it; give the process more") from None
    except Exception as problem:  # a closed file, a connection that was lost, a read() of another kind
        raise ImageError(f"{where}: cannot be read ({problem}); open it again in binary mode") from None
    finally:
        if place is not None:
            with contextlib.suppress(Exception):
                file.seek(place)
    if isinstance(data, bytes | bytearray | memoryview):
        if not data and place is None:
            raise ImageError(f"{where}: is empty, or has been read before, and cannot be rewound; open it again")
        return bytes(data)
    if inspect.iscoroutine(data):
        data.close()
        raise ImageError(f"{where}: its read() is to be awaited; give what that returns")
    remedy = "; open it in binary mode, 'rb'" if isinstance(data, str) else ""
    raise ImageError(f"{where}: its read() gives {type(data).__name__}, expected bytes{remedy}")


def _rewind(file: Any) -> int | None:
    """Go to a file's beginning; returns where it was, or None if it can only be read on."""
    try:
        place: int = file.tell()
        file.seek(0)
    except Exception:  # each kind of stream refuses with another one
        return None
    return place
