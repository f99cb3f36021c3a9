"""Checkpoint files: .safetensors and .pth to a flat state dict of NumPy arrays (SPEC section 5).

Anyone may have written such a file. Nothing in it is executed: pickles.py says why. Tensor bytes are read last, for the
chosen state dict alone; names that come from a file appear in messages quoted, escaped and cut.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from bitvit.checkpoint.file import open_checkpoint, sha256
from bitvit.checkpoint.hub import Parts, parts_of
from bitvit.checkpoint.legacy import read_legacy
from bitvit.checkpoint.prefixes import choose_names
from bitvit.checkpoint.remedies import FETCH_AGAIN, RESAVE, rewritten
from bitvit.checkpoint.safetensors import read_safetensors
from bitvit.checkpoint.sniff import sniff
from bitvit.checkpoint.state_dict import Stored, check_finite, no_ema
from bitvit.checkpoint.torchzip import read_zip
from bitvit.errors import CheckpointError, located
from bitvit.messages import listing, plural, shown

__all__ = ["Checkpoint", "read_checkpoint"]

_READERS: dict[str, Callable[[io.BufferedReader, bool], Stored]] = {
    "safetensors": read_safetensors,
    "pth-zip": read_zip,
    "pth-legacy": read_legacy,
}


@dataclass(frozen=True)
class Checkpoint:
    """What a training checkpoint holds, as plain NumPy and Python values."""

    path: Path
    state: dict[str, NDArray[Any]]
    """Name, without the prefixes of wrappers, to array, C-contiguous and native-endian: float16 and bfloat16 widened
    to float32, all other dtypes as stored; no NaN, no infinity."""
    args: dict[str, Any] | None
    """The training script's options: scalars, flat lists and tuples of them, and '<type>' for anything else. None if
    the file has none."""
    sha256: str
    """Hex digest of the file's bytes; of several files' in the order of their names, one after the other."""
    has_ema: bool
    """Whether the file also holds averaged weights."""
    format: str
    """'safetensors', 'pth-zip' or 'pth-legacy'; 'memory' if it is of no file."""
    config: Mapping[str, Any] | None = None
    """The fields of config.json, if the path is a folder that has one."""
    preprocessor: Mapping[str, Any] | None = None
    """Those of preprocessor_config.json, likewise."""
    files: tuple[Path, ...] = ()
    """What was read."""
    notes: tuple[str, ...] = ()
    """What was found besides, and what was done about it, for people."""


def read_checkpoint(path: str | os.PathLike[str], *, ema: bool = False) -> Checkpoint:
    """Read a .safetensors or .pth training checkpoint without executing anything in it (SPEC section 5).

    path: the file, the index of a checkpoint in several files (model.safetensors.index.json), or the folder of a
    Hugging Face model. The format is told by content, not by the file's name. ema=True takes the averaged weights
    ('model_ema') in place of the trained ones. Raises CheckpointError for a file that is not such a checkpoint, is
    damaged, asks for a function outside the allow-list, or holds NaN or infinities; ConfigError for a folder's
    config.json that holds none.
    """
    if not os.fspath(path):  # which Path would take for the working folder
        raise CheckpointError("the checkpoint's path is empty; give a .pth, a .safetensors or a folder with one")
    path = Path(path)
    parts = parts_of(path)
    with contextlib.ExitStack() as stack:
        opened = [_open(file, ema, stack) for file in parts.files]
        with _reading(parts.files[0] if len(opened) == 1 else path):
            stored = _joined(parts, [part.stored for part in opened])
            names = choose_names(
                stored.names, ema and not stored.is_averaged, lambda prefix: _alone(prefix, parts, stored)
            )
            averages = stored.averages or names.averages
            if ema and not averages:
                raise no_ema(stored.instead)
            state = stored.read(names.names)
            sha = sha256([part.file for part in opened])
            check_finite(state)
    notes = [*stored.notes, *names.notes]
    if averages and not ema:
        notes.append(f"averaged (EMA) weights are there too ({shown(averages)}): --ema (ema=True) takes them")
    return Checkpoint(
        path=path,
        state=state,
        args=stored.args,
        sha256=sha,
        has_ema=averages is not None,
        format=opened[0].form,
        config=parts.config,
        preprocessor=parts.preprocessor,
        files=parts.files,
        notes=tuple(notes),
    )


class _Opened(NamedTuple):
    """A file, of which only what it holds has been found out."""

    file: io.BufferedReader
    form: str
    stored: Stored


def _open(path: Path, ema: bool, stack: contextlib.ExitStack) -> _Opened:
    file = stack.enter_context(open_checkpoint(path))
    with _reading(path):
        form = sniff(file, path)
        return _Opened(file, form, _READERS[form](file, ema))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Put the path in front of every error, those of the disk among them."""
    with located(path):
        try:
            yield
        except OSError as problem:
            raise CheckpointError(f"cannot be read: {problem.strerror or problem}; check file and disk") from None


def _joined(parts: Parts, stored: Sequence[Stored]) -> Stored:
    """The state dict of a checkpoint in several files: each tensor from the file that the index names."""
    if parts.names is None:
        return stored[0]
    place = {file.name: number for number, file in enumerate(parts.files)}
    missing = [name for name, file in parts.names.items() if name not in stored[place[file]].names]
    found = [name for part in stored for name in part.names]
    if missing or len(found) != len(parts.names):
        wrong = f"{listing(missing)} not where the index says" if missing else "other tensors than in the index"
        raise CheckpointError(f"its {plural(len(stored), 'file')} do not fit the index: {wrong}; {FETCH_AGAIN}")
    names = parts.names

    def read(wanted: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for number, part in enumerate(stored):
            with located(parts.files[number].name):
                arrays |= part.read({name: new for name, new in wanted.items() if place[names[name]] == number})
        return {new: arrays[new] for new in wanted.values()}

    return stored[0]._replace(names=names, read=read)


def _alone(prefix: str, parts: Parts, stored: Stored) -> str:
    """What to do about a file of which only the tensors with a prefix are wanted."""
    if len(parts.files) > 1:
        return RESAVE
    name, condition = f"k.removeprefix({prefix!r})", f"k.startswith({prefix!r})"
    return rewritten(os.fspath(parts.files[0]), stored.keys, name, condition=condition)
