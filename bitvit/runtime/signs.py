"""What each kernel binarises, read out of the memory that it leaves behind, in the layout of the maps.

Scratch memory is used again by the next piece, so a step runs piece by piece and is read after each. Every function
here runs one step and returns arrays under the names of the reference, less the block's prefix.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.kernels.catalog import BORDER, GROUPS, Kernel
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.panels import padded
from bitvit.program import Step
from bitvit.runtime.runner import Runner
from bitvit.runtime.workspace import Workspace

__all__ = ["Signs", "TracedStep", "attends", "attention_of", "run_traced", "unpacked"]

Signs = dict[str, NDArray[Any]]


class TracedStep:
    """One step of a runner's program, run piece by piece in a workspace, and what it leaves there."""

    def __init__(self, runner: Runner, workspace: Workspace, index: int) -> None:
        self._runner, self._workspace, self._index = runner, workspace, index
        self.step: Step = runner.program.steps[index]
        self.arguments = self.step.arguments

    def run(self, read: Callable[[int], tuple[NDArray[Any], ...]] = lambda _: ()) -> list[NDArray[Any]]:
        """Run all pieces in order. read: takes a piece's number when it has run; its arrays, joined, are returned."""
        parts = []
        for piece in range(self.step.pieces):
            self._runner.run_piece(self._workspace, self._index, piece)
            parts.append(read(piece))
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def run_row(self, head: int, row: int) -> None:
        """Run one row of a head of `attend_pixels` alone, in a piece of its own."""
        arguments = np.array([self.arguments])
        arguments["piece_rows"] = 1
        self._runner.run_piece(self._workspace, self._index, row * int(self.arguments["heads"]) + head, arguments)

    def rows_of(self, piece: int) -> int:
        """Rows of a piece; the last one may have fewer."""
        a = self.arguments
        return int(min(a["piece_rows"], a["rows"] - piece * a["piece_rows"]))

    def state(self, name: str, size: int) -> NDArray[np.uint32]:
        """The start of a region of the state."""
        offset = self.step.regions[name].offset
        return self._workspace.state[offset : offset + size]

    def scratch(self, name: str, size: int, skip: int = 0) -> NDArray[np.uint32]:
        """Some of a region of the scratch, `skip` units behind its start; the next piece writes there again."""
        offset = self.step.regions[name].offset + skip
        return self._workspace.scratch[offset : offset + size]

    def scratch_signs(self, name: str, rows: int, words: int, features: int, skip: int = 0) -> NDArray[np.int8]:
        """±1 [rows, features] from packed rows in the scratch, `skip` words behind the region's start."""
        return unpacked(self.scratch(name, rows * words, skip).reshape(rows, words), features)

    def const(self, offset: int, size: int) -> NDArray[np.float32]:
        """Weights of the program, as the kernels have them."""
        return self._runner.program.const[offset : offset + size].view(np.float32)


def unpacked(words: NDArray[np.uint32], features: int) -> NDArray[np.int8]:
    """uint32 [..., words] -> ±1 [..., features]."""
    bits = np.unpackbits(words.view(np.uint8), axis=-1, count=features, bitorder="little")
    return 2 * bits.astype(np.int8) - 1


# ---------------------------------------------------------------------------------------------------------------- mixer
def _mixer_signs(step: TracedStep) -> Signs:
    a = step.arguments
    step.run()
    side, group, words, row = int(a["side"]), int(a["group"]), int(a["group_words"]), int(a["plane_row"])
    planes = step.state("planes", GROUPS * words * row * row).reshape(GROUPS, words, row, row)
    inner = planes[:, :, BORDER : BORDER + side, BORDER : BORDER + side].transpose(2, 3, 0, 1)
    return {"GC.bits": unpacked(np.ascontiguousarray(inner), group).reshape(side, side, GROUPS * group)}


