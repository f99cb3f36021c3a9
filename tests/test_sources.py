"""What an image may be held in: files and uploads of every kind, buffers, arrays; and what is neither that nor a
collection."""

import array
import asyncio
import ctypes
import gzip
import io
import mmap
import tarfile
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitvit.errors import BitvitError, ImageError
from bitvit.images import open_image
from bitvit.sources import collected, is_file, is_one_image
from tests.support.uploads import Arrayable, AsyncUpload, BrokenUpload, Download, Response, Row, Upload

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


PNG = png()


def archive(form: str) -> Any:
    """An open member of an archive."""
    file = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("a.png", PNG)
        return zipfile.ZipFile(file).open("a.png")
    with tarfile.open(fileobj=file, mode="w") as tape:
        member = tarfile.TarInfo("a.png")
        member.size = len(PNG)
        tape.addfile(member, io.BytesIO(PNG))
    file.seek(0)
    return tarfile.open(fileobj=file).extractfile("a.png")


def spooled() -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(PNG)  # and so it stands at its end
    return file


def mapped() -> mmap.mmap:
    memory = mmap.mmap(-1, len(PNG))
    memory.write(PNG)
    return memory


FILES: dict[str, Callable[[], Any]] = {
    "BytesIO": lambda: io.BytesIO(PNG),
    "buffered": lambda: io.BufferedReader(io.BytesIO(PNG)),
    "SpooledTemporaryFile": spooled,
    "zip member": lambda: archive("zip"),
    "tar member": lambda: archive("tar"),
    "gzip": lambda: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(PNG))),
    "mmap": mapped,
    "Flask's upload": lambda: Upload(io.BytesIO(PNG), "a.png"),
    "Starlette's upload": lambda: AsyncUpload(spooled()),
    "download": lambda: Download(PNG),
    "response": lambda: Response(PNG),
}
BUFFERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: PNG,
    "bytearray": lambda: bytearray(PNG),
    "memoryview": lambda: memoryview(PNG),
    "strided memoryview": lambda: memoryview(b"".join(bytes([b, 0]) for b in PNG))[::2],
    "array.array": lambda: array.array("B", PNG),
    "ctypes": lambda: (ctypes.c_char * len(PNG)).from_buffer_copy(PNG),
    "pixels": lambda: PIXELS.data,
    "array-like": lambda: Arrayable(PIXELS),
}


@pytest.mark.parametrize("kind", [*FILES, *BUFFERS])
def test_it_is_one_image(kind: str) -> None:
    source = (FILES | BUFFERS)[kind]()
    assert is_one_image(source)
    assert is_file(source) is (kind in FILES)
    assert list(collected(source)) == [source]
    assert np.array_equal(np.asarray(open_image(source)), PIXELS)
    if hasattr(source, "read"):
        getattr(source, "file", source).close()


@pytest.mark.parametrize("place", [0, 5, len(PNG), 10 * len(PNG)])
@pytest.mark.parametrize("make", [io.BytesIO, lambda data: Upload(io.BytesIO(data), "a.png")])
def test_a_file_is_read_from_its_beginning_and_left_where_it_was(make: Callable[[bytes], Any], place: int) -> None:
    """It may have been saved before, or may be saved afterwards."""
    file = make(PNG)
    file.seek(place)
    for _ in range(2):
        assert np.array_equal(np.asarray(open_image(file)), PIXELS)
        assert file.tell() == place


def test_a_file_is_left_where_it_was_after_a_failure_too() -> None:
    file = io.BytesIO(b"no image")
    file.seek(3)
    with pytest.raises(ImageError, match=r"^file of type BytesIO: not an image that can be read"):
        open_image(file)
    assert file.tell() == 3
    assert not file.closed


def test_a_buffer_that_was_released() -> None:
    view = memoryview(PNG)
    view.release()
    assert list(collected(view)) == [view]
    with pytest.raises(ImageError, match="image: a memoryview that cannot be read: operation forbidden on released"):
        open_image(view)


def test_too_little_memory_to_read_a_file_is_not_its_fault() -> None:
    with pytest.raises(BitvitError, match=r"too little memory to read it; give the process more") as caught:
        open_image(BrokenUpload(MemoryError()))
    assert not isinstance(caught.value, ImageError)


def test_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for buffering in (-1, 0):
        with path.open("rb", buffering=buffering) as file:
            assert np.array_equal(np.asarray(open_image(file)), PIXELS)
    with path.open(encoding="latin-1") as text, pytest.raises(ImageError) as caught:
        open_image(text)  # type: ignore[arg-type]
    assert str(caught.value).endswith("a.png': its read() gives str, expected bytes; open it in binary mode, 'rb'")
    with pytest.raises(ImageError, match=r"a\.png': cannot be read \(.*closed file.*\); open it again in binary mode"):
        open_image(file)


