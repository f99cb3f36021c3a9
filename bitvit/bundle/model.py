"""A model out of a bundle's folder: the library that bitvit bundle has linked, called through ctypes.

Nothing is compiled, written or made executable, and neither Numba nor llvmlite nor safetensors is needed. The library
is code that gets executed, so folder and files are held to what jit/trust.py asks of the cache of kernels.
"""

import ctypes
import errno
import functools
import hashlib
import mmap
import os
import platform
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitvit.bundle.manifest import AGAIN, LIBRARY, MANIFEST, WEIGHTS, Manifest, Section, read_manifest
from bitvit.config import Config
from bitvit.errors import BitvitError, ModelFileError
from bitvit.jit.trust import fault_around, fault_of
from bitvit.messages import plural
from bitvit.preprocess import Preprocessing, batch_of_planes
from bitvit.system import available_threads, check_threads

__all__ = ["BundledModel", "load_bundle"]

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # as some systems call them


class _Options(ctypes.Structure):
    """bitvit_options"""

    _fields_ = [
        ("threads", ctypes.c_int),
        ("callers", ctypes.c_int),
        ("level", ctypes.c_char_p),
        ("weights", ctypes.c_void_p),
        ("weights_bytes", ctypes.c_size_t),
    ]


_IMAGE = np.dtype([("pixels", np.uintp), ("row_bytes", np.int64), ("pixel_bytes", np.int64)])  # bitvit_image


class BundledModel:
    """The model in a bundle's folder. What BHViT does for those who call it, it does too, with the same bits.

    Any number of Python threads may call it. A pickle holds the folder's path, where the same bundle must be when it is
    unpickled; a copy shares everything with its original. In a forked process it starts threads of its own.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None, level: str | None = None) -> None:
        """threads: at most this many for one call; default all cores the process may use. level: the kernels to use;
        default: the best that this processor can run."""
        self.path = Path(folder)
        self._files = _Files(self.path.absolute())
        manifest = self._files.manifest
        self.config: Config = manifest.config
        self.preprocessing: Preprocessing = manifest.preprocessing
        self.labels: tuple[str, ...] | None = manifest.labels
        available = available_threads()
        self._threads = max(1, min(threads or available, available))
        self._threads_wanted, self._level_wanted = threads, level
        self._processes: dict[int, _Handle] = {}
        self.level = self._handle().level
        """LLVM's name of the processor that its kernels are for."""

    def __repr__(self) -> str:
        size, classes = self.config.image_size, plural(self.config.num_classes, "class", "classes")
        return (
            f"<bitvit.BundledModel {str(self.path)!r}, {size} x {size} pixels, {classes}, kernels for {self.level}, "
            f"{plural(self.threads, 'thread')}>"
        )

    @property
    def threads(self) -> int:
        """Threads that one call may use."""
        return self._threads

    @property
    def digest(self) -> str:
        """The sha256 of its bundle.json, which has those of the other files."""
        return self._files.manifest.digest

    @property
    def runner(self) -> NoReturn:
        """What tracing and profiling need of a BHViT. Raises BitvitError."""
        raise BitvitError(
            f"{self.path}: a bundle can be neither traced nor profiled; load the packed model that it was written from"
        )

    def __call__(self, pixels: ArrayLike) -> NDArray[np.float32]:
        """Logits of a batch of images.

        pixels: float32 [B, 3, S, S], channels R, G, B, normalised (SPEC section 6). Returns float32 [B, classes], the
        same bits whatever the batch size and the number of threads. Raises ValueError for another shape.
        """
        images = batch_of_planes(pixels, self.config.image_size)
        records = np.zeros(len(images), _IMAGE)
        records["pixels"] = images.ctypes.data + images.strides[0] * np.arange(len(images))
        return self._run(records, alone=False)

    def of_bytes(self, crops: Sequence[NDArray[np.uint8]], *, alone: bool = False) -> NDArray[np.float32]:
        """Logits of images that are not normalised yet, the same bits as a call's.

        crops: uint8 [crop, crop, 3] each, in which R, G, B are neighbours, as preprocessing.cropped makes them. alone:
        compute on this thread, whatever `threads` says. Returns float32 [B, classes].
        """
        records = np.zeros(len(crops), _IMAGE)
        if crops:
            records["pixels"] = [crop.ctypes.data for crop in crops]
            records["row_bytes"], records["pixel_bytes"], _ = zip(*(crop.strides for crop in crops), strict=True)
        return self._run(records, alone=alone)

    def _run(self, records: "NDArray[np.void]", *, alone: bool) -> NDArray[np.float32]:
        out = np.empty((len(records), self._files.manifest.outputs), np.float32)
        self._handle().run(records.ctypes.data, len(records), int(alone), out.ctypes.data)
        return out

    def _handle(self) -> "_Handle":
        """Of this process: after a fork the parent's threads are not here, and another thread may have held a lock."""
        process = os.getpid()
        return self._processes.get(process) or self._open(process)

    def _open(self, process: int) -> "_Handle":
        return self._processes.setdefault(process, _Handle(self._files, self._threads, self._level_wanted))

    def __reduce__(self) -> Any:
        facts = str(self._files.folder), self._threads_wanted, self._level_wanted, self.digest
        return _unpickled, (type(self), *facts)

    def __copy__(self) -> "BundledModel":
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "BundledModel":
        """Nothing of it ever changes."""
        return self.__copy__()