# ------------------------------------------------------------------------------------------------------------------ mlp
def _mlp(step: TracedStep) -> Signs:
    a = step.arguments
    channels, ratio, side = int(a["channels"]), int(a["ratio"]), int(a["side"])

    def read(piece: int) -> tuple[NDArray[Any], ...]:
        rows = step.rows_of(piece)
        hidden = step.scratch_signs("hidden_bits", rows, int(a["hidden_words"]), int(a["width"]) * ratio)
        # kernel order [block of channels][j][lane] -> features ratio·c + j
        natural = hidden.reshape(rows, -1, ratio, LANES).transpose(0, 1, 3, 2).reshape(rows, -1)
        return step.scratch_signs("bits", rows, int(a["words"]), channels), natural[:, : channels * ratio]

    intermediate, output = step.run(read)
    return {
        "intermediate.bits": intermediate.reshape(side, side, -1),
        "output.bits": output.reshape(side, side, -1),
    }


# ------------------------------------------------------------------------------------------------------------ attention
_QKV = "query", "key", "value"


def _project(step: TracedStep) -> Signs:
    """Token list -> [windows, tokens of a window, C]: a window's own, then the merged ones, the same for all."""
    a = step.arguments
    words, channels, plane = int(a["words"]), int(a["channels"]), int(a["plane"])
    block = padded(int(a["piece_rows"]), TILE_ROWS) * words

    def read(piece: int) -> tuple[NDArray[Any], ...]:
        rows = step.rows_of(piece)
        return tuple(step.scratch_signs("bits", rows, words, channels, k * block) for k in range(len(_QKV)))

    inputs = step.run(read)
    planes = step.state("signs", len(_QKV) * words * plane).reshape(len(_QKV), words, plane)
    signs: Signs = {}
    for name, own, packed in zip(_QKV, inputs, planes, strict=True):
        results = unpacked(np.ascontiguousarray(packed[:, : int(a["rows"])].T), channels)
        signs[f"attention.attention.{name}_bits"] = _in_windows(step, results)
        signs[f"attention.attention.{name}.input_bits"] = _in_windows(step, own)
    return signs


def _in_windows(step: TracedStep, tokens: NDArray[np.int8]) -> NDArray[np.int8]:
    fine, window = int(step.arguments["side"]) ** 2, int(step.arguments["window"])
    own = tokens[:fine].reshape(-1, window**2, tokens.shape[1])
    merged = np.broadcast_to(tokens[fine:], (len(own), *tokens[fine:].shape))
    return np.concatenate([own, merged], axis=1)


def _levels(step: TracedStep) -> Signs:
    distances, low, high = _attend(step)
    return {"attention.attention.distances": distances, "attention.attention.levels": low + 2 * high}


def _gsb(step: TracedStep) -> Signs:
    names = "distances", "base", "t1", "t2"
    return {f"attention.attention.{name}": array for name, array in zip(names, _attend(step), strict=True)}


def _attend(step: TracedStep) -> list[NDArray[Any]]:
    """Distances int16 and planes of 0 or 1, int8, each [windows, heads, N, N]."""
    if step.step.kernel.module == "pixels":
        return _attend_pixels(step)
    a = step.arguments
    tokens, words, rows = int(a["window_tokens"] + a["merged"]), int(a["token_words"]), int(a["rows_padded"])
    keys = int(a["keys_padded"])

    def read(_: int) -> tuple[NDArray[Any], ...]:
        numerators = step.scratch("scores", tokens * keys).reshape(tokens, keys)[:, :tokens]
        planes = (
            (step.scratch_signs("plane_words", tokens, words, tokens, p * rows * words) > 0).astype(np.int8)
            for p in range(int(a["planes"]))
        )
        return _distances(step, numerators)[None], *(plane[None] for plane in planes)

    return [array.reshape(-1, int(a["heads"]), tokens, tokens) for array in step.run(read)]


def _distances(step: TracedStep, numerators: NDArray[np.uint32]) -> NDArray[np.int16]:
    """A numerator is exp(-2j/√d) of the integer j = (largest score of the row - score) / 2."""
    logarithms = np.log(numerators.view(np.float32))
    distances: NDArray[np.int16] = np.rint(logarithms * -np.sqrt(step.arguments["head_dim"]) / 2).astype(np.int16)
    return distances


