"""Kernels among pages that may not be touched: one access beside an array ends the process.

    python -m tests.support.guarded all | widths [STEP] | crash NAME

Every region of the arenas, every constant, the images and the answers lie in pages of their own. Directly behind one
(and, in a second layout, directly before it) comes a page that may neither be read nor written; constants may not be
written at all. Behind regions and constants a program allows SLACK elements to be read, for the last vector of a row;
these are filled with a pattern that must still be there in the end, as all that is left of the pages.

Numba's own bounds check has nothing to check here: kernels get bare addresses (`CPointer`), and their loads and stores
are LLVM's own (kernels/simd.py). So the pages are the check, and they see what vectors do too.
"""

import ctypes
import faulthandler
import itertools
import mmap
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.config import Config
from bitvit.kernels import catalog
from bitvit.kernels.catalog import IMAGE, JOB, KERNELS, LIMIT_TABLE, SCHEDULING
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.model import Network
from bitvit.preprocess import Preprocessing
from bitvit.program import ALIGN, SLACK, Builder, Program, Region
from bitvit.runtime import Runner, Workspace
from bitvit.runtime.calls import Call, c_function
from bitvit.runtime.inputs import Inputs
from tests.support.engine import folded, random_state
from tests.support.runtime import tireless_team
from tests.support.shapes import ODD_SHAPES, random_shape, shape

PAGE = mmap.PAGESIZE
UNITS = PAGE // 4
PATTERN = 0xDEADBEEF  # as a float -6e18: finite, as all memory beside a region must be
READ, WRITE, NOTHING = 1, 2, 0  # of mprotect

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def protect(memory: NDArray[np.uint32], first: int, pages: int, how: int) -> None:
    if pages and _mprotect(memory.ctypes.data + first * PAGE, pages * PAGE, how):
        raise OSError(ctypes.get_errno(), "mprotect")


