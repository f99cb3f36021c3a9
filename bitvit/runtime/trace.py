"""Looking into a running program: the maps and signs that its kernels leave behind, in the reference's layout.

Steps run piece by piece on one thread and are read after each, so what is seen is what the very same kernels compute at
full speed. Used by `verify`, by Classifier.explain and by the tests.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitvit.program import Map, Region
from bitvit.runtime.runner import Runner
from bitvit.runtime.signs import Signs, TracedStep, attends, attention_of, run_traced
from bitvit.runtime.workspace import Workspace

__all__ = ["BlockAttention", "Trace"]


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


class Trace:
    """One program and one workspace, whose memory is read between steps."""

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
        steps = self._steps_of(layer)
        program = self.runner.program.steps
        if x is not None:
            self._write(program[steps[0]].regions["source"], x)
        signs = self.run_steps(steps)
        return self._read(Map(program[steps[-1]].regions["out"], side, channels)), signs

    def run_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[BlockAttention]]:
        """Compute one image, float32 [3, S, S]: its logits, and the attention of each ViT block in order."""
        self.workspace.set_image(pixels)
        program = self.runner.program
        blocks, begin = [], 0
        for i, step in enumerate(program.steps):
            if attends(step.kernel):
                self.runner.run_steps(self.workspace, begin, i)
                blocks.append(self._attention(i))
                begin = i + 1
        self.runner.run_steps(self.workspace, begin, len(program.steps))
        return np.array(self._floats(program.output, program.outputs)), blocks

    def run_steps(self, steps: Iterable[int]) -> Signs:
        """Run steps by their numbers; returns what they binarised, named as the reference names it behind a block's
        prefix."""
        signs: Signs = {}
        for i in steps:
            signs |= run_traced(TracedStep(self.runner, self.workspace, i))
        return signs

    def _attention(self, i: int) -> BlockAttention:
        """Run step i, which attends: the `project` before it knows the map, the `output` behind it the fine share."""
        steps = self.runner.program.steps
        project = next(step for step in reversed(steps[:i]) if step.kernel.base == "project").arguments
        output = next(step for step in steps[i:] if step.kernel.base == "output").arguments
        step = TracedStep(self.runner, self.workspace, i)
        fine = step.const(int(output["fine"]), int(output["channels"]))
        return BlockAttention(
            layer=steps[i].layer.removesuffix(".attention"),
            side=int(project["side"]),
            window=int(project["window"]),
            weights=attention_of(step),
            fine_share=float(fine.mean()),
        )

    def _steps_of(self, layer: str) -> range:
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

    def _floats(self, region: Region, size: int) -> NDArray[np.float32]:
        return self.workspace.state[region.offset : region.offset + size].view(np.float32)
