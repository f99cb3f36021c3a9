"""What is known of the images and the classes that a network was trained on."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bitvit.checkpoint.claims import ARGS, CONFIG, finite
from bitvit.checkpoint.options import groups
from bitvit.errors import ConfigError
from bitvit.labels import labels_from_json
from bitvit.messages import listing, plural, shown
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD, Triple

if TYPE_CHECKING:
    from bitvit.checkpoint.read import Checkpoint

__all__ = ["ClassNames", "Normalization", "class_names", "normalization", "placeholders", "repeated"]

_DATA_SETS: Mapping[str, tuple[str, Triple, Triple]] = {
    **dict.fromkeys(("CIFAR", "IMNET", "INAT", "INAT19", "PETS"), ("ImageNet's", IMAGENET_MEAN, IMAGENET_STD)),
    "CERVICAL": ("its own", (0.6776, 0.4484, 0.4917), (0.1164, 0.1472, 0.1421)),
}
"""The training scripts' choices of --data-set, and whose mean and standard deviation they normalise its images with."""

_PLACEHOLDER = re.compile(r"(?:LABEL|class)[_ ]?\d+", re.IGNORECASE)


class Normalization(NamedTuple):
    """Of images, and where it was found."""

    mean: Triple
    std: Triple
    source: str


def normalization(checkpoint: "Checkpoint") -> Normalization:
    """What the checkpoint says of it, or its config.json, else ImageNet's, as in the training code; `source` says which
    and why."""
    options = list(groups(checkpoint.args or {}))
    sources = [
        *((fields, ARGS) for fields in options),
        *((fields, CONFIG) for fields in groups(checkpoint.config or {})),
        (checkpoint.preprocessor or {}, "preprocessor_config.json"),
    ]
    for fields, origin in sources:
        for prefix in ("image_", "") if _normalizes(fields) else ("",):
            mean, std = (_triple(fields.get(f"{prefix}{name}")) for name in ("mean", "std"))
            if mean and std:
                return Normalization(mean, std, f"of {origin}")
    data_set = next((fields["data_set"] for fields in options if fields.get("data_set") is not None), None)
    if isinstance(data_set, str) and data_set in _DATA_SETS:
        whose, mean, std = _DATA_SETS[data_set]
        return Normalization(mean, std, f"{whose}, with which the training code normalises data_set {data_set!r}")
    against = next((origin for fields, origin in sources if not _normalizes(fields)), None)
    if against:
        told = f"{against} says that images are not normalised"
    elif data_set:
        told = f"data_set {shown(data_set)} is not one of the training code's"
    else:
        told = "the checkpoint tells none"
    source = f"ImageNet's, an assumption: {told}; if you trained with others, give them (--mean, --std)"
    return Normalization(IMAGENET_MEAN, IMAGENET_STD, source)


def _normalizes(fields: Mapping[str, Any]) -> bool:
    """Whether an image processor with these fields normalises; others say nothing else."""
    return fields.get("do_normalize", True) is True


def _triple(value: object) -> Triple | None:
    """Three numbers for values in [0, 1], none of them a mistake."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    numbers = [number for item in value if (number := finite(item)) is not None]
    if len(numbers) < 3 or not all(0 <= number <= 1 for number in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]


class ClassNames(NamedTuple):
    """Names of classes in order, or None and why there are none."""

    names: tuple[str, ...] | None
    note: str


def class_names(config: Mapping[str, Any] | None, num_classes: int) -> ClassNames:
    """The class names of a config.json (id2label, else label2id), unless they are none or not as many as the network
    has classes."""
    fields = config or {}
    numbers, names = fields.get("id2label"), fields.get("label2id")
    if isinstance(numbers, Mapping):
        numbers = {str(number): name for number, name in numbers.items()}
    found = _checked(numbers, "id2label", num_classes)
    if not isinstance(names, Mapping) or not names or placeholders([str(name) for name in names]):
        return found
    other = _checked({str(number): name for name, number in names.items()}, "label2id", num_classes)
    if other.names is None and len({str(number) for number in names.values()}) < len(names):
        other = ClassNames(None, "label2id of config.json gives two names one number: not used")
    if found.names is None:
        return other if other.names or not numbers else found
    if other.names == found.names:
        return found
    return ClassNames(found.names, f"{found.note}, which its label2id contradicts")


def _checked(found: object, field: str, num_classes: int) -> ClassNames:
    """The names in a field of config.json, by number."""
    where = f"{field} of config.json"
    if not found:
        return ClassNames(None, "none were given")
    try:
        names = labels_from_json(found, where)
    except ConfigError as problem:
        return ClassNames(None, f"{problem}: not used")
    if len(names) != num_classes:
        return ClassNames(None, f"{where} has {plural(len(names), 'name')}, not {num_classes}: not used")
    if placeholders(names):
        return ClassNames(None, f"{where} has only placeholders ({listing(names, most=2)}): not used")
    return ClassNames(tuple(names), where)


def placeholders(names: Sequence[str]) -> bool:
    """Whether these are numbers in disguise, such as LABEL_0, which Hugging Face writes where it knows no names."""
    return all(_PLACEHOLDER.fullmatch(name) for name in names)


def repeated(names: Sequence[str]) -> str | None:
    """Which names stand for more than one class, in words."""
    classes: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        classes.setdefault(name, []).append(number)
    twice = [f"{shown(name)} (classes {listing(numbers, most=4)})" for name, numbers in classes.items() if numbers[1:]]
    return listing(twice, most=4, show=str) if twice else None
