"""The flat program of a model: a table of steps over three arenas of 4-byte units.

    const    weights in kernel order and index tables; read only, one a model
    state    activations of one image
    scratch  one thread's working memory

A layer asks the Builder for regions by name and emits steps whose argument records hold region offsets and sizes. The
same name always means the same memory, so a block's buffers serve the next block; arenas start as zeros and regions of
different layout have different names, which keeps the pad bits of packed rows 0 without ever clearing them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.kernels.catalog import SCHEDULING, Function, Kernel, Kind
from bitvit.kernels.target import TILE_ROWS
from bitvit.panels import padded

ALIGN = 16  # units: 64 bytes, one cache line
SLACK = 64  # units behind every region: a vector load at the last element stays inside

IMAGE_CELL = 0  # the first line of the state holds the record IMAGE


@dataclass
class Region:
    """A named part of an arena; its offset is known once the program is built."""

    name: str
    size: int
    offset: int = -1


@dataclass(frozen=True)
class Map:
    """A map of tokens in a state region: float32 [side²][stride], of which `channels` count, and the rest up to `width`
    is finite."""

    region: Region
    side: int
    channels: int

    @property
    def rows(self) -> int:
        return self.side**2

    @property
    def width(self) -> int:
        """Channels with padding: what kernels compute."""
        return padded(self.channels)

    @property
    def stride(self) -> int:
        """From one token's row to the next: an odd number of cache lines.

        Rows a power of two apart would share a few sets of the first-level cache, and a walk down a column would evict
        itself.
        """
        return ALIGN * (padded(self.channels, ALIGN) // ALIGN | 1)


@dataclass(frozen=True)
class Step:
    """One row of the program."""

    kernel: Kernel
    pieces: int
    """How many pieces it splits into."""
    arguments: "np.void"
    """The kernel's record."""
    layer: str
    """The layer that it serves."""
    kind: Kind
    """What it does there, for profiles."""
    moved: int
    """4-byte units of the state that it reads and writes: maps of floats, planes of signs, pixels."""
    regions: dict[str, Region]


@dataclass(frozen=True)
class Program:
    """Steps and the arenas they need. `const` is 64-byte aligned."""

    steps: list[Step]
    const: NDArray[np.uint32]
    state_size: int
    scratch_size: int
    output: Region
    outputs: int

    @property
    def kernels(self) -> list[Kernel]:
        """Each once."""
        return list(dict.fromkeys(step.kernel for step in self.steps))

    @property
    def functions(self) -> list[Function]:
        """What runs it: its kernels, then the scheduling functions."""
        return [*self.kernels, *SCHEDULING]

    @property
    def working_bytes(self) -> int:
        """What one thread needs beside the constants, for one image."""
        return 4 * (self.state_size + self.scratch_size)


def aligned_zeros(units: int) -> NDArray[np.uint32]:
    """uint32 zeros on a 64-byte boundary, which NumPy does not promise."""
    raw = np.zeros(units + ALIGN, np.uint32)
    start = -raw.ctypes.data // 4 % ALIGN
    return raw[start : start + units]


@dataclass
class Builder:
    """Collects steps, regions and constants while the layers are walked."""

    _constants: list[NDArray[np.uint32]] = field(default_factory=list)
    _const_size: int = 0
    _shared: dict[Any, int] = field(default_factory=dict)
    _state: dict[str, Region] = field(default_factory=dict)
    _scratch: dict[str, Region] = field(default_factory=dict)
    _steps: list["_Emitted"] = field(default_factory=list)

    def const(self, array: NDArray[Any]) -> int:
        """Place an array of 4-byte elements; returns its offset."""
        offset = self._const_size
        self._constants.append(np.ascontiguousarray(array).reshape(-1).view(np.uint32))
        self._const_size += padded(array.size + SLACK, ALIGN)
        return offset

    def shared(self, key: Any, make: Callable[[], NDArray[Any]]) -> int:
        """A constant that many layers use, placed once a key."""
        if key not in self._shared:
            self._shared[key] = self.const(make())
        return self._shared[key]

    def state(self, name: str, size: int) -> Region:
        """A region of the state arena; the largest size asked for under a name counts."""
        return _grow(self._state, name, size)

    def scratch(self, name: str, size: int) -> Region:
        """A region of the scratch arena."""
        return _grow(self._scratch, name, size)

    def map(self, side: int, channels: int, after: Map | None = None) -> Map:
        """A token map in the stream buffer that `after` does not occupy; it has rows to spare for the last tile."""
        name = "stream.1" if after is not None and after.region.name == "stream.0" else "stream.0"
        region = self.state(name, 0)
        new = Map(region, side, channels)
        self.state(name, (padded(side**2, TILE_ROWS) + TILE_ROWS) * new.stride)
        return new

    def step(
        self,
        kernel: Kernel,
        layer: str,
        pieces: int,
        *,
        moved: int,
        kind: Kind | None = None,
        **arguments: int | Region,
    ) -> None:
        """Emit a step; `arguments` are the fields of the kernel's record (fields not given are 0).

        kind: where its time belongs; default the kernel's own. The rest: see Step. ValueError if neither says a kind.
        """
        belongs = kind or kernel.kind
        if belongs is None:
            raise ValueError(f"{layer}: a step of {kernel.name} needs a kind")
        self._steps.append(_Emitted(kernel, layer, pieces, moved, belongs, arguments))

    def build(self, output: Region, outputs: int) -> Program:
        """Fix all offsets."""
        const = aligned_zeros(self._const_size)
        offset = 0
        self._constants.reverse()
        while self._constants:  # none is kept twice
            array = self._constants.pop()
            const[offset : offset + array.size] = array
            offset += padded(array.size + SLACK, ALIGN)
        state_size = _place(self._state, ALIGN)  # the first line holds the record of the image
        scratch_size = _place(self._scratch, 0)
        steps = [emitted.step() for emitted in self._steps]
        return Program(steps, const, state_size, scratch_size, output, outputs)


@dataclass(frozen=True)
class _Emitted:
    """A step whose regions have no places yet."""

    kernel: Kernel
    layer: str
    pieces: int
    moved: int
    kind: Kind
    arguments: dict[str, int | Region]

    def step(self) -> Step:
        """Once the regions are placed."""
        record = np.zeros(1, self.kernel.arguments)[0]
        for name, value in self.arguments.items():
            record[name] = value.offset if isinstance(value, Region) else value
        regions = {name: value for name, value in self.arguments.items() if isinstance(value, Region)}
        return Step(self.kernel, self.pieces, record, self.layer, self.kind, self.moved, regions)


def _grow(regions: dict[str, Region], name: str, size: int) -> Region:
    region = regions.setdefault(name, Region(name, size))
    region.size = max(region.size, size)
    return region


def _place(regions: dict[str, Region], start: int) -> int:
    for region in regions.values():
        region.offset = start
        start += padded(region.size + SLACK, ALIGN)
    return start