def test_what_can_be_read_once_is_read_once() -> None:
    download = Download(PNG)
    assert open_image(download).size == (9, 6)
    with pytest.raises(
        ImageError, match=r"^file of type Download: is empty, or has been read before, and cannot be rewound; open"
    ):
        open_image(download)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (io.BytesIO(), "file of type BytesIO: is empty"),
        (Upload(io.BytesIO(), "\x1b[31m.png"), r"'\x1b[31m.png': is empty"),
        (Upload(io.BytesIO(), 200 * "x"), f"'{76 * 'x'}...: is empty"),
        (BrokenUpload(ValueError("no file here")), "file of type BrokenUpload: cannot be read (no file here)"),
        (BrokenUpload(AttributeError("lost")), "file of type BrokenUpload: cannot be read (lost)"),
        (zipfile.ZipFile(io.BytesIO(), "w"), "file of type ZipFile: cannot be read ("),
        (AsyncUpload(None), "whose read() is to be awaited; give what that returns"),
        (
            Arrayable(PIXELS / 255),
            "array float64 (6, 9, 3), expected uint8 with values 0 to 255; if its values are 0 to",
        ),
        (Arrayable(PIXELS.transpose(2, 0, 1)), "channels last and no alpha, or [height, width]; give array.transpose("),
        (Arrayable(None), "a Arrayable that gives no NumPy array (it lies on a GPU)"),
        (PIXELS.astype(np.float32).data, "array float32 (6, 9, 3), expected uint8"),
        (array.array("I", [1, 2]), "array uint32 (2,), expected uint8"),
        (np.frombuffer(PNG, np.uint8), "if it holds the bytes of a file, give array.tobytes()"),
        (np.stack([PIXELS, PIXELS]), "give the images of a stack one by one, as list(array)"),
        (PIXELS[:, :, :1], "give array[:, :, 0]"),
        (np.dstack([PIXELS, PIXELS[:, :, 0]]), "give array[:, :, :3]"),
        (PIXELS[:, :, 0] > 3, "give 255 * array.astype('uint8')"),
        (PIXELS.astype(int), "give array.astype('uint8')"),
        (b"data:image/png;base64,iVBORw0K", "base64, the text form of a file; decode it with base64.b64decode first"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_one_image_that_cannot_be_read(source: Any, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(source)
    assert message in str(caught.value)


def generator() -> Iterator[bytes]:
    yield PNG


async def awaited() -> bytes:
    return PNG


async def asynchronous() -> AsyncIterator[bytes]:
    yield PNG


@pytest.mark.parametrize(
    "source",
    [None, 5, 2.5, {"image": PNG}, np.float64(3), object(), generator, asynchronous(), io.BytesIO, len],
    ids=lambda source: type(source).__name__,
)
def test_neither_an_image_nor_a_collection(source: Any) -> None:
    assert not is_one_image(source)
    with pytest.raises(ImageError) as caught:
        collected(source)
    assert str(caught.value).startswith(f"images: is of type {type(source).__name__}, expected a path, ")
    with pytest.raises(ImageError, match=r"^image: is of type \w+, expected a path, "):
        open_image(source)


def test_what_was_not_awaited() -> None:
    """As FastAPI's `await upload.read()` without its await."""
    coroutine = awaited()
    with pytest.raises(ImageError, match="images: is of type coroutine, which is to be awaited first; expected"):
        collected(coroutine)
    assert open_image(asyncio.run(coroutine)).size == (9, 6)


PATHS = ["a.png", "b.png"]


@pytest.mark.parametrize(
    "source",
    [
        PATHS,
        tuple(PATHS),
        iter(PATHS),
        dict.fromkeys(PATHS).keys(),
        np.array(PATHS),
        np.array(PATHS, object),
        Row(PATHS),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_collection(source: Any) -> None:
    assert not is_one_image(source)
    assert list(collected(source)) == PATHS


def test_a_list_is_no_image() -> None:
    with pytest.raises(ImageError, match="image: is of type list, expected a path"):
        open_image([PNG])  # type: ignore[arg-type]


def test_arrays_of_numbers_are_one_image() -> None:
    shapes: list[NDArray[Any]] = [np.zeros(shape, np.uint8) for shape in ((), (4,), (4, 4), (4, 4, 3), (2, 4, 4, 3))]
    assert all(is_one_image(pixels) and is_one_image(Arrayable(pixels)) for pixels in shapes)
