"""Folder -> the images in it, and what was left out.

Links to folders are followed, as torchvision's ImageFolder does; but not one that leads back to a folder above it. A
folder that links lead to more than MOST_VISITS times is an error: a few folders of links to one another lead to it a
million times.
"""

import collections
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bitvit.errors import ImageError
from bitvit.images import EXTENSIONS
from bitvit.messages import plural

__all__ = ["MOST_VISITS", "UNREAD", "Found", "find_images", "list_images"]

# Ends of the names of image files whose formats are not read.
_UNREAD = """
    3fr apng arw avif avifs cr2 cr3 cur dcm dds dib dng emf eps exr hdr heic heics heif heifs hif icns ico j2c j2k jp2
    jpe jpf jpx jxl jxr mpo nef orf pcx pef pfm psd qoi raf raw rw2 sgi svg svs tga wdp wmf xbm xpm
"""
UNREAD = frozenset(f".{ending}" for ending in _UNREAD.split())


MOST_VISITS = 100  # of one folder, by different links


@dataclass
class Found:
    """The images of a folder, and how many files and folders of which kind were left out."""

    images: list[Path] = field(default_factory=list)
    """Sorted."""
    unread: collections.Counter[str] = field(default_factory=collections.Counter)
    """Image files of formats that are not read, by the ends of their names."""
    hidden: int = 0
    """Images whose names begin with a dot."""
    hidden_folders: int = 0
    loops: int = 0
    """Links back to a folder that they lie in."""
    broken: int = 0
    """Links that lead nowhere, unless they are named as images are."""
    folders: int = 0
    """Folders below, where they were not to be searched."""

    def __iadd__(self, other: "Found") -> "Found":
        """Adds what another folder has."""
        self.images += other.images
        self.unread += other.unread
        self.hidden += other.hidden
        self.hidden_folders += other.hidden_folders
        self.loops += other.loops
        self.broken += other.broken
        self.folders += other.folders
        return self

    def left_out(self) -> str:
        """What was left out, in words; empty if nothing was. Folders below are not: the caller did not ask for them."""
        parts = []
        if self.unread:
            kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(self.unread.items()))
            total = plural(self.unread.total(), "file")
            parts.append(f"{total} of formats that are not read ({kinds}; save them as JPEG or PNG)")
        if self.hidden:
            parts.append(plural(self.hidden, "hidden image"))
        if self.hidden_folders:
            parts.append(plural(self.hidden_folders, "hidden folder"))
        if self.loops:
            parts.append(f"{plural(self.loops, 'link')} back to a folder above")
        if self.broken:
            parts.append(plural(self.broken, "broken link"))
        return ", ".join(parts)


def list_images(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """The files of a folder whose names end in one of EXTENSIONS, in either case; sorted, without hidden ones.

    recursive: those in the folders below too, and in folders that links lead to. Raises ImageError if the folder or one
    below cannot be read, if there is no such file, or if links lead to one folder more than MOST_VISITS times.
    """
    return find_images(folder, recursive=recursive).images


def find_images(folder: str | os.PathLike[str], *, recursive: bool, required: bool = True) -> Found:
    """What list_images gives, and what was left out. required: whether a folder without images is an error."""
    found = Found()
    try:
        for entry in _files_below(os.fspath(folder), recursive, found):
            ending = Path(entry.name).suffix.lower()
            if entry.name.startswith("."):
                found.hidden += ending in EXTENSIONS
            elif ending in EXTENSIONS:
                found.images.append(Path(entry.path))
            elif ending in UNREAD:
                found.unread[ending] += 1
            elif entry.is_symlink() and not Path(entry.path).exists():
                found.broken += 1
    except OSError as problem:
        raise ImageError(f"{problem.filename}: cannot be read: {problem.strerror}; check the folder") from None
    if required and not found.images:
        left_out = f"; left out: {text}" if (text := found.left_out()) else ""
        below = f"; --recursive (recursive=True) searches the {plural(found.folders, 'folder')} below"
        raise ImageError(
            f"{os.fspath(folder)}: no images in this folder ({' '.join(EXTENSIONS)}){left_out}"
            + (below if found.folders else "")
        )
    found.images.sort()
    return found


def _files_below(top: str, recursive: bool, found: Found) -> Iterator[os.DirEntry[str]]:
    """All that is no folder, in a folder and in those below; folders that are not entered are counted.

    Raises OSError for a folder that cannot be read, ImageError for one that is come to too often.
    """
    visits = collections.Counter[Path]()
    ahead = [(top, Path(top).resolve(), frozenset[Path]())]  # with its real path, and those that it was linked from
    while ahead:
        place, real, linked_from = ahead.pop()
        visits[real] += 1
        if visits[real] > MOST_VISITS:
            raise ImageError(
                f"{top}: links in it lead to the folder {real} in more than {MOST_VISITS} ways, the last as {place}; "
                "remove links, or name a folder further down"
            )
        with os.scandir(place) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    yield entry
                elif not recursive:
                    found.folders += not entry.name.startswith(".")
                elif entry.name.startswith("."):
                    found.hidden_folders += 1
                elif not entry.is_symlink():
                    ahead.append((entry.path, real / entry.name, linked_from))
                else:
                    target, above = Path(entry.path).resolve(), linked_from | {real}
                    if any(folder.is_relative_to(target) for folder in above):
                        found.loops += 1
                    else:
                        ahead.append((entry.path, target, above))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as problem:
        if problem.errno != errno.ELOOP:  # a link that leads to itself is not a folder
            raise
        return False
