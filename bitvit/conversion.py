"""convert: a training checkpoint -> a packed model file, and what is taken where it is not asked for."""

import contextlib
import os
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bitvit.checkpoint import Checkpoint, read_network
from bitvit.checkpoint.hub import parts_of, read_config
from bitvit.checkpoint.training import class_names, normalization, placeholders, repeated
from bitvit.checkpoint.transform import not_followed
from bitvit.config import Config
from bitvit.errors import CheckpointError, ConfigError, located
from bitvit.files import is_folder
from bitvit.hub import local_path
from bitvit.modelfile import save_model_file
from bitvit.pack import pack
from bitvit.preprocess import Preprocessing, Triple

__all__ = ["ConversionReport", "check_target", "choose_preprocessing", "convert"]

_FOREIGN_SUFFIXES = frozenset(
    (
        *(".onnx", ".ort", ".tflite", ".pb", ".h5", ".hdf5", ".keras", ".gguf", ".ggml", ".engine", ".trt", ".mlmodel"),
        *(".pth", ".pt", ".ckpt", ".bin", ".pkl", ".jit", ".npz", ".npy", ".msgpack", ".xml", ".mlpackage"),
        *(".json", ".txt", ".csv", ".yaml", ".zip", ".tar", ".gz", ".png", ".jpg", ".jpeg"),
    )
)
"""Ends of names that promise another format than that of a packed model."""


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` wrote."""

    path: Path
    config: Config
    bytes: int
    binary_weights: int
    float_parameters: int  # in the file, after folding
    zero_weights: int  # centred weights that were exactly 0 and became -1
    warnings: list[str]
    seconds: float
    notes: list[str] = field(default_factory=list)
    """What was found, taken and assumed: where class names and preprocessing come from, averaged weights beside."""


def convert(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ema: bool = False,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | str | None = "auto",
    pad: int = 0,
    ignore: Collection[str] = (),
) -> ConversionReport:
    """Convert a BHViT checkpoint (.safetensors or .pth) into a packed model file.

    checkpoint: trained with the authors' code or any with the same parameter names (SPEC section 3); a file, the index
    of several, or the folder of a Hugging Face model, whose config.json is then taken too.
    out: the file to write; never half-written.
    config: config.json of the training run, as a path, its folder or a dict; needed only for what shapes cannot tell.
    ema: take the exponential moving average of the weights (`model_ema`).
    labels: one name a class; default: `id2label` of config.json, if those are names.
    mean, std: of R, G, B in [0, 1]; default: those of the training as far as the checkpoint or config.json tells, else
    ImageNet's.
    resize, pad: preprocessing of images, see Preprocessing.for_image_size.
    ignore: fields of config.json and options of the training that are not known but change nothing.

    The report's notes say what was assumed; names that stand for two classes are warned of. Raises CheckpointError,
    ConfigError or ModelFileError; nothing is written then.
    """
    start = time.perf_counter()
    for name, place in (("checkpoint", checkpoint), ("out", out)):
        if not os.fspath(place):  # which Path would take for the working folder
            raise CheckpointError(f"{name}: the path is empty; name a file")
    source, target = Path(local_path(checkpoint, packed=False)), Path(out)
    check_target(target, parts_of(source).files)
    fields = read_config(config)
    network = read_network(source, config=fields, ema=ema, ignore=ignore)
    shape, found = network.config, network.checkpoint
    if fields is not None:
        found = replace(found, config=fields)
    names, about_names = _choose_labels(labels, found.config, shape)
    preprocessing, about_images = choose_preprocessing(found, shape.image_size, mean, std, resize, pad)
    with located(source):
        packed = pack(network)
        faults = [f"{source}: {fault}" for fault in packed.notes()]
    faults += _repeated_labels(names or ())
    for fault in faults:
        warnings.warn(fault, stacklevel=2)
    save_model_file(
        target,
        packed.tensors,
        config=shape,
        preprocessing=preprocessing,
        labels=names,
        source_sha256=found.sha256,
    )
    return ConversionReport(
        path=target,
        config=shape,
        bytes=target.stat().st_size,
        binary_weights=packed.binary_weights,
        float_parameters=sum(t.size for t in packed.tensors.values() if t.dtype == np.float32),
        zero_weights=packed.zero_weights,
        warnings=faults,
        seconds=time.perf_counter() - start,
        notes=[*network.notes(), *about_names, *about_images],
    )


# -------------------------------------------------------------------------- what is taken where it is not asked for
def check_target(target: Path, sources: Sequence[Path] = ()) -> None:
    """Raises CheckpointError if the output is a folder, a file of the checkpoint, or named as of another format."""
    for source in sources:
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have is refused where it is written to
            if target.samefile(source):
                raise CheckpointError(f"{target}: is the checkpoint itself; choose another output file")
    if is_folder(target):
        raise CheckpointError(
            f"{target}: is a folder; name the model file to write, such as {target / 'model.safetensors'}"
        )
    if target.suffix.lower() in _FOREIGN_SUFFIXES:
        raise CheckpointError(
            f"{target}: a model of bitvit would be written, which is no {target.suffix} file; name it "
            f"{target.with_suffix('.safetensors').name}"
        )


def _choose_labels(
    given: Sequence[str] | None, config_json: Mapping[str, Any] | None, config: Config
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Class names, and notes about where they come from."""
    if given is not None:
        names = _checked_labels(given, config)
        return names, [f"class names: as given{', which are only numbers' if placeholders(names) else ''}"]
    found = class_names(config_json, config.num_classes)
    if found.names is not None:
        return _checked_labels(found.names, config), [f"class names: {found.note}"]
    if not config.num_classes:
        return None, []
    return None, [f"no class names ({found.note}): classes are called by their numbers; give names with --labels"]


def _checked_labels(labels: Sequence[str], config: Config) -> tuple[str, ...]:
    if len(labels) != config.num_classes:
        raise ConfigError(
            f"labels: {len(labels)} names for {config.num_classes} classes; give one name a class, in order"
        )
    names = tuple(str(label) for label in labels)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as problem:
        raise ConfigError(
            f"labels: {problem.object[problem.start]!r} is half of a surrogate pair; give names that are text"
        ) from None
    return names


def choose_preprocessing(
    checkpoint: Checkpoint,
    image_size: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    resize: int | str | None,
    pad: int,
) -> tuple[Preprocessing, list[str]]:
    """How images are prepared, and notes that say so, with where mean and standard deviation come from."""
    found = normalization(checkpoint)
    chosen = Preprocessing.for_image_size(
        image_size,
        mean=found.mean if mean is None else _triple("mean", mean),
        std=found.std if std is None else _triple("std", std),
        resize=resize,
        pad=pad,
    )
    size = f"{chosen.crop} x {chosen.crop} pixels"
    shape = f"shorter edge to {chosen.resize} pixels, centre crop of {size}" if chosen.resize else f"images of {size}"
    padding = f", {chosen.pad} black ones around" if chosen.pad else ""
    sources = [
        f"{name} {','.join(f'{value:g}' for value in values)} ({'as given' if given else found.source})"
        for name, values, given in (("mean", chosen.mean, mean is not None), ("std", chosen.std, std is not None))
    ]
    if (mean is None) == (std is None):  # both of one source
        sources[0] = sources[0].partition(" (")[0]
    others = not_followed(
        checkpoint, chosen, sized=resize != "auto" or pad > 0, normalised=mean is not None and std is not None
    )
    return chosen, [f"preprocessing: {shape}{padding}; {', '.join(sources)}", *others]


def _triple(name: str, values: Sequence[float]) -> Triple:
    """The same number for R, G and B, or three; ConfigError unless they suit values in [0, 1]."""
    if len(values) == 1:
        values = [values[0]] * 3
    if len(values) != 3:
        raise ConfigError(f"{name}: {len(values)} values, expected one, or three for R, G, B")
    r, g, b = (float(v) for v in values)
    if not all(0 <= number <= 1 for number in (r, g, b)):  # false for NaN
        scaled = ",".join(f"{number / 255:.4g}" for number in (r, g, b))
        hint = f"; on the scale from 0 to 255? then give {scaled}" if 1 < max(r, g, b) <= 255 else ""
        raise ConfigError(
            f"preprocessing: {name} is {r:g},{g:g},{b:g}, expected numbers from 0 to 1, the range of pixels{hint}"
        )
    return r, g, b


def _repeated_labels(names: Sequence[str]) -> list[str]:
    """A warning about names that stand for more than one class, as two of ImageNet's do."""
    twice = repeated(names)
    return [f"labels: one name stands for several classes, which answers cannot tell apart: {twice}"] if twice else []
