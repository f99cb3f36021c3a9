"""A folder with a folder for each class -> images to train on and images that are held out; needs no PyTorch.

    FOLDER/cat/1.jpg, FOLDER/dog/a/2.png               a share of each class is held out
    FOLDER/train/cat/1.jpg, FOLDER/val/dog/2.png       as the folders say: val, or test where there is no val

Classes are numbered in the order of their folders' names, as torchvision's ImageFolder does it.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bitvit.errors import BitvitError
from bitvit.folders import Found, find_images
from bitvit.images import EXTENSIONS
from bitvit.messages import listing, plural, shown
from bitvit.train.settings import TrainingError
from bitvit.train.source import Raw, Source

__all__ = ["LEAST", "digest_of", "hold_out", "read_folder"]

LEAST = 5
"""Images that a class must have where a share is held out."""
TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")

Classes = dict[str, list[Path]]


def read_folder(folder: Path, share: float = 0.2, seed: int = 0) -> Source:
    """The images of a folder, of which a share of each class is held out, unless its folders say which.

    Raises TrainingError where there are no two classes, or one has too few images.
    """
    parts = _parts(folder)
    notes: list[str] = []
    if parts is None:
        classes = _classes(folder, notes)
        train, test = hold_out(classes, share, seed, folder)
        held = f"{100 * share:g} % of each class held out, chosen with seed {seed}"
    else:
        kept, other, unused = parts
        classes = _classes(kept, notes)
        train = _pairs({name: images for name, images in classes.items() if images}, list(classes))
        few = [name for name, images in classes.items() if not images]
        if few:
            raise TrainingError(f"{kept / few[0]}: holds no image; add some, or take the folder away")
        if other is None:
            train, test = hold_out(classes, share, seed, kept)
            held = f"{100 * share:g} % of each class of {kept.name}/ held out, chosen with seed {seed}"
        else:
            test = _pairs(_known(_classes(other, notes, least=1), classes, other, kept, notes), list(classes))
            held = f"{other.name}/ held out"
        notes += [f"{name}/ is not looked at; to measure the model on it: bitvit evaluate" for name in unused]
    labels = [_label(name, folder) for name in classes]
    origin = f"{folder.resolve().name or folder.resolve()}: {plural(len(train) + len(test), 'image')}, {held}"
    return Source(train=train, test=test, labels=labels, origin=origin, notes=tuple(notes))


def hold_out(classes: Mapping[str, list[Path]], share: float, seed: int, folder: Path) -> tuple[Raw, Raw]:
    """Split each class at random, so that a share of it, at least one image, is held out.

    Which images those are depends on the seed and on the class's sorted names alone. Raises TrainingError for a class
    of fewer than LEAST images.
    """
    few = {name: len(images) for name, images in classes.items() if len(images) < LEAST}
    if few:
        found = listing(few, show=lambda name: f"{shown(name)} has {few[name]}")
        raise TrainingError(
            f"{folder}: too few images in {plural(len(few), 'class', 'classes')}: {found}; expected at least {LEAST}, "
            "of which one is held out: add images, or take the folder away"
        )
    train: Raw = []
    test: Raw = []
    for number, images in enumerate(classes.values()):
        order = np.random.default_rng([seed, number]).permutation(len(images))
        held = set(order[: max(1, round(share * len(images)))].tolist())
        for index, path in enumerate(images):
            (test if index in held else train).append((path, number))
    return train, test


def digest_of(source: Source) -> str:
    """Differs for folders whose images, by name and size, differ: what a run that is resumed must find again."""
    found = hashlib.sha256()
    for split in (source.train, source.test):
        for path, number in split:
            found.update(f"{path}\0{path.stat().st_size}\0{number}\n".encode(errors="surrogateescape"))
        found.update(b"\n")
    return found.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------------- folders


def _parts(folder: Path) -> tuple[Path, Path | None, list[str]] | None:
    """The folders to train on and to hold out, and the names of others; None if the folders are classes."""
    names = {entry.name.lower(): entry for entry in _folders(folder)}
    if not names or not names.keys() <= {*TRAIN, *VAL, *TEST}:
        return None
    train = next((names[name] for name in TRAIN if name in names), None)
    others = [names[name] for name in (*VAL, *TEST) if name in names]
    if train is None:
        raise TrainingError(
            f"{folder}: holds {listing([entry.name for entry in others], show=str)}, but no train; expected train/ "
            "with a folder for each class, or folders of classes alone"
        )
    return train, others[0] if others else None, [entry.name for entry in others[1:]]


def _classes(folder: Path, notes: list[str], least: int = 2) -> Classes:
    """The images of each class, sorted by name; notes say what was left out."""
    folders = _folders(folder)
    if len(folders) < least:
        found = f"only {shown(folders[0].name)}" if folders else "holds no folders"
        raise TrainingError(
            f"{folder}: {found}, expected a folder for each of at least two classes, such as {folder}/cat/1.jpg and "
            f"{folder}/dog/2.jpg"
        )
    total, classes = Found(), {}
    for entry in folders:
        found_here = _find(entry, recursive=True)
        classes[entry.name] = found_here.images
        total += found_here
    if not total.images:
        left_out = f"; left out: {total.left_out()}" if total.left_out() else ""
        raise TrainingError(
            f"{folder}: no images in its {plural(len(folders), 'folder')} ({' '.join(EXTENSIONS)}){left_out}"
        )
    if stray := len(_find(folder, recursive=False).images):
        notes.append(f"left out for want of a class: {plural(stray, 'image')} beside the folders in {folder}")
    if left_out := total.left_out():
        notes.append(f"left out: {left_out}")
    return classes


def _folders(folder: Path) -> list[Path]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except NotADirectoryError:
        raise TrainingError(f"{folder}: is a file, expected a folder with a folder for each class") from None
    except OSError as problem:
        remedy = "expected a folder with a folder for each class; check the path"
        raise TrainingError(f"{folder}: cannot be read: {problem.strerror}; {remedy}") from None
    return entries


def _find(folder: Path, *, recursive: bool) -> Found:
    try:
        return find_images(folder, recursive=recursive, required=False)
    except BitvitError as problem:
        raise TrainingError(str(problem)) from None


def _known(found: Classes, classes: Classes, place: Path, train: Path, notes: list[str]) -> Classes:
    """The held-out images of the classes that are trained on."""
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise TrainingError(
            f"{place}: {listing(unknown)} is not a class of {train}; expected folders of the same names in both"
        )
    missing = [name for name in classes if not found.get(name)]
    if missing:
        notes.append(f"without images in {place.name}/: {listing(missing)}")
    return found


def _pairs(found: Classes, order: list[str]) -> Raw:
    numbers = {name: number for number, name in enumerate(order)}
    return [(path, numbers[name]) for name in sorted(found, key=numbers.__getitem__) for path in found[name]]


def _label(name: str, folder: Path) -> str:
    """A folder's name as a class name: composed, so that it looks and compares alike whatever wrote the folder."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise TrainingError(
            f"{shown(str(folder / name))}: the name of the folder is not UTF-8, and would be the name of a class; "
            "rename it"
        ) from None
    return unicodedata.normalize("NFC", name)
