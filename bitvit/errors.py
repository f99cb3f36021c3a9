"""The errors that bitvit raises for what a user can mend.

    BitvitError
    ├── CheckpointError   a training checkpoint cannot be read or is not a binary BHViT
    ├── ConfigError       a network shape that BHViT does not allow, or two sources that disagree
    ├── ModelFileError    a packed model file is damaged, foreign or of another version
    ├── ImageError        an image cannot be decoded or does not fit the model
    ├── BenchError        a benchmark cannot be run as asked for, or its report cannot be read
    └── HubError          a model cannot be had from the Hugging Face Hub, or not be published there

Every message says where, what was found, what was expected and what to do.
"""

import contextlib
import errno
from collections.abc import Iterator

from bitvit.messages import shortened

__all__ = [
    "BenchError",
    "BitvitError",
    "CheckpointError",
    "ConfigError",
    "HubError",
    "ImageError",
    "ModelFileError",
    "has_room",
    "lacks_memory",
    "located",
]


class BitvitError(Exception):
    """Base of all errors raised on purpose; its text is meant for the user, without what has no end."""

    def __init__(self, text: str) -> None:
        super().__init__(shortened(text))


class CheckpointError(BitvitError):
    """A training checkpoint cannot be read, or holds something other than a binary BHViT."""


class ConfigError(BitvitError):
    """A network shape outside SPEC section 10, or config and checkpoint disagree."""


class ModelFileError(BitvitError):
    """A packed model file is damaged, foreign, or written by an incompatible version."""


class ImageError(BitvitError):
    """An image cannot be decoded, or its size does not fit the model."""


class BenchError(BitvitError):
    """A benchmark cannot be run as asked for, or a report of one cannot be read."""


class HubError(BitvitError):
    """A model cannot be had from the Hugging Face Hub, or cannot be published there."""


@contextlib.contextmanager
def located(where: object) -> Iterator[None]:
    """Put the name of what is being read in front of every BitvitError that is raised inside."""
    try:
        yield
    except BitvitError as error:
        raise type(error)(f"{where}: {error}") from error.__cause__


# What the system's loader of libraries, decoders of images and NumPy say in place of MemoryError.
_LACKING = ("failed to map segment", "cannot map zero-fill pages", ": cannot allocate memory", "out of memory")


def lacks_memory(problem: BaseException | None) -> bool:
    """Whether an exception, or one that it came of, says that memory was too short."""
    while problem is not None:
        text = str(problem).lower()
        if isinstance(problem, MemoryError) or any(words in text for words in _LACKING):
            return True
        if isinstance(problem, OSError) and problem.errno == errno.ENOMEM:
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def has_room(size: int) -> bool:
    """Whether this process may have so many more bytes."""
    try:
        bytearray(size)
    except MemoryError:
        return False
    return True
