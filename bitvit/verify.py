"""verify: the engine against the plain NumPy reference in float64, block by block.

Each block is fed the *reference's* input, so one flipped sign cannot cascade through the network; then the whole
engine is compared with the whole reference. A network of signs is chaotic: on inputs without a margin, honest float32
decides a sign here and there differently, and everything behind it changes. So the verdict rests on the blocks: the
share of signs that disagree and the error of an ordinary value.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit import reference
from bitvit.checkpoint import read_checkpoint
from bitvit.config import Config, check_state, infer_config
from bitvit.convert import read_config
from bitvit.errors import CheckpointError
from bitvit.extras import figure, require
from bitvit.files import write_file
from bitvit.model import BHViT, load
from bitvit.preprocess import open_image
from bitvit.probe import Probe

MAX_SIGN_SHARE = 1e-5  # of a block's signs; float32 rounding gives about 1e-7 (golden tolerances, section 1)
MAX_MEDIAN_ERROR = 1e-5  # of a block's typical value, in units of the output's spread; float32 gives about 1e-7
MAX_LOGIT_ERROR = 2e-5  # of the logits' spread, for inputs on which no sign disagreed


@dataclass(frozen=True)
class VerifyRow:
    """One block, over all inputs; errors are in units of the standard deviation of its output."""

    name: str
    max_error: float
    relative_error: float  # the median over values: what a value that no flipped sign touches is off by
    sign_disagreements: int
    signs: int
    errors: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """[side, side] largest error at each position of the block's map, over channels and inputs."""

    @property
    def passed(self) -> bool:
        return self.sign_disagreements <= MAX_SIGN_SHARE * self.signs and self.relative_error <= MAX_MEDIAN_ERROR


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify`."""

    rows: list[VerifyRow]
    inputs: int
    top1_agreement: float  # share of inputs
    max_relative_logit_error: float  # max |Δ| / std of the reference's logits
    passed: bool

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw where the two differ, as a PNG: the errors of each block, and their places on its map.

        Raises BitvitError without matplotlib, or if the file cannot be written.
        """
        drawn = _draw(self)
        write_file(path, lambda file: drawn.savefig(file, format="png", dpi=100))


@dataclass
class _Tally:
    max_error: float = 0.0
    errors: list[float] = field(default_factory=list)
    places: NDArray[np.float32] | None = None
    disagreements: int = 0
    signs: int = 0

    def add(self, got: NDArray[Any], expected: NDArray[Any]) -> None:
        error = np.abs(got - expected) / max(float(expected.std()), 1e-30)
        self.max_error = max(self.max_error, float(error.max()))
        self.errors.append(float(np.median(error)))
        largest = error.max(axis=-1).astype(np.float32)
        self.places = largest if self.places is None else np.maximum(self.places, largest)

    def add_signs(self, got: Mapping[str, NDArray[np.int8]], expected: Mapping[str, NDArray[Any]]) -> None:
        for name in got.keys() & expected.keys():
            self.disagreements += int((got[name] != expected[name].reshape(got[name].shape)).sum())
            self.signs += got[name].size

    def row(self, name: str) -> VerifyRow:
        typical = float(np.median(self.errors))
        return VerifyRow(name, self.max_error, typical, self.disagreements, self.signs, self.places)


def verify(
    model: str | os.PathLike[str] | BHViT,
    checkpoint: str | os.PathLike[str],
    *,
    images: Sequence[str | os.PathLike[str]] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ema: bool = False,
    count: int = 1,
    seed: int = 0,
) -> VerifyReport:
    """Compare a packed model with the checkpoint it came from.

    images: pictures to compare on; default `count` inputs of standard normal noise.
    Raises CheckpointError if the two have different shapes, and what reading either raises.
    """
    engine = model if isinstance(model, BHViT) else load(model)
    source = read_checkpoint(checkpoint, ema=ema)
    shape = infer_config(source.state, args=source.args, config_json=read_config(config), where=str(checkpoint))
    check_state(source.state, shape, str(checkpoint))
    if shape != engine.config:
        raise CheckpointError(
            f"{checkpoint}: its shape {shape} is not that of the packed model, {engine.config}; verify a model against"
            " the checkpoint that it was converted from"
        )
    comparison = _Comparison(engine, source.state)
    for pixels in _inputs(engine, images, count, seed):
        comparison.add(pixels)
    return comparison.report()


def _inputs(
    engine: BHViT, images: Sequence[str | os.PathLike[str]] | None, count: int, seed: int
) -> list[NDArray[np.float32]]:
    if images:
        return [engine.preprocessing(open_image(Path(path))) for path in images]
    size = engine.config.image_size
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3, size, size)).astype(np.float32) for _ in range(max(1, count))]


def layer_names(config: Config) -> list[str]:
    """Blocks and downsamplings as the model file names them, in the order of reference.schedule."""
    names = []
    for s, depth in enumerate(config.depths):
        names += [f"stages.{s}.downsample"] if s else []
        names += [f"stages.{s}.blocks.{i}" for i in range(depth)]
    return names


class _Comparison:
    def __init__(self, engine: BHViT, state: Mapping[str, NDArray[Any]]) -> None:
        self.engine, self.state = engine, state
        self.probe = Probe(engine.runner)
        self.tallies: dict[str, _Tally] = {}
        self.agreements: list[bool] = []
        self.logit_errors: list[float] = []
        self.calm = True  # on every input without a disagreement so far, the logits agreed

    def add(self, pixels: NDArray[np.float32]) -> None:
        """Compare on one input, float32 [3, S, S]."""
        config = self.engine.config
        x = reference.stem(self.state, pixels[None])
        self.probe.workspace.set_image(pixels)
        found = self._disagreements()
        self._compare("stem", None, x, {})
        position = 0
        names = layer_names(config)
        for prefix, stage in reference.schedule(config.depths):
            signs: dict[str, NDArray[Any]] = {}

            def trace(
                name: str, array: NDArray[Any], signs: dict[str, NDArray[Any]] = signs, prefix: str = prefix
            ) -> None:
                if name.startswith(f"{prefix}.") and name.endswith(("bits", "levels")):
                    signs[name.removeprefix(f"{prefix}.")] = array

            y = reference.block(
                self.state, prefix, x, num_heads=config.num_heads[stage], window_size=config.window_size, trace=trace
            )
            self._compare(names[position], x, y, signs)
            x, position = y, position + 1
        self._compare_logits(pixels, reference.head(self.state, x)[0], self._disagreements() == found)

    def _disagreements(self) -> int:
        return sum(tally.disagreements for tally in self.tallies.values())

    def _compare(
        self, name: str, x: NDArray[Any] | None, expected: NDArray[Any], signs: Mapping[str, NDArray[Any]]
    ) -> None:
        got, got_signs = self.probe.run_layer(name, None if x is None else x[0], expected.shape[1], expected.shape[3])
        tally = self.tallies.setdefault(name, _Tally())
        tally.add(got, expected[0])
        tally.add_signs(got_signs, signs)

    def _compare_logits(self, pixels: NDArray[np.float32], expected: NDArray[Any], calm: bool) -> None:
        logits = self.engine(pixels[None])[0]
        error = float(np.abs(logits - expected).max() / max(float(expected.std()), 1e-30))
        self.agreements.append(int(logits.argmax()) == int(expected.argmax()))
        self.logit_errors.append(error)
        if calm and error > MAX_LOGIT_ERROR:
            self.calm = False

    def report(self) -> VerifyReport:
        rows = [tally.row(name) for name, tally in self.tallies.items()]
        return VerifyReport(
            rows=rows,
            inputs=len(self.agreements),
            top1_agreement=float(np.mean(self.agreements)),
            max_relative_logit_error=max(self.logit_errors),
            passed=self.calm and all(row.passed for row in rows),
        )


# ----------------------------------------------------------------------------------------------------------- drawing
COLUMNS = 6  # maps beside each other
LEAST, MOST = 1e-8, 1.0  # ends of the errors' scale: below float32's resolution, and a whole standard deviation


def _draw(report: VerifyReport) -> Any:
    """Above, each block's largest and typical error; below, its map."""
    rows = -(-len(report.rows) // COLUMNS)
    drawn = figure(2 * COLUMNS, 3.4 + 2.1 * rows)
    upper, lower = drawn.subfigures(2, 1, height_ratios=(3.4, 2.1 * rows))
    verdict = "passed" if report.passed else "failed"
    drawn.suptitle(f"{verdict}: engine against the float64 reference, {report.inputs} input(s)")
    _draw_errors(report, upper.subplots())
    scale = require("matplotlib.colors", "drawing").LogNorm(LEAST, MOST)
    axes = lower.subplots(rows, COLUMNS, squeeze=False).reshape(-1)
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, report.rows, strict=False):
        places = np.zeros((1, 1)) if row.errors is None else row.errors
        picture = axis.imshow(np.clip(places, LEAST, MOST), norm=scale, cmap="inferno", interpolation="nearest")
        signs = f"{row.sign_disagreements:,} of {row.signs:,} signs" if row.signs else "no signs"
        axis.set_title(f"{row.name}\n{signs}", fontsize=7, color="black" if row.passed else "red")
    lower.colorbar(picture, ax=axes, label="largest error at a place,\nin standard deviations", shrink=0.9)
    return drawn


def _draw_errors(report: VerifyReport, axis: Any) -> None:
    places = range(len(report.rows))
    for label, values in (
        ("largest error", [row.max_error for row in report.rows]),
        ("typical error", [row.relative_error for row in report.rows]),
    ):
        axis.plot(places, np.maximum(values, LEAST), marker="o", markersize=4, linewidth=1, label=label)
    flipped = [place for place, row in enumerate(report.rows) if row.sign_disagreements]
    largest = [report.rows[place].max_error for place in flipped]
    axis.scatter(flipped, largest, s=90, facecolors="none", edgecolors="red", label="signs disagree")
    axis.axhline(MAX_MEDIAN_ERROR, color="grey", linewidth=1, linestyle="--", label="limit of the typical error")
    axis.set_yscale("log")
    axis.set_xticks(places, [row.name for row in report.rows], rotation=90, fontsize=7)
    axis.set_ylabel("standard deviations")
    axis.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