def _attend_pixels(step: TracedStep) -> list[NDArray[Any]]:
    """The same of windows of one pixel; row by row, as merged tokens of a piece take the same memory in turn."""
    a = step.arguments
    heads, merged, words, rows = int(a["heads"]), int(a["merged"]), int(a["token_words"]), int(a["rows_padded"])
    tokens, keys, count = 1 + merged, int(a["keys_padded"]), int(a["planes"])
    shape = merged, heads, tokens, tokens
    found: list[NDArray[Any]] = [np.zeros(shape, np.int16), *(np.zeros(shape, np.int8) for _ in range(count))]
    for head in range(heads):
        for m in range(merged):
            step.run_row(head, m)
            made = 1 + step.scratch("slots", int(a["head_dim"]) + 1)[step.scratch("pixel_scores", merged)]
            of_rows = np.concatenate([[0], made])  # the pixel's, then the merged token's in each window
            numerators = step.scratch("row_scores", rows * keys).reshape(rows, keys)[of_rows, :tokens]
            planes = step.scratch("plane_words", count * rows * words).reshape(count, rows, words)[:, of_rows]
            parts: list[NDArray[Any]] = [_distances(step, numerators)]
            parts += ((unpacked(plane, tokens) > 0).astype(np.int8) for plane in planes)
            for array, part in zip(found, parts, strict=True):
                array[m, head, 0], array[:, head, 1 + m] = part[0], part[1:]
    return found


def _output(step: TracedStep) -> Signs:
    a = step.arguments
    words, channels = int(a["words"]), int(a["channels"])
    (bits,) = step.run(lambda piece: (step.scratch_signs("bits", step.rows_of(piece), words, channels),))
    side, window = int(np.sqrt(a["rows"])), int(np.sqrt(a["window_tokens"]))
    n = side // window
    windows = bits.reshape(n, n, window, window, -1)
    return {"attention.output.bits": windows.transpose(0, 2, 1, 3, 4).reshape(side, side, -1)}


# ----------------------------------------------------------------------------------------------------------- downsample
def _binary_down(step: TracedStep) -> Signs:
    a = step.arguments
    words, channels, side = int(a["words"]) // 4, int(a["in_channels"]), int(a["out_side"])
    (bits,) = step.run(lambda piece: (step.scratch_signs("bits", step.rows_of(piece) * 4, words, channels),))
    taps = bits.reshape(side, side, 2, 2, -1)
    return {"bits": taps.transpose(0, 2, 1, 3, 4).reshape(2 * side, 2 * side, -1)}


_READERS: dict[str, Callable[[TracedStep], Signs]] = {
    "mixer_signs": _mixer_signs,
    "mlp": _mlp,
    "project": _project,
    "attend_levels": _levels,
    "attend_pixels_levels": _levels,
    "attend_gsb": _gsb,
    "attend_pixels_gsb": _gsb,
    "output": _output,
    "binary_down": _binary_down,
}


def run_traced(step: TracedStep) -> Signs:
    """Run a step; returns what it binarised, named as the reference names it behind a block's prefix."""
    read = _READERS.get(step.step.kernel.base)
    if read is None:
        step.run()
        return {}
    return read(step)


# ---------------------------------------------------------------------------------------- quantised attention
def _levels_weights(step: TracedStep, signs: Signs) -> NDArray[np.float32]:
    heads = int(step.arguments["heads"])
    alphas = step.const(int(step.arguments["quantizer"]) + 2, 2 * heads)[::2]  # behind the softmax's steps
    weights: NDArray[np.float32] = signs["attention.attention.levels"] * alphas[:, None, None]
    return weights


def _gsb_weights(step: TracedStep, signs: Signs) -> NDArray[np.float32]:
    table = step.const(int(step.arguments["quantizer"]) + 5, 3)  # behind the softmax's steps and the limits
    planes = np.stack([signs[f"attention.attention.{name}"] for name in ("base", "t1", "t2")])
    return np.tensordot(table, planes.astype(np.float32), 1)


_WEIGHTS: dict[str, Callable[[TracedStep, Signs], NDArray[np.float32]]] = {
    "attend_levels": _levels_weights,
    "attend_pixels_levels": _levels_weights,
    "attend_gsb": _gsb_weights,
    "attend_pixels_gsb": _gsb_weights,
}


def attends(kernel: Kernel) -> bool:
    """Whether a kernel computes attention, so that `attention_of` knows its weights."""
    return kernel.base in _WEIGHTS


def attention_of(step: TracedStep) -> NDArray[np.float32]:
    """Run a step that attends; returns the quantised probabilities A (SPEC 7.4.6), float32 [windows, heads, N, N]."""
    return _WEIGHTS[step.step.kernel.base](step, run_traced(step))