# ----------------------------------------------------------------------------------------------------------- memory
@dataclass
class Layout:
    """Where the regions of an arena lie, in 4-byte units; a page between any two is left out."""

    tight_end: bool  # regions end at the end of a page, else they begin at the beginning of one
    pages: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)  # offset and size of regions
    used: list[tuple[int, int]] = field(default_factory=list)  # first page and number of pages

    def place(self, size: int, slack: int = SLACK) -> int:
        """The offset of a new region."""
        needed = -(-(size + slack) // UNITS)
        first = self.pages + 1
        offset = (first + needed) * UNITS - size - slack if self.tight_end else first * UNITS
        self.used.append((first, needed))
        self.spans.append((offset, size))
        self.pages = first + needed
        return offset

    def memory(self) -> NDArray[np.uint32]:
        """New memory: regions are zeros, the rest of their pages the pattern, and all other pages closed."""
        memory = np.frombuffer(mmap.mmap(-1, (self.pages + 1) * PAGE), np.uint32)
        protect(memory, 0, self.pages + 1, NOTHING)
        for first, count in self.used:
            protect(memory, first, count, READ | WRITE)
            memory[first * UNITS : (first + count) * UNITS] = PATTERN
        for offset, size in self.spans:
            memory[offset : offset + size] = 0
        return memory

    def assert_untouched(self, memory: NDArray[np.uint32]) -> None:
        """Nothing was written beside the regions."""
        for (first, count), (offset, size) in zip(self.used, self.spans, strict=True):
            begin, end = first * UNITS, (first + count) * UNITS
            assert (memory[begin:offset] == PATTERN).all(), "written before a region"
            assert (memory[offset + size : end] == PATTERN).all(), "written behind a region"


def guarded(values: NDArray[Any], tight_end: bool) -> NDArray[Any]:
    """A copy of 4-byte elements between closed pages, exactly."""
    layout = Layout(tight_end)
    start = layout.place(values.size, slack=0)
    copy = layout.memory()[start : start + values.size].view(values.dtype).reshape(values.shape)
    copy[:] = values
    return copy


# ---------------------------------------------------------------------------------------------------------- programs
@dataclass(frozen=True)
class GuardedProgram(Program):
    """Its workspaces are guarded too."""

    state: Layout
    scratch: Layout


class GuardedBuilder(Builder):
    """Places everything in pages of its own."""

    def __init__(self, tight_end: bool) -> None:
        super().__init__()
        self.tight_end = tight_end
        self.layout = Layout(tight_end)
        self.arrays: list[tuple[int, NDArray[np.uint32]]] = []

    def const(self, array: NDArray[Any]) -> int:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
        offset = self.layout.place(flat.size)
        self.arrays.append((offset, flat))
        return offset

    def build(self, output: Region, outputs: int) -> Program:
        const = self.layout.memory()
        for offset, array in self.arrays:
            const[offset : offset + array.size] = array
        for first, count in self.layout.used:
            protect(const, first, count, READ)
        state, scratch = Layout(self.tight_end), Layout(self.tight_end)
        state.pages = -1  # the first line, which holds the address of the image, is at 0
        state.used, state.spans, state.pages = [(0, 1)], [(0, ALIGN)], 1
        for layout, regions in ((state, self._state), (scratch, self._scratch)):
            for region in regions.values():
                region.offset = layout.place(region.size)
        steps = [emitted.step() for emitted in self._steps]
        return GuardedProgram(steps, const, state.pages * UNITS, scratch.pages * UNITS, output, outputs, state, scratch)


class GuardedWorkspace(Workspace):
    """Arenas of one thread."""

    def __init__(self, program: Program) -> None:
        assert isinstance(program, GuardedProgram)
        self._layouts = program.state, program.scratch
        self.state, self.scratch = program.state.memory(), program.scratch.memory()

    def clear(self) -> None:
        for layout, memory in zip(self._layouts, (self.state, self.scratch), strict=True):
            for offset, size in layout.spans:
                memory[offset : offset + size] = 0

    def assert_untouched(self) -> None:
        for layout, memory in zip(self._layouts, (self.state, self.scratch), strict=True):
            layout.assert_untouched(memory)


def guarded_program(network: Network, tight_end: bool) -> Program:
    """As Network.program."""
    return network.program(GuardedBuilder(tight_end))


# --------------------------------------------------------------------------------------------------------- what is run
def images(config: Config, count: int) -> NDArray[np.float32]:
    """Usual ones, then those that no image is: NaN, infinite, huge, and all zeros."""
    size = config.image_size
    pixels = np.random.default_rng(0).standard_normal((count, 3, size, size)).astype(np.float32)
    pixels[count - 1] = 0
    pixels[count - 2] *= 1e30
    pixels[count - 3, :, ::3] = np.inf
    pixels[count - 4, :, 1::2, ::5] = np.nan
    return pixels


def check(name: str, config: Config) -> set[str]:
    """Run a network in both layouts, in several ways; returns the names of its kernels."""
    print(name, config, flush=True)
    network = Network.read(config, folded(config, random_state(config, 1)))
    plain, pixels = Runner(network.program(), 1), images(config, 7)
    expected = np.concatenate([plain(image[None]) for image in pixels])
    kernels: set[str] = set()
    for tight_end in (True, False):
        program = guarded_program(network, tight_end)
        runner = Runner(program, 1, workspace=GuardedWorkspace)
        _by_pieces(runner, pixels, expected, tight_end)
        _by_batch(runner, pixels, expected, tight_end)
        for threads in (2, 3):
            _by_team(program, threads, pixels, expected, tight_end)
        kernels |= {step.kernel.name for step in program.steps}
    return kernels


def _same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """NaN where NaN is expected, whatever its bits; else the same bits."""
    assert np.array_equal(found, expected, equal_nan=True), "another answer than without guards"


def _by_pieces(runner: Runner, pixels: NDArray[np.float32], expected: NDArray[np.float32], tight_end: bool) -> None:
    """Piece by piece, backwards, the scratch of two threads in turn."""
    spaces = [GuardedWorkspace(runner.program), GuardedWorkspace(runner.program)]
    own = spaces[1].state
    spaces[1].state = spaces[0].state
    start = runner.program.output.offset
    for image, answer in zip(pixels[:2], expected, strict=False):
        guard = guarded(image, tight_end)
        spaces[0].set_image(guard)
        turn = itertools.cycle(spaces)
        for i, step in enumerate(runner.program.steps):
            for piece in reversed(range(step.pieces)):
                runner.run_piece(next(turn), i, piece)
        found = spaces[0].state[start : start + runner.program.outputs].view(np.float32)
        _same(found, answer)
    spaces[0].assert_untouched()
    spaces[1].state = own
    spaces[1].assert_untouched()


def _by_batch(runner: Runner, pixels: NDArray[np.float32], expected: NDArray[np.float32], tight_end: bool) -> None:
    """A batch by one thread, images and answers guarded; then with the clock."""
    space = GuardedWorkspace(runner.program)
    images = guarded(pixels[:3], tight_end)
    out = guarded(np.zeros((3, runner.program.outputs), np.float32), tight_end)
    cells = guarded(np.zeros(2 * catalog.CLAIMS * catalog.LINE, np.uint32), tight_end).view(np.int64)
    job = guarded(np.zeros(JOB.itemsize // 4, np.uint32), tight_end).view(JOB)
    inputs = Inputs.of_planes(images)
    inputs = Inputs(guarded(inputs.records.view(np.uint32), tight_end).view(IMAGE), inputs.arrays)
    runner.fill_job(job, inputs, out)
    runner.call(catalog.lead_batch, space.state, space.scratch, cells, job)()
    _same(out, expected[:3])
    _by_bytes(runner, space, tight_end)
    ticks = guarded(np.zeros(2 * (len(runner.program.steps) + 1), np.uint32), tight_end).view(np.int64)
    space.set_image(images[0])
    runner.timed_steps(space, ticks)()
    assert (np.diff(ticks) >= 0).all()
    space.assert_untouched()


def _by_bytes(runner: Runner, space: Workspace, tight_end: bool) -> None:
    """An image of bytes, four of them a pixel, with and without black around it; the table is guarded too."""
    side = next(int(step.arguments["image_side"]) for step in runner.program.steps if step.kernel.base == "stem")
    if any(step.kernel.name == "image_norm" for step in runner.program.steps):
        return  # it takes floats
    for pad in (0, 3):
        preprocessing = Preprocessing.for_image_size(side, pad=pad)
        crop = np.random.default_rng(pad).integers(0, 256, (preprocessing.crop, preprocessing.crop, 4), np.uint8)
        image = guarded(crop.view(np.uint32), tight_end).view(np.uint8).reshape(crop.shape)[..., :3]
        inputs = Inputs.of_bytes([image], pad, guarded(preprocessing.table(), tight_end))
        space.set_input(inputs)
        runner.run_steps(space, 0, len(runner.program.steps))
        start = runner.program.output.offset
        found = space.state[start : start + runner.program.outputs].view(np.float32)
        answer, planes = found.copy(), guarded(preprocessing.planes(image), tight_end)
        space.set_image(planes)
        runner.run_steps(space, 0, len(runner.program.steps))
        _same(found, answer)


def _by_team(
    program: Program, threads: int, pixels: NDArray[np.float32], expected: NDArray[np.float32], tight_end: bool
) -> None:
    """One image by all threads, and batches; the last four images are strange ones."""
    spaces: list[GuardedWorkspace] = []

    def workspace(program: Program) -> Workspace:
        spaces.append(GuardedWorkspace(program))
        return spaces[-1]

    runner = Runner(program, team=tireless_team(threads), workspace=workspace)
    for first, last in ((0, 1), (1, 3), (0, 3), (3, 7), (0, 2)):
        _same(runner(guarded(pixels[first:last], tight_end)), expected[first:last])
    assert len(spaces) == threads
    for space in spaces:
        space.assert_untouched()


def check_limits() -> None:
    """The loops that bitvit.bench measures kernels against."""
    sizes = {catalog.popcount_limit: LIMIT_TABLE, catalog.fma_limit: LIMIT_TABLE, catalog.read_limit: 3 * TILE_ROWS}
    for tight_end in (True, False):
        for function, size in sizes.items():
            words = guarded(np.ones(size * 2 * LANES, np.float32), tight_end)
            Call(c_function(function), words.ctypes.data, 3 if function is catalog.read_limit else 100)()


# ------------------------------------------------------------------------------------------------------------ networks
def all_networks() -> Iterator[tuple[str, Config]]:
    yield from ODD_SHAPES.items()
    yield "224 pixels", shape(224, 7, (8, 16, 24, 40), (2, 2, 2, 2), num_heads=(1, 1, 3, 5))
    for seed in range(20):
        yield f"random {seed}", random_shape(seed)


def width_networks(step: int) -> Iterator[tuple[str, Config]]:
    """Every `step`-th width up to 70, both norms, all quantizers and downsamplings; in between every ratio up to 8."""
    for width in range(3, 71, step):
        first = 4 * (1 + width % 17)
        binary = width % 2 == 0
        widths = (
            (first, first, first * (1 + width % 3), first * (1 + width % 3))
            if binary
            else (first, 4 * (1 + width % 13), width, width + 1)
        )
        yield f"width {width}", shape(
            (32, 35, 48, 64)[width % 4], 1, widths, tuple(1 + (width + s) % (8 if s < 2 else 4) for s in range(4)),
            norm=("batch", "layer")[width // 2 % 2], quantizer=("levels", "gsb")[width // 4 % 2],
            downsampling="binary" if binary else "float", shift3=False, shift5=binary, num_classes=width,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ planted faults
def plant(change: Callable[[Any, Program], None]) -> None:
    """Run a program whose arguments are wrong."""
    config = ODD_SHAPES["window 3"]
    program = guarded_program(Network.read(config, folded(config, random_state(config, 1))), tight_end=True)
    arguments = {step.kernel.name: step.arguments for step in program.steps}
    change(arguments, program)
    runner = Runner(program, 1, workspace=GuardedWorkspace)
    space = GuardedWorkspace(program)
    space.set_image(guarded(images(config, 4)[0], tight_end=True))
    runner.run_steps(space, 0, len(program.steps))
    space.assert_untouched()


def _more(kernel: str, name: str, by: int) -> Callable[[Any, Program], None]:
    def change(arguments: Any, _: Program) -> None:
        arguments[kernel][name] += by

    return change


def _small_image() -> None:
    config = ODD_SHAPES["window 3"]
    program = guarded_program(Network.read(config, folded(config, random_state(config, 1))), tight_end=True)
    runner = Runner(program, 1, workspace=GuardedWorkspace)
    runner(guarded(images(config, 4)[0, :, :, :-1], tight_end=True)[None])


FAULTS: dict[str, Callable[[], None]] = {
    "rows of the stem": lambda: plant(_more("stem", "rows", 7 * 40)),
    "constants": lambda: plant(_more("mlp", "panels2", 100)),
    "written constants": lambda: plant(
        lambda a, p: p.const.__setitem__(slice(int(a["mlp"]["norm"]), None, 1 << 40), 1)
    ),
    "scratch": lambda: plant(_more("mlp", "bits", 4000)),
    "image": _small_image,
}


def main(arguments: list[str]) -> None:
    faulthandler.enable()
    if arguments[0] == "crash":
        FAULTS[arguments[1]]()
        return
    networks = all_networks() if arguments[0] == "all" else width_networks(int(arguments[1]))
    kernels: set[str] = set()
    count = 0
    for name, config in networks:
        kernels |= check(name, config)
        count += 1
    if arguments[0] == "all":
        assert kernels == {kernel.name for kernel in KERNELS}, {k.name for k in KERNELS} - kernels
        check_limits()
    print(f"{count} networks, {len(kernels)} kernels, {len(SCHEDULING)} scheduling functions")


if __name__ == "__main__":
    main(sys.argv[1:])
