"""Stand-ins for what a pickle holds beside plain values: each shows what it stands for, and does nothing."""

import math
from dataclasses import dataclass, field

from bitvit.checkpoint.dtypes import stored_dtype
from bitvit.messages import LONGEST, shown

__all__ = [
    "Global",
    "Inert",
    "Instance",
    "Opaque",
    "Storage",
    "Tensor",
    "Unnamed",
    "UnreadTensor",
    "described",
    "key_text",
    "kind_of",
    "weight",
]


class Inert:
    """A stand-in for an object that is never made; it shows what it stands for, and nothing that it holds."""

    @property
    def kind(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{kind_of(self)}>"


@dataclass(frozen=True, eq=False, repr=False)
class Global(Inert):
    """A global that stays a name, 'module name': a storage class, a dtype, a class, a function of `CALLS`."""

    name: str

    @property
    def kind(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class Opaque(Inert):
    """An object that a checkpoint may hold and no state dict needs: a NumPy scalar, a random generator's state."""

    what: str

    @property
    def kind(self) -> str:
        return self.what


class Unnamed(Opaque):
    """An object of several settings, whose names only its class knows."""


@dataclass(frozen=True, eq=False, repr=False)
class UnreadTensor(Inert):
    """A tensor that PyTorch has and no BHViT needs: its elements are not looked at."""

    what: str
    mend: str | None = None
    """The expression that makes an ordinary tensor of it, where it is called v; None: there is none."""

    @property
    def kind(self) -> str:
        return f"{self.what} tensor"


@dataclass(frozen=True, eq=False, repr=False)
class Instance(Inert):
    """An object of a class: its name, and its attributes and items as far as they have names."""

    name: str
    fields: dict[object, object] = field(default_factory=dict)
    unnamed: list[object] = field(default_factory=list)
    """What it was made of besides, such as the values of a named tuple, whose names only its class knows."""

    @property
    def kind(self) -> str:
        return self.name.replace(" ", ".")

    @property
    def is_module(self) -> bool:
        """Whether it is an nn.Module."""
        return "_modules" in self.fields and "_parameters" in self.fields


@dataclass(frozen=True, eq=False, repr=False)
class Storage(Inert):
    """A persistent id: `count` elements of type `code` in the file's storage `key`."""

    code: str
    key: str
    count: int

    @property
    def kind(self) -> str:
        return "storage"

    @property
    def nbytes(self) -> int:
        return self.count * stored_dtype(self.code, "<").itemsize


@dataclass(frozen=True, eq=False, repr=False)
class Tensor(Inert):
    """A tensor not yet read: where its elements lie in its storage, counted in elements."""

    storage: Storage
    code: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False
    """Whether the values are those of the storage with the other sign: torch negates lazily."""

    @property
    def kind(self) -> str:
        return "tensor"

    @property
    def nbytes(self) -> int:
        return math.prod(self.size) * stored_dtype(self.code, "<").itemsize


def kind_of(value: object) -> str:
    """A short name of what a value is, or stands for; cut, and escaped if need be, since it may come from the file."""
    kind = value.kind if isinstance(value, Inert) else type(value).__name__
    return kind if kind.isprintable() and len(kind) <= LONGEST else shown(kind)


def described(value: object) -> str:
    """A value for a message: text and numbers quoted, escaped and cut, of anything else the kind."""
    return shown(value) if isinstance(value, str | bytes | int | float | None) else f"<{kind_of(value)}>"


def key_text(key: object) -> str:
    """A dict's key as the name of a field."""
    return key.decode("ascii", "backslashreplace") if isinstance(key, bytes) else str(key)


def weight(value: object) -> int:
    """What copying a value costs in steps."""
    if isinstance(value, str | bytes):
        return len(value) // 32
    return len(value) if isinstance(value, list | tuple | set | dict) else 0
