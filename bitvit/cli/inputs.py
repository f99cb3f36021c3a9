"""What names images on the command line besides their paths: lists of names, patterns and addresses.

photos/**/*.jpg     a pattern that the shell did not expand, if there is no file of this very name
@names.txt, @-      a list of names, in a file or on stdin: one a line, or ended by NUL as find -print0 has them
https://…           an address; bitvit.cli.urls downloads it where --urls allows that
"""

import glob
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitvit.errors import ImageError

__all__ = ["NameList", "is_pattern", "matches"]

PORTION = 1 << 16  # bytes of a list that are read together: what a pipe holds
LONGEST_NAME = 1 << 15  # bytes: eight times PATH_MAX of Linux, or a long URL; more is no list
STDIN = "-"


class NameList:
    """The names of images in a file or on stdin, given in portions as they come: a portion of all that is there.

    A list that another program still writes is so read as far as it is written, and a long one is never held whole.

    path: of the file; "-" for stdin. null: whether each name is ended by NUL, not by the end of its line.

    Names are UTF-8, relative to the working folder, and taken as they are: spaces, `@`, `*` and `-` mean themselves.
    Empty lines are skipped, a byte order mark and CR before the end of a line left out. Raises ImageError, when it is
    made or while it is read, for a file that cannot be read or holds no such list.
    """

    def __init__(self, path: str, *, null: bool) -> None:
        self.where, self._path, self._null = f"@{path}", path, null
        if path == STDIN:
            if sys.stdin is None:  # so Python says that its descriptor was closed
                raise ImageError("@-: stdin is closed; redirect a list of names to it")
            return
        try:
            found = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError) as problem:
            raise self._unreadable(problem) from None
        if stat.S_ISDIR(found.st_mode):
            raise ImageError(f"{self.where}: {path} is a folder, expected a list of names; leave out the @")

    def _unreadable(self, problem: Exception) -> ImageError:
        reason = getattr(problem, "strerror", None) or problem
        return ImageError(
            f"{self.where}: the list {self._path!r} cannot be read: {reason}; for an image of this name write "
            f"./{self.where}"
        )

    def __iter__(self) -> Iterator[list[str]]:
        try:
            if self._path == STDIN:
                yield from self._portions(sys.stdin.buffer)
            else:
                with open(self._path, "rb") as file:  # noqa: PTH123
                    yield from self._portions(file)
        except OSError as problem:
            raise self._unreadable(problem) from None

    def _portions(self, file: Any) -> Iterator[list[str]]:
        end, rest, is_first = b"\0" if self._null else b"\n", b"", True
        while data := file.read1(PORTION):  # what has been written by now, as soon as it is something
            *names, rest = (rest + data).split(end)
            if len(rest) > LONGEST_NAME:
                raise ImageError(
                    f"{self.where}: a name of more than {LONGEST_NAME:,} bytes; expected a list of names, "
                    f"{'each ended by NUL' if self._null else 'one a line'}; for an image of this name write "
                    f"./{self.where}"
                )
            if names and is_first:
                is_first, names[0] = False, self._unmarked(names[0])
            if found := list(self._decoded(names)):
                yield found
        if found := list(self._decoded([self._unmarked(rest) if is_first else rest])):
            yield found

    def _unmarked(self, name: bytes) -> bytes:
        """The first name without the mark in front that some editors write."""
        if name.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ImageError(f"{self.where}: is UTF-16; save the list as UTF-8")
        return name.removeprefix(b"\xef\xbb\xbf")

    def _decoded(self, names: list[bytes]) -> Iterator[str]:
        for name in names:
            if not self._null:
                if b"\0" in name:
                    raise ImageError(
                        f"{self.where}: holds NUL characters; --null reads a list whose names they end, and for an "
                        f"image of this name write ./{self.where}"
                    )
                name = name.removesuffix(b"\r")
            if name and (self._null or name.strip()):
                text = name.decode("utf-8", "surrogateescape")  # what is no UTF-8 names the file with these bytes
                yield f"./{STDIN}" if text == STDIN else text


def is_pattern(name: str) -> bool:
    """Whether a name has what patterns have, and there is no file or folder of this very name."""
    return glob.has_magic(name) and not os.path.lexists(name)


def matches(pattern: str) -> list[str]:
    """The files that a pattern matches, sorted; if it matches folders alone, these.

    `*`, `?` and `[...]` as the shell has them, names with a dot in front left out; `**` stands for a folder and all
    below it, without following links, which may lead back. Raises ImageError if there is none.
    """
    found = sorted({f"./{STDIN}" if path == STDIN else path for path in _found(pattern)})
    if not found:
        raise ImageError(
            f"{pattern}: no file matches this pattern; check it, or name the folder itself with --recursive"
        )
    return [path for path in found if not Path(path).is_dir()] or found


def _found(pattern: str) -> Iterator[str]:
    steps = pattern.replace(os.sep, "/").split("/")
    if "**" not in steps:
        yield from glob.iglob(pattern)  # noqa: PTH207  # Path's finds names with a dot in front
        return
    at = steps.index("**")
    head, tail = "/".join(steps[:at]), "/".join(steps[at + 1 :]) or "*"
    tops = ["/" if at else "."] if not head else glob.glob(head)  # noqa: PTH207
    for top in tops:
        for place, folders, _ in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            within = place.removeprefix("." if place == "." else "./") if not head else place
            yield from _found(f"{glob.escape(within.rstrip('/'))}/{tail}" if within else tail)
