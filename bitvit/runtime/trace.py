"""Looking into a running program: the maps and signs that its kernels leave behind, in the reference's layout.

Steps run piece by piece on one thread and are read after each, so what is seen is what the very same kernels compute at
full speed. Used by `verify`, by Classifier.explain and by the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit.kernels.catalog import BORDER, GROUPS
from bitvit.kernels.target import LANES, TILE_ROWS
from bitvit.panels import padded
from bitvit.program import Map, Region, Step
from bitvit.runtime.runner import Runner, Workspace

Signs = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class BlockAttention:
    """What the tokens of a ViT block attended to, for one image."""

    layer: str
    side: int  # of the block's map
    window: int
    weights: NDArray[np.float32]
    """[windows, heads, N, N] quantised probabilities A (SPEC 7.4.6), a row a query. Of the N tokens the first window²
    are the window's pixels, then come the merged tokens of the image."""
    fine_share: float
    """Mean over channels of `parm`, the fine map's weight beside the coarse one's (SPEC 7.4.8)."""


class Probe:
    """One program, one workspace, and readers for both."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.workspace = Workspace(runner.program)

    def run_layer(
        self, layer: str, x: NDArray[np.floating] | None, side: int, channels: int
    ) -> tuple[NDArray[np.float32], Signs]:
        """Run 'stem', a block ('stages.0.blocks.2') or a downsampling ('stages.1.downsample') alone.

        x: its input map [S, S, C], rounded to float32 (None for the stem, which reads the workspace's image).
        Returns its output map, float32 [side, side, channels], and what it binarised.
        """
        steps = self._layer_steps(layer)
        program = self.runner.program.steps
        if x is not None:
            first = program[steps[0]].regions
            self._write(first["source"], x)
        signs = self._run(steps)
        return self._read(Map(program[steps[-1]].regions["out"], side, channels)), signs

    def run_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[BlockAttention]]:
        """Compute one image, float32 [3, S, S]: its logits, and the attention of each ViT block in order."""
        self.workspace.set_image(pixels)
        program = self.runner.program
        blocks, begin = [], 0
        for i, step in enumerate(program.steps):
            if step.kernel.name in _WEIGHERS:
                self.runner.run_steps(self.workspace, begin, i)
                signs = self._run(range(i, i + 1))
                blocks.append(self._attention(i, _WEIGHERS[step.kernel.name](self, step, signs)))
                begin = i + 1
        self.runner.run_steps(self.workspace, begin, len(program.steps))
        return np.array(self._floats(program.output, program.outputs)), blocks

    def _attention(self, i: int, weights: NDArray[np.float32]) -> BlockAttention:
        """What belongs to the attend step i: `project` before it knows the map, `output` behind it the fine share."""
        steps = self.runner.program.steps
        project = next(step for step in reversed(steps[:i]) if step.kernel.name.startswith("project")).arguments
        output = next(step for step in steps[i:] if step.kernel.name.startswith("output")).arguments
        fine = self.const_floats(int(output["fine"]), int(output["channels"]))
        return BlockAttention(
            steps[i].layer.removesuffix(".attention"),
            int(project["side"]),
            int(project["window"]),
            weights,
            float(fine.mean()),
        )

    def const_floats(self, offset: int, size: int) -> NDArray[np.float32]:
        """Weights of the program, as the kernels have them."""
        return self.runner.program.const[offset : offset + size].view(np.float32)

    def _layer_steps(self, layer: str) -> range:
        steps = self.runner.program.steps
        found = [i for i, s in enumerate(steps) if s.layer == layer or s.layer.startswith(f"{layer}.")]
        return range(found[0], found[-1] + 1)

    def _write(self, region: Region, values: NDArray[np.floating]) -> None:
        """Put a map [S, S, C] where a step reads it; pad lanes are 0."""
        map_ = Map(region, len(values), values.shape[-1])
        data = np.zeros((map_.rows, map_.stride), np.float32)
        data[:, : map_.channels] = values.reshape(map_.rows, -1)
        self.workspace.state[region.offset : region.offset + data.size] = data.reshape(-1).view(np.uint32)

    def _read(self, map_: Map) -> NDArray[np.float32]:
        """A map out of the state: float32 [S, S, C]."""
        values = self._floats(map_.region, map_.rows * map_.stride).reshape(map_.side, map_.side, map_.stride)
        return np.array(values[..., : map_.channels])

    def _run(self, steps: range) -> Signs:
        """Run steps; returns what they binarised, named as the reference names it behind a block's prefix."""
        signs: Signs = {}
        for i in steps:
            step = self.runner.program.steps[i]
            reader = _READERS.get(step.kernel.name)
            parts = []
            for piece in range(step.pieces):
                self.runner.run_piece(self.workspace, i, piece)
                if reader is not None:
                    parts.append(reader(self, step, piece))
            for name in parts[0] if parts else ():
                signs[name] = np.concatenate([part[name] for part in parts])
            if step.kernel.name in _LAYOUTS:
                _LAYOUTS[step.kernel.name](self, step, signs)
        return signs

    # ------------------------------------------------------------------------------------------------- memory
    def _floats(self, region: Region, size: int) -> NDArray[np.float32]:
        return self.workspace.state[region.offset : region.offset + size].view(np.float32)

    def state_words(self, step: Step, name: str, size: int) -> NDArray[np.uint32]:
        """The start of a state region."""
        offset = step.regions[name].offset
        return self.workspace.state[offset : offset + size]

    def scratch_floats(self, step: Step, name: str, size: int) -> NDArray[np.float32]:
        """A copy of the start of a scratch region."""
        offset = step.regions[name].offset
        return np.array(self.workspace.scratch[offset : offset + size].view(np.float32))

    def scratch_bits(
        self, step: Step, name: str, rows: int, words: int, features: int, skip: int = 0
    ) -> NDArray[np.int8]:
        """±1 [rows, features] from packed rows in the scratch, `skip` words behind the region's start."""
        return _bits(self.workspace.scratch, step.regions[name].offset + skip, rows, words, features)


def _bits(arena: NDArray[np.uint32], offset: int, rows: int, words: int, features: int) -> NDArray[np.int8]:
    return _signs(arena[offset : offset + rows * words].reshape(rows, words), features)


def _signs(packed: NDArray[np.uint32], features: int) -> NDArray[np.int8]:
    """uint32 [rows, words] -> ±1 [rows, features]."""
    return 2 * np.unpackbits(packed.view(np.uint8), axis=1, count=features, bitorder="little").astype(np.int8) - 1


def _rows_of_piece(step: Step, piece: int) -> int:
    a = step.arguments
    return int(min(a["piece_rows"], a["rows"] - piece * a["piece_rows"]))


def _read_mlp(probe: Probe, step: Step, piece: int) -> Signs:
    a, rows = step.arguments, _rows_of_piece(step, piece)
    channels, ratio = int(a["channels"]), int(a["ratio"])
    hidden = probe.scratch_bits(step, "hidden_bits", rows, int(a["hidden_words"]), int(a["width"]) * ratio)
    # kernel order [block of channels][j][lane] -> features ratio·c + j
    natural = hidden.reshape(rows, -1, ratio, LANES).transpose(0, 1, 3, 2).reshape(rows, -1)[:, : channels * ratio]
    return {
        "intermediate.bits": probe.scratch_bits(step, "bits", rows, int(a["words"]), channels),
        "output.bits": natural,
    }


def _read_project(probe: Probe, step: Step, piece: int) -> Signs:
    a, rows = step.arguments, _rows_of_piece(step, piece)
    words, channels = int(a["words"]), int(a["channels"])
    block = padded(int(a["piece_rows"]), TILE_ROWS) * words
    return {
        f"attention.attention.{z}.input_bits": probe.scratch_bits(step, "bits", rows, words, channels, k * block)
        for k, z in enumerate(("query", "key", "value"))
    }


def _read_attend(probe: Probe, step: Step, piece: int) -> Signs:  # noqa: ARG001
    a = step.arguments
    tokens, words, rows = int(a["window_tokens"] + a["merged"]), int(a["token_words"]), int(a["rows_padded"])
    planes = [
        (probe.scratch_bits(step, "plane_words", tokens, words, tokens, p * rows * words) > 0).astype(np.int8)[None]
        for p in range(int(a["planes"]))
    ]
    keys = int(a["keys_padded"])
    numerators = probe.scratch_floats(step, "scores", tokens * keys).reshape(tokens, keys)[:, :tokens]
    # a numerator is exp(-2j/√d) of the integer j = (largest score of the row - score) / 2
    distances = np.rint(np.log(numerators) * -np.sqrt(a["head_dim"]) / 2).astype(np.int16)[None]
    found: Signs = {"attention.attention.distances": distances}
    if len(planes) == 2:
        found["attention.attention.levels"] = planes[0] + 2 * planes[1]
    else:
        found |= {f"attention.attention.{name}": p for name, p in zip(("base", "t1", "t2"), planes, strict=True)}
    return found


def _read_output(probe: Probe, step: Step, piece: int) -> Signs:
    rows = _rows_of_piece(step, piece)
    words, channels = int(step.arguments["words"]), int(step.arguments["channels"])
    return {"attention.output.bits": probe.scratch_bits(step, "bits", rows, words, channels)}


def _read_down(probe: Probe, step: Step, piece: int) -> Signs:
    a, rows = step.arguments, _rows_of_piece(step, piece)
    pixel_words = int(a["words"]) // 4
    taps = probe.scratch_bits(step, "bits", rows * 4, pixel_words, int(a["in_channels"]))
    return {"bits": taps.reshape(rows, 2, 2, -1)}


def _weigh_levels(probe: Probe, step: Step, signs: Signs) -> NDArray[np.float32]:
    heads = int(step.arguments["heads"])
    alphas = probe.const_floats(int(step.arguments["quantizer"]) + 2, 2 * heads)[::2]  # behind the softmax's steps
    weights: NDArray[np.float32] = signs["attention.attention.levels"] * alphas[:, None, None]
    return weights


def _weigh_gsb(probe: Probe, step: Step, signs: Signs) -> NDArray[np.float32]:
    table = probe.const_floats(int(step.arguments["quantizer"]) + 5, 3)  # behind the softmax's steps and the limits
    planes = np.stack([signs[f"attention.attention.{name}"] for name in ("base", "t1", "t2")])
    return np.tensordot(table, planes.astype(np.float32), 1)


_WEIGHERS: dict[str, Callable[[Probe, Step, Signs], NDArray[np.float32]]] = {
    "attend_levels": _weigh_levels,
    "attend_gsb": _weigh_gsb,
}


_READERS: dict[str, Callable[[Probe, Step, int], Signs]] = {
    "mlp": _read_mlp,
    "mlp_ln": _read_mlp,
    "project": _read_project,
    "project_ln": _read_project,
    "attend_levels": _read_attend,
    "attend_gsb": _read_attend,
    "output": _read_output,
    "output_ln": _read_output,
    "binary_down": _read_down,
    "binary_down_ln": _read_down,
}


# ------------------------------------------------------------------------------- from kernel order to map order
def _layout_mixer(probe: Probe, step: Step, signs: Signs) -> None:
    a = step.arguments
    side, group, words, row = int(a["side"]), int(a["group"]), int(a["group_words"]), int(a["plane_row"])
    offset = step.regions["planes"].offset
    planes = probe.workspace.state[offset : offset + GROUPS * words * row * row].reshape(GROUPS, words, row, row)
    inner = np.ascontiguousarray(planes[:, :, BORDER : BORDER + side, BORDER : BORDER + side].transpose(2, 3, 0, 1))
    bits = np.unpackbits(inner.view(np.uint8), axis=-1, count=group, bitorder="little").astype(np.int8)
    signs["GC.bits"] = 2 * bits.reshape(side, side, GROUPS * group) - 1


def _layout_mlp(probe: Probe, step: Step, signs: Signs) -> None:  # noqa: ARG001
    side = int(np.sqrt(step.arguments["rows"]))
    for name in ("intermediate.bits", "output.bits"):
        signs[name] = signs[name].reshape(side, side, -1)


def _layout_project(probe: Probe, step: Step, signs: Signs) -> None:
    """Token list -> [windows, tokens of a window, C]: a window's own, then the merged ones, the same for all."""
    a = step.arguments
    fine, rows, window = int(a["side"]) ** 2, int(a["rows"]), int(a["window"])
    words, plane = int(a["words"]), int(a["plane"])
    planes = probe.state_words(step, "signs", 3 * words * plane).reshape(3, words, plane)
    for z, own in zip(("query", "key", "value"), planes, strict=True):
        name = f"attention.attention.{z}"
        bits = _signs(np.ascontiguousarray(own[:, :rows].T), int(a["channels"]))
        signs[f"{name}_bits"] = _with_merged(bits, fine, window)
        signs[f"{name}.input_bits"] = _with_merged(signs[f"{name}.input_bits"], fine, window)


def _with_merged(tokens: NDArray[np.int8], fine: int, window: int) -> NDArray[np.int8]:
    own = tokens[:fine].reshape(-1, window**2, tokens.shape[1])
    merged = np.broadcast_to(tokens[fine:], (len(own), *tokens[fine:].shape))
    return np.concatenate([own, merged], axis=1)


def _layout_attend(probe: Probe, step: Step, signs: Signs) -> None:  # noqa: ARG001
    heads = int(step.arguments["heads"])
    for name in [n for n in signs if n.split(".")[-1] in ("distances", "levels", "base", "t1", "t2")]:
        tokens = signs[name].shape[-1]
        signs[name] = signs[name].reshape(-1, heads, tokens, tokens)


def _layout_output(probe: Probe, step: Step, signs: Signs) -> None:  # noqa: ARG001
    a = step.arguments
    side, window = int(np.sqrt(a["rows"])), int(np.sqrt(a["window_tokens"]))
    n = side // window
    bits = signs["attention.output.bits"].reshape(n, n, window, window, -1)
    signs["attention.output.bits"] = bits.transpose(0, 2, 1, 3, 4).reshape(side, side, -1)


def _layout_down(probe: Probe, step: Step, signs: Signs) -> None:  # noqa: ARG001
    side = int(step.arguments["out_side"])
    bits = signs["bits"].reshape(side, side, 2, 2, -1)
    signs["bits"] = bits.transpose(0, 2, 1, 3, 4).reshape(2 * side, 2 * side, -1)


_LAYOUTS: dict[str, Callable[[Probe, Step, Signs], None]] = {
    "mixer_signs": _layout_mixer,
    "mlp": _layout_mlp,
    "mlp_ln": _layout_mlp,
    "project": _layout_project,
    "project_ln": _layout_project,
    "attend_levels": _layout_attend,
    "attend_gsb": _layout_attend,
    "output": _layout_output,
    "output_ln": _layout_output,
    "binary_down": _layout_down,
    "binary_down_ln": _layout_down,
}