def _unpickled(
    kind: type[BundledModel], folder: str, threads: int | None, level: str | None, digest: str
) -> BundledModel:
    """What BundledModel.__reduce__ has taken apart. Raises ModelFileError if another bundle has taken the folder."""
    model = kind(folder, threads=threads, level=level)
    if model.digest != digest:
        raise ModelFileError(f"{folder}: is not the bundle that was pickled; put that one there, or pickle this one")
    return model


def load_bundle(folder: str | os.PathLike[str], *, threads: int | None = None) -> BundledModel:
    """Load the model in a bundle's folder.

    Raises ModelFileError for a folder that is no bundle, is damaged, has no library for Python or one for another
    machine, and where others than this user or root may write to it; ValueError for an impossible number of threads.
    """
    check_threads(threads)
    return BundledModel(folder, threads=threads)


# ------------------------------------------------------------------------------------------------------------- loading
class _Files:
    """What is in the folder, looked at once: the library's bytes and the weights, which stay mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        _check_machine(folder, self.manifest)
        _check_owners(folder)
        if self.manifest.library is None:
            raise ModelFileError(
                f"{folder}: has no {LIBRARY}, which Python loads; write it again with bitvit bundle --python"
            )
        library = folder / LIBRARY
        try:
            _compare(library, self.manifest.library, library.read_bytes())
            with (folder / WEIGHTS).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.manifest.weights_bytes:
                    raise ModelFileError(
                        f"{folder / WEIGHTS}: {size} bytes, expected {self.manifest.weights_bytes}; {AGAIN}"
                    )
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.library = ctypes.CDLL(str(library), use_errno=True)
        except OSError as problem:
            raise ModelFileError(
                f"{folder}: cannot be loaded: {problem.strerror or problem}; {AGAIN} on this machine"
            ) from None
        self.weights: NDArray[np.uint8] = np.frombuffer(self._mapped, np.uint8)

    def check_weights(self, level: str) -> None:
        """Compare the weights of a level with what bundle.json says of them. Raises ModelFileError."""
        section = self.manifest.weights.get(level)
        if section is None:
            raise ModelFileError(f"{self.folder / MANIFEST}: does not tell of the level {level}; {AGAIN}")
        part = self.weights[section.offset : section.offset + section.bytes]
        _compare(self.folder / WEIGHTS, section, part)


def _compare(path: Path, section: Section, data: Any) -> None:
    found = hashlib.sha256(data).hexdigest()
    if len(data) != section.bytes or found != section.sha256:
        raise ModelFileError(
            f"{path}: changed since it was written: {len(data)} bytes of sha256 {found}, expected {section.bytes} of "
            f"{section.sha256}; copy the folder again, or {AGAIN}"
        )


def _check_machine(folder: Path, manifest: Manifest) -> None:
    machine = platform.machine().lower()
    here = _MACHINES.get(machine, machine)
    if sys.platform != "linux" or manifest.target.split("-")[0] != here:
        raise ModelFileError(
            f"{folder}: is for {manifest.target}, this is {sys.platform} on {here}; write one for it with bitvit "
            "bundle --target"
        )


def _check_owners(folder: Path) -> None:
    """Raises ModelFileError if others may have written what is about to be executed."""
    real = Path(os.path.realpath(folder))
    fault = fault_around(str(real.parent))
    for path in (real, real / MANIFEST, real / WEIGHTS, real / LIBRARY):
        try:
            fault = fault or fault_of(path, path.lstat())
        except FileNotFoundError:  # told later, by what it is for
            continue
        except OSError as problem:
            raise ModelFileError(f"{path}: cannot be read: {problem.strerror}; check folder and disk") from None
    if fault:
        raise ModelFileError(
            f"{fault}; a bundle is code that gets executed, so it and the folders around it must belong to you or "
            "root, and nobody else may write to them"
        )


class _Handle:
    """A bitvit_model of this process."""

    def __init__(self, files: _Files, threads: int, level: str | None) -> None:
        library, weights = files.library, files.weights
        create, destroy, run = library.bitvit_create, library.bitvit_destroy, library.bitvit_run
        create.restype, create.argtypes = ctypes.c_void_p, [ctypes.POINTER(_Options)]
        destroy.restype, destroy.argtypes = None, [ctypes.c_void_p]
        library.bitvit_level.restype, library.bitvit_level.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
        options = _Options(
            threads=threads,
            callers=threads,
            level=None if level is None else level.encode(),
            weights=weights.ctypes.data,
            weights_bytes=len(weights),
        )
        pointer = create(ctypes.byref(options))
        if not pointer:
            raise _refusal(files, level, ctypes.get_errno())
        weakref.finalize(self, _destroy, destroy, pointer, os.getpid()).atexit = False  # others may still be calling
        run.restype = None
        run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
        self.run = functools.partial(run, pointer)
        self.level: str = library.bitvit_level(pointer).decode()
        files.check_weights(self.level)


def _destroy(destroy: Any, pointer: int, process: int) -> None:
    """In a fork the model's threads are not there to be waited for."""
    if os.getpid() == process:
        destroy(pointer)


def _refusal(files: _Files, level: str | None, number: int) -> BitvitError:
    """Why there is no model."""
    names = ", ".join(files.manifest.weights)
    if number == errno.ENOTSUP and level is None:
        return ModelFileError(
            f"{files.folder}: has kernels for {names}, none of which this processor can run; write a bundle for it "
            "with bitvit bundle --cpu"
        )
    if number == errno.ENOTSUP:
        return ModelFileError(f"{files.folder}: has kernels for {names}; {level} is not there or cannot be run here")
    return BitvitError(
        f"{files.folder}: no model can be made: {os.strerror(number)}; free memory, or use fewer threads"
    )
