"""verify: the engine against the plain NumPy reference in float64, part by part.

A network of signs is chaotic: where a value lies within float32's rounding of its threshold, another sign is no fault,
and everything behind it differs. Two honest programs therefore go apart on many inputs, PyTorch's float32 and float64
too, and comparing whole networks says little. So the reference follows the engine: each part (stem, block,
downsampling, head) is given the very input that the engine gave it, rounding included, and must answer as the reference
does. If all parts do, so does the network.

Within a part a place of the map may differ by MAX_ERROR, or by what float32's noise does to the reference itself: where
a sign or a level of attention hangs on the last bits, nudging the reference's input and parameters flips it there too,
and shows how much that costs and which places it reaches. The parameters, since some thresholds are compared with
combinations of integers, which a nudged input leaves as they are.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitvit.checkpoint import names, read_network
from bitvit.config import Config
from bitvit.errors import CheckpointError
from bitvit.files import is_file, write_file
from bitvit.hub import local_path
from bitvit.images import open_image
from bitvit.messages import plural
from bitvit.model import BHViT, load
from bitvit.runtime.trace import Trace
from bitvit.summary import is_packed
from bitvit.verify import reference

MAX_ERROR = 2e-5  # of the largest error at a place, in units of the output's spread; float32 gives 5e-6 at most
MAX_MEDIAN_ERROR = 1e-5  # of a part's typical value; float32 gives about 1e-7
NOISE = 4e-6  # of nudges, of the input's spread and of a parameter: more than float32's rounding inside a part
NUDGES = 16  # each flips an undecided sign with a chance of a half


@dataclass(frozen=True)
class VerifyRow:
    """One part, over all inputs; errors are in units of the standard deviation of its output."""

    name: str
    max_error: float
    relative_error: float  # the median over values: what a value that no flipped sign touches is off by
    sign_disagreements: int
    signs: int
    undecided: int  # places that differ where a sign hangs on float32's rounding: no fault
    wrong: int  # places that differ otherwise
    places: int
    errors: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    """[side, side] largest error at each place of the part's map, over channels and inputs; None for the head."""

    @property
    def passed(self) -> bool:
        return self.wrong == 0 and self.relative_error <= MAX_MEDIAN_ERROR


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify`.

    The verdict rests on the parts. What the whole networks answer is told beside it: from the pixels to the logits all
    in float64, the reference may decide a sign otherwise than the engine, and then goes `apart`.
    """

    rows: list[VerifyRow]
    inputs: int
    apart: int  # inputs whose logits differ by more than MAX_ERROR
    top1_agreement: float  # share of inputs
    max_relative_logit_error: float  # max |Δ| / std of the reference's logits
    notes: tuple[str, ...] = ()
    """What was found in the checkpoint, and assumed of its network."""

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it: the verdict, the fields, and those of each part in `parts`, without maps."""
        parts = []
        for row in self.rows:
            fields = {
                field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "errors"
            }
            parts.append({**fields, "passed": row.passed})
        return {
            "passed": self.passed,
            "inputs": self.inputs,
            "apart": self.apart,
            "top1_agreement": self.top1_agreement,
            "max_relative_logit_error": self.max_relative_logit_error,
            "notes": list(self.notes),
            "parts": parts,
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw where the two differ, as a PNG: the errors of each part, and their places on its map.

        Raises BitvitError without matplotlib, or if the file cannot be written.
        """
        from bitvit.verify.drawing import draw

        verdict = "passed" if self.passed else "failed"
        title = f"{verdict}: engine against the float64 reference, part by part, {plural(self.inputs, 'input')}"
        drawn = draw(self.rows, title, MAX_ERROR)
        write_file(path, lambda file: drawn.savefig(file, format="png", dpi=100))


@dataclass
class _Tally:
    """What becomes a VerifyRow."""

    max_error: float = 0.0
    medians: list[float] = field(default_factory=list)
    errors: NDArray[np.float32] | None = None
    disagreements: int = 0
    signs: int = 0
    undecided: int = 0
    wrong: int = 0
    places: int = 0

    def add(self, error: NDArray[Any], wrong: int) -> None:
        """error: of one input, [places..., channels]; wrong: of the places beyond MAX_ERROR, those that are faults."""
        self.max_error = max(self.max_error, float(error.max()))
        self.medians.append(float(np.median(error)))
        largest = error.max(axis=-1).astype(np.float32)
        self.places += largest.size
        self.wrong += wrong
        self.undecided += int((largest > MAX_ERROR).sum()) - wrong
        if largest.ndim == 2:
            self.errors = largest if self.errors is None else np.maximum(self.errors, largest)

    def add_signs(self, got: Mapping[str, NDArray[np.int8]], expected: Mapping[str, NDArray[Any]]) -> None:
        for name in got.keys() & expected.keys():
            self.disagreements += int((got[name] != expected[name].reshape(got[name].shape)).sum())
            self.signs += got[name].size

    def row(self, name: str) -> VerifyRow:
        typical = float(np.median(self.medians))
        counts = self.disagreements, self.signs, self.undecided, self.wrong, self.places
        return VerifyRow(name, self.max_error, typical, *counts, self.errors)


def verify(
    model: str | os.PathLike[str] | BHViT,
    checkpoint: str | os.PathLike[str],
    *,
    images: Sequence[str | os.PathLike[str]] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ema: bool = False,
    ignore: Collection[str] = (),
    count: int = 1,
    seed: int = 0,
) -> VerifyReport:
    """Compare a packed model with the checkpoint it came from.

    images: files to compare on; default `count` inputs of standard normal noise. config, ema, ignore: as for convert.
    Raises CheckpointError if the two have different shapes, and what reading either raises.
    """
    if not isinstance(model, BHViT):
        model = local_path(model)
    if is_packed(checkpoint):
        swap = ""
        if not isinstance(model, BHViT) and is_file(model) and not is_packed(model):
            swap = f"; the packed model comes first, then {os.fspath(model)}"
        raise CheckpointError(
            f"{os.fspath(checkpoint)}: is a packed model, expected the training checkpoint that the model was converted"
            f" from{swap}"
        )
    engine = model if isinstance(model, BHViT) else load(model)
    network = read_network(checkpoint, config=config, ema=ema, ignore=ignore)
    if network.config != engine.config:
        differences = _differences(network.config, engine.config)
        raise CheckpointError(
            f"{checkpoint}: does not have the packed model's shape: {differences}; verify a model against the"
            " checkpoint that it was converted from, with the same config.json"
        )
    comparison = _Comparison(engine, network.checkpoint.state)
    for pixels in _inputs(engine, images, count, seed):
        comparison.add(pixels)
    return dataclasses.replace(comparison.report(), notes=tuple(network.notes()))


def _differences(checkpoint: Config, model: Config) -> str:
    """The fields that differ, with both values."""
    one, two = dataclasses.asdict(checkpoint), dataclasses.asdict(model)
    differing = [name for name in one if one[name] != two[name]]
    return ", ".join(f"{name} {one[name]} (the model: {two[name]})" for name in differing)


def _inputs(
    engine: BHViT, images: Sequence[str | os.PathLike[str]] | None, count: int, seed: int
) -> list[NDArray[np.float32]]:
    if images:
        return [engine.preprocessing(open_image(Path(path))) for path in images]
    size = engine.config.image_size
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3, size, size)).astype(np.float32) for _ in range(max(1, count))]


State: TypeAlias = Mapping[str, NDArray[Any]]
Oracle: TypeAlias = Callable[[State, NDArray[Any], reference.Trace | None], NDArray[Any]]
"""The reference's output for an input of one part, float64; both without a batch."""


class _Comparison:
    def __init__(self, engine: BHViT, state: State) -> None:
        self.engine, self.state = engine, state
        self.trace = Trace(engine.runner)
        self.tallies: dict[str, _Tally] = {}
        self.agreements: list[bool] = []
        self.logit_errors: list[float] = []

    def add(self, pixels: NDArray[np.float32]) -> None:
        """Compare on one input, float32 [3, S, S]."""
        self.trace.workspace.set_image(pixels)
        x = pixels
        for name, module, oracle in self._maps():
            signs, trace = _collected(module)
            expected = oracle(self.state, x, trace)
            source = None if x is pixels else x
            got, got_signs = self.trace.run_layer(name, source, expected.shape[0], expected.shape[2])
            self._judge(name, oracle, x, got, expected, module if signs else None)
            self.tallies[name].add_signs(got_signs, signs)
            x = got
        logits = self.engine(pixels[None])[0]
        top_tokens = self.engine.config.top_tokens
        oracle = functools.partial(_head, top_tokens)
        chaotic = "vit.layernorm" if top_tokens else None  # which tokens are the largest may hang on rounding too
        self._judge("head", oracle, x, logits, oracle(self.state, x, None), chaotic)
        self._compare_whole(pixels, logits)

    def _maps(self) -> Iterator[tuple[str, str, Oracle]]:
        """The parts that have maps, in order: name, module in the checkpoint, the reference's function."""
        config = self.engine.config
        for place in config.places():
            path = names.module(config, place)
            if place.kind == "stem":
                yield place.name, path, _stem
            elif place.kind != "head":
                heads, windows = config.num_heads[place.stage], (config.window_size, config.padding)
                yield place.name, path, functools.partial(block, path, heads, windows)

    def _judge(
        self,
        name: str,
        oracle: Oracle,
        x: NDArray[np.float32],
        got: NDArray[np.float32],
        expected: NDArray[Any],
        chaotic: str | None,
    ) -> None:
        """Count a part's errors for an input x. chaotic: its module, if it takes signs."""
        unit = _spread(expected)
        error = np.abs(got - expected) / unit
        excess = error.max(axis=-1) - MAX_ERROR
        if chaotic and (excess > 0).any() and np.median(error) <= MAX_MEDIAN_ERROR:  # else it is wrong anyhow
            excess -= 2 * response(oracle, self.state, chaotic, x, expected) / unit  # two signs may meet at a place
        self.tallies.setdefault(name, _Tally()).add(error, int((excess > 0).sum()))

    def _compare_whole(self, pixels: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        config, state = self.engine.config, self.state
        names = "depths", "num_heads", "window_size", "padding", "top_tokens"
        expected = reference.forward(state, pixels[None], **{name: getattr(config, name) for name in names})[0]
        self.agreements.append(int(logits.argmax()) == int(expected.argmax()))
        self.logit_errors.append(float(np.abs(logits - expected).max() / _spread(expected)))

    def report(self) -> VerifyReport:
        return VerifyReport(
            rows=[tally.row(name) for name, tally in self.tallies.items()],
            inputs=len(self.agreements),
            apart=sum(error > MAX_ERROR for error in self.logit_errors),
            top1_agreement=float(np.mean(self.agreements)),
            max_relative_logit_error=max(self.logit_errors),
        )


def _spread(output: NDArray[Any]) -> float:
    """What errors are measured by: the standard deviation, or for values that are nearly the same a share of them."""
    return max(float(output.std()), 0.1 * float(np.abs(output).max()), 1e-30)


def response(oracle: Oracle, state: State, module: str, x: NDArray[np.float32], expected: NDArray[Any]) -> NDArray[Any]:
    """How far the reference's output moves at each place when input and parameters are nudged by float32's noise."""
    rng = np.random.default_rng(0)

    def noise(array: NDArray[Any]) -> NDArray[np.float64]:
        return NOISE * rng.standard_normal(array.shape)

    parameters = [name for name in state if name.startswith(f"{module}.") and _is_parameter(state[name])]
    moved = np.zeros(expected.shape[:-1])
    for _ in range(NUDGES):
        nudged = {name: state[name] * (1 + noise(state[name])) for name in parameters}
        output = oracle({**state, **nudged}, x + float(x.std()) * noise(x), None)
        moved = np.maximum(moved, np.abs(output - expected).max(axis=-1))
    return moved


def _is_parameter(tensor: NDArray[Any]) -> bool:
    """A number, or one a channel: not a matrix, whose entries are signs, or are multiplied by the nudged input."""
    return np.issubdtype(tensor.dtype, np.floating) and sum(size > 1 for size in tensor.shape) < 2


def _stem(state: State, x: NDArray[Any], trace: reference.Trace | None) -> NDArray[Any]:
    return reference.stem(state, x[None], trace=trace)[0]


def block(
    module: str, heads: int, windows: tuple[int, int], state: State, x: NDArray[Any], trace: reference.Trace | None
) -> NDArray[Any]:
    size, padding = windows
    return reference.block(state, module, x[None], num_heads=heads, window_size=size, padding=padding, trace=trace)[0]


def _head(top_tokens: int, state: State, x: NDArray[Any], trace: reference.Trace | None) -> NDArray[Any]:
    return reference.head(state, x[None], top_tokens=top_tokens, trace=trace)[0]


def _collected(module: str) -> tuple[dict[str, NDArray[Any]], reference.Trace]:
    """Signs and levels of a module, and the trace that collects them."""
    found: dict[str, NDArray[Any]] = {}

    def trace(name: str, array: NDArray[Any]) -> None:
        if name.startswith(f"{module}.") and name.endswith(("bits", "levels")):
            found[name.removeprefix(f"{module}.")] = array

    return found, trace
