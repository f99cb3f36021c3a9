"""What has been computed, kept in a file, so that an evaluation that was stopped can go on."""

import contextlib
import json
import os
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bitvit.errors import BitvitError
from bitvit.evaluation.metrics import parts
from bitvit.evaluation.spill import release
from bitvit.files import is_folder, open_file, write_file

__all__ = ["Computed", "StateFile"]

SAVE_SECONDS = 60.0  # between saves of the state, or
SAVE_PAUSE = 20.0  # times as long as the last one took, if that is more


@dataclass
class Computed:
    """What has been computed for one model: it grows from the first image on."""

    logits: NDArray[np.float32]
    """[images, classes]; rows of images that failed, and of those that are not through, mean nothing."""
    rows: NDArray[np.int64]
    """[images] the row of each image, in the order in which they are taken."""
    done: int = 0
    """Images that are through, failures included."""
    failed: dict[int, str] = field(default_factory=dict)
    """Number of an image -> why it could not be read."""
    turned: list[int] = field(default_factory=list)
    """Numbers of images whose EXIF data calls for a turn that they did not get."""
    seconds: float = 0.0


class StateFile:
    """Keeps what has been computed for each model of a job in one file.

    place: the file, or a folder, in which it is named after the job; None: nothing is kept. job: what must be the same
    for an evaluation to go on, as hexadecimal digits. parts: of each model; load() fills them.

    Raises BitvitError if the folder may not be written to.
    """

    def __init__(self, place: str | os.PathLike[str] | None, job: str, parts: Sequence[Computed]) -> None:
        self.path = None if place is None else _file_at(Path(place), job)
        self.job = job
        self.parts = parts
        self._saved, self._pause = time.monotonic(), SAVE_SECONDS

    def save_sometimes(self) -> None:
        """Save, if the last time was long enough ago."""
        if time.monotonic() - self._saved > self._pause:
            begin = time.monotonic()
            with contextlib.suppress(BitvitError):  # a full disk is no reason to stop, and may have room in the end
                self.save()
            self._saved = time.monotonic()
            self._pause = max(SAVE_SECONDS, SAVE_PAUSE * (self._saved - begin))

    def save(self) -> None:
        """Write the file, unless nothing has been computed yet. Raises BitvitError if that is not possible."""
        if self.path is None or not any(part.done for part in self.parts):
            return
        units = [
            {
                "done": part.done,
                "seconds": part.seconds,
                "failed": {str(n): why for n, why in part.failed.items() if n < part.done},
                "turned": [n for n in part.turned if n < part.done],
            }
            for part in self.parts
        ]
        header = json.dumps({"job": self.job, "units": units}).encode()
        write_file(self.path, lambda file: self._write(file, header))

    def _write(self, file: BinaryIO, header: bytes) -> None:
        """What np.savez would write: the header, and of each part the logits of the images that are through.

        A few rows at a time, since they may take half of the memory.
        """
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open("header.npy", "w") as entry:
                np.save(entry, np.frombuffer(header, np.uint8))
            for i, part in enumerate(self.parts):
                shape = (part.done, part.logits.shape[1])
                with archive.open(f"logits{i}.npy", "w", force_zip64=True) as entry:
                    form = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(entry, form)
                    for place in parts(shape):
                        entry.write(part.logits[part.rows[: part.done][place]].tobytes())
                        release(part.logits)

    def load(self) -> None:
        """Take up what the file holds; nothing if there is no file.

        Raises BitvitError for a file that is damaged or of another job, ValueError if none was named.
        """
        if self.path is None:
            raise ValueError("resume: needs a state, the file or folder to go on from")
        if not self.path.exists():
            return
        try:
            with open_file(self.path, BitvitError) as file, np.load(file, allow_pickle=False) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.zip.infolist()):
                    raise ValueError("it is compressed")  # which bitvit never does, and unpacked it may be of any size
                header = json.loads(archive["header"].tobytes())
                if header["job"] != self.job:
                    raise BitvitError(
                        f"{self.path}: is of another evaluation: other models, images, classes or --exif (exif=), or "
                        "another version of bitvit; repeat that evaluation, or start afresh without --resume (resume=)"
                    )
                for i, (part, unit) in enumerate(zip(self.parts, header["units"], strict=True)):
                    done = int(unit["done"])
                    with archive.zip.open(f"logits{i}.npy") as entry:
                        _read_rows(entry, part.logits, part.rows[:done])
                    part.done, part.seconds = done, float(unit["seconds"])
                    part.failed = {int(n): str(why) for n, why in unit["failed"].items()}
                    part.turned = [int(n) for n in unit["turned"]]
        except BitvitError:
            raise
        except Exception as problem:  # zipfile, and NumPy of an array's header, raise nearly anything for damaged bytes
            raise BitvitError(
                f"{self.path}: is not a state file, or damaged ({problem}); start afresh without --resume (resume=)"
            ) from None

    def remove(self) -> None:
        """Delete the file, if there is one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _read_rows(entry: IO[bytes], logits: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
    """What StateFile writes of logits, a few rows at a time. Raises ValueError, and what zipfile raises."""
    np.lib.format.read_magic(entry)
    shape, in_columns, kind = np.lib.format.read_array_header_1_0(entry)
    if (shape, in_columns, kind) != ((len(rows), logits.shape[1]), False, np.dtype("<f4")):
        raise ValueError(f"its logits are {kind} {shape}")
    for place in parts(shape):
        chosen = rows[place]
        data = entry.read(4 * len(chosen) * shape[1])
        logits[chosen] = np.frombuffer(data, "<f4").reshape(len(chosen), shape[1])
        release(logits)
    if entry.read(1):  # to the end, where zipfile compares the checksum
        raise ValueError("its logits are longer than they say")


def _file_at(place: Path, job: str) -> Path:
    path = place / f"bitvit-evaluate-{job[:8]}.state" if is_folder(place) else place
    if not os.access(path.resolve().parent, os.W_OK):
        raise BitvitError(f"{path}: cannot be written; name a state in a folder that you may write to")
    return path
