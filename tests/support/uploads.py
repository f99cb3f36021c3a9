"""What web frameworks and other libraries hand an image over in; each does what the real thing does."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Upload:
    """werkzeug's FileStorage, so Flask's: it has what its stream has, and can be iterated line by line."""

    def __init__(self, stream: io.BytesIO, filename: str) -> None:
        self.stream, self.filename = stream, filename

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.stream)


class AsyncUpload:
    """Starlette's UploadFile, so FastAPI's: its read() must be awaited, its file need not."""

    def __init__(self, file: Any) -> None:
        self.file = file

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


class BrokenUpload:
    """Django's FieldFile without a file: to look for its read() is an error; it can be iterated."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @property
    def read(self) -> Any:
        raise self.error

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


class Download:
    """What urlopen gives: it can be read once, neither sought nor told, and iterated line by line."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation("seek")

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)


class Response:
    """The response of requests: its content is bytes, and iterating over it gives pieces of 128 bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def iter_content(self, size: int) -> Iterator[bytes]:
        return (self.content[i : i + size] for i in range(0, len(self.content), size))

    def __iter__(self) -> Iterator[bytes]:
        return self.iter_content(128)


class Arrayable:
    """A tensor: NumPy can make an array of it, unless it lies elsewhere (pixels: None); it can be iterated."""

    def __init__(self, pixels: NDArray[Any] | None) -> None:
        self._pixels = pixels
        self.shape = (4, 4, 3) if pixels is None else pixels.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self._pixels is None:
            raise TypeError("it lies on a GPU")
        return self._pixels

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))


class Row:
    """A pandas Series: a column of a table, whose index need not count from 0."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self.shape = (len(values),)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._values, object)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: int) -> Any:
        """By the index, which counts backwards here."""
        return self._values[len(self._values) - 1 - key]
